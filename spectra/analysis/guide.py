"""The decision table people look for: which way of fine-tuning, and what it costs on this very model.

Every cell that can be is computed for the base at hand or measured on the models compared; the rest
is text with its source. Memory counts parameters, gradients and optimiser state, not activations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from spectra.analysis.diagnosis import Diagnosis
from spectra.loaders.base import Base
from spectra.loaders.matching import is_vocabulary
from spectra.metrics.place import place
from spectra.text import percent, quantity, size

# Mixed-precision AdamW, bytes a trained parameter: weight 2, gradient 2, float32 copy 4, moments 4 + 4
# (Rajbhandari et al., arXiv:1910.02054, sec. 3.1). A frozen parameter takes its 2 bytes of half precision.
TRAINED, FROZEN = 16.0, 2.0
# NF4 with double quantisation: 4 bits and 0.127 bits of constants (Dettmers et al., arXiv:2305.14314).
FOUR_BIT = (4 + 0.127) / 8
DEFINITION = "definition of the method"
RANK, BOTTLENECK, VIRTUAL_TOKENS, CONTEXT = 16, 16, 20, 1024

COLUMNS = (
    "core mechanism",
    "trainable share",
    "training memory",
    "storage per task",
    "inference latency",
    "intruders",
    "forgetting",
    "primary use",
    "prefer when",
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: what is shown, how it is known ("measured", "computed" or "source"), and from what."""

    text: str
    known: str
    source: str


