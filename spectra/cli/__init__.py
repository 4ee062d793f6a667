"""The command line: one command a file. A command parses, calls one library function and writes."""
