"""Intruder dimensions: equal to the paper's definition, invariant as they must be, and told apart as documented."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from spectra import testing
from spectra.engine.decomposition import SVD
from spectra.engine.dense import svd
from spectra.engine.resemblance import SIDES, Resemblance, compared, cosines
from spectra.errors import UsageError
from spectra.metrics import intruders as metric
from spectra.metrics.intruders import SWEEP_EPSILON, SWEEP_K
from spectra.metrics.null import expected_similarity

SEEDS = st.integers(0, 10**6)
SIDE = st.sampled_from(SIDES)


def paper(W0, W, k, epsilon, side):
    """Algorithm 1 of arXiv:2410.21228, on the left vectors as printed; the right ones are those of the transpose."""
    if side == "right":
        W0, W = W0.T, W.T
    U0 = np.linalg.svd(W0, full_matrices=False)[0]
    U = np.linalg.svd(W, full_matrices=False)[0]
    count, similarity = 0, []
    for j in range(min(k, U.shape[1])):
        similarity.append(np.abs(U0.T @ U[:, j]).max())
        if similarity[j] < epsilon:
            count += 1
    return similarity, count


def intruders(base, tuned, update, *, k=10, side="left", **options):
    """The metric on two full decompositions, as the exact path gives it."""
    metric.require_options(k, options.get("epsilon", 0.5))
    seen = compared(base, tuned, k=max(k, *SWEEP_K), side=side)
    moved = (tuned.U.double() * (update.double() @ tuned.Vh.T.double())).sum(0)
    return metric.intruders(seen, tuned.S, moved, energy=float(update.double().square().sum()), k=k, **options)


def found(base, update, **options):
    update = update if isinstance(update, torch.Tensor) else update.dense()
    return intruders(svd(base), svd(base + update.to(base)), update.to(base), **options)


def drawn(seed, m=24, n=18, rank=4, level=0.7):
    """A base and an update about as strong as its leading directions."""
    base = testing.decaying(m, n, seed=seed)
    factors = testing.lora({"w.weight": base}, ["w"], rank=rank, strength=1.0, seed=seed + 1)["w"]
    update = factors[0] @ factors[1] if rank else testing.noise(m, n, level=1.0, seed=seed)
    return base, update * (level / torch.linalg.matrix_norm(update, 2))


def well_defined(base, update, gap=1e-3):
    """Only vectors with a gap around them can be compared one by one."""
    S0, S = torch.linalg.svdvals(base), torch.linalg.svdvals(base + update)
    return min(((v[:-1] - v[1:]) / v[:-1]).min().item() for v in (S0, S)) > gap and S[-1] > gap


# --- the paper's definition


@given(
    seed=SEEDS,
    m=st.integers(2, 40),
    n=st.integers(2, 40),
    level=st.floats(0.05, 5),
    k=st.integers(1, 45),
    epsilon=st.floats(0.05, 1.0),
    side=SIDE,
    wide=st.booleans(),
)
def test_count_and_similarity_are_the_papers(seed, m, n, level, k, epsilon, side, wide):
    base, update = drawn(seed, m, n, level=level)
    assume(well_defined(base, update))
    dtype, tolerance = (torch.float64, 1e-8) if wide else (torch.float32, 5e-3)
    base, update = base.to(dtype), update.to(dtype)
    similarity, count = paper(base.numpy(), (base + update).numpy(), k, epsilon, side)
    ours = found(base, update, k=k, epsilon=epsilon, side=side)
    np.testing.assert_allclose(ours.similarity, similarity, rtol=0, atol=tolerance)
    assume(min(abs(np.array(similarity) - epsilon)) > tolerance)
    assert ours.count == count
    assert ours.similarity_bound == ours.similarity


@given(seed=SEEDS, m=st.integers(2, 70), n=st.integers(2, 70), level=st.floats(0.05, 5), side=SIDE)
def test_the_sweep_holds_the_count_at_every_k_and_epsilon(seed, m, n, level, side):
    base, update = drawn(seed, m, n, level=level)
    swept = found(base, update, k=3, side=side)
    assert (swept.sweep_k, swept.sweep_epsilon) == (SWEEP_K, SWEEP_EPSILON)
    at_k, at_epsilon = seed % len(SWEEP_K), seed % len(SWEEP_EPSILON)
    alone = found(base, update, k=SWEEP_K[at_k], epsilon=SWEEP_EPSILON[at_epsilon], side=side)
    assert swept.sweep[at_k][at_epsilon] == alone.count
    assert np.all(np.diff(swept.sweep, axis=0) >= 0)
    assert np.all(np.diff(swept.sweep, axis=1) >= 0)


def test_similarity_at_epsilon_is_no_intruder():
    """The paper says below: at epsilon = 1 an unchanged direction stays."""
    base = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    assert found(base, torch.zeros(3, 3), epsilon=1.0).count == 0


# --- invariances


def same(one, other, tolerance=1e-6):
    for name in ("similarity", "novelty", "cluster", "base_share", "update_share"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=0, atol=tolerance, err_msg=name)
    assert one.energy_share == pytest.approx(other.energy_share, abs=tolerance)
    assert (one.count, one.null) == (other.count, other.null)


def clear(result, margin=1e-4):
    """Whether no verdict hangs on the last digits."""
    return result.margin > margin and min(abs(value - 0.5) for value in result.novelty) > margin


@given(seed=SEEDS, side=SIDE)
def test_signs_of_singular_vectors_do_not_matter(seed, side):
    base, update = drawn(seed)
    one, other = svd(base), svd(base + update)
    generator = torch.Generator().manual_seed(seed)

    def flipped(of):
        signs = torch.randint(0, 2, of.S.shape, generator=generator).double() * 2 - 1
        return SVD(of.U * signs, of.S, signs[:, None] * of.Vh, of.residual, of.orthogonality, of.method)

    assert intruders(flipped(one), flipped(other), update, side=side) == intruders(one, other, update, side=side)


@given(seed=SEEDS, side=SIDE, m=st.integers(2, 24), n=st.integers(2, 24))
def test_rotating_base_and_update_together_changes_nothing(seed, side, m, n):
    base, update = drawn(seed, m, n)
    assume(well_defined(base, update))
    left, right = testing.orthogonal(m, m, seed=seed), testing.orthogonal(n, n, seed=seed + 7)
    before = found(base, update, side=side)
    assume(clear(before))
    same(found(left @ base @ right, left @ update @ right, side=side), before)


@given(seed=SEEDS, side=SIDE, exponent=st.integers(-60, 60))
def test_scaling_base_and_update_together_changes_nothing(seed, side, exponent):
    base, update = drawn(seed)
    assume(well_defined(base, update))
    scale = 3.0**exponent
    one, other = found(base, update, side=side), found(base * scale, update * scale, side=side)
    assume(clear(one))
    same(one, other)
    np.testing.assert_allclose(other.sigma, np.array(one.sigma) * scale, rtol=1e-10)
    np.testing.assert_allclose(other.relative_gap, one.relative_gap, rtol=1e-6)


@given(seed=SEEDS, m=st.integers(2, 24), n=st.integers(2, 24))
def test_the_right_side_is_the_left_side_of_the_transpose(seed, m, n):
    base, update = drawn(seed, m, n)
    assume(well_defined(base, update))
    one = found(base, update, side="right")
    assume(clear(one))
    same(one, found(base.T.contiguous(), update.T.contiguous(), side="left"))


@given(seed=SEEDS, side=SIDE)
def test_the_split_of_an_adapter_into_factors_does_not_matter(seed, side):
    """`B -> B Q, A -> Q^-1 A` is the same update."""
    base, _ = drawn(seed)
    B, A = testing.lora({"w.weight": base}, ["w"], strength=1.0, seed=seed)["w"]
    assume(well_defined(base, B @ A))
    Q = testing.with_spectrum([4.0, 2.0, 1.0, 0.5], 4, 4, seed=seed)
    one = found(base, B @ A, side=side)
    assume(clear(one))
    same(found(base, (B @ Q) @ torch.linalg.solve(Q, A), side=side), one)


@given(seed=SEEDS, side=SIDE, stored=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_float32_gives_what_float64_gives(seed, side, stored):
    """For weights as a file holds them, half precision as well: the decomposition's dtype is not seen."""
    base, update = (testing.rounded(part, stored) for part in drawn(seed))
    assume(well_defined(base, update))
    one = found(base, update, side=side)
    assume(clear(one, 2e-3))
    same(found(base.float(), update.float(), side=side), one, 2e-3)