@dataclass(frozen=True, slots=True)
class Guide:
    """The table: method -> a cell a column, and the size of the base it was computed for."""

    rows: dict[str, tuple[Cell, ...]]
    columns: tuple[str, ...]
    parameters: int
    assumptions: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the computed cells need to know of a base."""

    parameters: int
    linear: tuple[tuple[int, int], ...]
    blocks: int
    width: int
    key_width: int

    @property
    def linear_parameters(self) -> int:
        return sum(m * n for m, n in self.linear)


def guide(base: Base, models: Mapping[str, Diagnosis] | None = None) -> Guide:
    """Fill the decision table for a base, with measured numbers from the models where there are any."""
    shape = _shape(base)
    models = models or {}
    rows = {
        "full fine-tuning": _full(shape, _of(models, lambda method: method == "full fine-tuning")),
        "LoRA": _lora(shape, _of(models, lambda method: method != "full fine-tuning")),
        "QLoRA": _qlora(shape),
        "adapter tuning": _bottleneck(shape),
        "prefix / prompt tuning": _prefix(shape),
    }
    assumptions = (
        f"Computed for this base: {quantity(shape.parameters)} parameters, {shape.blocks} blocks of width "
        f"{shape.width}. LoRA and QLoRA at r = {RANK} on every block matrix unless measured; bottleneck width / "
        f"{BOTTLENECK}, two per block; {VIRTUAL_TOKENS} virtual tokens. Memory: mixed-precision AdamW, {TRAINED:g} "
        "bytes per trained parameter and 2 per frozen one, without activations."
    )
    return Guide(rows, COLUMNS, shape.parameters, assumptions)


def _shape(base: Base) -> _Shape:
    matrices = {
        key: base.layout(key).shape
        for key in base.tensors
        if base.reason_against(key) is None and len(base.tensors[key].shape) == 2
    }
    inner = {key: shape for key, shape in matrices.items() if place(key).block is not None and not is_vocabulary(key)}
    blocks = {(place(key).stack, place(key).block) for key in inner}
    widths = [n for _, n in inner.values()]
    width = max(set(widths), key=widths.count, default=0)
    keys = [m for key, (m, _) in inner.items() if any(mark in key for mark in ("k_proj", "key", ".k."))]
    return _Shape(base.source.header.parameters, tuple(inner.values()), len(blocks), width, keys[0] if keys else width)


def _of(models: Mapping[str, Diagnosis], wanted: Any) -> list[tuple[str, Diagnosis]]:
    return [(name, model) for name, model in models.items() if wanted(model.summary["method"])]


def _computed(text: str, how: str) -> Cell:
    return Cell(text, "computed", how)


def _said(text: str, source: str = DEFINITION) -> Cell:
    return Cell(text, "source", source)


def _costs(trained: float, frozen_bytes: float, shape: _Shape, how: str) -> tuple[Cell, Cell, Cell]:
    """Trainable share, training memory and storage of one task."""
    return (
        _computed(f"{percent(trained / max(shape.parameters, 1))} ({quantity(trained)})", how),
        _computed(size(TRAINED * trained + frozen_bytes), "16 bytes per trained parameter, frozen ones as stored"),
        _computed(size(2 * trained), "half precision"),
    )


def _intruders(models: Sequence[tuple[str, Diagnosis]], otherwise: str) -> Cell:
    """What was counted in the models, or what the paper says of its own."""
    if not models:
        return _said(otherwise, "arXiv:2410.21228")
    parts = []
    for name, model in models[:4]:
        found, examined = model.summary["rotated"] + model.summary["new"], model.summary["examined"]
        parts.append(f"{name}: {found} of {examined} leading directions")
    return Cell("; ".join(parts), "measured", "rotated or new")


def _full(shape: _Shape, models: Sequence[tuple[str, Diagnosis]]) -> tuple[Cell, ...]:
    return (
        _said("every weight moves: W = W0 + dW, dW unconstrained"),
        *_costs(shape.parameters, 0, shape, "every parameter"),
        _said("none added"),
        _intruders(models, "hardly any in the paper's models"),
        _said("more than LoRA in the papers' runs", "arXiv:2405.09673, 2410.21228"),
        _said("what is far from the pre-training: there it learnt more than LoRA", "arXiv:2405.09673"),
        _said("memory allows it and one model serves one purpose"),
    )


def _lora(shape: _Shape, models: Sequence[tuple[str, Diagnosis]]) -> tuple[Cell, ...]:
    trained = sum(RANK * (m + n) for m, n in shape.linear)
    costs = _costs(trained, FROZEN * shape.parameters, shape, f"r = {RANK} on every block matrix")
    if models:
        costs = _measured_costs(shape, models)
    return (
        _said("W = W0 + s B A, B and A of rank r", "arXiv:2106.09685"),
        *costs,
        _said("none once merged; two thin products per matrix while unmerged"),
        _intruders(models, "at low rank, fewer at high rank with alpha = 2r"),
        _said("less than full fine-tuning, and learns less, in the papers' runs", "arXiv:2405.09673, 2410.21228"),
        _said("many tasks on one base; instruction tuning", "arXiv:2106.09685, 2405.09673"),
        _said(
            "memory is short or many variants are served; r >= 16, alpha = 2r or rsLoRA",
            "arXiv:2405.09673, 2312.03732",
        ),
    )


def _measured_costs(shape: _Shape, models: Sequence[tuple[str, Diagnosis]]) -> tuple[Cell, Cell, Cell]:
    shares, memory, stored = [], [], []
    for name, model in models[:4]:
        trained = model.summary["parameters"]["tuned"]
        shares.append(f"{name}: {percent(trained / max(shape.parameters, 1))} ({quantity(trained)})")
        memory.append(f"{name}: {size(TRAINED * trained + FROZEN * shape.parameters)}")
        stored.append(f"{name}: {size(model.summary['bytes']['tuned'])}")
    return (
        Cell("; ".join(shares), "measured", "parameters in the adapter's files"),
        Cell("; ".join(memory), "computed", "from the measured parameters"),
        Cell("; ".join(stored), "measured", "bytes in the adapter's files"),
    )


def _qlora(shape: _Shape) -> tuple[Cell, ...]:
    trained = sum(RANK * (m + n) for m, n in shape.linear)
    rest = shape.parameters - shape.linear_parameters
    frozen = FOUR_BIT * shape.linear_parameters + FROZEN * rest
    return (
        _said("LoRA on a base stored in 4 bits (NF4)", "arXiv:2305.14314"),
        *_costs(trained, frozen, shape, f"r = {RANK} on every block matrix"),
        _said("dequantising each matrix in every pass; merging gives back half precision"),
        _said("as LoRA: its update has the same form"),
        _said("as LoRA by its form; the update makes up for the quantisation as well", "arXiv:2305.14314"),
        _said("a model too large for the card in half precision"),
        _said("the base in half precision does not fit"),
    )


def _bottleneck(shape: _Shape) -> tuple[Cell, ...]:
    inner = max(shape.width // BOTTLENECK, 1)
    trained = shape.blocks * 2 * (2 * shape.width * inner + shape.width + inner)
    extra = trained / max(shape.linear_parameters, 1)
    return (
        _said("small bottleneck layers between the frozen ones; no dW", "arXiv:1902.00751"),
        *_costs(trained, FROZEN * shape.parameters, shape, f"width / {BOTTLENECK}, two per block"),
        _computed(
            f"{percent(extra)} more multiplications per token, in sequence",
            "parameters of the bottlenecks over the blocks'",
        ),
        _said("none: no weight of the base changes"),
        _said("none once the adapter is removed: the base is untouched"),
        _said("many small tasks with an encoder", "arXiv:1902.00751"),
        _said("the base must stay byte for byte and a little latency is fine"),
    )


def _prefix(shape: _Shape) -> tuple[Cell, ...]:
    prefix, prompt = 2 * shape.blocks * shape.key_width * VIRTUAL_TOKENS, shape.width * VIRTUAL_TOKENS
    shared = "prefix on every block's keys and values; the prompt on the input alone"
    costs = _costs(prefix, FROZEN * shape.parameters, shape, shared)
    text = f"{costs[0].text}; prompt only: {quantity(prompt)}"
    return (
        _said(
            "trained virtual tokens in front of the input or of every key and value; no dW",
            "arXiv:2101.00190, 2104.08691",
        ),
        Cell(text, "computed", shared),
        *costs[1:],
        _computed(
            f"{VIRTUAL_TOKENS} tokens more of context ({percent(VIRTUAL_TOKENS / CONTEXT)} of {CONTEXT})",
            "virtual tokens over the context",
        ),
        _said("none: no weight of the base changes"),
        _said("none once the prompt is removed: the base is untouched"),
        _said("one task of a large model, steered by a few vectors", "arXiv:2101.00190, 2104.08691"),
        _said("storage per task must be tiny and the model is large", "arXiv:2104.08691"),
    )
