"""LoRS (arXiv:2501.08582): LoRA on a sparse base that stays as sparse as it is.

`W' = mask o (W0 + s B A)` with mask = 1 where W0 is not zero, so `dW = mask o s B A`: full rank, and known only with
the base whose zeros it keeps. No library writes it; it is read where `adapter_config.json` has the peft_type LORS
and is PEFT's of LoRA in everything else. `s = alpha / r`.
"""

from dataclasses import replace

from spectra.errors import UnsupportedError
from spectra.loaders.adapters.families.lora import LORA
from spectra.loaders.adapters.family import Target, always, called, unbounded
from spectra.text import show
from spectra.updates import Elementwise, Update


def update(target: Target) -> Update:
    """Return dW of one module. Raises UnsupportedError for LoRS with a magnitude, which the paper does not define."""
    if "lora_magnitude_vector" in target.parts:
        raise UnsupportedError(f"'{show(target.module)}': LoRS with the magnitude of DoRA is not defined.")
    return Elementwise((target.base() != 0).float(), LORA.update(target))


LORS = replace(LORA, method="LORS", update=update, label=called("LoRS"), rank=unbounded, needs_base=always)
