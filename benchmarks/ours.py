"""The lines of spectra: each method as a user calls it, and the engine's own calls, alone and batched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases import EPSILON, Case, K, factors
from safetensors.torch import load_file, save_file
from work import Answer, Setting, UnavailableError, Work, of_svds

from spectra.basis_cache import BasisCache
from spectra.engine import basis, certified, dense
from spectra.engine.choose import Decompositions, Request, decompose, operators
from spectra.engine.cost import MOST_STEPS
from spectra.engine.decomposition import SVD
from spectra.engine.krylov import Operator
from spectra.engine.leading import Leading, leading
from spectra.engine.resemblance import Resemblance
from spectra.engine.scales import Scaled

_SPAN = 16
_ROLL = 131  # rows by which each matrix of a batch is rolled against the one before: other entries, same spectrum
_OTHERS = 1000  # seed of the second update of a batch
SCALES = tuple(step / 20 for step in range(1, 41))


class Products:
    """Counts products with W0 or W: each reads the whole matrix once, for all columns of a block."""

    def __init__(self) -> None:
        self.made = 0
        plain = Operator.__call__

        def counting(operator: Operator, x: torch.Tensor) -> torch.Tensor:
            self.made += 1
            return plain(operator, x)

        Operator.__call__ = counting  # type: ignore[method-assign]


def _counting(run: Callable[[], Any]) -> tuple[Callable[[], Any], Products]:
    products = Products()

    def counted() -> Any:
        products.made = 0
        return run()

    return counted, products


def _by(method: str, base: Callable[[Case, Setting], SVD | None] | None = None) -> Callable[[Case, Setting], Work]:
    """Make a line of `decompose`: all that a row of a report needs of a pair, the spectrum of dW among it."""

    def line(case: Case, setting: Setting) -> Work:
        pair, known = case.pair(), base(case, setting) if base else None
        request = Request(k=K, epsilon=EPSILON, method=method, device=setting.device)
        run, products = _counting(lambda: decompose(pair, request, base=known))

        def read(found: Decompositions) -> Answer:
            if method == "exact" and found.base is not None:
                _keep(found.base, setting)
            passes, counted = _passes(found, products.made, case.spec.shape, setting.device, known is not None)
            note = f"{found.method}: {found.reason.split(';')[0]}" if method != "exact" else found.reason.split(";")[0]
            return _said(found.resemblances[0], passes, counted, note)

        return Work(run, read)

    return line


def _passes(
    found: Decompositions, products: int, shape: tuple[int, int], device: str, known: bool
) -> tuple[float | None, str]:
    if found.method == "exact":
        passes, counted = of_svds(shape, 1 if known else 2, device)
        return (None if passes is None else passes + products), counted
    if products:
        return products, "products with W0 or W, counted"
    return _of_basis(shape), "entries of U0 and V0 read, for those of the matrix"


def _of_basis(shape: tuple[int, int]) -> float:
    """Each of U0 and V0 is read once, and the one that is not complete twice."""
    m, n = shape
    p = min(m, n)
    return sum(side * p * (1 if side == p else 2) for side in (m, n)) / (m * n)


def _said(found: Resemblance, passes: float | None, counted: str, note: str) -> Answer:
    kept, below = found.found[:K] >= EPSILON, found.bound[:K] < EPSILON
    verdicts = [None if not (a or b) else bool(b) for a, b in zip(kept.tolist(), below.tolist(), strict=True)]
    return Answer(intruder=tuple(verdicts), passes=passes, counted=counted, note=note)


exact, whole, auto = _by("exact"), _by("certified"), _by("auto")


def _place(setting: Setting) -> Path:
    return setting.folder / "basis.safetensors"


def _keep(base: SVD, setting: Setting) -> None:
    save_file({"U": base.U.contiguous(), "S": base.S.contiguous(), "Vh": base.Vh.contiguous()}, _place(setting))


def known_base(case: Case, setting: Setting) -> SVD:
    """The base's SVD, as the exact line of the same case left it, or made now; not timed."""
    if not _place(setting).exists():
        _keep(dense.svd(case.base, device=setting.device), setting)
    parts = {name: part.clone() for name, part in load_file(_place(setting)).items()}
    return SVD(**parts, residual=0.0, orthogonality=0.0, method="kept")


