"""Pick an algorithm for a pair, run it, and say which and why. Above the algorithms on purpose."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from spectra.engine import basis, certified, dense
from spectra.engine.cost import MOST_STEPS, Machine, predicted
from spectra.engine.decomposition import SVD
from spectra.engine.krylov import Operator
from spectra.engine.leading import Leading, leading
from spectra.engine.projections import Projections
from spectra.engine.quadrature import Quadrature
from spectra.engine.resemblance import SIDES, Resemblance, Side, blur, compared, interval, rounding_of
from spectra.engine.update_spectrum import LEAST, MOST, SPECTRA, UpdateSpectrum, largest_entry, update_spectrum
from spectra.errors import MachineError, UsageError
from spectra.text import count, listing, nearest, show
from spectra.updates import Factors, WeightPair

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
_BLURRED = 0.02  # width of a similarity's interval from which the exact path computes in float64


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a pair: k, epsilon, the sides, the method, the device, and how the update's spectrum is had."""

    k: int = 10
    epsilon: float = 0.5
    sides: tuple[Side, ...] = SIDES[:1]
    method: str = "auto"
    device: str = "cpu"
    spectrum: str = "auto"


@dataclass(frozen=True, slots=True)
class Decompositions:
    """All that the metrics need of one pair, and how it was had.

    base_values, tuned_values : singular values of W0 and of W, descending: all on the exact path, all of W0 on
    the basis path, else the leading ones (of W at least one more than was compared). update_values : all of dW, or
    the leading ones where `update_estimate` stands for the rest.
    moved : `u_j . dW v_j` of the leading vectors of W; projections : of the same vectors on the update, None at the
    scales of a phase curve. resemblances : one a side.
    base : the full decomposition of W0 where there is one; update : that of dW where its factors gave it.
    method : the path taken; reason : why that one.
    """

    base_values: torch.Tensor
    tuned_values: torch.Tensor
    update_values: torch.Tensor
    moved: torch.Tensor
    resemblances: tuple[Resemblance, ...]
    method: str
    reason: str
    base: SVD | None = None
    update: SVD | None = None
    update_estimate: Quadrature | None = None
    projections: Projections | None = None


def require_method(method: str) -> str:
    """Return the method, or refuse one that there is not, naming the nearest right word."""
    if method not in METHODS:
        raise UsageError(f"method '{show(method)}' is unknown{_did_you_mean(method, METHODS)} {_choice(METHODS)}")
    return method


def require_spectrum(spectrum: str) -> str:
    """Return the word for how the update's spectrum is had, or refuse one that there is not."""
    if spectrum not in SPECTRA:
        raise UsageError(f"spectrum '{show(spectrum)}' is unknown{_did_you_mean(spectrum, SPECTRA)} {_choice(SPECTRA)}")
    return spectrum


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
    wanted = method_for(pair, request, base)
    if wanted == "basis":
        return _by_basis(pair, request, base)
    if wanted == "certified":
        return _certified(pair, request)
    return _exact(pair, request, base, "")


def method_for(pair: WeightPair, request: Request, base: SVD | None) -> str:
    """Return the method that a request means for a pair: the one asked for, or the cheapest."""
    if request.method != "auto":
        return request.method
    machine = Machine.of(request.device)
    rank = None if pair.update.factors is None else pair.update.factors[0].shape[1]
    costs = predicted(machine, pair.shape, k=request.k, sides=len(request.sides), rank=rank, has_base=base is not None)
    if not suits(pair.shape, request):
        costs.pop("certified", None)
    return min(costs, key=lambda method: costs[method])


def suits(shape: tuple[int, int], request: Request) -> bool:
    """Whether a Krylov space of the leading directions is much smaller than the whole."""
    return min(shape) >= max(_SMALLEST, 6 * request.k)


