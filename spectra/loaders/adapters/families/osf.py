"""OSF (arXiv:2504.07097): the trailing singular components of W0, trained in place of themselves.

`dW = U diag(S) V - U0 diag(S0) V0`, the second term the components of W0 that the first was started from, computed
again; as a product of both its vectors it does not depend on their signs.
"""

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.families.bases import decomposed, require_apart
from spectra.loaders.adapters.family import Family, Shapes, Target, by_path, called
from spectra.text import listing, show
from spectra.updates import LowRank, Sum, Update

_PARTS = ("osf_svd_params.U_low", "osf_svd_params.S_low", "osf_svd_params.V_low")


def rank(parts: Shapes, config: AdapterConfig) -> int:
    """Return twice the number of trained components: those before and after may point anywhere."""
    return 2 * parts["osf_svd_params.S_low"][0]


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the `[out, in]` shape of the components."""
    U, S, V = (parts.get(part) for part in _PARTS)
    if U is None or S is None or V is None:
        raise MatchError(f"'{show(module)}': part of its components is missing ({listing(parts)} is there).")
    if len(U) != 2 or len(V) != 2 or (U[1],) != S or (V[0],) != S or S[0] > min(U[0], V[1]):
        raise MatchError(f"'{show(module)}': its U {list(U)}, S {list(S)} and V {list(V)} do not fit together.")
    return U[0], V[1]


def update(target: Target) -> Update:
    """Return the difference of both products."""
    U, S, V = (target.part(part) for part in _PARTS)
    U0, S0, V0 = decomposed(target)
    first = len(S0) - len(S)
    if 0 < first < len(S0):
        require_apart(target, S0, first, first)
    before = LowRank(-target.rounded(U0[:, first:]) * target.rounded(S0[first:]), target.rounded(V0[first:]))
    after = LowRank(U * S, V)
    return Sum((after, before))


OSF = Family(
    method="OSF",
    parse=by_path("osf_svd_params", "[USV]_low"),
    update=update,
    label=called("OSF"),
    rank=rank,
    fits=fits,
)