known = _by("basis", known_base)


def cached(case: Case, setting: Setting) -> Work:
    """The basis path with the base's SVD read from the cache on disk: hashing, checking and upcasting are timed."""
    cache = BasisCache(setting.folder / "bases")
    cache.keep(case.base, known_base(case, setting))
    pair, request = case.pair(), Request(k=K, epsilon=EPSILON, method="basis", device=setting.device)
    run, products = _counting(lambda: decompose(pair, request, base=cache.find(pair.base)))

    def read(found: Decompositions) -> Answer:
        passes, counted = _passes(found, products.made, case.spec.shape, setting.device, True)
        return _said(found.resemblances[0], passes, counted, f"{found.method}: an entry in the page cache")

    return Work(run, read)


def verdicts(case: Case, setting: Setting) -> Work:
    """The certified path's own two calls on matrices that are there: what the paper's method answers, no more."""
    return _certified([case], setting.device)


def batch(case: Case, setting: Setting) -> Work:
    """The same on a batch of matrices, each other than the rest."""
    return _certified([_rolled(case, at) for at in range(setting.batch)], setting.device)


def _rolled(case: Case, at: int) -> Case:
    base = case.base.roll(_ROLL * at, 0)
    if case.dense is not None:
        return Case(case.spec, base, dense=case.dense.roll(_ROLL * at, 0))
    return Case(case.spec, base, *((case.B, case.A) if at == 0 else factors(case.spec, seed=_OTHERS + at)))


def _certified(cases: list[Case], device: str) -> Work:
    base, tuned = operators([case.pair() for case in cases], device)
    question = certified.Question(EPSILON, _SPAN)

    def certify() -> tuple[Leading, list[Resemblance | None]]:
        found = leading(tuned, K)
        return found, certified.certify(base, found, side="left", question=question, most=MOST_STEPS)

    run, products = _counting(certify)

    def read(both: tuple[Leading, list[Resemblance | None]]) -> Answer:
        found, sides = both
        open_ = sum(side is None for side in sides)
        if sides[0] is None:
            return Answer(intruder=(None,) * K, note=f"{open_} of {len(cases)} left to the exact path")
        note = f"{found.steps} steps for W, {sides[0].steps} for the certificate"
        note += f"; {open_} of {len(cases)} left to the exact path" if open_ else ""
        return _said(sides[0], products.made, "products with W0 or W, counted", note)

    return Work(run, read, len(cases))


def curve(case: Case, setting: Setting) -> Work:
    """A phase curve: every scale of the update, the base's SVD in memory; its verdicts are those at scale 1."""
    pair, base = case.pair(), known_base(case, setting)
    request = Request(k=K, epsilon=EPSILON, device=setting.device)
    run, products = _counting(lambda: Scaled(pair, base, request).at(SCALES))

    def read(found: list[Decompositions]) -> Answer:
        one = found[SCALES.index(1.0)]
        passes, counted = _passes(one, products.made, case.spec.shape, setting.device, True)
        return _said(one.resemblances[0], passes, counted, one.reason.split(";")[0])

    return Work(run, read)


def adapters(case: Case, setting: Setting) -> Work:
    """Many adapters on one base whose SVD is on the device: coordinates, leading triplets, likeness."""
    if case.B is None or case.A is None:
        raise UnavailableError("adapters have factors")
    base = known_base(case, setting)
    base = SVD(*(part.to(setting.device) for part in (base.U, base.S, base.Vh)), 0.0, 0.0, "kept")
    drawn = [(case.B, case.A)] + [factors(case.spec, seed=_OTHERS + at) for at in range(1, setting.adapters)]
    B, A = (torch.stack([pair[which] for pair in drawn]).to(setting.device) for which in (0, 1))

    def run() -> list[Resemblance]:
        inside = basis.coordinates(base, B, A)
        return basis.resemblances(inside, basis.top(inside, K), "left")

    def read(sides: list[Resemblance]) -> Answer:
        passes = _of_basis(case.spec.shape) / setting.adapters
        return _said(sides[0], passes, "entries of U0 and V0 read, for those of the matrix", "")

    return Work(run, read, setting.adapters)
