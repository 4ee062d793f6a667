"""The study: LoRA against full fine-tuning, trained from seeds and measured with spectra's public functions alone."""
