"""Matrices in, decompositions out. Nothing here knows files or layers."""
