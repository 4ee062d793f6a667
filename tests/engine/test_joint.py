"""One space answers every scale as a full decomposition of each does."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectra import testing
from spectra.engine import basis, dense
from spectra.engine import joint as module
from spectra.engine.joint import Joint, serves

K = 6
SCALES = torch.tensor([0.01, 0.3, 0.7, 1.0, 1.6, 4.0], dtype=torch.float64)


def update(m, n, r, seed, strength=1.0):
    generator = torch.Generator().manual_seed(seed)
    B, A = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((m, r), (r, n)))
    return B * (strength / torch.linalg.matrix_norm(B @ A, 2)), A


def spaces(base, B, A):
    svd = dense.svd(base)
    inside = basis.coordinates(svd, B[None], A[None])
    return svd, Joint(inside, K)


def check(base, B, A, scales=SCALES):
    svd, joint = spaces(base, B, A)
    found = joint.leading(scales)
    for at, s in enumerate(scales.tolist()):
        whole = torch.linalg.svd(base + s * B @ A, full_matrices=False)
        torch.testing.assert_close(found.S[at, :K], whole.S[:K], rtol=1e-9, atol=1e-9)
        cosines = found.U[at, :, : len(svd.S)].abs()
        expected = (whole.U[:, :K].T @ svd.U).abs()
        lone = found.error[at] < 1e-4
        torch.testing.assert_close(cosines[lone], expected[lone], rtol=0, atol=2e-4)
        assert (lone | (dense.svd(base + s * B @ A).relative_gaps()[:K] < 1e-3)).all()
    assert float(found.missed.max()) == 0
    return joint, found


@pytest.mark.parametrize(("m", "n"), [(150, 150), (90, 220), (220, 90), (260, 260)])
@pytest.mark.parametrize("r", [1, 16])
def test_every_shape_and_rank(m, n, r):
    check(testing.decaying(m, n, seed=m + r), *update(m, n, r, seed=r))


def test_a_base_of_low_rank():
    """Most of the update lies outside the base's range."""
    base = testing.with_spectrum(torch.linspace(3, 1, 30), 200, 180, seed=3)
    check(base, *update(200, 180, 3, seed=4, strength=2.0))


def test_a_flat_base_needs_a_larger_space():
    base = testing.with_spectrum(torch.linspace(1.0, 0.9, 300), 300, 300, seed=5)
    joint, found = check(base, *update(300, 300, 2, seed=6, strength=0.4))
    assert joint._space is None or joint._space.steps > 2
    assert float(found.error.max()) < 1e-4


def test_a_small_matrix_is_taken_whole():
    joint, found = check(testing.decaying(70, 80, seed=1), *update(70, 80, 20, seed=2))
    assert joint._space is None
    assert float(found.error.max()) < 1e-9


def test_a_scale_with_a_hidden_value_is_answered_by_other_means(monkeypatch):
    """Were the inertia count to disagree at one scale, that scale alone is answered from random rows."""
    base, (B, A) = testing.decaying(120, 120, seed=7), update(120, 120, 3, seed=8)
    _, joint = spaces(base, B, A)
    asked = []

    def top(coordinates, k):
        asked.append(coordinates.operator.shape[0])
        return basis.top(coordinates, k)

    count = basis.count_above
    monkeypatch.setattr(module.basis, "count_above", lambda operator, values: torch.where(
        torch.arange(len(values)) == 2, 99, count(operator, values)) if len(values) > 1 else count(operator, values))  # fmt: skip
    monkeypatch.setattr(
        module, "basis", type("basis", (), {"top": staticmethod(top), "count_above": basis.count_above})
    )
    found = joint.leading(SCALES)
    assert asked == [1]
    whole = torch.linalg.svdvals(base + float(SCALES[2]) * B @ A)
    torch.testing.assert_close(found.S[2, :K], whole[:K], rtol=1e-9, atol=1e-9)


def test_ranks_too_large_for_small_matrices_are_not_served():
    svd = dense.svd(testing.decaying(640, 640, seed=0))
    for rank, served in ((16, True), (200, False)):
        B, A = update(640, 640, rank, seed=1)
        assert serves(basis.coordinates(svd, B[None], A[None]), K) is served


@given(seed=st.integers(0, 10_000), m=st.integers(64, 130), n=st.integers(64, 130), r=st.integers(1, 9))
def test_values_are_those_of_the_full_decomposition(seed, m, n, r):
    base, (B, A) = testing.decaying(m, n, seed=seed, exponent=0.3 + seed % 7 / 5), update(m, n, r, seed=seed)
    found = spaces(base, B, A)[1].leading(SCALES)
    for at, s in enumerate(SCALES.tolist()):
        torch.testing.assert_close(found.S[at, :K], torch.linalg.svdvals(base + s * B @ A)[:K], rtol=1e-8, atol=1e-9)
