"""An option has an effect, or is refused, or is noted: it is never passed over without a word."""

import json
import math
import re

import pytest
import torch
from safetensors.torch import save_file

import spectra
from spectra import open_pairs, testing
from spectra.cli.main import cli
from spectra.errors import InputError, MatchError, UsageError
from spectra.loaders.options import Reading, ReadOptions, given_as

SHAPE = (12, 8)
NAMES = ("layers.0.q_proj", "layers.1.q_proj", "layers.0.v_proj")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, a full fine-tune, two LoRAs with an alpha, one of kohya without, one with a module of its own name."""
    folder = tmp_path_factory.mktemp("options")
    generator = torch.Generator().manual_seed(3)
    base = {f"{name}.weight": torch.randn(SHAPE, generator=generator) for name in NAMES}
    for name, tensors in (("base", base), ("full", {key: value * 1.01 for key, value in base.items()})):
        (folder / name).mkdir()
        save_file(tensors, folder / name / "model.safetensors")
    for name, rank in (("two", 2), ("four", 4)):
        testing.save_lora(folder / name, testing.lora(base, ("q_proj",), rank=rank, seed=1), alpha=4)
    draw = torch.randn(2, SHAPE[1], generator=generator), torch.randn(SHAPE[0], 2, generator=generator)
    kohya = {
        f"lora_unet_layers_0_q_proj.lora_{side}.weight": tensor
        for side, tensor in zip(("down", "up"), draw, strict=True)
    }
    save_file(kohya, folder / "kohya.safetensors")
    testing.save_lora(folder / "odd", {"my.own": (draw[1], draw[0])}, alpha=4)
    return folder


def updates(folder, name, **options):
    with open_pairs(folder / "base", folder / name, **options) as pairs:
        return {pair.key: pair.update.dense() for pair in pairs}, pairs


def without(folder, tmp_path, name, *keys, **more):
    """Copy an adapter, its configuration without some of its keys."""
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "adapter_model.safetensors").write_bytes((folder / name / "adapter_model.safetensors").read_bytes())
    config = json.loads((folder / name / "adapter_config.json").read_text()) | more
    (tmp_path / "adapter_config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in keys}))
    return tmp_path


IDLE = {
    "an alpha beside another": ("two", {"alpha": 5}, "'two' is 4"),
    "a negative one": ("two", {"alpha": -5}, "'two' is 4"),
    "an alpha of a full fine-tune": ("full", {"alpha": 5}, "'full' is a full fine-tune"),
    "a rank of a full fine-tune": ("full", {"truncate": 1}, "'full' is a full fine-tune"),
    "a rank above all": ("two", {"truncate": 3}, "'two' has ranks of at most 2"),
    "names of a full fine-tune": ("full", {"names": {"a": "layers.0.q_proj"}}, "'full' is a full fine-tune"),
    "a name that is not there": ("two", {"names": {"layers.0.q_prj": "layers.0.q_proj"}}, "no module of 'two'"),
}


@pytest.mark.parametrize(("name", "options", "said"), IDLE.values(), ids=IDLE)
def test_what_has_no_effect_is_refused(folder, name, options, said):
    (option,) = options
    with pytest.raises(UsageError, match=rf"^{re.escape(given_as(option))}.*{said}.*Leave it out\.$"):
        open_pairs(folder / "base", folder / name, **options)


def test_an_alpha_is_taken_where_the_file_has_none(folder):
    own, _ = updates(folder, "kohya.safetensors")
    given, pairs = updates(folder, "kohya.safetensors", alpha=6)
    for key, update in own.items():
        torch.testing.assert_close(given[key], 3 * update)  # alpha = r = 2 otherwise
    assert "modules without an alpha in the file: the alpha given is taken" in pairs.notes


def test_the_default_of_peft_for_an_alpha_left_out_is_said_and_gives_way(folder, tmp_path):
    adapter = without(folder, tmp_path / "a", "two", "lora_alpha")
    own, _ = updates(folder, "two")
    taken, pairs = updates(folder, adapter)
    assert pairs.notes == ("adapter_config.json has no lora_alpha: 8, PEFT's default, is taken",)
    given, pairs = updates(folder, adapter, alpha=12)
    assert pairs.notes == ()
    assert pairs.info.alphas == (12.0,)
    for key, update in own.items():
        torch.testing.assert_close(taken[key], 2 * update)
        torch.testing.assert_close(given[key], 3 * update)
    report = spectra.diagnose(folder / "base", adapter)
    assert report.provenance["notes"] == ["adapter_config.json has no lora_alpha: 8, PEFT's default, is taken"]


def test_a_rank_left_out_is_the_stored_one_and_other_defaults_need_no_word(folder, tmp_path):
    own, _ = updates(folder, "two")
    found, pairs = updates(folder, without(folder, tmp_path / "a", "two", "r"))
    assert pairs.notes == ("adapter_config.json has no r: the stored rank is taken",)
    for key, update in own.items():
        torch.testing.assert_close(found[key], update)
    _, pairs = updates(folder, without(folder, tmp_path / "b", "two", "use_rslora", "use_dora", "fan_in_fan_out"))
    assert pairs.notes == ()


def test_as_stored_that_changes_nothing_is_noted(folder):
    for name, why in (("two", "left the base as it was"), ("full", "is a full fine-tune")):
        _, pairs = updates(folder, name, as_stored=True)
        assert [note for note in pairs.notes if why in note and note.startswith("`--as-stored`")] == list(pairs.notes)


def test_a_pattern_that_matches_no_weight_is_noted(folder):
    _, pairs = updates(folder, "full", include=["q_proj", "k_proj"], exclude=["layers.0.", "embed"])
    assert pairs.notes == (
        "`--include PATTERN` (include=): 'k_proj' matches no weight of the base",
        "`--exclude PATTERN` (exclude=): 'embed' matches no weight of the base",
    )
    assert pairs.keys == ("layers.1.q_proj.weight",)


@pytest.mark.parametrize("options", [
    {"alpha": math.nan}, {"alpha": "4"}, {"alpha": True}, {"truncate": 0}, {"truncate": 2.0}, {"names": "names.json"},
    {"initial": ""},
], ids=str)  # fmt: skip
def test_a_value_of_the_wrong_kind_is_refused(folder, options):
    with pytest.raises(UsageError):
        open_pairs(folder / "base", folder / "two", **options)


def test_of_several_models_an_option_need_only_serve_one(folder):
    models = {name: folder / name for name in ("two", "four", "full")}
    found = spectra.compare(folder / "base", models, truncate=3)
    assert [model.info.ranks for model in found.models.values()] == [(2,), (3,), ()]
    notes = {name: model.provenance["notes"] for name, model in found.models.items()}
    assert notes["four"] == ["read at rank 3 as DyLoRA trains it, with the scale of the whole"]
    assert notes["two"] == ["`--truncate R` (truncate=) is 3, and 'two' has ranks of at most 2: it has no effect here"]
    assert "is a full fine-tune: it has no effect here" in notes["full"][0]
    with pytest.raises(UsageError, match="at most 2"):
        spectra.compare(folder / "base", {"two": folder / "two", "full": folder / "full"}, truncate=3)


def test_of_several_models_a_name_need_only_be_in_one(folder):
    models, names = {"odd": folder / "odd", "two": folder / "two"}, {"my.own": "layers.0.v_proj"}
    found = spectra.compare(folder / "base", models, names=names)
    assert [row.key for row in found.models["odd"].rows] == ["layers.0.v_proj.weight"]
    with pytest.raises(UsageError, match=r"'my\.owm' is no module of 'odd'"):
        spectra.compare(folder / "base", models, names=names | {"my.owm": "layers.0.v_proj"})
    with pytest.raises(MatchError, match=r"'layers\.0\.v_prj' is no module of the base"):
        spectra.compare(folder / "base", models, names={"my.own": "layers.0.v_prj"})


def test_two_models_that_overlap_are_read_so_too(folder, tmp_path):
    adapter = without(folder, tmp_path / "a", "two", "lora_alpha")
    found = spectra.overlap(folder / "base", adapter, folder / "four", alpha=6)
    assert any(note.endswith("that of 'four' is 4: it has no effect here") for note in found.provenance["notes"])
    with pytest.raises(UsageError, match="hold no alpha"):
        spectra.overlap(folder / "base", folder / "two", folder / "four", alpha=6)


def test_messages_spell_options_as_the_command_line_has_them():
    """Every option of `open_pairs` is one of the command line, of the same name."""
    flags = {param.name: param for param in cli.commands["diagnose"].params}
    options = set(Reading.__annotations__)
    assert set(ReadOptions.__dataclass_fields__) <= options
    for option in options:
        word, _, rest = given_as(option).removeprefix("`").partition("`")
        flag, _, value = word.partition(" ")
        assert flag in flags[option].opts
        assert bool(value) != flags[option].is_flag
        assert rest == (f" ({option}=True)" if flags[option].is_flag else f" ({option}=)")


def test_an_empty_path_is_a_mistake_of_its_own(folder):
    for call in (
        lambda: open_pairs("", folder / "two"),
        lambda: open_pairs(folder / "base", ""),
        lambda: spectra.insertions(folder / "base", ""),
        lambda: spectra.guide(""),
    ):
        with pytest.raises(UsageError, match="an empty path names no file"):
            call()


def test_a_folder_of_models_says_where_they_are(folder):
    with pytest.raises(InputError, match=r"holds no weights itself, but these do: base, four, full, odd, two\. Name"):
        open_pairs(folder / "base", folder_without_file(folder))


def folder_without_file(folder):
    """Return a folder that has the same subfolders and no file of its own."""
    above = folder / "above"
    above.mkdir()
    for name in ("base", "four", "full", "odd", "two"):
        (above / name).mkdir()
        for file in (folder / name).iterdir():
            (above / name / file.name).write_bytes(file.read_bytes())
    (above / "notes.json").write_text("{}")
    return above
