"""What the numbers mean: one finding a file, one table of them in `rules`."""
