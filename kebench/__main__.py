"""python -m kebench."""

from kebench.cli import main

main()