def _update_spectrum(pair: WeightPair, request: Request) -> UpdateSpectrum:
    exact = request.method == "exact" and request.spectrum == "auto"
    return update_spectrum(pair, "exact" if exact else request.spectrum, request.device)


def _exact(pair: WeightPair, request: Request, base: SVD | None, because: str) -> Decompositions:
    spectrum = _update_spectrum(pair, request)
    if base is None or base.vector_error:  # the reference takes no vector that is not as it was computed
        base = dense.svd(pair.base, device=request.device)
    tuned = dense.svd(_in_precision_of(base, pair), device=request.device)
    if not base.fine and _is_blurred(base, tuned, request):
        base = dense.svd(pair.base.double(), device=request.device)
        tuned = dense.svd(_in_precision_of(base, pair), device=request.device)
        because += "; in float64, as float32 blurs a leading direction"
    compare = max(request.k, SWEPT)
    seen = Projections.of(pair.update, tuned.U[:, :compare].T, tuned.Vh[:compare])
    return Decompositions(
        base_values=base.S,
        tuned_values=tuned.S,
        update_values=spectrum.values,
        moved=seen.moved,
        resemblances=tuple(compared(base, tuned, k=compare, side=side) for side in request.sides),
        method="exact",
        reason=f"full SVD of base and tuned ({tuned.method}); {spectrum.how}{because}",
        base=base,
        update=spectrum.svd,
        update_estimate=spectrum.estimate,
        projections=seen,
    )


def _in_precision_of(base: SVD, pair: WeightPair) -> torch.Tensor:
    """W in float32, or in float64 where its base was decomposed in that."""
    return pair.base.double() + pair.update.dense() if base.fine else pair.tuned()


def _is_blurred(base: SVD, tuned: SVD, request: Request) -> bool:
    """Whether the rounding of both decompositions leaves a similarity uncertain, or a verdict open."""
    for side in request.sides:
        least, most = blur(base, tuned, k=request.k, side=side)
        if bool(((most - least > _BLURRED) | _is_open(least, most, request.epsilon)).any()):
            return True
    return False


def _certified(pair: WeightPair, request: Request) -> Decompositions:
    because = rejected(pair, request)
    if because is not None:
        return _exact(pair, request, None, f"; {because}")
    (found,) = certified_batch([pair], request)
    return found or _exact(pair, request, None, "; the certified path left a vector undecided")


def rejected(pair: WeightPair, request: Request) -> str | None:
    """Say why the certified path does not suit a pair, None where it does."""
    m, n = pair.shape
    if not suits(pair.shape, request):
        return f"{m} x {n} is too small for the certified path"
    inside = LEAST < largest_entry(pair.base) < MOST and largest_entry(pair.update) < MOST
    return None if inside else "its entries leave the range of float32 products"


def certified_batch(
    pairs: Sequence[WeightPair], request: Request, base: torch.Tensor | None = None
) -> list[Decompositions | None]:
    """Answer a request for pairs of one shape and one kind of update (factored or not) at once.

    None stands for a pair with an undecided vector: that is for the exact path.
    base : their base matrices [g, m, n] in `product_dtype`, where they are on the device already.
    """
    known, tuned = operators(pairs, request.device, base)
    found = leading(tuned, request.k)
    question = certified.Question(request.epsilon, max(request.k, _SPAN))
    machine = Machine.of(request.device)
    most = MOST_STEPS if request.method == "certified" else machine.most_steps(pairs[0].shape, request.k)
    precision = str(tuned.like.dtype).removeprefix("torch.")
    del tuned  # W of dense updates is formed: what follows needs its memory
    sides = [certified.certify(known, found, side=side, question=question, most=most) for side in request.sides]
    U, V = found.U.cpu(), found.V.cpu()
    results: list[Decompositions | None] = []
    for member, pair in enumerate(pairs):
        own = [side[member] for side in sides]
        settled = tuple(side for side in own if side is not None)
        if len(settled) < len(own):
            results.append(None)
            continue
        spectrum, seen = _update_spectrum(pair, request), Projections.of(pair.update, U[member], V[member])
        steps = max(side.steps for side in settled)
        results.append(
            Decompositions(
                base_values=max((side.base_values for side in settled), key=len),
                tuned_values=found.S[member].cpu(),
                update_values=spectrum.values,
                moved=seen.moved,
                resemblances=settled,
                method="certified",
                reason=f"block Krylov in {precision} on {request.device}, {found.steps} steps for W and {steps} for "
                f"the certificate; {spectrum.how}",
                update=spectrum.svd,
                update_estimate=spectrum.estimate,
                projections=seen,
            )
        )
    return results


