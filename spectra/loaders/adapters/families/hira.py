"""HiRA (ICLR 2025, https://openreview.net/forum?id=TwJrTz9cRS): `dW = W0 o (B A)`, entry by entry, of any rank."""

from spectra.errors import MatchError
from spectra.layout import Layout
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix, called
from spectra.text import listing, show
from spectra.updates import Elementwise, LowRank, Update


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the `[out, in]` shape of `B A`; for an embedding `[vocab, dim]`."""
    embedding = "hira_embedding_A" in parts or "hira_embedding_B" in parts
    A, B = (parts.get(f"hira_{'embedding_' * embedding}{factor}") for factor in "AB")
    if A is None or B is None:
        raise MatchError(f"'{show(module)}': one of its factors is missing ({listing(parts)} is there).")
    if len(A) < 2 or len(B) < 2 or A[0] != B[1]:
        raise MatchError(f"'{show(module)}': its factors B {list(B)} and A {list(A)} disagree on the rank.")
    return (A[1], B[0]) if embedding else (B[0], Layout("kernel", A).shape[1])


def update(target: Target) -> Update:
    """Return the product of W0 with `B A`."""
    if "hira_embedding_A" in target.parts:
        inner = LowRank(target.part("hira_embedding_A").T, target.part("hira_embedding_B").T)
    else:
        inner = LowRank(target.part("hira_B").flatten(1), target.part("hira_A").flatten(1))
    return Elementwise(target.base(), inner)


HIRA = Family(
    method="HIRA",
    parse=by_suffix("hira_(?:embedding_)?[AB]"),
    update=update,
    label=called("HiRA"),
    fits=fits,
)
