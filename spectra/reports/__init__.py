"""Results put in front of a reader: one output a file. Nothing here measures."""
