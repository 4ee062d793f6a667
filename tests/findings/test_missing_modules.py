"""SP110: a kind of module that is tuned in some blocks, and not in others that have it too."""

import pytest

from spectra import testing
from spectra.findings.finding import Evidence
from spectra.findings.missing_modules import MISSING_MODULES
from spectra.loaders.plan import TunedInfo
from spectra.metrics.place import place


def without(*parts):
    """Leave out the modules or tensors that have any of these parts in their names."""
    return lambda named: {name: one for name, one in named.items() if not any(part in name for part in parts)}


def test_a_last_block_that_the_file_lacks_is_a_warning(base, lora, raised):
    (found,) = raised("SP110", base, lora(without("layers.3.")))
    assert found.severity == "warning"
    assert found.numbers == {"missing": 2, "blocks": ["model.layers.3"]}
    assert "matrices that the base has are not in the adapter's file, although its configuration" in found.message
    assert "self_attn.q_proj, self_attn.v_proj in model.layers.3" in found.message
    assert len(found.keys) == 6


def test_one_module_that_the_file_lacks_is_named(base, lora, raised):
    (found,) = raised("SP110", base, lora(without("layers.1.self_attn.v_proj")))
    assert (found.severity, found.numbers["missing"]) == ("warning", 1)
    assert found.message.startswith("1 matrix that the base has is not in the adapter's file")
    assert found.keys == tuple(f"model.layers.{block}.self_attn.v_proj.weight" for block in (0, 2, 3))


@pytest.mark.parametrize(
    "config",
    [
        {"layers_to_transform": [0, 1, 2]},
        {"target_modules": [f"layers.{at}.self_attn.{name}_proj" for at in range(3) for name in "qv"]},
        {"target_modules": r".*layers\.[012]\.self_attn\.[qv]_proj"},
        {"exclude_modules": r".*layers\.3\..*"},
    ],
)
def test_blocks_left_out_by_the_configuration_are_a_remark(config, base, lora, raised):
    (found,) = raised("SP110", base, lora(without("layers.3."), **config))
    assert (found.severity, found.numbers["missing"]) == ("info", 2)
    assert "as configured" in found.message


def test_of_a_configuration_whose_rules_are_not_read_nothing_is_claimed(base, lora, raised):
    (found,) = raised("SP110", base, lora(without("layers.3."), layers_to_transform=[0, 1, 2], layers_pattern="layers"))
    assert (found.severity, found.numbers["missing"]) == ("info", 2)
    assert "no configuration that is read here says" in found.message
    assert "MLX trains the last num_layers" in found.advice


def test_a_full_checkpoint_that_lacks_a_block_is_a_warning(base, full, raised):
    (found,) = raised("SP110", base, full(without("layers.3.")))
    assert (found.severity, found.numbers["missing"]) == ("warning", 7)
    assert "7 kinds in model.layers.3" in found.message


def test_what_was_not_measured_is_not_missing(base, lora, full, raised):
    assert raised("SP110", base, lora(), include=["layers.0."]) == []
    assert raised("SP110", base, full(), exclude=["layers.3."]) == []


def test_a_kind_that_is_adapted_nowhere_is_not_missing(base, lora, raised):
    assert raised("SP110", base, lora()) == []


def test_blocks_that_differ_by_design_are_no_gap(tmp_path, tensors, lora, raised):
    """Every other block has another mixer in its place."""
    mixed = {key.replace("layers.1.self_attn", "layers.1.mixer"): W for key, W in tensors.items()}
    base = testing.save_checkpoint(tmp_path / "mixed", mixed)
    assert raised("SP110", base, lora(without("layers.1."))) == []


def test_blocks_that_the_model_does_not_build_are_no_gap(tmp_path, tensors, lora, raised):
    """DeepSeek stores a next-token head as one more block, which no adapter is put on."""
    config = {**testing.LLAMA_CONFIG, "num_hidden_layers": 3}
    base = testing.save_checkpoint(tmp_path / "more", tensors, config=config)
    assert raised("SP110", base, lora(without("layers.3."))) == []


def test_names_are_safe_to_show():
    names = [f"x\x1b.layers.{block}.q" for block in range(3)]
    places = [place(name) for name in names]
    evidence = Evidence(
        [],
        TunedInfo("t", "LoRA", 1, 1),
        0.5,
        base_places=places,
        changed_places=places[:2],
        targeted_places=places,
    )
    (raised,) = MISSING_MODULES.check(evidence)
    assert "\x1b" not in raised.message
    assert raised.numbers["blocks"] == ["x\\x1b.layers.2"]
