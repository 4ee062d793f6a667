"""Base and tuned model in, weight pairs out: one at a time, in base order."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from spectra.errors import InputError, MatchError
from spectra.loaders.adapters.adapter import Found
from spectra.loaders.adapters.beside import adapters_below
from spectra.loaders.adapters.config import read_raw
from spectra.loaders.adapters.dialects import dialect_of
from spectra.loaders.adapters.folder import plan_adapter
from spectra.loaders.base import Base, open_base
from spectra.loaders.files import exists, require_exists
from spectra.loaders.formats import ADAPTER_NAMES, WEIGHT_NAMES, WEIGHT_SUFFIXES
from spectra.loaders.full import plan_full
from spectra.loaders.header import Header
from spectra.loaders.matching import selector
from spectra.loaders.options import ReadOptions
from spectra.loaders.plan import Plan, Skipped, TunedInfo
from spectra.loaders.source import Model, open_source
from spectra.text import listing, nearest, show
from spectra.updates import WeightPair


class Pairs:
    """The weight pairs of a base and a tuned model. Iterating reads one matrix at a time.

    keys : base names in base order; skipped : (key, reason) for everything not analysed; info : what
    kind of update this is; notes : what was decided on the way (a prefix, which file of two).
    """

    def __init__(self, base: Base, plan: Plan, chosen: Sequence[str], skipped: Sequence[Skipped]) -> None:
        self.base = base
        self.info: TunedInfo = plan.info
        self.keys: tuple[str, ...] = tuple(chosen)
        self._chosen = frozenset(chosen)
        self.skipped: list[Skipped] = list(skipped)
        self.notes: tuple[str, ...] = (*base.source.header.notes, *plan.source.header.notes, *plan.notes)
        self._plan = plan
        self._chosen = frozenset(chosen)

    @property
    def alphas(self) -> dict[str, dict[str, float]]:
        """For each adapted base key, chosen or not, the alpha of every module of the adapter that adapts it."""
        return self._plan.alphas

    @property
    def tuned_header(self) -> Header:
        """The header of the tuned side: files, tensors, container."""
        return self._plan.source.header

    def pair(self, key: str) -> WeightPair:
        """Read the pair of one base key. Raises InputError saying why a key was skipped, or naming the nearest."""
        if key in self._chosen:
            return self._plan.pairs[key].build()
        reason = dict(self.skipped).get(key)
        if reason is not None:
            raise InputError(f"'{show(key)}' is not analysed: {reason}.")
        like = nearest(key, self.keys)
        hint = f" Did you mean '{show(like)}'?" if like else ""
        raise InputError(f"'{show(key)}' is not among the analysed weights.{hint}")

    def __iter__(self) -> Iterator[WeightPair]:
        return (self._plan.pairs[key].build() for key in self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: object) -> bool:
        return key in self._chosen

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of every open file."""
        self.base.source.close()
        self._plan.source.close()


def open_pairs(
    base: Model,
    tuned: Model,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    allow_unmatched: bool = False,
    as_stored: bool = False,
    initial: str | Path | None = None,
    alpha: float | None = None,
    names: Mapping[str, str] | None = None,
) -> Pairs:
    """Open a base and a tuned model as weight pairs, without building either model.

    Parameters
    ----------
    base, tuned : path, torch.nn.Module or state dict
        The base: safetensors or torch pickles, one file or shards. The tuned side: the same, or an
        adapter folder as PEFT writes it (LoRA, rsLoRA, DoRA).
    include, exclude : shell patterns or parts of base names
        Which weights to read: `q_proj`, `model.layers.3.*`.
    allow_unmatched : bool
        List adapter tensors that match nothing as skipped instead of refusing the adapter.
    as_stored : bool
        Read an adapter whose initialisation changed the base (PiSSA, ...) as plain factors, and say so.
    initial : path
        The adapter before training, whose factors are subtracted.
    alpha : float
        The alpha of files that do not hold one.
    names : mapping
        From module names in the file to those in the base, where a trainer invented its own.

    Raises
    ------
    InputError
        Or one of its kinds, with one sentence that names the file, the tensor, the cause, the remedy.
    """
    opened = open_base(base)
    options = ReadOptions(allow_unmatched, as_stored, Path(initial) if initial else None, alpha, dict(names or {}))
    plan = _plan(tuned, opened, options)
    if not plan.pairs:
        raise MatchError(f"'{show(plan.info.label)}' changes no matrix of '{show(opened.source.label)}'.")
    include, exclude = ((given,) if isinstance(given, str) else given for given in (include, exclude))
    wanted = selector(include, exclude)
    chosen = [key for key in plan.pairs if wanted(key)]
    if not chosen:
        pattern = listing([*include, *(f"not {name}" for name in exclude)])
        like = nearest(include[0], plan.pairs) if include else None
        hint = f" The nearest name is '{show(like)}'." if like else ""
        raise InputError(f"no weight matches {pattern}.{hint}")
    left = [Skipped(key, "left out by include / exclude") for key in plan.pairs if not wanted(key)]
    return Pairs(opened, plan, chosen, [*plan.skipped, *left])


def _plan(tuned: Model, base: Base, options: ReadOptions) -> Plan:
    if isinstance(tuned, str | Path):
        path = Path(tuned)
        require_exists(path)
        _suggest_subfolder(path)
        found = _found(path, options)
        dialect = dialect_of(found)
        if dialect is None:
            found.source.close()
            return plan_full(path, base)
        plan = plan_adapter(found, dialect, base)
        plan.notes.extend(_full_beside(path))
        return plan
    if isinstance(tuned, Mapping) or hasattr(tuned, "state_dict"):
        return plan_full(tuned, base)
    raise InputError(f"an object of type {type(tuned).__name__} is neither a path, an nn.Module nor a state dict.")


def _found(path: Path, options: ReadOptions) -> Found:
    """Open what lies at a path; an adapter's own files come before a model's."""
    folder = path if path.is_dir() else path.parent
    beside = path.is_dir() or path.name not in WEIGHT_NAMES
    raw = read_raw(folder) if beside else {}
    adapter = path.is_dir() and (raw or any(exists(folder / name) for name in ADAPTER_NAMES))
    return Found(path, open_source(path, ADAPTER_NAMES if adapter else WEIGHT_NAMES), raw, options)


def _full_beside(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    found = [name for name in WEIGHT_NAMES if exists(folder / name)]
    return [f"{listing(found)} beside the adapter: the adapter is read, not the model"] if found else []


def _suggest_subfolder(path: Path) -> None:
    below = adapters_below(path)
    if below and not any(entry.suffix in (*WEIGHT_SUFFIXES, ".json") for entry in path.iterdir()):
        raise InputError(
            f"'{show(path.name)}' holds adapters in its subfolders ({listing(below, 5)}). Name one of them."
        )
