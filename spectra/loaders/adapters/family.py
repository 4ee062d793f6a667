"""The contract of an adapter family: how its tensors are named and what its update is."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from spectra.errors import MatchError
from spectra.layout import Layout
from spectra.loaders.adapters.config import AdapterConfig
from spectra.text import listing, show
from spectra.updates import Update

Shapes = Mapping[str, tuple[int, ...]]
Parsed = tuple[str, str, str | None]
Fit = tuple[int | None, int | None]


@dataclass(frozen=True, slots=True)
class Target:
    """One adapted module, when its turn comes.

    module : its name in the configuration; parts : its tensors as stored, by part; base : its base matrix `[m, n]`
    in float32, rows = outputs, on demand; layout : how that lies in the file; shared : a tensor of the whole
    adapter by its name (the `vera_A` of VeRA), on demand; modules : every module of the adapter in the order of the
    base, with the shapes of its parts and the shape of its base matrix, for methods that draw from one stream;
    walk : their names in the order in which the model's own code has them, None where that cannot be known;
    dtype : how the base weight is stored; initial : the same module before training, where the caller gave that;
    remarks : what is found while dW is built and a reader must know, to be added to; bias : the bias of the base's
    module in float32, None where it has none.
    """

    module: str
    parts: Mapping[str, torch.Tensor]
    config: AdapterConfig
    base: Callable[[], torch.Tensor]
    layout: Layout
    shared: Callable[[str], torch.Tensor]
    modules: Callable[[], Mapping[str, tuple[int, int]]]
    walk: Callable[[], Sequence[str] | None] = lambda: None
    dtype: torch.dtype = torch.float32
    initial: "Target | None" = None
    remarks: list[str] = field(default_factory=list)
    bias: Callable[[], torch.Tensor | None] = lambda: None

    def part(self, name: str) -> torch.Tensor:
        """Return a part in float32. Raises MatchError when the file has none."""
        if name not in self.parts:
            raise MatchError(f"'{show(self.module)}': its {name} is missing ({listing(self.parts)} is there).")
        return self.parts[name].float()

    def rounded(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor as it is after PEFT has moved it to the dtype of the base weight, in float32."""
        return tensor.to(self.dtype).float()

    @property
    def shape(self) -> tuple[int, int]:
        """Shape `[m, n]` of the base matrix, rows = outputs."""
        return self.layout.shape


def nothing_to_check(config: AdapterConfig) -> None:
    """Accept every configuration."""


def no_state(name: str) -> bool:
    """Say that a tensor is no training state: the family has none."""
    return False


def no_notes(config: AdapterConfig) -> tuple[str, ...]:
    """Say nothing."""
    return ()


def no_doubts(module: str, parts: Shapes, config: AdapterConfig) -> list[str]:
    """Leave nothing open."""
    return []


def of_the_base(module: str, parts: Shapes, config: AdapterConfig) -> None:
    """Say that the update has the shape of the base weight, whatever that is."""


def unbounded(parts: Shapes, config: AdapterConfig) -> None:
    """Say that the method does not bound the rank."""


def always(parts: Shapes, config: AdapterConfig) -> bool:
    """Say that the update depends on the base weight."""
    return True


def never(parts: Shapes, config: AdapterConfig) -> bool:
    """Say that the update does not depend on the base weight."""
    return False


def by_suffix(*parts: str, leaves: tuple[str, ...] = ("weight", "bias")) -> Callable[[str], Parsed | None]:
    """Return the parser of names `module.part[.adapter][.weight|.bias]`; a bias becomes the part `part.bias`.

    A name without a module, `part` alone, is no module's: it is found as a shared tensor of the adapter.
    """
    leaf = "|".join(map(re.escape, leaves))
    matcher = re.compile(
        rf"^(?P<module>.+?)\.(?P<part>{'|'.join(parts)})(?:\.(?P<adapter>(?!(?:{leaf})$)[^.]+))?(?:\.(?P<leaf>{leaf}))?$"
    )

    def parse(name: str) -> Parsed | None:
        match = matcher.match(name)
        if match is None:
            return None
        return match["module"], match["part"] + (".bias" if match["leaf"] == "bias" else ""), match["adapter"]

    return parse


def by_path(part: str, leaf: str) -> Callable[[str], Parsed | None]:
    """Return the parser of names `module.part[.adapter].leaf`, of parts that are modules; `part.leaf` is the part.

    part, leaf : regular expressions.
    """
    matcher = re.compile(
        rf"^(?P<module>.+?)\.(?P<part>{part})(?:\.(?P<adapter>(?!(?:{leaf})$)[^.]+))?\.(?P<leaf>{leaf})$"
    )

    def parse(name: str) -> Parsed | None:
        match = matcher.match(name)
        return match and (match["module"], f"{match['part']}.{match['leaf']}", match["adapter"])

    return parse


@dataclass(frozen=True, slots=True)
class Family:
    """One parameterisation, as functions of names, shapes and tensors.

    method : the key of the table, PEFT's `peft_type` where there is one; parse splits a tensor name into (module,
    part, adapter name), None for a name that is not the family's; update builds dW, in factors wherever it has
    them; label names the method as people do. Of a module's stored shapes: rank is the rank that the method may
    use (None: unbounded), fits the `[out, in]` shape of its update (None, for it or for either size: what the base
    has; raises MatchError where parts are missing or disagree), needs_base whether dW depends on the base weight.
    check refuses by name what is not read, notes and doubts say what a reader must know of the adapter and of a
    module, is_state knows names of training state, shared a pattern of the names of tensors that all modules share,
    integers the parts that are no floats; vectors a pattern of the names of biases and norms, where those are what it
    trains; beside the families whose modules may lie in the same file; everywhere whether the shared tensors alone
    adapt every module that the configuration targets; scaled whether dW is the product of the module's own factors
    times the one number that the configuration has for it, by its rank.
    """

    method: str
    parse: Callable[[str], Parsed | None]
    update: Callable[[Target], Update]
    label: Callable[[AdapterConfig, Shapes], str]
    rank: Callable[[Shapes, AdapterConfig], int | None] = unbounded
    fits: Callable[[str, Shapes, AdapterConfig], Fit | None] = of_the_base
    needs_base: Callable[[Shapes, AdapterConfig], bool] = always
    check: Callable[[AdapterConfig], None] = nothing_to_check
    notes: Callable[[AdapterConfig], tuple[str, ...]] = no_notes
    doubts: Callable[[str, Shapes, AdapterConfig], list[str]] = no_doubts
    is_state: Callable[[str], bool] = no_state
    shared: str = ""
    integers: tuple[str, ...] = ()
    vectors: str = ""
    beside: "tuple[Family, ...]" = ()
    everywhere: bool = False
    scaled: bool = False


def called(name: str) -> Callable[[AdapterConfig, Shapes], str]:
    """Return a label that is always the same."""
    return lambda config, parts: name
