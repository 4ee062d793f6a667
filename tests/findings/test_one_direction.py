"""SP305: one direction that holds nearly all of the update."""

from dataclasses import replace

import pytest
import torch

from spectra.analysis.diagnosis import diagnose
from spectra.findings.finding import Evidence
from spectra.findings.one_direction import ONE_DIRECTION
from spectra.metrics.ranks import RankErrors


def led(by, modules=("q_proj", "v_proj")):
    """Make the first direction hold `by` of the energy, and the others the rest alike."""

    def change(factors):
        return {module: _led(*pair, by) if module.endswith(modules) else pair for module, pair in factors.items()}

    return change


def _led(B, A, by):
    U, V = torch.linalg.qr(B)[0], torch.linalg.qr(A.T)[0]
    rest = ((1 - by) / (B.shape[1] - 1)) ** 0.5
    return 0.1 * U * torch.tensor([by**0.5] + [rest] * (B.shape[1] - 1)), V.T.contiguous()


def test_one_direction_with_nearly_all_of_the_energy_is_a_remark(base, lora, raised):
    (found,) = raised("SP305", base, lora(led(0.95)))
    assert (found.severity, len(found.keys)) == ("info", 8)
    assert found.numbers["median_share"] == pytest.approx(0.95, abs=1e-3)
    assert "in 8 of 8 matrices: it holds 95 % of the energy" in found.message


@pytest.mark.parametrize(("by", "says"), [(0.89, 0), (0.91, 1)])
def test_the_limit_is_nine_tenths(by, says, base, lora, raised):
    assert len(raised("SP305", base, lora(led(by)))) == says


def test_half_of_the_matrices_are_not_most(base, lora, raised):
    assert raised("SP305", base, lora(led(0.95, modules=("q_proj",)))) == []


def test_of_ranks_below_four_one_always_holds_much(base, lora, raised):
    assert raised("SP305", base, lora(led(0.95), rank=3)) == []


def test_an_estimate_that_may_lie_below_the_limit_says_nothing(base, lora):
    report = diagnose(base, lora(led(0.95)))

    def rows(error):
        errors = RankErrors(0, error, 0, 0, 0, 0, 0, 0, None)
        return [replace(layer, rank=replace(layer.rank, error=errors)) for layer in report.rows]

    assert ONE_DIRECTION.check(Evidence(rows(0.01), report.info, 0.5)) != []
    assert ONE_DIRECTION.check(Evidence(rows(0.1), report.info, 0.5)) == []


def test_an_update_that_is_nearly_nothing_has_no_shape_of_its_own(base, lora, raised):
    assert raised("SP305", base, lora(led(0.95), alpha=4e-3)) == []


def test_ordinary_updates_are_spread(base, lora, full, raised):
    assert raised("SP305", base, lora()) == []
    assert raised("SP305", base, full()) == []
