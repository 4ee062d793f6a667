"""How the spectrum of an update is had: exactly where that is cheap, else estimated; and the row says which."""

import pytest
import torch

from spectra import testing
from spectra.engine import update_spectrum as room
from spectra.engine.choose import SPECTRA, Request, decompose, require_spectrum
from spectra.engine.update_spectrum import update_spectrum
from spectra.errors import UsageError
from spectra.updates import LowRank, Rescaled

BASE = testing.decaying(160, 200, seed=0).float()


def dense_pair(scale=0.1):
    return testing.weight_pair(BASE, testing.noise(160, 200, level=scale, seed=2))


def rescaled_pair():
    pair = dense_pair()
    B, A = testing.lora({"w.weight": BASE}, ["w"], rank=3, seed=1)["w"]
    object.__setattr__(pair, "update", Rescaled(BASE, LowRank(B, A), torch.linspace(0.5, 1.5, 160)))
    return pair


@pytest.mark.parametrize("make", [dense_pair, rescaled_pair])
def test_an_estimate_knows_the_leading_values_and_says_what_it_is(make):
    pair = make()
    found = update_spectrum(pair, "estimated", "cpu")
    expected = torch.linalg.svdvals(pair.update.dense().double())
    torch.testing.assert_close(found.values, expected[:10], rtol=5e-3, atol=0)
    assert found.how == "the ranks of the update estimated from 16 random vectors of 32 Lanczos steps each"
    assert found.estimate.energy == pytest.approx(float(expected.square().sum()), rel=1e-5)


def test_exact_knows_every_value_and_how():
    found = update_spectrum(dense_pair(), "exact", "cpu")
    assert (len(found.values), found.estimate) == (160, None)
    assert found.how == "the update by its singular values alone (gesdd float64)"


@pytest.mark.parametrize("rows", [100, 160])
def test_factors_are_never_estimated(rows):
    base = BASE[:rows]
    pair = testing.weight_pair(base, LowRank(*testing.lora({"w.weight": base}, ["w"], rank=3, seed=1)["w"]))
    found = update_spectrum(pair, "estimated", "cpu")
    assert (len(found.values), found.estimate) == (3, None)
    assert found.how == "the update from its factors, never formed"


def test_a_small_matrix_is_not_estimated_and_says_why():
    pair = testing.weight_pair(BASE[:100], testing.noise(100, 200, level=0.1, seed=2))
    found = update_spectrum(pair, "estimated", "cpu")
    assert (len(found.values), found.estimate) == (100, None)
    assert found.how.endswith(", as it is too small for an estimate")


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_a_matrix_at_the_ends_of_float32_is_not_estimated_and_says_why(scale):
    found = update_spectrum(dense_pair(scale), "estimated", "cpu")
    assert (len(found.values), found.estimate) == (160, None)
    assert found.how.endswith(", as it is beyond the range of float32 products for an estimate")


def test_auto_estimates_above_a_size_alone(monkeypatch):
    assert update_spectrum(dense_pair(), "auto", "cpu").estimate is None
    monkeypatch.setattr(room, "_EXACT_UP_TO", 150)
    assert update_spectrum(dense_pair(), "auto", "cpu").estimate is not None


@pytest.mark.parametrize("method", ["exact", "certified", "basis"])
def test_every_method_takes_the_estimate_asked_for(method):
    found = decompose(dense_pair(), Request(method=method, spectrum="estimated"))
    assert found.method == method
    assert found.update_estimate is not None
    assert len(found.update_values) == 10
    assert "estimated from 16 random vectors" in found.reason


def test_the_exact_method_estimates_when_asked_alone(monkeypatch):
    """However large the matrix is: the reference stays one."""
    monkeypatch.setattr(room, "_EXACT_UP_TO", 150)
    assert decompose(dense_pair(), Request(method="exact")).update_estimate is None
    assert decompose(dense_pair(), Request(method="certified")).update_estimate is not None


def test_an_unknown_spectrum_is_refused_with_the_nearest():
    assert [require_spectrum(word) for word in SPECTRA] == list(SPECTRA)
    with pytest.raises(UsageError) as refusal:
        require_spectrum("estimate")
    assert str(refusal.value) == (
        "spectrum 'estimate' is unknown; did you mean 'estimated'? Choose from exact, estimated, auto."
    )
