"""How fast kebench is, and how far from what the machine could do. Run by hand: `python -m benchmarks`."""
