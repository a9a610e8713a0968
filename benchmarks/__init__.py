"""Measures how fast kebench is, compared with what the machine could do: `python -m benchmarks`."""
