"""SP306: one layer that carries most of the update."""

import pytest

from spectra.analysis.diagnosis import diagnose
from spectra.findings.finding import Evidence
from spectra.findings.one_layer import ONE_LAYER


def louder(part, by):
    return lambda factors: {module: (B * by if part in module else B, A) for module, (B, A) in factors.items()}


def test_a_block_with_most_of_the_energy_is_a_remark(base, lora, raised):
    (found,) = raised("SP306", base, lora(louder("layers.2.", 8.0)))
    assert (found.severity, found.numbers["layer"], found.numbers["layers"]) == ("info", "model.layers.2", 4)
    assert found.numbers["energy"] == pytest.approx(64 / 67, abs=0.03)
    assert found.numbers["entries"] == pytest.approx(1 / 4)
    assert found.keys == tuple(f"model.layers.2.self_attn.{name}_proj.weight" for name in "qv")


def test_a_matrix_outside_of_the_blocks_is_a_layer_of_its_own(base, lora, raised):
    (found,) = raised("SP306", base, lora(louder("lm_head", 8.0), targets=("q_proj", "v_proj", "lm_head")))
    assert (found.numbers["layer"], found.keys) == ("lm_head.weight", ("lm_head.weight",))


@pytest.mark.parametrize(("by", "says"), [(1.6, 0), (3.0, 1)])
def test_three_quarters_of_four_layers_are_three_times_its_share(by, says, base, lora, raised):
    """At 1.6 it has 0.46 of the energy; at 3.0 it has 0.75, three times its quarter of the entries."""
    assert len(raised("SP306", base, lora(louder("layers.2.", by * 1.02)))) == says


def test_a_layer_that_is_large_is_no_wonder(base, full, raised):
    """A whole block beside three single matrices holds most of the energy because it holds most of the entries."""
    beside = ["layers.0.", "embed_tokens", "lm_head", "layers.1.self_attn.k_proj"]
    report = diagnose(base, full(), include=beside)
    energy = [layer.norm.update**2 for layer in report.rows]
    inside = sum(one for layer, one in zip(report.rows, energy, strict=True) if layer.place.block == 0)
    assert inside > 0.5 * sum(energy)
    assert ONE_LAYER.check(Evidence(report.rows, report.info, 0.5)) == []


WITH_HEAD = ("q_proj", "v_proj", "lm_head")


def test_three_layers_are_too_few_to_compare(base, lora, raised):
    adapter = lora(louder("lm_head", 8.0), targets=WITH_HEAD)
    assert raised("SP306", base, adapter, exclude=["layers.0.", "layers.1."]) == []
    assert len(raised("SP306", base, adapter, exclude=["layers.0."])) == 1


@pytest.mark.parametrize(("share", "says"), [(0.48, 0), (0.52, 1)])
def test_the_limit_is_half_of_the_energy(share, says, base, lora, raised):
    """Energies go with the square of B: the factor that gives the head this share follows from another one."""
    (found,) = raised("SP306", base, lora(louder("lm_head", 8.0), targets=WITH_HEAD))
    assert 3 * found.numbers["entries"] < 0.48
    odds = found.numbers["energy"] / (1 - found.numbers["energy"]) / 64
    by = (share / (1 - share) / odds) ** 0.5
    assert len(raised("SP306", base, lora(louder("lm_head", by), targets=WITH_HEAD))) == says


def test_layers_that_did_not_change_count_with_no_energy(base, tensors, full, raised):
    def frozen(tuned):
        return {key: W if "layers.1." in key else tensors[key] for key, W in tuned.items()}

    (found,) = raised("SP306", base, full(frozen))
    assert (found.numbers["layer"], found.numbers["energy"], found.numbers["layers"]) == ("model.layers.1", 1.0, 6)


def test_an_even_update_and_none_at_all_say_nothing(base, lora, raised):
    assert raised("SP306", base, lora()) == []
    assert raised("SP306", base, base) == []