def product_dtype(pairs: Sequence[WeightPair], device: str) -> torch.dtype:
    """Return the dtype in which base matrices of one shape are multiplied.

    On CUDA a base that is stored in bfloat16 is multiplied in bfloat16 (see `Operator`), and no vector of float32
    is rounded by it.
    """
    if min(pairs[0].shape) <= _FINE_UP_TO:
        return torch.float64
    half = device != "cpu" and all(
        pair.update.factors is not None and pair.base_storage.dtype == "bfloat16" for pair in pairs
    )
    return torch.bfloat16 if half else torch.float32


def operators(pairs: Sequence[WeightPair], device: str, base: torch.Tensor | None = None) -> tuple[Operator, Operator]:
    """Return W0 and W of pairs of one shape as operators: W fused where the updates have factors, else formed.

    base : the base matrices where they are on the device already, in `product_dtype`. Factors of lower rank than
    the batch's largest are padded with zeros.
    """
    dtype = product_dtype(pairs, device)
    factored_ = all(pair.update.factors is not None for pair in pairs)
    if base is None:
        base = _stacked([pair.base for pair in pairs], device, dtype)
    if not factored_:
        return Operator(base), Operator(base + _stacked([pair.update.dense() for pair in pairs], device, dtype))
    wide = torch.promote_types(dtype, torch.float32)
    factors = [pair.update.factors for pair in pairs if pair.update.factors is not None]
    return Operator(base), Operator(base, *_padded(factors, device, wide))


def _stacked(matrices: Sequence[torch.Tensor], device: str, dtype: torch.dtype) -> torch.Tensor:
    """Put matrices into one batch on the device; a batch of one on the CPU is a view where the dtype allows."""
    moved = [matrix.to(device).to(dtype) for matrix in matrices]
    return moved[0][None] if len(moved) == 1 else torch.stack(moved)


def _by_basis(pair: WeightPair, request: Request, base: SVD | None) -> Decompositions:
    made = base is None
    base = dense.svd(pair.base, device=request.device) if base is None else base
    if not suits(pair.shape, request):
        m, n = pair.shape
        return _exact(pair, request, base, f"; {m} x {n} is too small for the basis path")
    told = "the base decomposed for it" if made else f"the base known ({base.method})"
    if pair.update.factors is None:
        return _krylov_in_basis(pair, request, base, told)
    (found,) = basis_batch([pair], request, base, told)
    if found is not None:
        return found
    if base.vector_error:  # the coordinates are as inexact as the vectors; the leading vectors of W need not be
        return _krylov_in_basis(pair, request, base, told)
    return _exact(pair, request, base, "; the basis path left a vector undecided")


