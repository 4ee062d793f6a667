"""The rounding floor tells what a file's dtype fakes from what training did (METHODS section 2)."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectra import testing
from spectra.engine import factored
from spectra.engine.dense import singular_values
from spectra.metrics.noise import coarser, is_packed, rounding_floor, ulp
from spectra.metrics.ranks import ranks
from spectra.updates import LowRank

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def normal(m, n, seed, scale=0.02):
    return scale * torch.randn(m, n, generator=torch.Generator().manual_seed(seed))


def above(base, update, dtype):
    floor = rounding_floor(base, update, dtype)
    return ranks(singular_values(update), tuple(base.shape), floor=floor.edge).above_floor


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("shape", [(256, 256), (400, 100), (64, 300)], ids=str)
def test_a_round_trip_alone_has_rank_zero_above_the_floor(shape, dtype):
    """Although its effective rank is nearly full: that is the trap."""
    base = normal(*shape, seed=1)
    update = testing.rounded(base, HALF[dtype]) - base
    assert ranks(singular_values(update), shape).effective > 0.75 * min(shape)
    assert above(base, update, dtype) == 0


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("rank", [1, 8, 20])
def test_a_merged_update_has_its_own_rank_above_the_floor(rank, dtype):
    """While its numerical rank is that of the noise."""
    base = testing.rounded(normal(256, 256, seed=2), HALF[dtype])
    B, A = testing.lora({"w.weight": base}, ["w"], rank=rank, strength=0.3, seed=3)["w"]
    merged = testing.rounded(base + B @ A, HALF[dtype]) - base
    assert ranks(singular_values(merged), (256, 256)).numerical > 100
    assert above(base, merged, dtype) == rank


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("scale", [0.01, 0.02, 1.0])
def test_sigma_is_the_error_of_a_real_round_trip(scale, dtype):
    base = normal(1200, 1000, seed=4, scale=scale)
    update = testing.rounded(base, HALF[dtype]) - base
    measured = update.double().square().mean().sqrt().item()
    assert rounding_floor(base, update, dtype).sigma == pytest.approx(measured, rel=0.01)


def test_sigma_of_float32_is_the_error_of_a_round_trip_from_float64():
    base = normal(500, 400, seed=5).double() * 1.2345678901
    measured = (base.float().double() - base).square().mean().sqrt().item()
    assert rounding_floor(base.float(), torch.zeros(500, 400), "float32").sigma == pytest.approx(measured, rel=0.01)


def by_definition(base, update, dtype):
    """Sigma, the uneven edge and the share lost, entry by entry in float64."""
    bits, lowest = {"bfloat16": (7, -126), "float16": (10, -14), "float32": (23, -126)}[dtype]

    def step(weights):
        return 2.0 ** (np.maximum(np.frexp(weights)[1] - 1, lowest) - bits)

    W0, dW = base.double().numpy(), update.double().numpy()
    larger = np.maximum(np.abs(W0), np.abs(W0 + dW))
    variance = np.where(larger == 0, 0, step(np.where(larger == 0, 1, larger)) ** 2 / 12)
    least = np.where(W0 == 0, 2.0 ** (lowest - bits), step(np.where(W0 == 0, 1, W0)))
    lost = (dW != 0) & (np.abs(dW) < least / 2)
    edge = variance.sum(1).max() ** 0.5 + variance.sum(0).max() ** 0.5
    return variance.mean() ** 0.5, edge, lost.sum() / max((dW != 0).sum(), 1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-6, 0.02, 1.0, 1e30])
@pytest.mark.parametrize("small", [1e-9, 1e-3, 10.0])
def test_the_floor_is_its_definition_at_every_scale(scale, dtype, small):
    """Some weights are zero, some entries do not move, and one row is an outlier."""
    base, update = normal(50, 40, seed=10, scale=scale), normal(50, 40, seed=11, scale=scale * small)
    base[:, :9], update[:20], base[7] = 0, 0, base[7] * 50
    sigma, edge, lost = by_definition(base, update, dtype)
    floor = rounding_floor(base, update, dtype)
    assert floor.sigma == pytest.approx(sigma, rel=1e-6)
    assert floor.edge_uneven == pytest.approx(edge, rel=1e-6)
    assert floor.lost == lost


def test_factors_have_the_floor_of_their_product():
    base = normal(200, 150, seed=12)
    B, A = testing.lora({"w.weight": base}, ["w"], rank=4, strength=0.1, seed=1)["w"]
    one, other = (rounding_floor(base, update, "bfloat16") for update in (B @ A, LowRank(B, A)))
    assert one.sigma == pytest.approx(other.sigma, rel=1e-6)
    assert one.edge == pytest.approx(other.edge, rel=1e-6)
    assert one.lost == pytest.approx(other.lost, abs=1e-3)


def test_outlier_rows_raise_the_floor_where_they_raise_the_noise():
    """Nine noise values passed the edge for rows alike; none passes the larger of the two."""
    base = normal(256, 256, seed=6)
    base[:9] *= 40
    update = testing.rounded(base, torch.bfloat16) - base
    floor = rounding_floor(base, update, "bfloat16")
    values = singular_values(update)
    assert (values > floor.edge_alike).sum() >= 9
    assert (values > floor.edge).sum() == 0
    assert floor.edge == floor.edge_uneven


def test_the_edges_by_hand():
    """Weights of 1 have a bfloat16 spacing of 2^-7; one row of 4 has four times that."""
    base = torch.ones(6, 10)
    base[0] = 4.0
    floor = rounding_floor(base, torch.zeros(6, 10), "bfloat16")
    small, large = 2.0**-14 / 12, 2.0**-10 / 12
    mean = (5 * small + large) / 6
    assert floor.sigma == pytest.approx(mean**0.5)
    assert floor.edge_alike == pytest.approx(mean**0.5 * (6**0.5 + 10**0.5))
    assert floor.edge_uneven == pytest.approx((10 * large) ** 0.5 + (5 * small + large) ** 0.5)
    turned = rounding_floor(base.T, torch.zeros(10, 6), "bfloat16")
    assert turned.edge_uneven == pytest.approx(floor.edge_uneven)
    assert turned.edge_alike == pytest.approx(floor.edge_alike)


@given(
    weight=st.floats(allow_nan=False, allow_infinity=False, width=32),
    dtype=st.sampled_from(["bfloat16", "float16", "float32"]),
)
def test_ulp_is_the_step_to_the_next_number_of_the_dtype(weight, dtype):
    """Down to the subnormal numbers and at zero; the step is the one away from zero."""
    kind = getattr(torch, dtype)
    if abs(weight) >= torch.finfo(kind).max:
        return
    stored = torch.tensor(weight).abs().to(kind)
    integer = torch.int32 if dtype == "float32" else torch.int16
    following = (stored.view(integer) + 1).view(kind)
    if not torch.isfinite(following):
        return
    step = following.double() - stored.double()
    assert ulp(stored.float().reshape(1, 1), dtype).item() == step.item()


def test_lost_is_what_a_merge_drops():
    """The share of entries that are the same after merging in the base's dtype."""
    base = testing.rounded(normal(200, 200, seed=7), torch.bfloat16)
    for strength in (1e-4, 1e-3, 1e-2):
        B, A = testing.lora({"w.weight": base}, ["w"], rank=4, strength=strength, seed=8)["w"]
        dropped = (testing.rounded(base + B @ A, torch.bfloat16) == base).double().mean().item()
        assert rounding_floor(base, B @ A, "bfloat16").lost == pytest.approx(dropped, abs=0.01)


