"""Bytes to weight pairs. Nothing here knows what a singular value is."""
