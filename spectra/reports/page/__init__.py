"""The report as one HTML file that a person reads and a program reads back: one page a result, one part a file."""
