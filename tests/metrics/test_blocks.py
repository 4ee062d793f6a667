"""A walk over blocks of rows sees every entry once, and forms no factored update whole."""

import pytest
import torch

from spectra import testing
from spectra.metrics import blocks
from spectra.metrics.blocks import has_entry, row_blocks, update_blocks
from spectra.updates import Dense, LowRank, Rescaled


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "_ELEMENTS", 200)


BASE = testing.decaying(37, 30, seed=1).float()
FACTORS = LowRank(*testing.lora({"w.weight": BASE}, ["w"], rank=3, seed=2)["w"])
UPDATES = {
    "tensor": FACTORS.dense(),
    "dense": Dense(FACTORS.dense()),
    "factors": FACTORS,
    "rescaled": Rescaled(BASE, FACTORS, torch.linspace(0.5, 1.5, 37)),
}


@pytest.mark.parametrize("kind", UPDATES)
def test_the_blocks_together_are_the_matrix(kind):
    update = UPDATES[kind]
    whole = update if isinstance(update, torch.Tensor) else update.dense()
    seen = list(row_blocks(BASE, update))
    assert len(seen) == 7
    torch.testing.assert_close(torch.cat([rows for rows, _ in seen]), BASE, rtol=0, atol=0)
    torch.testing.assert_close(torch.cat([rows for _, rows in seen]), whole)
    assert all(W0.shape == dW.shape for W0, dW in seen)


def test_factors_are_never_multiplied_whole(monkeypatch):
    monkeypatch.setattr(LowRank, "dense", lambda _: pytest.fail("the product was formed"))
    assert max(rows.numel() for rows in update_blocks(FACTORS)) <= 200


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_an_empty_matrix_has_no_entry(shape):
    assert not has_entry(torch.zeros(shape))


def test_an_entry_is_found_wherever_it_is():
    matrix = torch.zeros(37, 30)
    assert not has_entry(matrix)
    matrix[36, 29] = 1e-45
    assert has_entry(matrix)
    assert has_entry(Dense(matrix))


def test_factors_whose_product_is_zero_have_no_entry():
    """Neither factor is zero: what one holds the other leaves out."""
    B, A = torch.zeros(37, 2), torch.zeros(2, 30)
    B[:, 0], A[1] = 1, 1
    assert not has_entry(LowRank(B, A))
