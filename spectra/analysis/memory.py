"""Whether a fault says that memory ran out."""

import torch


def is_out_of_memory(fault: Exception) -> bool:
    """Return whether a fault says that memory ran out: torch says so in several ways on the CPU."""
    text = str(fault)
    return (
        isinstance(fault, MemoryError | torch.OutOfMemoryError)
        or "allocate memory" in text
        or "not enough memory" in text
        or "out of memory" in text
    )