# --- known answers


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", [(160, 160), (320, 160), (160, 240)], ids=str)
@pytest.mark.parametrize("rank", [1, 3, 10])
def test_a_planted_direction_is_found_at_its_place(rank, shape, side):
    """Its strength lies between the base's values of that rank and the one before."""
    base = testing.decaying(*shape, seed=rank, exponent=1.5)
    strength = (rank - 0.5) ** -1.5 if rank > 1 else 1.5
    result = found(base, testing.plant_intruders(base, strength=strength, seed=5), side=side)
    assert [place for place, verdict in enumerate(result.verdict, 1) if verdict != "kept"] == [rank]
    assert result.verdict[rank - 1] == "new"
    assert result.sigma[rank - 1] == pytest.approx(strength, rel=0.05)


@given(count=st.integers(1, 5), seed=SEEDS, side=SIDE, strength=st.floats(1.5, 20))
def test_as_many_are_found_as_were_planted(count, seed, side, strength):
    base = testing.decaying(60, 70, seed=seed)
    result = found(base, testing.plant_intruders(base, count, strength=strength, seed=seed), side=side)
    assert result.count == result.new == count
    assert result.verdict[:count] == ("new",) * count
    assert result.energy_share == pytest.approx(1.0, abs=0.05)
    assert min(result.update_share[:count]) > 0.95


