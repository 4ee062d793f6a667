"""The contract of `open_pairs` for full checkpoints: containers, names, dtypes, order, and what is left out."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from spectra import open_pairs
from spectra.errors import InputError, MatchError, UnsupportedError

SHAPES = {
    "embed_tokens.weight": (50, 12),
    "layers.0.attn.q_proj.weight": (12, 12),
    "layers.0.attn.k_proj.weight": (6, 12),
    "layers.0.norm.weight": (12,),
    "layers.0.conv.weight": (8, 4, 3, 2),
    "layers.1.attn.q_proj.weight": (12, 12),
    "layers.1.attn.q_proj.bias": (12,),
    "lm_head.weight": (50, 12),
}
MATRICES = [key for key, shape in SHAPES.items() if len(shape) > 1]


def weights(seed, dtype=torch.float32, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator).to(dtype) for key, shape in shapes.items()}


def two(dtype=torch.float32, shapes=SHAPES):
    """A base and a tuned model that is near it."""
    base, step = weights(1, dtype, shapes), weights(2, torch.float32, shapes)
    return base, {key: (value.float() + step[key] / 10).to(dtype) for key, value in base.items()}


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def write_single(state, folder):
    save_file(state, folder / "model.safetensors")


def write_shards(state, folder, save, name, order):
    keys = sorted(state, key=order)
    shards = {f"{name[0]}-0000{i + 1}-of-00003{name[1]}": keys[i::3] for i in range(3)}
    for file, held in shards.items():
        save({key: state[key] for key in held}, folder / file)
    index = {"weight_map": {key: file for file, held in shards.items() for key in held}}
    (folder / f"{name[0]}{name[1]}.index.json").write_text(json.dumps(index))


def write_sharded(state, folder):
    write_shards(state, folder, save_file, ("model", ".safetensors"), str)


def write_sharded_backwards(state, folder):
    write_shards(state, folder, save_file, ("model", ".safetensors"), lambda key: key[::-1])


def write_bin(state, folder):
    torch.save(state, folder / "pytorch_model.bin")


def write_legacy_bin(state, folder):
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def write_sharded_bin(state, folder):
    write_shards(state, folder, torch.save, ("pytorch_model", ".bin"), str)


def write_lightning(state, folder):
    torch.save({"state_dict": prefixed(state, "model."), "epoch": 3}, folder / "last.ckpt")


def write_nested(state, folder):
    torch.save({"model": prefixed(state, "module."), "optimizer": {"step": 1}}, folder / "checkpoint.pt")


WRITERS = [
    write_single, write_sharded, write_sharded_backwards, write_bin, write_legacy_bin, write_sharded_bin, write_lightning,
    write_nested,
]  # fmt: skip


def on_disk(write, state, folder):
    folder.mkdir()
    write(state, folder)
    return folder


class Tree(nn.Module):
    """A module whose state dict is exactly the one it is given."""

    def __init__(self, state):
        super().__init__()
        for key, value in state.items():
            *path, name = key.split(".")
            place = self
            for step in path:
                if not hasattr(place, step):
                    place.add_module(step, nn.Module())
                place = getattr(place, step)
            place.register_parameter(name, nn.Parameter(value.clone()))


def read(base, tuned, **options):
    with open_pairs(base, tuned, **options) as pairs:
        return {pair.key: pair for pair in pairs}


def require_same(found, base, tuned, order=MATRICES):
    assert list(found) == list(order)
    for key, pair in found.items():
        stored = pair.to_stored(pair.base)
        assert stored.dtype == torch.float32
        assert torch.equal(stored, base[key].float())
        assert torch.equal(pair.to_stored(pair.update.dense()), tuned[key].float() - base[key].float())


@pytest.mark.parametrize("write", WRITERS)
def test_every_container_gives_the_same_pairs(tmp_path, write):
    base, tuned = two()
    require_same(read(base, on_disk(write, tuned, tmp_path / "tuned")), base, tuned)


BASE_WRITERS = {
    write_single: sorted(MATRICES),  # safetensors sorts names
    write_sharded: [key for shard in range(3) for key in sorted(SHAPES)[shard::3] if key in MATRICES],
    write_bin: MATRICES,
    write_legacy_bin: MATRICES,
    write_sharded_bin: [key for shard in range(3) for key in sorted(SHAPES)[shard::3] if key in MATRICES],
}


@pytest.mark.parametrize("write", BASE_WRITERS)
def test_every_container_can_be_the_base_and_gives_its_order(tmp_path, write):
    base, tuned = two()
    found = read(on_disk(write, base, tmp_path / "base"), tuned)
    require_same(found, base, tuned, BASE_WRITERS[write])


def live(state):
    return Tree(state)


def in_a_checkpoint(state):
    return {"state_dict": state, "epoch": 3}


def as_given(state):
    return state


@pytest.mark.parametrize("as_tuned", [live, in_a_checkpoint, as_given])
@pytest.mark.parametrize("as_base", [live, in_a_checkpoint, as_given])
def test_models_in_memory_can_stand_on_both_sides(as_base, as_tuned):
    base, tuned = two()
    require_same(read(as_base(base), as_tuned(tuned)), base, tuned)


def test_one_file_can_be_named(tmp_path):
    base, tuned = two()
    folder = on_disk(write_single, tuned, tmp_path / "tuned")
    require_same(read(base, folder / "model.safetensors"), base, tuned)
    require_same(read(base, str(folder / "model.safetensors")), base, tuned)


PREFIXES = [
    ("", "module."), ("", "bert."), ("", "_orig_mod."), ("", "_orig_mod.module."), ("", "module.model."), ("", "a.b.c."),
    ("bert.", ""), ("a.b.c.", ""), ("_orig_mod.", ""), ("model.", "module."), ("bert.", "_orig_mod.module."),
    ("model.", "_orig_mod."), ("model.", "module.model."), ("model.", "model."),
]  # fmt: skip


@pytest.mark.parametrize(("base_prefix", "tuned_prefix"), PREFIXES)
def test_a_prefix_on_one_side_is_seen_through(base_prefix, tuned_prefix):
    base, tuned = two()
    found = read(prefixed(base, base_prefix), prefixed(tuned, tuned_prefix))
    require_same({key.removeprefix(base_prefix): pair for key, pair in found.items()}, base, tuned)


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
@pytest.mark.parametrize("side", [0, 1], ids=["base", "tuned"])
def test_wrappers_inside_a_name_are_no_part_of_it(wrapper, side):
    models = list(two())
    models[side] = {key.replace("layers.1.", f"layers.1.{wrapper}."): value for key, value in models[side].items()}
    found = read(*models)
    assert list(found) == [key for key in models[0] if len(models[0][key].shape) > 1]


def test_a_name_that_fits_two_towers_is_an_ambiguity():
    state, other = two()
    towers = prefixed(state, "text.") | prefixed(other, "vision.")
    with pytest.raises(MatchError, match=r"fit the base in more than one way: with 'text\.', with 'vision\.'"):
        open_pairs(towers, state)


def test_names_as_they_are_come_before_any_prefix():
    state, tuned = two()
    own = {key: value for key, value in tuned.items() if "layers.0" in key} | {"new.weight": torch.ones(2, 2)}
    base = state | prefixed(weights(5), "vision.")
    assert list(read(base, own)) == [key for key in MATRICES if "layers.0" in key]


def test_more_names_win_over_fewer():
    state, tuned = two()
    base = prefixed(state, "text.") | {"vision.layers.0.attn.q_proj.weight": torch.ones(12, 12)}
    assert [key.removeprefix("text.") for key in read(base, tuned)] == MATRICES


def test_pairs_come_in_base_order(tmp_path):
    base, tuned = two()
    backwards = dict(reversed(list(tuned.items())))
    assert list(read(base, backwards)) == MATRICES
    assert list(read(dict(reversed(list(base.items()))), tuned)) == MATRICES[::-1]


HALVES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("tuned_dtype", HALVES)
@pytest.mark.parametrize("base_dtype", HALVES)
def test_both_sides_are_upcast_before_they_are_subtracted(base_dtype, tuned_dtype):
    base = {key: value.to(base_dtype) for key, value in weights(1, torch.float64).items()}
    tuned = {key: value.to(tuned_dtype) for key, value in two(torch.float64)[1].items()}
    for key, pair in read(base, tuned).items():
        exact = tuned[key].double() - base[key].double()
        assert pair.update.dense().dtype == pair.base.dtype == torch.float32
        assert torch.equal(pair.to_stored(pair.update.dense()), exact.float())
        assert pair.base_storage.dtype == str(base_dtype).removeprefix("torch.")


def test_a_float64_update_below_float32_is_not_lost():
    base = {"w.weight": torch.ones(4, 4, dtype=torch.float64)}
    pair = read(base, {"w.weight": base["w.weight"] + 1e-12})["w.weight"]
    torch.testing.assert_close(pair.update.dense(), torch.full((4, 4), 1e-12), rtol=1e-3, atol=0)


@pytest.mark.parametrize("rows", [40, 64])
def test_a_resized_vocabulary_is_compared_on_the_common_rows(rows):
    base = weights(1)
    tuned = weights(2, shapes=SHAPES | {"embed_tokens.weight": (rows, 12), "lm_head.weight": (rows, 12)})
    found = read(base, tuned)
    common = min(rows, 50)
    for key in ("embed_tokens.weight", "lm_head.weight"):
        expected = tuned[key][:common] - base[key][:common]
        assert torch.equal(found[key].to_stored(found[key].update.dense()), expected)
        more = "the tuned side" if rows > 50 else "the base"
        assert found[key].notes == (f"{abs(rows - 50)} rows that only {more} has are left out (vocabulary)",)


MISFITS = {
    "width": ("layers.0.attn.q_proj.weight", (12, 9), r"base is \[12, 12\] and the tuned weight is \[12, 9\]"),
    "transposed": ("layers.0.attn.k_proj.weight", (12, 6), "Transposed they would fit"),
    "dimensions": ("layers.0.conv.weight", (8, 24), r"base is \[8, 4, 3, 2\] and the tuned weight is \[8, 24\]"),
    "kernel": ("layers.0.conv.weight", (8, 4, 2, 3), r"base is \[8, 4, 3, 2\] and the tuned weight is \[8, 4, 2, 3\]"),
    "rows": ("layers.0.attn.q_proj.weight", (13, 12), r"is \[13, 12\]"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_shapes_that_disagree_are_refused_when_opened(name):
    key, shape, message = MISFITS[name]
    with pytest.raises(MatchError, match=message):
        open_pairs(weights(1), weights(2, shapes=SHAPES | {key: shape}))


def test_everything_left_out_is_listed_once_with_its_reason():
    base, tuned = two()
    base |= {
        "counts": torch.arange(6).reshape(2, 3),
        "attn.bias": torch.ones(1, 1, 4, 4),
        "only.in_base.weight": torch.ones(3, 3),
        "classifier.weight": torch.ones(2, 12),
        "mlp.experts.gate_up_proj": torch.ones(3, 4, 5),
        "tied.weight": base["lm_head.weight"],
    }
    tuned |= {key: base[key] for key in ("counts", "attn.bias", "mlp.experts.gate_up_proj")}
    tuned |= {"only.in_tuned.weight": torch.ones(3, 3), "classifier.weight": torch.ones(5, 12)}
    with open_pairs(base, tuned) as pairs:
        assert list(pairs.keys) == [*MATRICES, "mlp.experts.gate_up_proj"]
        assert dict(pairs.skipped) == {
            "layers.0.norm.weight": "a vector or scalar: it has no singular vectors",
            "layers.1.attn.q_proj.bias": "a vector or scalar: it has no singular vectors",
            "counts": "stored as int64: not a floating-point weight",
            "attn.bias": "a bias or a mask of shape [1, 1, 4, 4], not a weight",
            "only.in_base.weight": "not in the tuned checkpoint",
            "only.in_tuned.weight": "not in the base",
            "classifier.weight": "a head of another size: [2, 12] in the base, [5, 12] tuned",
            "tied.weight": "tied: it shares its storage with 'lm_head.weight'",
        }
        assert len(pairs.skipped) == len(dict(pairs.skipped))


def tied(seed):
    state = weights(seed)
    return state | {"lm_head.weight": state["embed_tokens.weight"]}


@pytest.mark.parametrize("write", [write_single, write_bin])
def test_a_tied_weight_counts_once(tmp_path, write):
    kept = {key: value for key, value in tied(2).items() if write is write_bin or key != "lm_head.weight"}
    with open_pairs(tied(1), on_disk(write, kept, tmp_path / "tuned")) as pairs:
        assert list(pairs.keys) == MATRICES[:-1]
        assert dict(pairs.skipped)["lm_head.weight"] == "tied: it shares its storage with 'embed_tokens.weight'"


def test_a_tied_weight_kept_under_its_other_name_is_found():
    base, tuned = tied(1), weights(2)
    del tuned["embed_tokens.weight"]
    found = read(base, tuned)
    assert torch.equal(found["embed_tokens.weight"].update.dense(), tuned["lm_head.weight"] - base["lm_head.weight"])
    assert list(found) == MATRICES[:-1]


def test_a_weight_untied_by_training_is_read_on_its_own():
    base, tuned = tied(1), weights(2)
    require_same(read(base, tuned), base, tuned)


def test_a_head_the_base_does_not_store_is_told_from_a_stranger(tmp_path):
    base, tuned = two()
    del base["lm_head.weight"]
    folder = on_disk(write_single, base, tmp_path / "base")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": True}))
    with open_pairs(folder, tuned) as pairs:
        reason = dict(pairs.skipped)["lm_head.weight"]
    assert reason == "in the base it is tied to 'embed_tokens.weight' and not stored"


def test_gpt2_matrices_have_outputs_as_rows():
    shapes = {"h.0.attn.c_attn.weight": (8, 24), "h.0.attn.c_proj.weight": (8, 8), "wte.weight": (30, 8)}
    base, tuned = two(shapes=shapes)
    found = read(base, tuned)
    assert found["h.0.attn.c_attn.weight"].shape == (24, 8)
    assert torch.equal(found["h.0.attn.c_proj.weight"].base, base["h.0.attn.c_proj.weight"].T)
    assert found["wte.weight"].shape == (30, 8)


SQUARE = {"h.0.attn.c_proj.weight": (8, 8), "h.0.mlp.gate.weight": (8, 8)}
ORIENTED = {
    "model type": ({"model_type": "gpt2"}, SQUARE, {"h.0.attn.c_proj.weight"}),
    "model type of a part": ({"model_type": "a", "decoder": {"model_type": "gpt2"}}, SQUARE, {"h.0.attn.c_proj.weight"}),
    "another model type": ({"model_type": "gpt_bigcode"}, SQUARE, set()),
    "nothing known": ({}, SQUARE, set()),
    "a wide fused weight": ({}, SQUARE | {"h.0.attn.c_attn.weight": (8, 24)}, {"h.0.attn.c_proj.weight", "h.0.attn.c_attn.weight"}),
    "a tall fused weight": ({"model_type": "qwen"}, SQUARE | {"h.0.attn.c_attn.weight": (24, 8)}, set()),
}  # fmt: skip


@pytest.mark.parametrize("name", ORIENTED)
def test_orientation_is_decided_by_the_architecture(tmp_path, name):
    config, shapes, transposed = ORIENTED[name]
    base, tuned = two(shapes=shapes)
    folder = on_disk(write_single, base, tmp_path / "base")
    (folder / "config.json").write_text(json.dumps(config))
    assert {key for key, pair in read(folder, tuned).items() if pair.layout.kind == "transposed"} == transposed


def test_include_and_exclude_choose_and_the_rest_is_listed():
    base, tuned = two()
    with open_pairs(base, tuned, include=["q_proj", "layers.0.*"], exclude=["conv"]) as pairs:
        assert pairs.keys == (
            "layers.0.attn.q_proj.weight",
            "layers.0.attn.k_proj.weight",
            "layers.1.attn.q_proj.weight",
        )
        left = {key for key, reason in pairs.skipped if reason == "left out by include / exclude"}
    assert left == {"embed_tokens.weight", "layers.0.conv.weight", "lm_head.weight"}


def test_a_filter_that_leaves_nothing_names_the_nearest():
    base, tuned = two()
    with pytest.raises(InputError, match=r"no weight matches layers.9.attn.q_proj.weight\. The nearest name is"):
        open_pairs(base, tuned, include=["layers.9.attn.q_proj.weight"])


ASKED = {
    "layers.0.attn.q_porj.weight": r"Did you mean 'layers\.0\.attn\.q_proj\.weight'\?",
    "layers.0.norm.weight": "is not analysed: a vector or scalar",
    "zzz": "is not among the analysed weights",
}


@pytest.mark.parametrize("key", ASKED)
def test_a_pair_that_is_not_there_is_refused_with_help(key):
    base, tuned = two()
    with open_pairs(base, tuned) as pairs, pytest.raises(InputError, match=ASKED[key]):
        pairs.pair(key)


def test_a_pair_can_be_read_by_its_key_and_again():
    base, tuned = two()
    with open_pairs(base, tuned) as pairs:
        once, twice = pairs.pair("lm_head.weight"), pairs.pair("lm_head.weight")
        assert len(pairs) == len(list(pairs)) == len(list(pairs)) == len(MATRICES)
    assert torch.equal(once.update.dense(), twice.update.dense())
    assert torch.equal(once.tuned(), tuned["lm_head.weight"])


def test_a_model_of_other_names_is_refused_with_the_nearest():
    base, tuned = two()
    with pytest.raises(MatchError, match=r"(?s)reasons:\n.*'xlayers.*the nearest there: 'layers"):
        open_pairs(
            base,
            {
                key.replace("layers", "xlayers").replace("embed_", "x").replace("lm_", "y"): v
                for key, v in tuned.items()
            },
        )


STRANGE = {
    "lora_A": ("layers.0.attn.q_proj.lora_A.weight", "LoRA \\(PEFT\\).*adapter_config.json"),
    "kohya": ("lora_unet_x.lora_down.weight", "LoRA \\(kohya"),
    "prompt": ("base_model.prompt_embeddings", "It has no weight update"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_adapter_tensors_without_their_configuration_are_refused_by_name(name):
    key, message = STRANGE[name]
    with pytest.raises(UnsupportedError, match=message):
        open_pairs(weights(1), {key: torch.ones(4, 12)})


def test_a_model_that_is_no_model_is_refused():
    with pytest.raises(InputError, match="an object of type list is neither a path"):
        open_pairs(weights(1), [1, 2])


def test_a_quantisation_that_only_the_configuration_names_is_refused(tmp_path):
    base, tuned = two()
    packed = base | {"layers.0.attn.q_proj.weight": torch.ones(12, 6, dtype=torch.uint8)}
    folder = on_disk(write_single, packed, tmp_path / "base")
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "newest"}}))
    with pytest.raises(UnsupportedError, match="stored packed by newest"):
        open_pairs(folder, tuned)


def test_one_pattern_may_be_given_as_plain_text():
    base = {"a.q_proj.weight": torch.eye(4), "a.v_proj.weight": torch.eye(4)}
    tuned = {name: 2 * weight for name, weight in base.items()}
    with open_pairs(base, tuned, include="q_proj") as pairs:
        assert pairs.keys == ("a.q_proj.weight",)
    with open_pairs(base, tuned, exclude="q_proj") as pairs:
        assert pairs.keys == ("a.v_proj.weight",)


def test_an_integer_weight_is_refused_for_what_it_is():
    with pytest.raises(MatchError, match="stored as int8"):
        open_pairs({"w.weight": torch.ones(4, 4, dtype=torch.int8)}, {"w.weight": torch.eye(4)})
