"""What keeps a tuned model from being read against its base: found before any weight is read, said at once."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from spectra.errors import MatchError
from spectra.loaders.options import given_as
from spectra.text import nearest, show

QUESTION = "Is this the base it was trained on?"
_ALLOW = f"{given_as('allow_unmatched')} lists what matches nothing as skipped."
_SAVE = "Save it again where it was trained."
_SHOWN = 10


@dataclass(slots=True)
class Disagreements:
    """What does not fit between a tuned model and its base, collected while the reading of both is planned.

    tuned, base : their labels. count : reasons found; of the first ten there is a line to show.
    """

    tuned: str
    base: str
    count: int = 0
    _lines: list[str] = field(default_factory=list)
    _remedies: set[str] = field(default_factory=set)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep a MatchError raised inside for later, and go on."""
        try:
            yield
        except MatchError as fault:
            said = str(fault)
            if said.endswith(QUESTION):
                self._remedies.add(QUESTION)
            self._add(said.removesuffix(QUESTION).rstrip())

    def add_unmatched(self, names: Iterable[str], known: Collection[str], *, skippable: bool = True) -> None:
        """Note names that are not in the base, each with the nearest that is."""
        for name in names:
            like = nearest(name, known) if len(self._lines) < _SHOWN else None
            hint = f" (the nearest there: '{show(like)}')" if like else ""
            self._add(f"'{show(name)}' matches nothing in the base{hint}.")
            self._remedies |= {QUESTION, _ALLOW} if skippable else {QUESTION}

    def _add(self, line: str) -> None:
        self.count += 1
        if len(self._lines) < _SHOWN:
            self._lines.append(line)

    def raise_any(self) -> None:
        """Raise one MatchError with everything found, a single fault in one line. Return when there is none."""
        if not self.count:
            return
        head = f"'{show(self.tuned)}' cannot be read against the base '{show(self.base)}'"
        remedy = " ".join(one for one in (QUESTION, _ALLOW) if one in self._remedies) or _SAVE
        if self.count == 1:
            raise MatchError(f"{head}: {self._lines[0]} {remedy}")
        more = [f"and {self.count - _SHOWN:,} more"] if self.count > _SHOWN else []
        lines = "".join(f"\n  {line}" for line in (*self._lines, *more))
        raise MatchError(f"{head}, for {self.count:,} reasons:{lines}\n{remedy}")