@given(seed=SEEDS, side=SIDE)
def test_an_update_inside_the_bases_top_space_only_rotates(seed, side):
    """Some of the ten leading vectors fall below 0.5, and none of them is new."""
    base = testing.decaying(100, 80, seed=seed)
    result = found(base, testing.rotate_top(base, seed=seed), side=side)
    assert result.count == result.rotated
    assert max(result.novelty) < 1e-6


def test_a_rotation_within_the_top_space_does_fall_below_epsilon():
    base = testing.decaying(100, 80, seed=3)
    assert found(base, testing.rotate_top(base, seed=0)).rotated >= 3


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("size", [2, 3, 4, 8, 12, 16, 24, 32, 48, 64])
def test_noise_in_a_tied_cluster_fakes_degenerate_intruders_only(size, side):
    """The trap of a bare count: 1e-6 of noise and 64 equal values make ten intruders of ten."""
    base = testing.tied(256, 256, size, seed=size).float()
    update = testing.noise(256, 256, level=1e-6, seed=1).float()
    result = found(base, update, side=side)
    _, expected = paper(base.numpy(), (base + update).numpy(), 10, 0.5, side)
    assert abs(result.count - expected) <= 3  # which basis a driver picks inside the cluster is its own affair
    assert result.count == result.degenerate
    assert (result.rotated, result.new) == (0, 0)
    assert min(result.cluster[: min(size, 10)]) == pytest.approx(1.0, abs=1e-3)
    if size == 64:
        assert result.count == 10


def test_a_low_cluster_beneath_a_large_value_is_still_seen():
    """Rounding is relative to the largest value: ties at a thousandth of it come back 2e-4 apart."""
    values = torch.cat([torch.tensor([1000.0]), torch.ones(64), torch.linspace(0.5, 0.1, 191)])
    base = testing.with_spectrum(values, 256, 256, seed=0).float()
    result = found(base, testing.noise(256, 256, level=1e-4, seed=1).float())
    assert result.count == result.degenerate > 0


def by_hand(values, direction, sigma=1e4):
    """A base with these values on the coordinate axes, and a W whose one leading vector is `direction`."""
    eye, x = torch.eye(len(values)), torch.as_tensor(direction, dtype=torch.float32)
    base = SVD(eye, torch.as_tensor(values, dtype=torch.float32), eye, 0.0, 0.0, "by hand")
    tuned = SVD(x[:, None], torch.tensor([sigma]), x[None], 0.0, 0.0, "by hand")
    return base, tuned, sigma * torch.outer(x, x)


@pytest.mark.parametrize(("gap", "verdict"), [(5e-7, "degenerate"), (2e-6, "new")])
def test_values_are_tied_where_float32_cannot_tell_them_apart(gap, verdict):
    """`8 eps sigma_1` is 9.5e-7 here: at a hundredth of sigma_1 a relative gap of 5e-5 is rounding."""
    tied = 0.01 - gap * torch.arange(16)
    values = torch.cat([torch.linspace(1, 0.5, 48), tied])
    result = intruders(*by_hand(values, torch.cat([torch.zeros(48), torch.full((16,), 0.25)])))
    assert result.verdict == (verdict,)


