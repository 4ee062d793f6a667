"""Ways of writing adapters to disk: one file each, one table of them."""
