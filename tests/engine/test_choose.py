"""The chooser takes a path, says which and why, and refuses unknown words with the nearest right one."""

import pytest
import torch

from spectra import testing
from spectra.engine import dense, factored
from spectra.engine.choose import METHODS, Request, decompose, require_device, require_method
from spectra.engine.resemblance import blur
from spectra.errors import MachineError, UsageError
from spectra.updates import LowRank

BASE = testing.decaying(30, 20, seed=0)


def low_rank():
    factors = testing.lora({"w.weight": BASE.float()}, ["w"], rank=3, seed=1)["w"]
    return testing.weight_pair(BASE, LowRank(*factors))


def dense_pair():
    return testing.weight_pair(BASE, testing.noise(30, 20, level=0.1, seed=2))


@pytest.mark.parametrize("make", [low_rank, dense_pair])
def test_every_decomposition_is_that_of_its_matrix(make):
    pair = make()
    found = decompose(pair)
    for matrix, values in (
        (pair.base, found.base_values),
        (pair.tuned(), found.tuned_values),
        (pair.update.dense(), found.update_values),
    ):
        expected = torch.linalg.svdvals(matrix.double())[: len(values)]
        torch.testing.assert_close(values.double(), expected, rtol=1e-4, atol=1e-6)
    assert found.method == "exact"


def test_factors_are_decomposed_as_factors(monkeypatch):
    monkeypatch.setattr(dense, "values", lambda *_, **__: pytest.fail("the product was formed"))
    found = decompose(low_rank())
    assert len(found.update_values) == 3
    assert "from its factors" in found.reason


def test_a_dense_update_is_not_asked_for_vectors(monkeypatch):
    monkeypatch.setattr(factored, "svd", lambda *_: pytest.fail("there are no factors"))
    assert "its singular values alone" in decompose(dense_pair()).reason


@pytest.mark.parametrize("at", ["base", "dense update", "factors"])
def test_entries_whose_products_overflow_are_for_the_exact_path(at):
    base, update = testing.decaying(70, 70, seed=0), testing.noise(70, 70, level=0.1, seed=2)
    if at == "factors":
        update = LowRank(*testing.lora({"w.weight": base}, ["w"], rank=3, strength=1e11, seed=1)["w"])
    pair = testing.weight_pair(base * (1e11 if at == "base" else 1), update * 1e11 if at == "dense update" else update)
    found = decompose(pair, Request(method="certified"))
    assert found.method == "exact"
    assert "its entries leave the range of float32 products" in found.reason
    assert bool(found.tuned_values.isfinite().all())


def test_a_base_that_is_known_is_not_decomposed_again():
    pair = dense_pair()
    base = dense.svd(pair.base)
    assert decompose(pair, base=base).base is base


def test_auto_is_an_engine_there_is():
    assert require_method("auto") in METHODS
    assert require_method("exact") == "exact"
    for method in METHODS:
        assert decompose(low_rank(), Request(method=method)).method in METHODS


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("exakt", "method 'exakt' is unknown; did you mean 'exact'? Choose from exact, certified, basis, auto."),
        ("zzz", "method 'zzz' is unknown. Choose from exact, certified, basis, auto."),
    ],
)
def test_an_unknown_method_is_refused_with_the_nearest(word, said):
    with pytest.raises(UsageError) as refusal:
        require_method(word)
    assert str(refusal.value) == said


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("cudaa", "device 'cudaa' is unknown; did you mean 'cuda'? Choose from auto, cpu, cuda."),
        ("\x1b[31m", "device '\\x1b[31m' is unknown. Choose from auto, cpu, cuda."),
        ("meta", "device 'meta' is not supported. Choose from auto, cpu, cuda."),
    ],
)
def test_an_unknown_device_is_refused_with_the_nearest(word, said):
    with pytest.raises(UsageError) as refusal:
        require_device(word)
    assert str(refusal.value) == said


def test_a_device_that_is_not_there_is_the_machines_fault(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        MachineError, match=r"device .cuda:1. was asked for, but torch finds 1 CUDA device\. Use cpu or auto"
    ):
        require_device("cuda:1")
    assert require_device("cuda:0") == "cuda:0"


def test_auto_is_the_accelerator_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert require_device("auto") == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert require_device("auto") == "cpu"


def spiked(ratio, seed=0):
    """A base whose largest value is `ratio` times its next, so that float32 resolves the others badly, and a LoRA."""
    generator = torch.Generator().manual_seed(seed)
    U, S, Vh = torch.linalg.svd(torch.randn(120, 100, generator=generator).double(), full_matrices=False)
    S = S / S[0]
    S[0] = ratio
    B, A = torch.randn(120, 3, generator=generator), torch.randn(3, 100, generator=generator)
    B *= 0.9 / torch.linalg.matrix_norm(B @ A, 2)
    return testing.weight_pair((U * S @ Vh).float(), LowRank(B, A))


def similarity_by_definition(pair, k):
    U0 = torch.linalg.svd(pair.base.double())[0][:, : min(pair.shape)]
    B, A = (factor.double() for factor in pair.update.factors)
    return (U0.T @ torch.linalg.svd(pair.base.double() + B @ A)[0][:, :k]).abs().amax(0)


@pytest.mark.parametrize("ratio", [1e3, 1e5])
@pytest.mark.parametrize("method", METHODS)
def test_a_value_far_above_the_others_does_not_blur_them(method, ratio):
    pair = spiked(ratio)
    found = decompose(pair, Request(method=method))
    (side,) = found.resemblances
    expected = similarity_by_definition(pair, 10)
    assert bool((side.found[:10] <= expected + 1e-5).all())
    assert bool((side.bound[:10] >= expected - 1e-5).all())
    if found.method == "exact":
        assert "in float64, as float32 blurs a leading direction" in found.reason


def test_a_base_in_float64_has_its_tuned_weight_in_float64_too():
    pair = spiked(1e5)
    known = dense.svd(pair.base.double())
    found = decompose(pair, Request(method="exact"), base=known)
    torch.testing.assert_close(found.resemblances[0].found[:10], similarity_by_definition(pair, 10), rtol=0, atol=1e-5)


def test_what_float32_leaves_open_holds_what_float64_finds():
    pair = spiked(1e4, seed=1)
    least, most = blur(dense.svd(pair.base), dense.svd(pair.tuned()), k=10, side="left")
    expected = similarity_by_definition(pair, 10)
    assert bool(((least <= expected + 1e-6) & (expected <= most + 1e-6)).all())
    assert float((most - least).max()) > 0.02


def test_an_even_spectrum_is_decomposed_in_float32():
    assert "float64" not in decompose(low_rank(), Request(method="exact")).reason