@pytest.mark.parametrize(("gap", "verdict"), [(0.9e-5, "degenerate"), (1.2e-5, "new")])
def test_values_are_tied_up_to_a_relative_gap_of_1e_5(gap, verdict):
    values = (1 - gap) ** torch.arange(16, dtype=torch.float64)
    values = torch.cat([values, torch.linspace(0.5, 0.1, 48, dtype=torch.float64)])
    base, tuned, update = by_hand(values, torch.cat([torch.full((16,), 0.25), torch.zeros(48)]))
    base = SVD(base.U, values, base.Vh, 0.0, 0.0, "by hand")
    assert intruders(base, tuned, update, novelty_span=1, k=1).verdict == (verdict,)


def test_a_cluster_as_large_as_the_space_explains_nothing():
    """Every direction lies in the span of all: |C| / m must be at most epsilon^2."""
    result = found(torch.eye(64), testing.plant_intruders(torch.eye(64), 2, strength=9, seed=0), k=2)
    assert result.new == result.count == 2
    assert result.cluster[0] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("size", "verdict"), [(16, "degenerate"), (17, "new")])
def test_a_cluster_explains_up_to_a_share_of_epsilon_squared(size, verdict):
    """A direction spread over 16 of 64 base vectors is one of the cluster's; over 17 a random one would be too."""
    values = torch.cat([torch.arange(64 - size, 0, -1) + 1.0, torch.ones(size)])
    result = intruders(*by_hand(values, torch.cat([torch.zeros(64 - size), torch.full((size,), size**-0.5)])))
    assert result.cluster == pytest.approx((1.0,))
    assert result.verdict == (verdict,)


def test_novelty_is_the_share_outside_the_bases_leading_space():
    base, update = drawn(11, 60, 50)
    one, other = svd(base), svd(base + update)
    inside = (one.U[:, :16].T @ other.U[:, :10]).square().sum(0)
    result = intruders(one, other, update)
    np.testing.assert_allclose(result.novelty, 1 - inside.numpy(), atol=1e-12)
    assert result.novelty_span == 16
    wider = intruders(one, other, update, k=20)
    np.testing.assert_allclose(
        wider.novelty[0], 1 - (one.U[:, :20].T @ other.U[:, 0]).square().sum().item(), atol=1e-12
    )
    assert wider.novelty_span == 20
    assert intruders(one, other, update, k=200).novelty_span == 50


def test_the_threshold_between_rotated_and_new_is_an_option():
    base, update = drawn(11, 60, 50, level=3)
    strict = found(base, update, rotated_below=0.0)
    loose = found(base, update, rotated_below=1.0)
    assert strict.new == loose.rotated == strict.count > 0


def test_half_of_a_direction_inside_the_bases_space_is_rotated_still():
    """Coordinates of 1/2 on four axes, two of them among the leading two: novelty exactly 0.5."""
    case = by_hand([4, 3, 2, 1], [0.5, 0.5, 0.5, 0.5])
    result = intruders(*case, k=1, epsilon=0.6, novelty_span=2)
    assert (result.novelty, result.verdict) == ((0.5,), ("rotated",))
    assert intruders(*case, k=1, epsilon=0.6, novelty_span=1).verdict == ("new",)


def test_the_nearest_base_vector_is_named():
    result = intruders(*by_hand([4, 3, 2, 1], [0.1, 0.5, -0.8, 0.3]), k=1)
    assert result.nearest == (2,)
    assert result.similarity == pytest.approx((0.8,))


@pytest.mark.parametrize("shape", [(80, 70), (70, 80)], ids=str)
@pytest.mark.parametrize("side", SIDES)
def test_chance_is_that_of_the_sides_own_space(shape, side):
    base, update = drawn(3, *shape)
    dimension = shape[0] if side == "left" else shape[1]
    assert found(base, update, side=side).null == expected_similarity(dimension, 70)


# --- shares


