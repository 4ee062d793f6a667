"""Parameterisations of an update: one file each, one table of them."""
