"""The exact path keeps LAPACK's own promises on every kind of matrix, and never answers with rubbish."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from spectra import testing
from spectra.engine import dense
from spectra.engine.decomposition import resolution
from spectra.errors import DecompositionError, NonFiniteError

# The limit of LAPACK's SVD tester, in units of max(m, n) eps.
LAPACK_LIMIT = 35

SHAPES = [(1, 1), (1, 9), (9, 1), (2, 2), (5, 40), (40, 5), (33, 33), (64, 50), (3, 300), (300, 3)]


def random(m, n, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(m, n, generator=generator, dtype=torch.float64)


def graded(m, n, seed):
    """Entries over twelve orders of magnitude, row by row."""
    return torch.logspace(0, -12, m, dtype=torch.float64)[:, None] * random(m, n, seed)


def clustered(m, n, seed):
    """Three singular values, each many times."""
    values = torch.tensor([1.0, 0.5, 1e-6], dtype=torch.float64)[torch.arange(min(m, n)) % 3]
    return testing.with_spectrum(values.sort(descending=True).values, m, n, seed=seed)


def deficient(m, n, seed):
    return random(m, 1, seed) @ random(1, n, seed + 1)


KINDS = {
    "random": random,
    "zero": lambda m, n, seed: torch.zeros(m, n, dtype=torch.float64),
    "identity": lambda m, n, seed: torch.eye(m, n, dtype=torch.float64),
    "graded": graded,
    "clustered": clustered,
    "deficient": deficient,
    "one column": lambda m, n, seed: torch.zeros(m, n, dtype=torch.float64).index_fill_(1, torch.tensor([0]), 3.0),
    "near underflow": lambda m, n, seed: 1e-38 * random(m, n, seed),
    "subnormal": lambda m, n, seed: 1e-42 * random(m, n, seed),
    "small": lambda m, n, seed: 1e-30 * random(m, n, seed),
    "near overflow": lambda m, n, seed: 1e37 * random(m, n, seed).clamp(-3, 3),
    "one huge": lambda m, n, seed: torch.zeros(m, n, dtype=torch.float64).index_fill_(1, torch.tensor([0]), 3.4e38),
}


def ratios(matrix, found):
    """Residual and loss of orthogonality on each side, in LAPACK's units."""
    A, U, S, Vh = (part.double() for part in (matrix, found.U, found.S, found.Vh))
    m, n = A.shape
    unit = max(m, n) * torch.finfo(matrix.dtype).eps
    scale = A.abs().max().item() or 1.0
    size = torch.linalg.matrix_norm(A / scale, 1).item() or 1.0
    eye = torch.eye(len(S), dtype=torch.float64)
    return (
        torch.linalg.matrix_norm((A - (U * S) @ Vh) / scale, 1).item() / (size * unit),
        torch.linalg.matrix_norm(U.T @ U - eye, 1).item() / unit,
        torch.linalg.matrix_norm(Vh @ Vh.T - eye, 1).item() / unit,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_matrix_is_rebuilt_to_lapacks_limit(kind, shape, dtype):
    matrix = KINDS[kind](*shape, seed=sum(shape)).to(dtype)
    found = dense.svd(matrix)
    assert max(ratios(matrix, found)) < LAPACK_LIMIT
    assert bool((found.S[:-1] >= found.S[1:]).all())
    assert found.S.min() >= 0
    assert bool(torch.isfinite(found.S).all())


@given(
    m=st.integers(1, 24),
    n=st.integers(1, 24),
    exponent=st.integers(-140, 120),
    seed=st.integers(0, 10**6),
    wide=st.booleans(),
)
def test_a_scale_by_a_power_of_two_changes_the_values_alone(m, n, exponent, seed, wide):
    """`svd(2^e A)` has the vectors of `svd(A)` and its values times 2^e, out to the ends of float32."""
    dtype = torch.float64 if wide else torch.float32
    matrix = random(m, n, seed).to(dtype)
    scaled = (matrix.double() * 2.0**exponent).to(dtype)
    assume(torch.equal(scaled.double(), matrix.double() * 2.0**exponent))  # nothing lost on the way
    one, other = dense.svd(matrix), dense.svd(scaled)
    torch.testing.assert_close(other.S.double(), one.S.double() * 2.0**exponent, rtol=1e-14 if wide else 1e-6, atol=0)
    torch.testing.assert_close(other.U.to(one.U), one.U, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_an_empty_matrix_has_no_singular_values(shape):
    found = dense.svd(torch.zeros(shape))
    assert found.shape == shape
    assert len(found.S) == len(dense.singular_values(torch.zeros(shape))) == 0
    assert found.residual == found.orthogonality == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_read_as_float32(dtype):
    matrix = random(12, 7, 3).to(dtype)
    found = dense.svd(matrix)
    assert found.S.dtype == torch.float32
    assert torch.equal(found.S, dense.svd(matrix.float()).S)
    assert torch.equal(dense.singular_values(matrix), dense.singular_values(matrix.float()))


def test_a_matrix_that_asks_for_its_gradient_is_measured_all_the_same():
    matrix = random(6, 6, 0).requires_grad_()
    assert not dense.svd(matrix).S.requires_grad
    assert not dense.singular_values(matrix).requires_grad


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_refused_with_count_and_place(bad):
    """LAPACK answers such a matrix with a misleading message, with NaN or with zeros, by the driver."""
    matrix = torch.ones(4, 6)
    matrix[2, 3] = matrix[3, 1] = bad
    for decompose in (dense.svd, dense.singular_values):
        with pytest.raises(NonFiniteError, match=r"2 values that are NaN or infinite, first at \[2, 3\]"):
            decompose(matrix)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_matrix_over_lapacks_index_is_refused_before_it_is_copied(dtype):
    """The matrix here takes one element of memory; a copy would take gigabytes."""
    matrix = torch.ones(1, dtype=dtype).expand(50_000, 50_000)
    for decompose in (dense.svd, dense.singular_values):
        with pytest.raises(DecompositionError, match="50000 x 50000 has more than 2\\^31 entries"):
            decompose(matrix)


def test_singular_values_alone_equal_those_of_the_full_decomposition():
    matrix = testing.decaying(40, 30, seed=1)
    torch.testing.assert_close(dense.singular_values(matrix), dense.svd(matrix).S, rtol=1e-12, atol=1e-14)
    expected = np.linalg.svd(matrix.numpy(), compute_uv=False)
    np.testing.assert_allclose(dense.singular_values(matrix.float()).numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(128, 512), (300, 300), (64, 64)], ids=str)
@pytest.mark.parametrize("kind", ["one size", "rank 4"])
def test_values_that_are_zero_come_out_far_below_the_resolution_of_float32(kind, shape):
    """In float32 gesdd makes values of 100 and 5 eps of the largest out of them, where 8 are resolved."""
    factors = testing.noise(*shape, level=1.0, seed=1)[:, :4], testing.noise(*shape, level=1.0, seed=2)[:4]
    matrix = (torch.ones(shape) if kind == "one size" else factors[0] @ factors[1] * 2.0**20).float()
    found = dense.singular_values(matrix).double()
    truth = torch.linalg.svdvals(matrix.double())
    assert (found - truth).abs().max() <= 0.25 * resolution(float(truth[0]), shape)
    assert found[5] <= 0.25 * resolution(float(truth[0]), shape)


def fails(*arguments, **options):
    raise torch.linalg.LinAlgError("The algorithm failed to converge\nand a second line")


def rubbish(matrix, full_matrices=False):
    """Right shapes, wrong numbers: what a driver gives that fails without saying so."""
    U, S, Vh = torch.linalg.svd_original(matrix, full_matrices=full_matrices)
    return U, S * 1.01, Vh


def not_orthogonal(matrix, full_matrices=False):
    """Rebuilds the matrix, but U is no orthogonal matrix: seen on some accelerators."""
    U, S, Vh = torch.linalg.svd_original(matrix, full_matrices=full_matrices)
    return U * 2, S / 2, Vh


def holds_nan(matrix, full_matrices=False):
    """NaN in U for a singular matrix, as cuSOLVER's gesvda gave."""
    U, S, Vh = torch.linalg.svd_original(matrix, full_matrices=full_matrices)
    return U * float("nan"), S, Vh


def unsorted(matrix, full_matrices=False):
    """A right decomposition in ascending order."""
    U, S, Vh = torch.linalg.svd_original(matrix, full_matrices=full_matrices)
    return U.flip(1), S.flip(0), Vh.flip(0)


@pytest.fixture
def original(monkeypatch):
    monkeypatch.setattr(torch.linalg, "svd_original", torch.linalg.svd, raising=False)


@pytest.mark.usefixtures("original")
@pytest.mark.parametrize("driver", [fails, rubbish, not_orthogonal, holds_nan, unsorted])
def test_when_gesdd_fails_or_lies_gesvd_answers_and_says_so(driver, monkeypatch):
    matrix = testing.decaying(20, 15, seed=2).float()
    expected = dense.svd(matrix).S
    monkeypatch.setattr(torch.linalg, "svd", driver)
    found = dense.svd(matrix)
    assert found.method == "gesvd float32"
    torch.testing.assert_close(found.S, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("original")
def test_when_float32_fails_twice_float64_answers(monkeypatch):
    in_scipy = scipy.linalg.svd

    def only_float64(matrix, **options):
        if matrix.dtype == np.float32:
            raise scipy.linalg.LinAlgError("SVD did not converge")
        return in_scipy(matrix, **options)

    monkeypatch.setattr(torch.linalg, "svd", fails)
    monkeypatch.setattr(scipy.linalg, "svd", only_float64)
    found = dense.svd(testing.decaying(20, 15, seed=2).float())
    assert found.method == "gesvd float64"
    assert found.U.dtype == torch.float64


@pytest.mark.usefixtures("original")
def test_when_every_step_fails_the_error_names_each_of_them(monkeypatch):
    monkeypatch.setattr(torch.linalg, "svd", rubbish)
    monkeypatch.setattr(scipy.linalg, "svd", fails)
    with pytest.raises(DecompositionError) as refusal:
        dense.svd(torch.eye(3))
    text = str(refusal.value)
    assert "3 x 3" in text
    assert "gesdd float32: residual 1.0e-02" in text
    assert "gesvd float32: The algorithm failed to converge;" in text
    assert "gesvd float64: The algorithm failed to converge)" in text


def test_the_method_names_the_precision_it_ran_in():
    assert dense.svd(torch.eye(3)).method == "gesdd float32"
    assert dense.svd(torch.eye(3, dtype=torch.float64)).method == "gesdd float64"


@pytest.mark.parametrize(
    "driver", [fails, lambda matrix: torch.zeros(min(matrix.shape)), lambda matrix: matrix[0] * float("nan")]
)
def test_values_without_the_matrixs_energy_are_not_believed(driver, monkeypatch):
    """cuSOLVER has returned all zeros on a first call: then the full decomposition answers."""
    matrix = testing.decaying(9, 9, seed=4).float()
    expected = dense.svd(matrix).S
    monkeypatch.setattr(torch.linalg, "svdvals", driver)
    assert torch.equal(dense.singular_values(matrix), expected)


def test_residual_and_orthogonality_are_reported_with_the_answer():
    found = dense.svd(testing.decaying(60, 40, seed=5).float())
    assert 0 < found.residual < 1e-5
    assert 0 < found.orthogonality < 1e-5
    assert found.device == "cpu"


@given(
    kind=st.sampled_from(["random", "graded", "clustered", "deficient"]),
    m=st.integers(1, 20),
    n=st.integers(1, 20),
    seed=st.integers(0, 10**6),
    wide=st.booleans(),
)
def test_no_good_decomposition_is_refused(kind, m, n, seed, wide):
    """The check must stop rubbish, and let LAPACK's own rounding pass on the first attempt."""
    found = dense.svd(KINDS[kind](m, n, seed).to(torch.float64 if wide else torch.float32))
    assert found.method.startswith("gesdd")


def test_the_worst_rounding_seen_is_let_pass():
    """A graded 4 x 4 on which gesdd leaves 141 eps, where 4 x 4 matrices leave 6 otherwise."""
    assert dense.svd(graded(4, 4, 3)).method == "gesdd float64"


def test_the_number_of_threads_is_left_as_it_was():
    before = torch.get_num_threads()
    dense.svd(torch.eye(8))
    with pytest.raises(NonFiniteError):
        dense.svd(torch.full((4, 4), torch.nan))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("at", [(0, 0), (700, 3), (1023, 599)])
def test_the_first_place_is_that_of_the_whole_matrix(at):
    """However many blocks of rows come before it."""
    matrix = torch.ones(1024, 600)
    matrix[at] = matrix[1023, 599] = float("inf")
    number = len({at, (1023, 599)})
    with pytest.raises(NonFiniteError, match=rf"holds {number} value.*first at \[{at[0]}, {at[1]}\]"):
        dense.require_finite(matrix)


def test_a_matrix_whose_sum_alone_is_infinite_is_finite():
    dense.require_finite(torch.full((4, 4), 3e38))
    dense.require_finite(torch.tensor([[3e38, 3e38], [-3e38, -3e38]]))


def test_the_frobenius_norm_is_that_of_float64():
    """torch's own norm of a float32 matrix loses digits with its size."""
    matrix = torch.ones(3000, 700) * 1.1
    assert dense.frobenius(matrix) == pytest.approx((3000 * 700) ** 0.5 * float(torch.tensor(1.1)), rel=1e-12)