def test_an_update_of_a_zero_weight_is_never_lost():
    """0 + dW is dW: there is nothing to round it to."""
    update = torch.full((4, 4), 1e-6)
    assert rounding_floor(torch.zeros(4, 4), update, "bfloat16").lost == 0
    assert rounding_floor(torch.ones(4, 4), update, "bfloat16").lost == 1


def test_entries_that_did_not_change_are_not_lost():
    update = torch.zeros(4, 4)
    update[0, 0] = 1.0
    assert rounding_floor(torch.ones(4, 4), update, "bfloat16").lost == 0
    assert rounding_floor(torch.ones(4, 4), torch.zeros(4, 4), "bfloat16").lost == 0


def test_zero_weights_carry_no_noise():
    floor = rounding_floor(torch.zeros(5, 5), torch.zeros(5, 5), "float16")
    assert (floor.sigma, floor.edge) == (0.0, 0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_update_that_outgrows_its_base_has_the_floor_of_what_was_stored(dtype):
    """The rounding of a stored weight is that of its own size, however small the base was."""
    base, spike = 0.01 * normal(256, 256, seed=1), normal(256, 1, seed=2) @ normal(1, 256, seed=3)
    update = (base.double() + 3 * spike.double()).to(dtype).float() - base
    floor = rounding_floor(base, update, str(dtype).removeprefix("torch."))
    values = torch.linalg.svdvals(update.double())
    assert values[1] < 1.5 * floor.edge < values[0] / 100, "in float32 the subtraction itself adds as much again"


def test_subnormal_weights_have_the_smallest_step():
    base = torch.full((3, 3), 1e-41)
    assert rounding_floor(base, base, "float32").sigma == pytest.approx(2.0**-149 / 12**0.5)
    assert rounding_floor(torch.full((3, 3), 1e-7), base, "float16").sigma == pytest.approx(2.0**-24 / 12**0.5)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_an_empty_matrix_has_no_floor(shape):
    floor = rounding_floor(torch.zeros(shape), torch.zeros(shape), "bfloat16")
    assert (floor.sigma, floor.edge, floor.lost) == (0.0, 0.0, 0.0)


def test_the_coarser_dtype_is_the_one_with_fewer_digits():
    assert coarser("float32", "bfloat16") == coarser("bfloat16", "float16") == "bfloat16"
    assert coarser("float64", "float16") == "float16"
    assert coarser("float64", "float64") == "float64"


@pytest.mark.parametrize("packed", ["float8_e4m3fn", "float8_e5m2", "int8", "nf4", "fp4", "Q4_K", "Q8_0", "uint4"])
def test_codes_that_scales_turn_into_weights_have_no_step_of_their_own(packed):
    assert is_packed(packed)
    assert coarser(packed, "float32") is coarser("bfloat16", packed) is coarser(packed, packed) is None
    assert not any(map(is_packed, ("float64", "float32", "float16", "bfloat16")))


def test_the_edge_is_the_largest_and_says_whose_it_is():
    base = normal(60, 40, seed=13)
    files = rounding_floor(base, torch.zeros(60, 40), "bfloat16")
    assert (files.edge, files.limited_by) == (max(files.edge_alike, files.edge_uneven), "files")
    below, above = (
        rounding_floor(base, torch.zeros(60, 40), "bfloat16", edge_computed=by * files.edge) for by in (0.9, 2)
    )
    assert (below.edge, below.limited_by) == (files.edge, "files")
    assert (above.edge, above.limited_by) == (2 * files.edge, "computation")


def test_the_floor_of_an_adapter_is_far_below_its_update():
    base = normal(128, 128, seed=9)
    B, A = testing.lora({"w.weight": base}, ["w"], rank=4, strength=0.1, seed=1)["w"]
    floor = rounding_floor(base, B @ A, "float32")
    assert ranks(factored.svd(B, A).S, (128, 128), floor=floor.edge).above_floor == 4