def basis_batch(
    pairs: Sequence[WeightPair], request: Request, base: SVD, told: str = "the base known"
) -> list[Decompositions | None]:
    """Answer a request for factored updates of one base matrix at once: their coordinates share two products.

    base : the full SVD of that matrix. None stands for a pair with an undecided vector.
    """
    on_device = base if request.device == "cpu" else _moved_to(base, request.device)
    factors = [pair.update.factors for pair in pairs if pair.update.factors is not None]
    B, A = _padded(factors, request.device)
    inside = basis.coordinates(on_device, B, A)
    found = basis.top(inside, request.k)
    sides = [basis.resemblances(inside, found, side) for side in request.sides]
    (lefts, rights), values_of = basis.projections(inside, found), found.S.cpu()
    shared = f", {len(pairs)} updates at once" if len(pairs) > 1 else ""
    results: list[Decompositions | None] = []
    for member, pair in enumerate(pairs):
        own = tuple(side[member] for side in sides)
        if unsettled(own, request.epsilon):
            results.append(None)
            continue
        spectrum, r = _update_spectrum(pair, request), factors[member][0].shape[1]
        seen = Projections(lefts[member, :, :r], rights[member, :, :r])
        results.append(
            Decompositions(
                base_values=base.S,
                tuned_values=values_of[member],
                update_values=spectrum.values,
                moved=seen.moved,
                resemblances=own,
                method="basis",
                reason=f"coordinates in the base's basis{shared}, {told}; {spectrum.how}",
                base=base,
                update=spectrum.svd,
                projections=seen,
            )
        )
    return results


def _moved_to(base: SVD, device: str) -> SVD:
    return replace(base, U=base.U.to(device), S=base.S.to(device), Vh=base.Vh.to(device))


def _padded(factors: Sequence[Factors], device: str, dtype: torch.dtype | None = None) -> Factors:
    """Put factors into one batch on the device, those of lower rank padded with zeros."""
    rank = max(B.shape[1] for B, _ in factors)
    dtype = dtype or factors[0][0].dtype
    B = _stacked([torch.nn.functional.pad(B, (0, rank - B.shape[1])) for B, _ in factors], device, dtype)
    A = _stacked([torch.nn.functional.pad(A, (0, 0, 0, rank - A.shape[0])) for _, A in factors], device, dtype)
    return B, A


def _krylov_in_basis(pair: WeightPair, request: Request, base: SVD, told: str) -> Decompositions:
    """Find the leading vectors of W by its products, and compare them with all base vectors."""
    _, tuned = operators([pair], request.device)
    found = leading(tuned, request.k)
    del tuned  # W of dense updates is formed: the spectrum of dW needs its memory
    sides = tuple(against(base, found, side) for side in request.sides)
    if unsettled(sides, request.epsilon):
        return _exact(pair, request, base, "; the basis path left a vector undecided")
    spectrum, seen = _update_spectrum(pair, request), Projections.of(pair.update, found.U[0].cpu(), found.V[0].cpu())
    return Decompositions(
        base_values=base.S,
        tuned_values=found.S[0].cpu(),
        update_values=spectrum.values,
        moved=seen.moved,
        resemblances=sides,
        method="basis",
        reason=f"block Krylov for W, {found.steps} steps, {told}; {spectrum.how}",
        base=base,
        update=spectrum.svd,
        update_estimate=spectrum.estimate,
        projections=seen,
    )


def against(base: SVD, found: Leading, side: Side) -> Resemblance:
    """Compare leading tuned vectors with every base vector, which are all known."""
    vectors = (found.U if side == "left" else found.V)[0].cpu()
    known = base.vectors(side)
    every = (known.T @ vectors.T.to(known)).abs().double().clamp_max(1)
    least, most = interval(every, base.S.double(), rounding_of(base), found.error[0].cpu() + base.vector_error)
    return Resemblance(
        side, base.shape, every, base.S.double(), torch.zeros_like(least), least, most, found.residual[0].cpu(),
        found.steps, float(found.missed[0]),
    )  # fmt: skip


def unsettled(sides: Sequence[Resemblance], epsilon: float) -> bool:
    """Whether epsilon lies inside the interval of some vector."""
    return any(bool(_is_open(side.found, side.bound, epsilon).any()) for side in sides)


def _is_open(least: torch.Tensor, most: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Whether epsilon lies inside an interval, so that there is no verdict. [K]"""
    return (least < epsilon) & (most >= epsilon)
