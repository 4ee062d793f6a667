"""Laws of the update structures and of layouts, over shapes, ranks and scales."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra.errors import InputError, MatchError
from spectra.layout import Layout, layout_of
from spectra.updates import (
    Blocks,
    Dense,
    Elementwise,
    Kronecker,
    LowRank,
    Multiplied,
    Rescaled,
    Sparse,
    Stacked,
    Storage,
    Sum,
    WeightPair,
    nothing,
)

laws = settings(deadline=None, max_examples=50)
extents = st.integers(1, 9)
seeds = st.integers(0, 2**31)


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(m, n, r, seed):
    return Dense(normal(seed, m, n))


def low_rank(m, n, r, seed):
    return LowRank(normal(seed, m, r), normal(seed + 1, r, n))


def rescaled_rows(m, n, r, seed):
    return Rescaled(normal(seed + 2, m, n), low_rank(m, n, r, seed), normal(seed + 3, m), "rows")


def rescaled_columns(m, n, r, seed):
    return Rescaled(normal(seed + 2, m, n), low_rank(m, n, r, seed), normal(seed + 3, n), "columns")


def added(m, n, r, seed):
    return Sum((low_rank(m, n, r, seed), low_rank(m, n, 1, seed + 7)))


def kronecker(m, n, r, seed):
    a, b = next(d for d in range(1, m + 1) if m % d == 0 and (d > 1 or m < 4)), 1
    return Kronecker(normal(seed, a, b), normal(seed + 1, m // a, n))


def hadamard(m, n, r, seed):
    return Elementwise(low_rank(m, n, 2, seed), low_rank(m, n, r, seed + 8))


def masked(m, n, r, seed):
    return Elementwise((normal(seed, m, n) > 0).double(), low_rank(m, n, r, seed + 8))


def turned(m, size, seed):
    blocks = Blocks(normal(seed, size, m // size, m // size)) if m % size == 0 else Blocks(normal(seed, m, 1, 1))
    order = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    return blocks, Blocks(normal(seed + 1, 1, m, m), order)


def multiplied_rows(m, n, r, seed):
    return Multiplied(normal(seed + 2, m, n), turned(m, r, seed), "rows")


def multiplied_columns(m, n, r, seed):
    return Multiplied(normal(seed + 2, m, n), turned(n, r, seed), "columns")


def sparse(m, n, r, seed):
    places = torch.randint(0, m * n, (r,), generator=torch.Generator().manual_seed(seed))
    return Sparse(places // n, places % n, normal(seed, r), (m, n))


def stacked(m, n, r, seed):
    return Stacked((low_rank(m, n, r, seed), nothing((2, n), normal(0, 1)), low_rank(1, n, 1, seed)))


MAKERS = [
    dense, low_rank, rescaled_rows, rescaled_columns, added, kronecker, hadamard, masked, multiplied_rows,
    multiplied_columns, sparse, stacked,
]  # fmt: skip


@pytest.mark.parametrize("make", MAKERS)
@given(m=extents, n=extents, r=extents, k=extents, seed=seeds)
@laws
def test_products_are_those_of_the_dense_form(make, m, n, r, k, seed):
    update = make(m, n, r, seed)
    rows, columns = update.shape
    x, y = normal(seed + 4, columns, k), normal(seed + 5, rows, k)
    assert tuple(update.dense().shape) == update.shape
    torch.testing.assert_close(update.matmul(x), update.dense() @ x)
    torch.testing.assert_close(update.rmatmul(y), update.dense().T @ y)


@pytest.mark.parametrize("make", MAKERS)
@given(m=extents, n=extents, r=extents, seed=seeds)
@laws
def test_factors_where_there_are_any_multiply_to_the_update(make, m, n, r, seed):
    update = make(m, n, r, seed)
    if make is low_rank:
        assert update.factors is not None
    if update.factors is not None:
        B, A = update.factors
        assert make is low_rank or B.shape[1] < min(update.shape)
        torch.testing.assert_close(B @ A, update.dense())


@pytest.mark.parametrize("make", MAKERS)
@given(m=extents, n=extents, r=extents, seed=seeds)
@laws
def test_a_known_spectrum_is_that_of_the_dense_form(make, m, n, r, seed):
    update = make(m, n, r, seed)
    values = update.values()
    assert (values is None) == (make is not kronecker)
    if values is not None:
        torch.testing.assert_close(values, torch.linalg.svdvals(update.dense()))


def test_the_kind_of_a_rescaled_update_tells_its_axis():
    assert [make(3, 4, 1, 0).kind for make in (rescaled_rows, rescaled_columns)] == ["rescaled", "rescaled columns"]


@given(m=extents, n=extents, r=extents, seed=seeds, columns=st.booleans())
@laws
def test_rescaled_is_the_definition_of_dora(m, n, r, seed, columns):
    update = (rescaled_columns if columns else rescaled_rows)(m, n, r, seed)
    direction = update.base + update.inner.dense()
    gain = torch.diag(update.gain)
    expected = (direction @ gain if columns else gain @ direction) - update.base
    torch.testing.assert_close(update.dense(), expected)


@given(m=extents, n=extents, r=extents, seed=seeds, columns=st.booleans())
@laws
def test_a_gain_of_one_leaves_the_inner_update(m, n, r, seed, columns):
    inner = low_rank(m, n, r, seed)
    gain = torch.ones(n if columns else m, dtype=torch.float64)
    update = Rescaled(normal(seed + 2, m, n), inner, gain, "columns" if columns else "rows")
    torch.testing.assert_close(update.dense(), inner.dense())


shapes = st.lists(extents, min_size=2, max_size=5).map(tuple)


@given(shape=shapes, transposed=st.booleans(), seed=seeds)
@laws
def test_to_stored_undoes_to_matrix(shape, transposed, seed):
    layout, stored = layout_of(shape, transposed=transposed), normal(seed, *shape)
    matrix = layout.to_matrix(stored)
    assert tuple(matrix.shape) == layout.shape
    assert torch.equal(layout.to_stored(matrix), stored)
    assert torch.equal(layout.to_matrix(layout.to_stored(matrix)), matrix)


@given(shape=shapes, transposed=st.booleans(), seed=seeds, data=st.data())
@laws
def test_cut_is_the_layout_of_the_first_outputs(shape, transposed, seed, data):
    layout, stored = layout_of(shape, transposed=transposed), normal(seed, *shape)
    rows = data.draw(st.integers(1, layout.shape[0]))
    kept = layout.to_matrix(stored)[:rows]
    assert layout.cut(rows).shape == tuple(kept.shape)
    assert torch.equal(layout.cut(rows).to_matrix(layout.cut(rows).to_stored(kept)), kept)


LAYOUTS = {
    (4, 3): ("linear", (4, 3)),
    (4, 3, 2): ("kernel", (4, 6)),
    (4, 3, 2, 5): ("kernel", (4, 30)),
    (4, 1, 2, 5, 2): ("kernel", (4, 20)),
}


@pytest.mark.parametrize("shape", LAYOUTS)
def test_rows_are_the_first_axis_of_a_kernel(shape):
    layout = layout_of(shape)
    assert (layout.kind, layout.shape) == LAYOUTS[shape]


def test_a_transposed_weight_has_its_outputs_last():
    stored = torch.arange(6.0).reshape(2, 3)
    layout = layout_of((2, 3), transposed=True)
    assert layout.shape == (3, 2)
    assert layout.to_matrix(stored)[2].tolist() == [2.0, 5.0]


def test_to_stored_refuses_another_shape():
    with pytest.raises(InputError, match=r"\[3, 4\] is not of shape \[4, 3\]"):
        Layout("linear", (4, 3)).to_stored(torch.ones(3, 4))


def pair_of(base, update):
    storage = Storage("float32", 1, 4)
    return WeightPair("w", base, update, layout_of(tuple(base.shape)), storage, storage)


FAULTS = {
    "ranks": lambda: LowRank(torch.ones(4, 2), torch.ones(3, 5)),
    "base of another shape": lambda: Rescaled(torch.ones(4, 4), low_rank(4, 5, 2, 0), torch.ones(4)),
    "gains on the other axis": lambda: Rescaled(torch.ones(4, 5), low_rank(4, 5, 2, 0), torch.ones(4), "columns"),
    "a pair that does not fit": lambda: pair_of(torch.ones(4, 4), Dense(torch.ones(4, 5))),
}


@pytest.mark.parametrize("name", FAULTS)
def test_parts_that_do_not_fit_are_refused(name):
    with pytest.raises(MatchError, match=r"\d"):
        FAULTS[name]()


def test_tuned_is_base_plus_update():
    base, step = torch.ones(2, 3), torch.full((2, 3), 0.5)
    assert torch.equal(pair_of(base, Dense(step)).tuned(), base + step)