@given(
    seed=SEEDS, m=st.integers(1, 20), n=st.integers(1, 20), level=st.floats(0.01, 10), side=SIDE, rank=st.integers(0, 4)
)
def test_the_parts_add_up(seed, m, n, level, side, rank):
    base, update = drawn(seed, m, n, rank, level)
    result = found(base, update, k=6, side=side)
    p = min(m, n)
    assert result.count == result.degenerate + result.rotated + result.new
    assert 0 <= result.energy_share <= 1
    for values in (result.similarity, result.sigma, result.novelty, result.cluster, result.verdict, result.nearest):
        assert len(values) == min(6, p)
    tuned = svd(base + update)
    kept = torch.einsum("mj,mn,jn->j", tuned.U, base, tuned.Vh)[:6]
    moved = torch.einsum("mj,mn,jn->j", tuned.U, update, tuned.Vh)[:6]
    sigma, defined = tuned.S[:6], tuned.S[:6] > 1e-5 * tuned.S[0]
    np.testing.assert_allclose(
        (torch.tensor(result.base_share) * sigma)[defined], kept[defined], atol=1e-9 * (1 + level)
    )
    np.testing.assert_allclose(
        (torch.tensor(result.update_share) * sigma)[defined], moved[defined], atol=1e-9 * (1 + level)
    )
    shares = np.array(result.base_share) + np.array(result.update_share)
    np.testing.assert_allclose(shares[defined.numpy()], 1, atol=1e-9)


def test_energy_share_is_the_updates_energy_on_the_intruders():
    base, update = drawn(21, 60, 50, level=3)
    result = found(base, update)
    tuned = svd(base + update)
    below = [place for place, verdict in enumerate(result.verdict) if verdict != "kept"]
    on = torch.einsum("mj,mn,jn->j", tuned.U[:, below], update, tuned.Vh[below]).square().sum()
    assert below
    assert result.energy_share == pytest.approx((on / update.square().sum()).item(), rel=1e-9)


def test_gaps_are_those_of_the_tuned_spectrum_beyond_k_too():
    base, update = drawn(4)
    np.testing.assert_allclose(found(base, update, k=2).relative_gap, svd(base + update).relative_gaps()[:2])


@pytest.mark.parametrize("offset", [1e-6, -1e-6])
def test_the_margin_tells_how_close_a_verdict_is(offset):
    """A direction planted at a cosine of 0.5 + offset with one base vector and less with all others."""
    m = 40
    x = torch.full((m,), ((1 - (0.5 + offset) ** 2) / (m - 1)) ** 0.5, dtype=torch.float64)
    x[0] = 0.5 + offset
    base = torch.diag(torch.linspace(2, 1, m, dtype=torch.float64))
    one, S = svd(base), torch.ones(1, dtype=torch.float64)
    tuned = SVD(x[:, None], S, x[None], 0.0, 0.0, "by hand")
    result = intruders(one, tuned, torch.zeros(m, m, dtype=torch.float64), k=1)
    assert result.margin == pytest.approx(1e-6, rel=1e-6)
    assert result.count == (0 if offset > 0 else 1)


def test_a_sweep_over_intervals_leaves_open_what_they_do_not_decide():
    """Two vectors of three: the first lies between 0.32 and 0.48, the second is known to be 0.72."""
    ends = [torch.tensor([first, 0.72], dtype=torch.float64) for first in (0.32, 0.48)]
    nothing = torch.zeros(2, dtype=torch.float64)
    seen = Resemblance("left", (3, 3), torch.zeros(0, 2), nothing[:0], nothing, *ends, nothing)
    swept = metric.intruders(seen, torch.tensor([3.0, 2.0, 1.0]), nothing, energy=1.0, k=2).sweep
    at = SWEEP_EPSILON.index
    assert [swept[SWEEP_K.index(1)][at(epsilon)] for epsilon in (0.3, 0.35, 0.45, 0.5, 0.75)] == [0, None, None, 1, 1]
    assert [swept[SWEEP_K.index(2)][at(epsilon)] for epsilon in (0.3, 0.35, 0.45, 0.5, 0.75)] == [0, None, None, 1, 2]
    assert {count for row in swept[2:] for count in row} == {None}


def test_the_margin_is_that_of_the_closest_vector():
    result = found(*drawn(4))
    assert result.margin == min(abs(value - 0.5) for value in result.similarity)


# --- small, empty and deficient matrices


