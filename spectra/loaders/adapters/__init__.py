"""Adapters: one file a parameterisation family, one table of them in `families`."""
