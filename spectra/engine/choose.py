"""Pick an algorithm for a pair, run it, and say which and why. Above the algorithms on purpose."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from spectra.engine import basis, certified, dense, factored
from spectra.engine.cost import MOST_STEPS, Machine, predicted
from spectra.engine.decomposition import SVD
from spectra.engine.krylov import Operator
from spectra.engine.leading import Leading, leading
from spectra.engine.resemblance import SIDES, Resemblance, Side, compared
from spectra.errors import MachineError, UsageError
from spectra.text import count, listing, nearest, show
from spectra.updates import WeightPair

# What `method` may be. A new engine is one file and one row: its name, and when it is taken.
METHODS = {
    "exact": "full decomposition of base and tuned: the reference",
    "certified": "products with the matrices alone; every verdict proven, the exact path for what stays undecided",
    "basis": "the base decomposed once (see `spectra base`), then everything about an update in its coordinates",
    "auto": "the fastest of these for the shape, the update, the cache and the device",
}

DEVICES = ("auto", "cpu", "cuda")
SWEPT = 100  # leading vectors that the exact path compares: with all of them known, more cost nothing
_FINE_UP_TO = 1024  # smaller dimension up to which the certified path computes in float64
_SMALLEST = 64  # smaller dimension below which a Krylov space would be the whole space
_SPAN = 16
_RANGE = 1e-12, 1e12  # entries between which no product of float32 under- or overflows


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a pair: k, epsilon, the sides, and the method."""

    k: int = 10
    epsilon: float = 0.5
    sides: tuple[Side, ...] = SIDES[:1]
    method: str = "auto"
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Decompositions:
    """All that the metrics need of one pair, and how it was had.

    base_values, tuned_values : singular values of W0 and of W, descending: all on the exact path, all of W0 on
    the basis path, else the leading ones (of W at least one more than was compared). update_values : all of dW.
    moved : `u_j . dW v_j` of the leading vectors of W. resemblances : one a side.
    base : the full decomposition of W0 where there is one. method : the path taken; reason : why that one.
    """

    base_values: torch.Tensor
    tuned_values: torch.Tensor
    update_values: torch.Tensor
    moved: torch.Tensor
    resemblances: tuple[Resemblance, ...]
    method: str
    reason: str
    base: SVD | None = None


def require_method(method: str) -> str:
    """Return the method, or refuse one that there is not, naming the nearest right word."""
    if method not in METHODS:
        raise UsageError(f"method '{show(method)}' is unknown{_did_you_mean(method, METHODS)} {_choice(METHODS)}")
    return method


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


def decompose(pair: WeightPair, request: Request | None = None, *, base: SVD | None = None) -> Decompositions:
    """Answer a request about one pair by the method asked for, or by the cheapest.

    base : the base's full SVD if it is known already (cached, or made for another model on this base).
    Raises DecompositionError (or NonFiniteError) as `dense.svd` does.
    """
    request = request or Request()
    wanted = request.method
    if wanted == "auto":
        wanted = _cheapest(pair, request, base)
    if wanted == "basis":
        return _by_basis(pair, request, base)
    if wanted == "certified":
        return _certified(pair, request)
    return _exact(pair, request, base, "")


def _cheapest(pair: WeightPair, request: Request, base: SVD | None) -> str:
    machine = Machine.of(request.device)
    rank = None if pair.update.factors is None else pair.update.factors[0].shape[1]
    costs = predicted(machine, pair.shape, k=request.k, sides=len(request.sides), rank=rank, has_base=base is not None)
    if not _suits(pair, request):
        costs.pop("certified", None)
    return min(costs, key=lambda method: costs[method])


def _suits(pair: WeightPair, request: Request) -> bool:
    """Whether a Krylov space of the leading directions is much smaller than the whole."""
    return min(pair.shape) >= max(_SMALLEST, 6 * request.k)


def update_values(pair: WeightPair, device: str) -> tuple[torch.Tensor, str]:
    """Return the singular values of dW, from its factors where it has them, and how they were had."""
    if pair.update.factors is not None:
        return factored.svd(*pair.update.factors).S, "the update from its factors, never formed"
    return dense.singular_values(pair.update.dense(), device=device), "the update by its singular values alone"


def _exact(pair: WeightPair, request: Request, base: SVD | None, because: str) -> Decompositions:
    values, path = update_values(pair, request.device)
    base = dense.svd(pair.base, device=request.device) if base is None else base
    tuned = dense.svd(pair.tuned(), device=request.device)
    compare = max(request.k, SWEPT)
    U, V = tuned.U[:, :compare], tuned.Vh[:compare].T
    return Decompositions(
        base_values=base.S,
        tuned_values=tuned.S,
        update_values=values,
        moved=_moved(pair, U, V),
        resemblances=tuple(compared(base, tuned, k=compare, side=side) for side in request.sides),
        method="exact",
        reason=f"full SVD of base and tuned ({tuned.method}); {path}{because}",
        base=base,
    )


