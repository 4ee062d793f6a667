"""A pair at any scale is what the engine says of the pair whose update was scaled beforehand."""

from dataclasses import replace

import pytest
import torch

from spectra import testing
from spectra.engine import dense
from spectra.engine import scales as module
from spectra.engine.choose import Request, decompose
from spectra.engine.scales import Scaled
from spectra.updates import LowRank, Rescaled

SCALES = (0.0, 0.3, 1.0, 1.7)
REQUEST = Request(k=8, sides=("left", "right"))
BASE = testing.decaying(100, 130, seed=0)
SMALL = testing.decaying(30, 20, seed=1)


def low_rank(base=BASE, rank=3, strength=0.8):
    (factors,) = testing.lora({"w.weight": base.float()}, ["w"], rank=rank, strength=strength, seed=2).values()
    return testing.weight_pair(base, LowRank(*factors))


def dense_pair(base=BASE):
    return testing.weight_pair(base, testing.noise(*base.shape, level=0.3, seed=3))


def rescaled(base=BASE):
    pair = low_rank(base, strength=0.4)
    gain = 1 + 0.1 * torch.rand(base.shape[0], generator=torch.Generator().manual_seed(4))
    return replace(pair, update=Rescaled(pair.base, pair.update, gain))


def expected(pair, scale):
    """The reference: the full decomposition of a pair that was scaled beforehand."""
    scaled = testing.weight_pair(pair.base, scale * pair.update.dense())
    return decompose(scaled, replace(REQUEST, method="exact"))


@pytest.mark.parametrize("make", [low_rank, dense_pair, rescaled, lambda: low_rank(SMALL), lambda: dense_pair(SMALL)])
@pytest.mark.parametrize("method", ["auto", "exact"])
def test_every_scale_is_the_scaled_pair(make, method):
    pair = make()
    scaled = Scaled(pair, dense.svd(pair.base), replace(REQUEST, method=method))
    for scale, found in zip(SCALES[1:], scaled.at(SCALES)[1:], strict=True):
        reference = expected(pair, scale)
        k = REQUEST.k
        torch.testing.assert_close(
            found.tuned_values[:k].double(), reference.tuned_values[:k].double(), rtol=3e-4, atol=0
        )
        torch.testing.assert_close(found.moved[:k].double(), reference.moved[:k].double(), rtol=0, atol=1e-4)
        first = found.update_values[:3].double(), reference.update_values[:3].double()
        torch.testing.assert_close(*first, rtol=1e-4, atol=1e-6)
        for side, other in zip(found.resemblances, reference.resemblances, strict=True):
            assert side.side == other.side
            assert bool((side.found[:k] - 1e-4 <= other.found[:k]).all())
            assert bool((other.found[:k] <= side.bound[:k] + 1e-4).all())
            assert make not in (low_rank,) or bool((side.bound[:k] - side.found[:k] < 2e-3).all())
    assert scaled.method == ("basis" if method == "auto" and pair.shape == (100, 130) else "exact")


@pytest.mark.parametrize("method", ["auto", "exact"])
def test_at_zero_every_direction_is_its_own(method):
    pair = low_rank(testing.tied(80, 80, 12, seed=5))
    (found,) = Scaled(pair, dense.svd(pair.base), replace(REQUEST, method=method)).at([0.0])
    for side in found.resemblances:
        assert side.found.tolist() == side.bound.tolist() == [1.0] * REQUEST.k
    assert not found.moved.any()
    assert not found.update_values.any()


def test_scales_come_back_in_the_order_asked():
    pair = low_rank()
    scaled = Scaled(pair, dense.svd(pair.base), REQUEST)
    there, back = scaled.at([0.4, 0.0, 1.2, 0.4]), scaled.at([1.2, 0.4, 0.0])
    assert there[0] is there[3]
    for one, other in ((there[0], back[1]), (there[1], back[2]), (there[2], back[0])):
        torch.testing.assert_close(one.tuned_values, other.tuned_values)


