"""One pair at many scales of its update: `W0 + s dW`, the base decomposed once."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from spectra.engine import basis, dense
from spectra.engine.choose import (
    Decompositions,
    Request,
    against,
    decompose,
    operators,
    suits,
    unsettled,
)
from spectra.engine.decomposition import SVD
from spectra.engine.joint import Joint, serves
from spectra.engine.leading import Leading, leading
from spectra.engine.resemblance import Resemblance
from spectra.engine.update_spectrum import update_values
from spectra.updates import Dense, LowRank, WeightPair

_AT_ONCE = 2  # scales answered together: more leave the cache
_FIRST = 4  # steps for a dense update before the first look
_FINE = 16  # steps for a dense update at a scale near a crossing, where epsilon is close: an error far below 1e-3
_FULL_UP_TO = 1024  # smaller dimension up to which a full decomposition is spent on a single scale tried


class Scaled:
    """A pair whose update can be scaled; what all scales share is computed once.

    base : the full SVD of W0. request : k, epsilon, sides, device; its method is "exact" for a full decomposition at
    every scale, anything else for the fastest way. values : singular values of dW at scale 1.

    - Factors: all scales from one space in the base's basis (`joint`); ranks too large for it, a space each.
    - Dense or rescaled updates: block Krylov of `W0 + s dW`, compared with every base vector.
    - Matrices too small for a Krylov space: the full decomposition at every scale.
    """

    def __init__(self, pair: WeightPair, base: SVD, request: Request) -> None:
        self.pair, self.request = pair, request
        spectrum = update_values(pair, request.device)
        self.values, self._path = spectrum.values, spectrum.how
        self._exact = request.method == "exact" or not suits(pair.shape, request)
        self._dense = pair.update.dense() if pair.update.factors is None else None
        self._stand_on(base)

    def _stand_on(self, base: SVD) -> None:
        """Take this base, and express the update in it."""
        self.base = base
        self._inside: basis.Coordinates | None = None
        self._joint: Joint | None = None
        if self.pair.update.factors is not None and not self._exact:
            B, A = (factor[None] for factor in self.pair.update.factors)
            self._inside = basis.coordinates(base, B, A)
            self._joint = Joint(self._inside, self.request.k) if serves(self._inside, self.request.k) else None

    @property
    def method(self) -> str:
        """The path that most scales take."""
        return "exact" if self._exact else "basis"

    def at(self, scales: Sequence[float]) -> list[Decompositions]:
        """Answer at each scale; one at which a vector stays undecided is answered by full decomposition.

        A base whose vectors were kept in fewer bits is decomposed again first, once for all scales.
        Raises DecompositionError (or NonFiniteError) as `dense.svd` does.
        """
        found = self._attempt(scales)
        if None in found and self.base.vector_error:
            self._stand_on(dense.svd(self.pair.base, device=self.request.device))
            found = self._attempt(scales)
        return [self._in_full(s) if one is None else one for s, one in zip(scales, found, strict=True)]

    def near_crossing(self, scale: float) -> Decompositions | None:
        """Answer at one scale where some similarity is likely to be close to epsilon, so with more care.

        None where a vector stays undecided all the same, and the matrix is too large for a full decomposition that
        would settle no more than this one scale.
        """
        (found,) = self._attempt([scale], steps=_FINE)
        return self._in_full(scale) if found is None and min(self.pair.shape) <= _FULL_UP_TO else found

    def _attempt(self, scales: Sequence[float], steps: int = _FIRST) -> list[Decompositions | None]:
        """Answer at each scale, with None where epsilon lies in the interval of some vector."""
        found: dict[float, Decompositions | None] = {0.0: self._unchanged()} if 0.0 in scales else {}
        some = [s for s in dict.fromkeys(scales) if s != 0]
        if self._exact:
            found |= {s: self._in_full(s) for s in some}
        elif self._inside is None:
            found |= {s: self._by_krylov(s, steps) for s in some}
        elif some:
            found |= dict(zip(some, self._in_coordinates(self._inside, some), strict=True))
        return [found[s] for s in scales]

    def _scaled(self, s: float) -> WeightPair:
        """The pair with its update at scale s."""
        if self.pair.update.factors is not None:
            B, A = self.pair.update.factors
            return replace(self.pair, update=LowRank(s * B, A))
        return replace(self.pair, update=Dense(s * self._whole()))

    def _whole(self) -> torch.Tensor:
        return self.pair.update.dense() if self._dense is None else self._dense

    def _in_full(self, s: float) -> Decompositions:
        found = decompose(self._scaled(s), replace(self.request, method="exact"), base=self.base)
        # A base made anew in float64 is one that float32 blurs: it is so at the other scales too.
        if found.base is not None and found.base is not self.base and found.base.fine:
            self._stand_on(found.base)
        return found

    def _unchanged(self) -> Decompositions:
        """At scale 0 W is W0: the tuned vectors are the base's own, by definition and not by a decomposition."""
        p = len(self.base.S)
        own, top = self.base.S.double(), min(self.request.k, p)
        nothing, one = own.new_zeros(top), own.new_ones(top)
        cosines = torch.eye(p, top, dtype=torch.float64)
        sides = tuple(
            Resemblance(side, self.pair.shape, cosines, own, nothing, one, one, nothing) for side in self.request.sides
        )
        return self._record(0.0, own, nothing, sides, "W is W0")

    def _record(
        self, s: float, values: torch.Tensor, moved: torch.Tensor, sides: tuple[Resemblance, ...], how: str
    ) -> Decompositions:
        return Decompositions(
            base_values=self.base.S,
            tuned_values=values,
            update_values=abs(s) * self.values,
            moved=moved,
            resemblances=sides,
            method="basis",
            reason=f"{how}; {self._path}",
            base=self.base,
        )

    def _in_coordinates(self, inside: basis.Coordinates, scales: Sequence[float]) -> list[Decompositions | None]:
        answers: list[Decompositions | None] = []
        for some in torch.split(torch.tensor(scales, dtype=torch.float64), _AT_ONCE):
            if self._joint is None:
                found, how = basis.top(inside.scaled(some), self.request.k), "a space for every scale"
            else:
                found, how = self._joint.leading(some), "one space for every scale"
            answers += self._read(inside, some, found, how)
        return answers

    def _read(
        self, inside: basis.Coordinates, factors: torch.Tensor, found: Leading, how: str
    ) -> list[Decompositions | None]:
        scaled = inside.scaled(factors)
        each_side = [basis.resemblances(scaled, found, side) for side in self.request.sides]
        moved, values = basis.moved(scaled, found), found.S.cpu()
        read: list[Decompositions | None] = []
        for at, s in enumerate(factors.tolist()):
            sides = tuple(side[at] for side in each_side)
            open_ = unsettled(sides, self.request.epsilon)
            read.append(None if open_ else self._record(s, values[at], moved[at], sides, how))
        return read

    def _by_krylov(self, s: float, steps: int) -> Decompositions | None:
        pair = self._scaled(s)
        _, tuned = operators([pair], self.request.device)
        found = leading(tuned, self.request.k, first=steps)
        sides = tuple(against(self.base, found, side) for side in self.request.sides)
        if unsettled(sides, self.request.epsilon):
            return None
        U, V = (vectors[0].cpu() for vectors in (found.U, found.V))
        moved = (U.double() * (V.to(pair.base) @ pair.update.dense().T).double()).sum(1)
        return self._record(s, found.S[0].cpu(), moved, sides, "block Krylov at every scale")
