"""Figures: one a file, from finished results to Axes. A plot never computes, reads a file or calls show()."""
