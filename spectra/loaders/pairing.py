"""Base and tuned model in, weight pairs out: one at a time, in base order."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from spectra.errors import InputError, MatchError, UsageError
from spectra.loaders.adapters.adapter import Found, opened
from spectra.loaders.adapters.dialects.peft import PEFT
from spectra.loaders.adapters.dialects.table import dialect_of
from spectra.loaders.adapters.folder import plan_adapter
from spectra.loaders.base import Base, open_base, weights_in
from spectra.loaders.files import exists, named_path, require_exists
from spectra.loaders.formats import ADAPTER_NAMES, WEIGHT_NAMES
from spectra.loaders.full import plan_full
from spectra.loaders.header import Header
from spectra.loaders.links import opening
from spectra.loaders.matching import selector
from spectra.loaders.options import Reading, ReadOptions, given_as
from spectra.loaders.plan import Place, Plan, Skipped, TunedInfo
from spectra.loaders.source import Model, TensorSource, open_source
from spectra.text import listing, nearest, show
from spectra.updates import WeightPair


class Pairs:
    """The weight pairs of a base and a tuned model. Iterating reads one matrix at a time.

    keys : base names in base order; places : (key, expert's number) of every pair, the number None where the weight
    is no stack of experts; skipped : (key, reason) for everything not analysed; info : what
    kind of update this is; notes : what was decided on the way (a prefix, which file of two); reading : what
    `open_pairs` was told beyond the two models, as plain data, without what was left at its default; idle : what of
    that had no effect on this model, and why, which `open_pairs` refuses.
    """

    def __init__(
        self,
        base: Base,
        plan: Plan,
        chosen: Sequence[str],
        skipped: Sequence[Skipped],
        reading: Mapping[str, Any] | None = None,
    ) -> None:
        self.base = base
        self.reading: dict[str, Any] = dict(reading or {})
        self.info: TunedInfo = plan.info
        self.keys: tuple[str, ...] = tuple(chosen)
        self._chosen = frozenset(chosen)
        self.places: tuple[Place, ...] = tuple(place for place in plan.pairs if place[0] in self._chosen)
        self.skipped: list[Skipped] = list(skipped)
        self.idle: dict[str, str] = dict(plan.idle)
        idle = (f"{reason}: it has no effect here" for reason in self.idle.values())
        self.notes: tuple[str, ...] = (*base.notes, *plan.source.header.notes, *plan.notes, *idle)
        self._plan = plan

    @property
    def alphas(self) -> dict[str, dict[str, float]]:
        """For each adapted base key, chosen or not, the alpha of every module of the adapter that adapts it."""
        return self._plan.alphas

    @property
    def changed(self) -> tuple[str, ...]:
        """The base key of every weight that the tuned side has an update or a replacement of, chosen or not."""
        return tuple(dict.fromkeys(key for key, _ in self._plan.pairs))

    @property
    def targeted(self) -> frozenset[str] | None:
        """The base keys that the configuration puts the adapter on, None where it does not tell."""
        return self._plan.targeted

    @property
    def tuned_header(self) -> Header:
        """The header of the tuned side: files, tensors, container."""
        return self._plan.source.header

    def pair(self, key: str, index: int | None = None) -> WeightPair:
        """Read the pair of one base key, in a stack that of the expert with this number.

        Raises InputError saying why a key was skipped, naming the nearest, or how many experts there are.
        """
        if key in self._chosen:
            planned = self._plan.pairs.get((key, index))
            if planned is None:
                raise self._no_expert(key, index)
            return planned.build()
        reason = dict(self.skipped).get(key)
        if reason is not None:
            raise InputError(f"'{show(key)}' is not analysed: {reason}.")
        like = nearest(key, self.keys)
        hint = f" Did you mean '{show(like)}'?" if like else ""
        raise InputError(f"'{show(key)}' is not among the analysed weights.{hint}")

    def _no_expert(self, key: str, index: int | None) -> InputError:
        count = sum(place[0] == key for place in self.places)
        if (key, None) in self._plan.pairs:
            return InputError(f"'{show(key)}' is one matrix, not a stack of experts: there is no expert {index} in it.")
        return InputError(f"'{show(key)}' holds {count} experts: ask for one by its index, from 0 to {count - 1}.")

    def __iter__(self) -> Iterator[WeightPair]:
        return (self._plan.pairs[place].build() for place in self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, key: object) -> bool:
        """Whether a base key, or a (key, expert's number), is among the pairs."""
        return key in self._chosen or (isinstance(key, tuple) and key[0] in self._chosen and key in self._plan.pairs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of every open file."""
        for source in (self.base.source, self._plan.source, *self._plan.others):
            source.close()


def open_pairs(
    base: Model | Base,
    tuned: Model,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    allow_unmatched: bool = False,
    as_stored: bool = False,
    initial: str | Path | None = None,
    alpha: float | None = None,
    names: Mapping[str, str] | None = None,
    truncate: int | None = None,
    follow_symlinks: bool = False,
) -> Pairs:
    """Open a base and a tuned model as weight pairs, without building either model.

    Parameters
    ----------
    base, tuned : path, torch.nn.Module or state dict
        The base: safetensors, torch pickles or GGUF, one file or shards, or torch's distributed checkpoint (DCP).
        The tuned side: the same, or an adapter as its library writes it. GGUF is matched by the Hub's names.
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
    truncate : int
        Read every low-rank update at this rank, its first pieces alone, as DyLoRA trains them.
    follow_symlinks : bool
        Follow links in a folder that leave it. Those within it, and within a repository of the Hub's cache, always are.

    Raises
    ------
    InputError
        Or one of its kinds, with one sentence that names the file, the tensor, the cause, the remedy.
    UsageError
        An option has no effect on this model: an alpha where the file has its own, a rank to cut of a full fine-tune.
    """
    pairs = open_among(
        base,
        tuned,
        include=include,
        exclude=exclude,
        allow_unmatched=allow_unmatched,
        as_stored=as_stored,
        initial=initial,
        alpha=alpha,
        names=names,
        truncate=truncate,
        follow_symlinks=follow_symlinks,
    )
    require_effect((pairs,))
    return pairs


def require_effect(models: Collection[Pairs]) -> None:
    """Refuse an option that had no effect on any of the models read with it."""
    for pairs in models:
        for given, reason in pairs.idle.items():
            if all(given in other.idle for other in models):
                raise UsageError(f"{reason}. Leave it out.")


def open_among(base: Model | Base, tuned: Model, **reading: Unpack[Reading]) -> Pairs:
    """Open one of several models that are read with the same options, some of which may be for others among them.

    As `open_pairs`, but an option without effect is noted in `idle`; `require_effect` refuses it where it is so of all.
    """
    include, exclude = _patterns(reading.get("include", ())), _patterns(reading.get("exclude", ()))
    options = _options(reading)
    known = base if isinstance(base, Base) else open_base(base, follow_symlinks=options.follow_symlinks)
    with opening(tuned, follow_symlinks=options.follow_symlinks):
        plan = _plan(tuned, known, options)
    if not plan.pairs:
        raise MatchError(f"'{show(plan.info.label)}' changes no matrix of '{show(known.source.label)}'.")
    wanted = selector(include, exclude)
    keys = list(dict.fromkeys(key for key, _ in plan.pairs))
    chosen = [key for key in keys if wanted(key, known.name(key))]
    if not chosen:
        pattern = listing([*include, *(f"not {name}" for name in exclude)])
        like = nearest(include[0], keys) if include else None
        hint = f" The nearest name is '{show(like)}'." if like else ""
        raise InputError(f"no weight matches {pattern}.{hint}")
    plan.notes.extend(_idle_patterns(include, exclude, known))
    left = [Skipped(key, "left out by include / exclude") for key in keys if not wanted(key, known.name(key))]
    given = {"include": list(include), "exclude": list(exclude), **options.to_dict()}
    default = {"include": [], "exclude": [], **ReadOptions().to_dict()}
    told = {name: value for name, value in given.items() if value != default[name]}
    return Pairs(plan.base or known, plan, chosen, [*plan.skipped, *left], told)


def _options(reading: Reading) -> ReadOptions:
    own = ("allow_unmatched", "as_stored", "alpha", "truncate", "follow_symlinks")
    given: dict[str, Any] = {name: value for name, value in reading.items() if name in own}
    start, names = reading.get("initial"), reading.get("names")
    initial = None if start is None else named_path(start)
    if not isinstance(names, Mapping | None):
        raise UsageError(f"names must map names of the file to names in the base, not be a {type(names).__name__}.")
    return ReadOptions(initial=initial, names=dict(names or {}), **given)


def _patterns(given: Sequence[str]) -> Sequence[str]:
    return (given,) if isinstance(given, str) else given


def _idle_patterns(include: Sequence[str], exclude: Sequence[str], base: Base) -> list[str]:
    """Say which patterns match no weight of the base: a misspelt one would leave in, or out, without a word."""
    names = [(key, base.name(key)) for key in base.tensors]
    notes = []
    for option, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            matches = selector((pattern,), ())
            if not any(matches(*both) for both in names):
                notes.append(f"{given_as(option)}: '{show(pattern)}' matches no weight of the base")
    return notes


def _plan(tuned: Model, base: Base, options: ReadOptions) -> Plan:
    if isinstance(tuned, str | Path):
        require_exists(tuned)
        path = Path(tuned)
        found = Found(path, *opened(path), base, options)
        dialect = dialect_of(found)
        if options.initial is not None and dialect is not PEFT:
            raise InputError(f"{given_as('initial')} is for adapters of PEFT, and '{show(path.name)}' is none.")
        if dialect is None:
            return _plan_model(found, base)
        plan = plan_adapter(found, dialect, base)
        plan.notes.extend(_full_beside(path))
        return plan
    if isinstance(tuned, Mapping) or hasattr(tuned, "state_dict"):
        return _full(open_source(weights_in(tuned)), base, options)
    raise InputError(f"an object of type {type(tuned).__name__} is neither a path, an nn.Module nor a state dict.")


def _plan_model(found: Found, base: Base) -> Plan:
    """Plan a model from the source that is open; where that is an adapter's file of no known kind, from the model's."""
    if not any(record.name in ADAPTER_NAMES for record in found.source.header.files):
        return _full(found.source, base, found.options)
    found.source.close()
    return _full(open_source(found.path), base, found.options)


def _full(source: TensorSource, base: Base, options: ReadOptions) -> Plan:
    """Plan a full fine-tune, for which the options that are about adapters have nothing to do."""
    if options.initial is not None:
        raise InputError(f"{given_as('initial')} is for adapters of PEFT, and '{show(source.label)}' is none.")
    plan = plan_full(source, base)
    adapters = {"alpha": options.alpha, "truncate": options.truncate} | {
        f"names {name}": home for name, home in options.names.items()
    }
    for option, value in adapters.items():
        if value is not None:
            what = given_as(option.partition(" ")[0])
            plan.idle[option] = f"{what} is for adapters, and '{show(plan.info.label)}' is a full fine-tune"
    if options.as_stored:
        plan.notes.append(f"{given_as('as_stored')} changes nothing: '{show(plan.info.label)}' is a full fine-tune")
    return plan


def _full_beside(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    found = [name for name in WEIGHT_NAMES if exists(folder / name)]
    return [f"{listing(found)} beside the adapter: the adapter is read, not the model"] if found else []
