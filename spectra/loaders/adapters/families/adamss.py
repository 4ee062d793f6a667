"""AdaMSS: the rows of W0 in clusters, each with an update of its own within leading singular vectors of W0.

Rows of cluster i: `dW = B_i A_i V`, V the leading right singular vectors of W0, or of `[W0 | bias]`, stored. The
clusters are not stored. They are those of the rows of the left singular vectors, which a randomised SVD with a seed
gives, and are found again the same way. What is stored tells whether they are: V, and how many rows each cluster has.
"""

import torch

from spectra.errors import MatchError, UnsupportedError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.families.clusters import clustered
from spectra.loaders.adapters.families.drawn import seed_of
from spectra.loaders.adapters.families.unread import AGAIN
from spectra.loaders.adapters.family import Family, Fit, Parsed, Shapes, Target, by_path, by_suffix, called
from spectra.text import listing, show
from spectra.updates import Dense, LowRank, Update

_SEED, _STEPS, _POWERS = 123456789, 10, 2  # what PEFT always takes
_ALIKE = 1e-3  # of 1: how far a singular vector may be from the stored one, but for its sign
_V = "adamss_newB"
_vectors, _factors = by_suffix(_V), by_path("adamss_[AB]", r"\d+")


def parse(name: str) -> Parsed | None:
    """Split a name into module, part and adapter."""
    return _vectors(name) or _factors(name)


def rank(parts: Shapes, config: AdapterConfig) -> int:
    """Return the rank of all clusters together."""
    return sum(shape[0] for part, shape in parts.items() if part.startswith("adamss_A."))


def fits(module: str, parts: Shapes, config: AdapterConfig) -> Fit:
    """Return the number of rows of all clusters; the inputs are those of the base."""
    count = (len(parts) - 1) // 2
    pairs = [(parts.get(f"adamss_A.{i}", ()), parts.get(f"adamss_B.{i}", ())) for i in range(count)]
    V = parts.get(_V, ())
    if not pairs or len(V) != 2 or any(len(A) != 2 or len(B) != 2 or B[1] != A[0] or A[1] != V[0] for A, B in pairs):
        raise MatchError(f"'{show(module)}': its parts do not fit together ({listing(parts)} is there).")
    return sum(B[0] for _, B in pairs), None


def update(target: Target) -> Update:
    """Return dW, in factors where the ranks of all clusters together are below both dimensions."""
    count = (len(target.parts) - 1) // 2
    parts = [(target.part(f"adamss_A.{i}").double(), target.part(f"adamss_B.{i}").double()) for i in range(count)]
    places, V = _places(target, [len(B) for _, B in parts]), target.part(_V).double()[:, : target.shape[1]]
    A = torch.cat([A for A, _ in parts]) @ V
    B = A.new_zeros(target.shape[0], len(A))
    first = 0
    for own, (_, rows) in zip(places, parts, strict=True):
        B[own, first : first + rows.shape[1]] = rows
        first += rows.shape[1]
    return LowRank(B.float(), A.float()) if len(A) < min(target.shape) else Dense((B @ A).float())


def _places(target: Target, sizes: list[int]) -> list[torch.Tensor]:
    """Return the rows of each cluster. Raises UnsupportedError where they are not those of training."""
    U, V = _leading(target, len(target.parts[_V]))
    stored = target.part(_V)
    alike = (V.T * stored).sum(dim=1).abs() if V.T.shape == stored.shape else torch.zeros(1)
    labels = clustered(U, len(sizes), seed=_SEED, most=_STEPS) if bool((alike > 1 - _ALIKE).all()) else None
    if labels is None or labels.bincount(minlength=len(sizes)).tolist() != sizes:
        raise UnsupportedError(
            f"'{show(target.module)}': AdaMSS does not store which rows its clusters have, and they do not come out "
            f"of this base as they did in training. {AGAIN}"
        )
    return [torch.nonzero(labels == cluster).flatten() for cluster in range(len(sizes))]


def _leading(target: Target, r: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the leading singular vectors of `[W0 | bias]` by the randomised SVD of training."""
    base, bias = target.base(), target.bias()
    whole = base if bias is None else torch.cat([base, bias[:, None]], dim=1)
    seed = seed_of(target.config, "random_seed") if "random_seed" in target.config.raw else 0
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # svd_lowrank draws from the CPU's own generator alone
        U, _, V = torch.svd_lowrank(whole, q=min(r, *whole.shape), niter=_POWERS)
    return U, V


ADAMSS = Family(
    method="ADAMSS",
    parse=parse,
    update=update,
    label=called("AdaMSS"),
    rank=rank,
    fits=fits,
)
