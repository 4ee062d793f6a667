"""Weights stored packed: what packs them is recognised without torch (`signs`), and unpacked with it (`unpack`)."""

from spectra.loaders.quantization.signs import scheme

__all__ = ["scheme"]
