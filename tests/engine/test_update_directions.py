"""The directions of an update against the full decomposition of it, by each way of having them."""

import pytest
import torch

from spectra import testing
from spectra.engine import factored
from spectra.engine import update_directions as room
from spectra.engine.update_directions import FEW, update_directions
from spectra.updates import Dense, LowRank, Rescaled, nothing

SPIKES = [9.0, 7.0, 5.0, 4.0, 3.0]


def factors(m=80, n=60, rank=6, seed=1):
    base = testing.decaying(m, n, seed=seed).float()
    return LowRank(*testing.lora({"w.weight": base}, ["w"], rank=rank, seed=seed)["w"])


def spiked(p, level, seed=1):
    """A matrix with five strong directions in noise of this spectral norm."""
    return (testing.with_spectrum(SPIKES, p, p + 40, seed=seed) + testing.noise(p, p + 40, level=level, seed=9)).float()


def truncated(matrix, q):
    U, S, Vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (U[:, :q] * S[:q]) @ Vh[:q]


def rebuilt(found):
    return (found.left * found.values) @ found.right.T


def largest_residual(found, matrix):
    off = matrix.double() @ found.right - found.left * found.values
    return float(off.norm(dim=0).max() / found.values[0])


def test_factors_give_every_direction():
    update = factors()
    found = update_directions(update)
    torch.testing.assert_close(rebuilt(found), (update.B.double() @ update.A.double()), rtol=0, atol=1e-12)
    assert len(found) == 6
    assert found.how == "directions of the update from its factors"


def test_a_rank_that_is_not_used_has_no_direction():
    B, A = factors(rank=4).factors
    twice = LowRank(torch.cat([B, B[:, :2], torch.zeros_like(B)], 1), torch.cat([A, A[:2], A]))
    assert len(update_directions(twice)) == 4


def test_a_decomposition_that_is_there_is_taken():
    update = factors()
    known = factored.svd(*update.factors)
    found = update_directions(nothing((80, 60), update.B), known=known)
    torch.testing.assert_close(found.values, known.S)


@pytest.mark.parametrize("p", [30, 256])
def test_a_small_matrix_is_decomposed_in_full(p):
    matrix = spiked(p, 1.0)
    found = update_directions(Dense(matrix))
    torch.testing.assert_close(found.values, torch.linalg.svdvals(matrix.double())[:FEW], rtol=1e-5, atol=0)
    torch.testing.assert_close(rebuilt(found), truncated(matrix, FEW), rtol=0, atol=1e-3)
    assert "by full decomposition (gesdd float32)" in found.how


@pytest.mark.parametrize("p", [257, 500, 1100])
@pytest.mark.parametrize("level", [1e-3, 1.0])
def test_a_large_one_by_products_alone(p, level):
    """All five that stand out are found; what lies in the noise is given only where it is told from the rest of it."""
    matrix = spiked(p, level)
    found = update_directions(Dense(matrix))
    assert len(found) >= 5
    torch.testing.assert_close(found.values[:5], torch.linalg.svdvals(matrix.double())[:5], rtol=1e-4, atol=0)
    torch.testing.assert_close(rebuilt(found), truncated(matrix, len(found)), rtol=0, atol=0.1 * level + 1e-4)
    assert largest_residual(found, matrix) <= found.residual + 1e-6
    assert "block Krylov on cpu" in found.how


@pytest.mark.parametrize("seed", range(4))
def test_directions_that_noise_leaves_open_are_left_out(seed):
    matrix = testing.noise(700, 900, level=1.0, seed=seed).float()
    found = update_directions(Dense(matrix))
    assert 0 < len(found) < FEW or (len(found) == FEW and "as block Krylov told none" in found.how)
    torch.testing.assert_close(rebuilt(found), truncated(matrix, len(found)), rtol=0, atol=0.1)


def test_where_no_direction_is_told_the_whole_is_decomposed(monkeypatch):
    """An update of noise of 600 x 600: eight steps tell none of its directions from the next."""
    matrix = 0.01 * torch.randn(600, 600, generator=torch.Generator().manual_seed(0))
    found = update_directions(Dense(matrix))
    assert "by full decomposition" in found.how
    torch.testing.assert_close(found.values, torch.linalg.svdvals(matrix.double())[:FEW], rtol=1e-5, atol=0)
    monkeypatch.setattr(room, "_WHOLE_WHERE_FLAT", 500)
    few = update_directions(Dense(matrix))
    assert (len(few), few.how.startswith("0 directions of the update by block Krylov")) == (0, True)


def test_another_structure_has_those_of_its_matrix():
    inner = factors(300, 280)
    update = Rescaled(testing.decaying(300, 280, seed=3).float(), inner, torch.linspace(0.9, 1.1, 300))
    found, expected = update_directions(update), torch.linalg.svdvals(update.dense().double())
    torch.testing.assert_close(found.values, expected[: len(found)], rtol=1e-4, atol=0)
    assert "block Krylov" in found.how


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_ends_of_float32_are_reached(scale):
    matrix = spiked(300, 1e-3) * scale
    found = update_directions(Dense(matrix))
    torch.testing.assert_close(found.values[:5], torch.linalg.svdvals(matrix.double())[:5], rtol=1e-5, atol=0)
    assert "full decomposition" in found.how


@pytest.mark.parametrize("update", [nothing((50, 40), torch.zeros(1)), Dense(torch.zeros(50, 40))])
def test_no_update_has_no_direction(update):
    found = update_directions(update)
    assert len(found) == len(found.tied()) == 0
    assert found.left.shape == (50, 0)


def test_values_that_float32_does_not_tell_apart_are_one_cluster():
    values = torch.tensor([4.0, 4.0, 3.0, 2.0, 2.0 - 1e-6, 1.0])
    U, V = testing.orthogonal(60, 6, seed=1), testing.orthogonal(50, 6, seed=2)
    found = update_directions(LowRank(U * values, V.T))
    assert found.tied().tolist() == [0, 0, 1, 2, 2, 3]


def test_where_the_devices_memory_ends_the_cpu_answers(monkeypatch):
    plain, tried = room.leading, []

    def first_full(operator, *rest, **options):
        tried.append(operator)
        if len(tried) == 1:
            raise torch.OutOfMemoryError
        return plain(operator, *rest, **options)

    monkeypatch.setattr(room, "leading", first_full)
    found = update_directions(Dense(spiked(300, 1.0)))
    assert (len(tried), len(found) >= 5) == (2, True)