def _moved(pair: WeightPair, U: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    """Return `u_j . dW v_j` for columns u_j and v_j."""
    dtype = pair.base.dtype
    return (U.double() * pair.update.matmul(V.to(dtype)).double()).sum(0)


def _certified(pair: WeightPair, request: Request) -> Decompositions:
    m, n = pair.shape
    if not _suits(pair, request):
        return _exact(pair, request, None, f"; {m} x {n} is too small for the certified path")
    largest = float(torch.linalg.vector_norm(pair.base, torch.inf))
    if not _RANGE[0] < largest < _RANGE[1]:
        return _exact(pair, request, None, "; its entries leave the range of float32 products")
    base, tuned = operators(pair, request.device)
    found = leading(tuned, request.k)
    question = certified.Question(request.epsilon, max(request.k, _SPAN))
    machine = Machine.of(request.device)
    most = MOST_STEPS if request.method == "certified" else machine.most_steps(pair.shape, request.k)
    sides: list[Resemblance] = []
    for side in request.sides:
        (own,) = certified.certify(base, found, side=side, question=question, most=most)
        if own is None:
            return _exact(pair, request, None, "; the certified path left a vector undecided")
        sides.append(own)
    values, path = update_values(pair, request.device)
    base_values = max((side.base_values for side in sides), key=len)
    precision = str(tuned.like.dtype).removeprefix("torch.")
    return Decompositions(
        base_values=base_values,
        tuned_values=found.S[0],
        update_values=values,
        moved=_moved(pair, found.U[0].T.cpu(), found.V[0].T.cpu()),
        resemblances=tuple(sides),
        method="certified",
        reason=f"block Krylov in {precision}, {found.steps} steps for W and {max(side.steps for side in sides)} for "
        f"the certificate; {path}",
    )


def operators(pair: WeightPair, device: str) -> tuple[Operator, Operator]:
    """Return W0 and W as operators of a batch of one: W fused where the update has factors, else formed."""
    dtype = torch.float64 if min(pair.shape) <= _FINE_UP_TO else torch.float32
    base = pair.base.to(device=device, dtype=dtype)[None]
    if pair.update.factors is None:
        return Operator(base), Operator(base + pair.update.dense().to(base))
    B, A = (factor.to(base)[None] for factor in pair.update.factors)
    return Operator(base), Operator(base, B, A)


def _by_basis(pair: WeightPair, request: Request, base: SVD | None) -> Decompositions:
    made = base is None
    base = dense.svd(pair.base, device=request.device) if base is None else base
    if not _suits(pair, request):
        m, n = pair.shape
        return _exact(pair, request, base, f"; {m} x {n} is too small for the basis path")
    values, path = update_values(pair, request.device)
    told = "the base decomposed for it" if made else "the base known"
    if pair.update.factors is None:
        return _dense_in_basis(pair, request, base, values, f"{told}; {path}")
    B, A = (factor[None] for factor in pair.update.factors)
    inside = basis.coordinates(base, B, A)
    found = basis.top(inside, request.k)
    sides = tuple(basis.resemblances(inside, found, side)[0] for side in request.sides)
    if _unsettled(sides, request.epsilon):
        return _exact(pair, request, base, "; the basis path left a vector undecided")
    moved = basis.moved(inside, found)[0]
    return Decompositions(
        base.S, found.S[0], values, moved, sides, "basis", f"coordinates in the base's basis, {told}; {path}", base
    )


def _dense_in_basis(pair: WeightPair, request: Request, base: SVD, values: torch.Tensor, path: str) -> Decompositions:
    _, tuned = operators(pair, request.device)
    found = leading(tuned, request.k)
    sides = tuple(_against(base, found, side) for side in request.sides)
    if _unsettled(sides, request.epsilon):
        return _exact(pair, request, base, "; the basis path left a vector undecided")
    moved = _moved(pair, found.U[0].T.cpu(), found.V[0].T.cpu())
    return Decompositions(
        base.S, found.S[0], values, moved, sides, "basis", f"block Krylov for W, {found.steps} steps, {path}", base
    )


def _against(base: SVD, found: Leading, side: Side) -> Resemblance:
    """Compare leading tuned vectors with every base vector, which are all known."""
    vectors = (found.U if side == "left" else found.V)[0].cpu()
    known = base.vectors(side)
    every = (known.T @ vectors.T.to(known)).abs().double().clamp_max(1)
    similarity, error = every.amax(0), found.error[0]
    return Resemblance(
        side, base.shape, every, base.S.double(), torch.zeros_like(similarity), (similarity - error).clamp(0, 1),
        (similarity + error).clamp(0, 1), found.residual[0], found.steps, float(found.missed[0]),
    )  # fmt: skip


def _unsettled(sides: Sequence[Resemblance], epsilon: float) -> bool:
    """Whether epsilon lies inside the interval of some vector."""
    return any(bool(((side.found < epsilon) & (side.bound >= epsilon)).any()) for side in sides)
