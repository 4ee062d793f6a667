"""The leading vectors of W on the update: one number for every path, whatever basis it computed in."""

import pytest
import torch

from spectra import testing
from spectra.engine.choose import Request, basis_batch, decompose
from spectra.engine.dense import svd
from spectra.engine.projections import Projections
from spectra.updates import Dense, LowRank, Rescaled

BASE = testing.decaying(240, 180, seed=1).float()


def low_rank():
    return LowRank(*testing.lora({"w.weight": BASE}, ["w"], rank=5, seed=2)["w"])


def rescaled():
    return Rescaled(BASE, low_rank(), torch.linspace(0.5, 1.5, 240))


@pytest.mark.parametrize("make", [low_rank, rescaled, lambda: Dense(low_rank().dense())])
def test_they_are_what_the_vectors_meet_of_the_update(make):
    update = make()
    U, V = testing.orthogonal(240, 7, seed=3).T, testing.orthogonal(180, 7, seed=4).T
    seen = Projections.of(update, U, V)
    expected = (U @ update.dense().double() @ V.T).diagonal()
    torch.testing.assert_close(seen.moved, expected, rtol=0, atol=1e-6)
    assert seen.left.shape == seen.right.shape == (7, 5 if update.factors else 240)


@pytest.mark.parametrize("method", ["certified", "basis"])
@pytest.mark.parametrize("dense", [False, True])
def test_every_path_has_those_of_the_exact_one(method, dense):
    update = testing.plant_intruders(BASE, 2, seed=2)
    pair = testing.weight_pair(BASE, update.dense() if dense else update)
    expected, found = (decompose(pair, Request(k=4, method=name)) for name in ("exact", method))
    assert found.method == method
    one, other = (
        torch.einsum("kr,ks->krs", seen.left[:4], seen.right[:4]) for seen in (expected.projections, found.projections)
    )  # a vector's sign is arbitrary, that of a pair is not
    torch.testing.assert_close(other, one, rtol=0, atol=1e-3 * float(one.abs().max()))


def test_updates_of_one_batch_keep_their_own_rank():
    ranks = (2, 5)
    updates = [LowRank(*testing.lora({"w.weight": BASE}, ["w"], rank=r, seed=r)["w"]) for r in ranks]
    found = basis_batch([testing.weight_pair(BASE, one) for one in updates], Request(k=4), svd(BASE))
    assert [one.projections.left.shape[1] for one in found] == list(ranks)
