"""What a file is, before anything is loaded: everything behind `spectra inspect`. Torch-free."""
