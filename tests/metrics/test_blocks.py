"""A walk over blocks of rows sees every entry once, and forms no factored update whole."""

import pytest
import torch

from spectra import testing
from spectra.metrics import blocks
from spectra.metrics.blocks import has_entry, over_rows, update_blocks
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


class Seen:
    """The blocks that one span was given."""

    def __init__(self):
        self.blocks = []

    def add(self, block):
        self.blocks.append(block)


@pytest.fixture(params=[1, 3])
def threads(request):
    kept = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(kept)


@pytest.mark.parametrize("kind", UPDATES)
def test_the_spans_together_are_the_matrix(kind, threads):
    update = UPDATES[kind]
    whole = update if isinstance(update, torch.Tensor) else update.dense()
    spans = over_rows(Seen, BASE, update)
    assert len(spans) == threads
    assert torch.get_num_threads() == threads
    seen = [block for span in spans for block in span.blocks]
    assert all(block.base.shape == block.update.shape and block.base.numel() <= 200 for block in seen)
    torch.testing.assert_close(torch.cat([block.base for block in seen]), BASE, rtol=0, atol=0)
    torch.testing.assert_close(torch.cat([block.update for block in seen]), whole)
    torch.testing.assert_close(torch.cat([block.tuned for block in seen]), BASE + whole)


@pytest.mark.parametrize("shape", [(0, 30), (1, 30), (7, 30), (5, 0)])
def test_small_matrices_have_one_span(shape, threads):
    (span,) = over_rows(Seen, torch.ones(shape), torch.ones(shape))
    assert sum(len(block.base) for block in span.blocks) == shape[0]


def test_the_products_of_rows_are_summed_in_float64():
    """In float32 the square of 1e-30 is zero, and of 1e8 + 1 the one is lost."""
    block = blocks.Block(torch.tensor([[1e-30, 2e-30], [1e4, 1.0]]), torch.tensor([[1e-30, 0.0], [-1e4, 1e-4]]))
    of_base, of_update, across, of_tuned = block.products
    W0, dW = block.base.double(), block.update.double()
    for found, (one, other) in (
        (of_base, (W0, W0)),
        (of_update, (dW, dW)),
        (across, (W0, dW)),
        (of_tuned, (W0 + dW, W0 + dW)),
    ):
        torch.testing.assert_close(found, torch.linalg.vecdot(one, other), rtol=1e-15, atol=0)


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
