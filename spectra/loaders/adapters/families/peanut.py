"""PEANuT (arXiv:2410.01870): the rows of `dW^T` are a small network's answer to those of `W0^T`.

`x = f(W0^T A^T)`; d encoders `x -> f(x E^T)`, then d decoders `x -> f(x D^T) +` what the encoder of the same depth was
given; `dW = s B x^T`, of the rank of A, whatever f is.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch.nn import functional

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Parsed, Shapes, Target, by_path, by_suffix, called
from spectra.text import listing, show
from spectra.updates import LowRank, Update


def _gelu_by_tanh(x: torch.Tensor) -> torch.Tensor:
    return functional.gelu(x, approximate="tanh")


# The activations by their names in transformers, without those that have parameters of their own.
_ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x) ** 2,
    "relu6": functional.relu6,
    "leaky_relu": functional.leaky_relu,
    "gelu": functional.gelu,
    "gelu_python": functional.gelu,
    "gelu_10": lambda x: functional.gelu(x).clamp(-10, 10),
    "gelu_new": _gelu_by_tanh,
    "gelu_fast": _gelu_by_tanh,
    "gelu_accurate": _gelu_by_tanh,
    "gelu_pytorch_tanh": _gelu_by_tanh,
    "gelu_python_tanh": _gelu_by_tanh,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": functional.silu,
    "swish": functional.silu,
    "mish": functional.mish,
    "hardswish": functional.hardswish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "sqrtsoftplus": lambda x: functional.softplus(x).sqrt(),
    "laplace": lambda x: 0.5 * (1 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2)))),
    "linear": lambda x: x,
}
_SIDES = ("encoders", "decoders")
_factors, _layers = by_suffix("peanut_[AB]"), by_path("peanut_(?:encoders|decoders)", r"\d+\.weight")


def parse(name: str) -> Parsed | None:
    """Split a name into module, part and adapter."""
    return _factors(name) or _layers(name)


def rank(parts: Shapes, config: AdapterConfig) -> int:
    """Return the rank: the number of rows of A."""
    return parts["peanut_A"][0]


def fits(module: str, parts: Shapes, config: AdapterConfig) -> None:
    """Raise MatchError where a part is missing or disagrees; the inputs are those of the base."""
    A, B = parts.get("peanut_A"), parts.get("peanut_B")
    layers = [_layers_of(parts, side) for side in _SIDES]
    if A is None or B is None or len(layers[0]) != len(layers[1]):
        raise MatchError(f"'{show(module)}': part of its network is missing ({listing(parts)} is there).")
    square = all(parts[name] == (A[0], A[0]) for side in layers for name in side)
    if len(A) != 2 or A[::-1] != B or not square:
        raise MatchError(f"'{show(module)}': the parts of its network do not fit together (A {list(A)}, B {list(B)}).")


def update(target: Target) -> Update:
    """Return dW in factors."""
    activation, base = _ACTIVATIONS[_activation_name(target.config)], target.base().double()
    A = target.part("peanut_A").double()
    if A.shape[1] != len(base):
        raise MatchError(f"'{show(target.module)}': its peanut_A {list(A.shape)} takes the base's {len(base)} outputs.")
    x = activation(base.T @ A.T)
    given = []
    shapes = {part: tuple(tensor.shape) for part, tensor in target.parts.items()}
    encoders, decoders = (_layers_of(shapes, side) for side in _SIDES)
    for name in encoders:
        given.append(x)
        x = activation(x @ target.part(name).double().T)
    for name in decoders:
        x = activation(x @ target.part(name).double().T) + given.pop()
    return LowRank(target.part("peanut_B") * target.config.number_in("scaling", 1.0), x.T.float())


def _layers_of(parts: Shapes, side: str) -> list[str]:
    """Return the layers of one side in their order."""
    names = [f"peanut_{side}.{number}.weight" for number in range(len(parts))]
    return [name for name in names if name in parts]


def _activation_name(config: AdapterConfig) -> str:
    return str(config.raw.get("act_fn", "relu"))


PEANUT = Family(
    method="PEANUT",
    parse=parse,
    update=update,
    label=called("PEANuT"),
    rank=rank,
    fits=fits,
)
