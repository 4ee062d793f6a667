"""Super-Tuning (arXiv:2607.09287): values added to the largest or smallest entries of W0, and LoRA beside them.

The places are flat positions in `[out, in]`. Where the file leaves them out they are the first k entries of W0 by
magnitude, in order, which is only known where no two of them are equal.
"""

import torch

from spectra.errors import MatchError, UnsupportedError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix
from spectra.text import listing, show
from spectra.updates import LowRank, Sparse, Sum, Update


def label(config: AdapterConfig, parts: Shapes) -> str:
    """Name the method as people do: Supra is Super with LoRA."""
    return "Supra" if "supertuning_lora_A" in parts else "Super-Tuning"


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int] | None:
    """Return the `[out, in]` shape of the factors beside the values, None without any."""
    values, index = parts.get("supertuning_values"), parts.get("supertuning_indices")
    if values is None or index not in (None, values):
        raise MatchError(f"'{show(module)}': {list(index or ())} places for {list(values or ())} values.")
    A, B = parts.get("supertuning_lora_A"), parts.get("supertuning_lora_B")
    if A is None and B is None:
        return None
    if A is None or B is None or len(A) != 2 or len(B) != 2 or A[0] != B[1]:
        raise MatchError(f"'{show(module)}': its factors do not fit together ({listing(parts)} is there).")
    return B[0], A[1]


def needs_base(parts: Shapes, config: AdapterConfig) -> bool:
    """Say whether the base is needed: to find the places that the file leaves out."""
    return "supertuning_indices" not in parts


def update(target: Target) -> Update:
    """Return the values at their places, and the factors where there are any."""
    values, index = target.part("supertuning_values"), target.parts.get("supertuning_indices")
    flat = _found_again(target, len(values)) if index is None else index.long()
    sparse = Sparse(flat // target.shape[1], flat % target.shape[1], values, target.shape)
    if "supertuning_lora_A" not in target.parts:
        return sparse
    A, B = target.part("supertuning_lora_A"), target.part("supertuning_lora_B")
    rank = target.config.rank_in("r", len(A))
    return Sum((sparse, LowRank(B * (target.config.number_in("lora_alpha", 2.0 * rank) / rank), A)))


def _found_again(target: Target, count: int) -> torch.Tensor:
    magnitudes = target.base().abs().flatten()
    largest = target.config.flag_in("select_top") or "select_top" not in target.config.raw
    first, flat = magnitudes.topk(min(count + 1, len(magnitudes)), largest=largest)
    if count > len(magnitudes) or bool((first[1:] == first[:-1]).any()):
        raise UnsupportedError(
            f"'{show(target.module)}': the places of its values are not in the file (save_precomputed_indices=False), "
            "and entries of the base are equal in magnitude, so that their order is not known. Load it where it was "
            "trained and save it with save_precomputed_indices=True."
        )
    return flat[:count]


SUPERTUNING = Family(
    method="SUPERTUNING",
    parse=by_suffix(r"supertuning_(?:values|indices|lora_A|lora_B)"),
    update=update,
    label=label,
    fits=fits,
    needs_base=needs_base,
    integers=("supertuning_indices",),
)