def test_a_rank_too_large_for_one_space_takes_one_a_scale(monkeypatch):
    pair = low_rank(rank=20)
    base = dense.svd(pair.base)
    joint = Scaled(pair, base, REQUEST).at(SCALES)
    monkeypatch.setattr(module, "serves", lambda *_: False)
    apart = Scaled(pair, base, REQUEST).at(SCALES)
    assert "one space for every scale" in joint[1].reason
    assert "a space for every scale" in apart[1].reason
    for one, other in zip(joint, apart, strict=True):
        torch.testing.assert_close(one.tuned_values[:8].double(), other.tuned_values[:8].double(), rtol=1e-5, atol=0)


def test_groups_of_scales_do_not_matter(monkeypatch):
    pair = low_rank()
    base = dense.svd(pair.base)
    one = Scaled(pair, base, REQUEST).at(SCALES)
    monkeypatch.setattr(module, "_AT_ONCE", 1)
    for found, other in zip(one, Scaled(pair, base, REQUEST).at(SCALES), strict=True):
        torch.testing.assert_close(found.tuned_values, other.tuned_values)
        torch.testing.assert_close(found.resemblances[0].cosines, other.resemblances[0].cosines, rtol=0, atol=1e-9)


def undecided(monkeypatch):
    monkeypatch.setattr(module, "unsettled", lambda *_: True)


@pytest.mark.parametrize("make", [low_rank, dense_pair])
def test_what_stays_undecided_is_decomposed_in_full(make, monkeypatch):
    pair = make()
    scaled = Scaled(pair, dense.svd(pair.base), REQUEST)
    undecided(monkeypatch)
    assert [one.method for one in scaled.at([0.5, 1.0])] == ["exact", "exact"]
    assert scaled.near_crossing(0.5).method == "exact"
    monkeypatch.setattr(module, "_FULL_UP_TO", 10)
    assert scaled.near_crossing(0.5) is None


def test_a_base_of_rounded_vectors_is_decomposed_again_once(monkeypatch):
    pair = low_rank()
    exact = dense.svd(pair.base)
    rounded = replace(exact, U=exact.U.half().float(), Vh=exact.Vh.half().float(), vector_error=5e-3)
    scaled, made = Scaled(pair, rounded, REQUEST), []
    monkeypatch.setattr(module.dense, "svd", lambda *given, **more: made.append(1) or exact)
    monkeypatch.setattr(
        module, "unsettled", lambda sides, _: any(bool((one.bound > one.found + 5e-3).any()) for one in sides)
    )
    assert {one.method for one in scaled.at(SCALES)} == {"basis"}
    assert made == [1]
    assert scaled.base is exact


def test_a_base_that_float32_blurs_is_decomposed_in_float64_once(monkeypatch):
    U, _, Vh = torch.linalg.svd(torch.randn(80, 70, generator=torch.Generator().manual_seed(0)).double(), False)
    base = (U * torch.cat([torch.tensor([1e5]), torch.linspace(1, 0.1, 69)]).double() @ Vh).float()
    pair, decomposed = low_rank(base, strength=0.01), []
    whole = dense.svd

    def counted(matrix, **told):
        if matrix.dtype == torch.float64 and bool((matrix.float() == base).all()):
            decomposed.append(matrix)
        return whole(matrix, **told)

    monkeypatch.setattr(dense, "svd", counted)
    found = Scaled(pair, whole(base), Request(method="exact")).at((0.0, 0.5, 1.0, 1.5))
    assert len(decomposed) == 1
    for scale, one in zip((0.5, 1.0, 1.5), found[1:], strict=True):
        B, A = (factor.double() for factor in pair.update.factors)
        tuned = torch.linalg.svd(base.double() + scale * (B @ A), full_matrices=False)[0]
        every = (torch.linalg.svd(base.double(), full_matrices=False)[0].T @ tuned[:, :10]).abs().amax(0)
        torch.testing.assert_close(one.resemblances[0].found[:10], every, rtol=0, atol=1e-4)
