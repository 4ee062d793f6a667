"""Pick an algorithm for a pair, run it, and say which and why. Above the algorithms on purpose."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from spectra.engine import dense, factored
from spectra.engine.decomposition import SVD
from spectra.errors import MachineError, UsageError
from spectra.text import count, listing, nearest, show
from spectra.updates import WeightPair

# What `method` may be. A new engine is one file and one row: its name, and when it is taken.
METHODS = {
    "exact": "full decomposition of base and tuned: the reference",
    "auto": "the fastest method that gives the same verdicts (today: exact)",
}

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True)
class Decompositions:
    """All that the metrics need of one pair, and how it was had.

    base, tuned : SVD of W0 and of W; update_values : singular values of dW; method : the path taken;
    reason : why that one.
    """

    base: SVD
    tuned: SVD
    update_values: torch.Tensor
    method: str
    reason: str


def require_method(method: str) -> str:
    """Return the engine that a method stands for, or refuse it naming the nearest right word."""
    if method not in METHODS:
        raise UsageError(f"method '{show(method)}' is unknown{_did_you_mean(method, METHODS)} {_choice(METHODS)}")
    return "exact" if method == "auto" else method


def require_device(device: str) -> str:
    """Return the device to compute on: `auto` is CUDA where there is one, else the CPU."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        wanted = torch.device(device)
    except RuntimeError:
        hint = _did_you_mean(device, DEVICES)
        raise UsageError(f"device '{show(device)}' is unknown{hint} {_choice(DEVICES)}") from None
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        there = count(torch.cuda.device_count(), "CUDA device")
        raise MachineError(f"device '{show(device)}' was asked for, but torch finds {there}. Use cpu or auto.")
    if wanted.type not in ("cpu", "cuda"):
        raise UsageError(f"device '{show(device)}' is not supported. {_choice(DEVICES)}")
    return device


def _did_you_mean(word: str, choices: Iterable[str]) -> str:
    like = nearest(word, choices)
    return f"; did you mean '{like}'?" if like else "."


def _choice(words: Iterable[str]) -> str:
    return f"Choose from {listing(words)}."


def decompose(pair: WeightPair, *, device: str = "cpu", base: SVD | None = None) -> Decompositions:
    """Decompose a pair: base and tuned in full, the update by its factors where it has them.

    base : the base's SVD if it is known already (several tuned models on one base).
    Raises DecompositionError (or NonFiniteError) as `dense.svd` does.
    """
    if pair.update.factors is not None:
        values, path = factored.svd(*pair.update.factors).S, "the update from its factors, never formed"
    else:
        values = dense.singular_values(pair.update.dense(), device=device)
        path = "the update by its singular values alone"
    base = dense.svd(pair.base, device=device) if base is None else base
    tuned = dense.svd(pair.tuned(), device=device)
    return Decompositions(base, tuned, values, "exact", f"full SVD of base and tuned ({tuned.method}); {path}")