@given(seed=SEEDS, m=st.integers(1, 4), n=st.integers(4, 9), level=st.floats(0.01, 100))
def test_four_dimensions_hold_no_intruder_at_a_half(seed, m, n, level):
    """A vector cannot be less similar than 1 / sqrt(m) to a complete basis."""
    base, update = drawn(seed, m, n, rank=2, level=level)
    result = found(base, update)
    assert result.count == 0
    assert min(result.similarity) >= m**-0.5 - 1e-9


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_an_empty_matrix_has_nothing_to_count(shape):
    result = found(torch.zeros(shape), torch.zeros(shape))
    assert (result.count, result.similarity, result.energy_share) == (0, (), 0.0)
    assert sum(map(sum, result.sweep)) == 0


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", [(1, 30), (30, 1)])
def test_a_single_row_or_column_has_one_direction(shape, side):
    """On its short side it cannot move; on its long side it can, and does under a large update."""
    base, update = testing.with_spectrum([1.0], *shape, seed=1), testing.with_spectrum([50.0], *shape, seed=2)
    result = found(base, update, side=side)
    on_long_side = (shape[0] > 1) == (side == "left")
    assert len(result.similarity) == 1
    assert result.count == (1 if on_long_side else 0)
    assert result.cluster == (0.0,)


@pytest.mark.parametrize("side", SIDES)
def test_what_a_zero_base_gets_is_new(side):
    """The vectors of a zero base are arbitrary; whatever they resemble, the base has no such direction."""
    result = found(torch.zeros(64, 64), testing.with_spectrum([3.0, 2.0, 1.0], 64, 64, seed=1), side=side)
    assert result.novelty[:3] == (1.0, 1.0, 1.0)
    assert set(result.verdict[:3]) <= {"new", "kept"}
    assert result.update_share[:3] == pytest.approx((1, 1, 1))


def test_a_direction_in_the_bases_null_space_is_new_not_tied():
    """The zero values of a deficient base are equal, but a direction there is one the base does not have."""
    U, V = testing.orthogonal(128, 128, seed=1), testing.orthogonal(128, 128, seed=2)
    base = (U[:, :96] * torch.linspace(2, 1, 96, dtype=torch.float64)) @ V[:, :96].T
    update = 9 * torch.outer(U[:, 96:].sum(1), V[:, 96:].sum(1)) / 32
    for dtype in (torch.float64, torch.float32):
        result = found(base.to(dtype), update.to(dtype))
        assert result.novelty[0] == pytest.approx(1.0, abs=1e-5)
        assert result.verdict[0] in ("new", "kept")
        assert result.cluster[0] == pytest.approx(0.0, abs=1e-3)


def test_vectors_of_zero_singular_values_are_arbitrary_and_said_to_be():
    """W of rank 3 has no fourth direction: whatever a driver returns for it tells nothing."""
    base = testing.with_spectrum([3.0, 2.0], 96, 96, seed=1)
    update = testing.with_spectrum([1.0], 96, 96, seed=2)
    for dtype in (torch.float64, torch.float32):
        result = found(base.to(dtype), update.to(dtype))
        assert set(result.verdict[3:]) <= {"kept", "degenerate"}
        assert set(result.update_share[3:]) == set(result.base_share[3:]) == {0.0}


# --- arguments


@pytest.mark.parametrize("k", [0, -1, 2.0, True, "10"])
def test_a_k_that_is_no_count_is_refused(k):
    with pytest.raises(UsageError, match=f"k is {k}: "):
        found(torch.eye(3), torch.zeros(3, 3), k=k)


@pytest.mark.parametrize("epsilon", [0, -0.1, 1.01, float("nan"), "0.5"])
def test_an_epsilon_outside_its_range_is_refused(epsilon):
    with pytest.raises(UsageError, match=f"epsilon is {epsilon}: "):
        found(torch.eye(3), torch.zeros(3, 3), epsilon=epsilon)


def test_matrices_of_different_shape_are_refused_with_their_shapes():
    with pytest.raises(UsageError, match=r"base \[3, 3\] and tuned \[4, 3\] are not of one shape"):
        compared(svd(torch.eye(3)), svd(torch.eye(4)[:, :3]), k=3)


def test_cosines_live_in_the_space_of_their_side():
    base, update = drawn(5, 24, 18)
    one, other = svd(base), svd((base + update).float())
    assert cosines(one, other, k=7).shape == cosines(one, other, k=7, side="right").shape == (18, 7)
    assert cosines(one, other, k=99).shape == (18, 18)
    assert cosines(one, one, k=5).max() <= 1
    torch.testing.assert_close(cosines(one, one, k=5)[:5], torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-12)
    expected = (one.Vh @ other.Vh[:7].T.double()).abs()
    torch.testing.assert_close(cosines(one, other, k=7, side="right"), expected, rtol=0, atol=1e-12)
