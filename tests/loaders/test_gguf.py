"""Bases in GGUF: written with llama.cpp's own package from models of transformers, and read back in the Hub's words.

What the converter of llama.cpp does is repeated here with its package's table of names and its formulas; adapters
and their true updates are PEFT's. Cases converted by llama.cpp itself are in test_oracle.
"""

import json
import os
import struct
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spectra import open_pairs
from spectra.errors import FormatError, InputError, MachineError, MatchError, UnsupportedError
from spectra.layout import Layout
from spectra.loaders import gguf_names
from spectra.loaders.base import open_base
from spectra.loaders.inspection.inspect import inspect

os.environ.setdefault("HF_HUB_OFFLINE", "1")
gguf = pytest.importorskip("gguf")
quants = pytest.importorskip("gguf.quants")
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (
        "`is_gradient_checkpointing` is deprecated",  # transformers, of itself
        "Could not find a config file",  # PEFT, which looks for the base of a model that was never saved
        "Unable to fetch remote file",
    )
]

Q8_0, Q4_0 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0
HEADS, KV, WIDTH = 4, 2, 32
SMALL = {
    "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": HEADS,
    "num_key_value_heads": KV, "vocab_size": 40,
}  # fmt: skip
# general.architecture -> the class of transformers that is converted to it, and what its configuration needs beside.
FAMILIES = {
    "llama": ("LlamaForCausalLM", SMALL),
    "mistral3": ("MistralForCausalLM", SMALL),
    "smollm3": ("SmolLM3ForCausalLM", {**SMALL, "pad_token_id": 0}),
    "granite": ("GraniteForCausalLM", SMALL),
    "qwen2": ("Qwen2ForCausalLM", SMALL),
    "qwen3": ("Qwen3ForCausalLM", {**SMALL, "head_dim": 16}),
    "gemma": ("GemmaForCausalLM", {**SMALL, "head_dim": 16}),
    "gemma2": ("Gemma2ForCausalLM", {**SMALL, "head_dim": 16}),
    "gemma3": ("Gemma3ForCausalLM", {**SMALL, "head_dim": 16}),
    "phi2": ("PhiForCausalLM", {**SMALL, "num_key_value_heads": HEADS}),
    "phi3": ("Phi3ForCausalLM", {**SMALL, "pad_token_id": 0}),
    "starcoder2": ("Starcoder2ForCausalLM", SMALL),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": WIDTH, "n_layer": 2, "n_head": HEADS, "vocab_size": 40, "n_positions": 16}),
}
INTERLEAVED = ("llama", "mistral3", "smollm3", "granite")
CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def write(path, architecture, tensors, *, heads=HEADS, kv=KV, kinds=None, **told):
    """Write a GGUF file with llama.cpp's package; kinds : the quantisation of tensors, by a part of their name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(
        path, architecture, **{key: told.pop(key) for key in list(told) if key.startswith("split")}
    )
    if heads:
        writer.add_head_count(heads)
        writer.add_head_count_kv(kv)
    for key, value in told.items():
        writer.add_string(key, value) if isinstance(value, str) else writer.add_uint32(key, value)
    for name, tensor in tensors.items():
        kind = next((kind for part, kind in (kinds or {}).items() if part in name), None)
        value = np.ascontiguousarray(tensor.detach().numpy())
        if kind is None:
            writer.add_tensor(name, value)
        else:
            writer.add_tensor(name, quants.quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def interleaved(weight, heads):
    """Reorder rows as llama.cpp's converter does, one by one: row j d/2 + i of a head goes to its row 2 i + j."""
    size = weight.shape[0] // heads
    turned = torch.empty_like(weight)
    for head in range(heads):
        for i in range(size // 2):
            for j in (0, 1):
                turned[head * size + 2 * i + j] = weight[head * size + j * size // 2 + i]
    return turned


def converted(model, architecture):
    """The tensors of a model of transformers under GGUF's names, as the converter of llama.cpp lays them."""
    known = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(known, 2)
    made = {}
    for key, value in model.state_dict().items():
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if key == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        if architecture in INTERLEAVED and "q_proj" in key and value.ndim > 1:
            value = interleaved(value, HEADS)
        if architecture in INTERLEAVED and "k_proj" in key and value.ndim > 1:
            value = interleaved(value, KV)
        made[name] = value.T if architecture == "gpt2" and key.endswith(CONV1D) else value
    return made


def plain(key):
    return key.removeprefix("base_model.model.")


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request, tmp_path_factory):
    """A model of transformers, the same in GGUF, and an adapter of it with the true update of each of its modules."""
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    name, sizes = FAMILIES[request.param]
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    model = kind(kind.config_class(**sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    folder = tmp_path_factory.mktemp(request.param)
    stored = {key: value.clone() for key, value in model.state_dict().items()}
    told = {"heads": HEADS, "kv": model.config.to_dict().get("num_key_value_heads", HEADS)}
    file = write(folder / "model.gguf", request.param, converted(model, request.param), **told)
    settings = {"fan_in_fan_out": True} if request.param == "gpt2" else {}
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", **settings))
    true = {}
    for path, module in tuned.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            with torch.no_grad():
                module.lora_B["default"].weight.normal_()
            true[plain(path) + ".weight"] = module.get_delta_weight("default").detach()
    tuned.save_pretrained(folder / "adapter")
    return request.param, file, stored, folder / "adapter", true


def as_matrix(architecture, key, value):
    return value.T if architecture == "gpt2" and key.endswith(CONV1D) else value


def test_an_adapter_of_the_hub_on_a_base_in_gguf(family):
    architecture, file, stored, adapter, true = family
    with open_pairs(file, adapter) as pairs:
        found = {pair.name: pair for pair in pairs}
    assert found.keys() == true.keys()
    for key, pair in found.items():
        assert torch.equal(pair.base, as_matrix(architecture, key, stored[key])), key
        torch.testing.assert_close(pair.update.dense(), as_matrix(architecture, key, true[key]), rtol=1e-5, atol=1e-5)
        assert pair.key.startswith("blk.")


def test_a_fine_tune_of_the_hub_on_a_base_in_gguf_and_the_other_way(family, tmp_path):
    architecture, file, stored, _, _ = family
    tuned = {key: value + 0.1 * draw(*value.shape) for key, value in stored.items()}
    tied = architecture in ("gpt2", "gemma", "gemma2", "gemma3", "starcoder2", "smollm3")
    matrices = {key for key, value in stored.items() if value.ndim > 1 and not (tied and key == "lm_head.weight")}
    save_file({key: tuned[key] for key in tuned if not (tied and key == "lm_head.weight")}, tmp_path / "m.safetensors")
    for base, other, sign in ((file, tmp_path / "m.safetensors", 1), (tmp_path / "m.safetensors", file, -1)):
        with open_pairs(base, other) as pairs:
            found = {pair.name: pair for pair in pairs}
            skipped = {key for key, reason in pairs.skipped if "vector" not in reason}
        assert found.keys() == matrices
        assert not skipped
        for key, pair in found.items():
            difference = sign * (tuned[key] - stored[key])
            expected = pair.layout.to_matrix(difference) if sign < 0 else as_matrix(architecture, key, difference)
            assert torch.allclose(pair.update.dense(), expected, atol=1e-5), key


def test_to_stored_gives_back_the_order_of_the_file(family):
    architecture, file, _, adapter, _ = family
    with open_pairs(file, adapter) as pairs:
        for pair in pairs:
            raw = pairs.base.source.tensor(pair.key)
            assert torch.equal(pair.to_stored(pair.base), raw)
            turned = architecture in INTERLEAVED and ("attn_q." in pair.key or "attn_k." in pair.key)
            assert bool(pair.layout.heads) == turned
            assert torch.equal(raw, pair.base) == (not turned)


@pytest.mark.parametrize(
    ("heads", "size", "columns"), [(1, 2, 3), (4, 8, 5), (3, 2, 1), (2, 6, 4), (1, 2, 0), (2, 0, 3)]
)
def test_interleaved_rows_follow_their_law(heads, size, columns):
    matrix = torch.arange(heads * size * columns, dtype=torch.float32).reshape(heads * size, columns)
    layout = Layout("linear", tuple(matrix.shape), heads)
    assert torch.equal(layout.to_stored(layout.to_matrix(matrix)), matrix)
    assert torch.equal(layout.to_matrix(layout.to_stored(matrix)), matrix)
    if columns and size:
        assert torch.equal(layout.to_stored(matrix), interleaved(matrix, heads))


def test_every_name_of_the_table_is_llama_cpps():
    for architecture, spelling in gguf_names._SPELLINGS.items():
        known = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
        names = gguf.get_tensor_name_map(known, 8)
        made = {gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[known]}
        for part, name in spelling.outside.items():
            if part in made:
                assert names.get_name(name) == part, (architecture, name)
        for part, name in spelling.inside.items():
            if f"blk.{{bid}}.{part}" in made:
                hub = f"{spelling.blocks}.5.{name.replace('experts.#', 'experts')}"
                assert names.get_name(hub) == f"blk.5.{part}", (architecture, name)


# ---- heads, tied and others


def llama(folder, *, tied=False, kinds=None, name="model.gguf", seed=0, architecture="llama", **told):
    """A Llama of one block in GGUF, and its tensors as the Hub has them."""
    hub = {
        "model.embed_tokens.weight": draw(40, WIDTH, seed=seed),
        "model.layers.0.self_attn.q_proj.weight": draw(32, WIDTH, seed=seed + 1),
        "model.layers.0.self_attn.k_proj.weight": draw(16, WIDTH, seed=seed + 2),
        "model.layers.0.mlp.down_proj.weight": draw(WIDTH, 64, seed=seed + 3),
        "model.norm.weight": draw(WIDTH, seed=seed),
    }
    if not tied:
        hub["lm_head.weight"] = draw(40, WIDTH, seed=seed + 4)
    own = dict(zip(("token_embd", "blk.0.attn_q", "blk.0.attn_k", "blk.0.ffn_down", "output_norm", "output"), hub.values(),
                   strict=False))  # fmt: skip
    own["blk.0.attn_q"], own["blk.0.attn_k"] = (
        interleaved(own["blk.0.attn_q"], HEADS),
        interleaved(own["blk.0.attn_k"], KV),
    )
    tensors = {f"{key}.weight": value for key, value in own.items()}
    return write(folder / name, architecture, tensors, kinds=kinds, **told), hub


def lora(folder, modules, **config):
    """An adapter of rank 2 with its updates; modules : name -> (out, in)."""
    folder.mkdir(exist_ok=True)
    tensors, true = {}, {}
    for place, (name, (m, n)) in enumerate(modules.items()):
        A, B = draw(2, n, seed=place), draw(m, 2, seed=place + 9)
        tensors |= {f"base_model.model.{name}.lora_A.weight": A, f"base_model.model.{name}.lora_B.weight": B}
        true[f"{name}.weight"] = 2 * B @ A
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config}))
    return folder, true


def test_a_tied_head_adapts_the_embedding(tmp_path):
    file, hub = llama(tmp_path, tied=True)
    adapter, true = lora(tmp_path / "a", {"lm_head": (40, WIDTH)})
    with open_pairs(file, adapter) as pairs:
        (pair,) = pairs
    assert (pair.key, pair.name) == ("token_embd.weight", "model.embed_tokens.weight")
    assert torch.equal(pair.base, hub["model.embed_tokens.weight"])
    torch.testing.assert_close(pair.update.dense(), true["lm_head.weight"])


def test_a_head_of_its_own_is_adapted_itself(tmp_path):
    file, hub = llama(tmp_path)
    adapter, _ = lora(tmp_path / "a", {"lm_head": (40, WIDTH)})
    with open_pairs(file, adapter) as pairs:
        (pair,) = pairs
    assert pair.key == "output.weight"
    assert torch.equal(pair.base, hub["lm_head.weight"])


def test_a_grown_vocabulary_is_compared_on_its_common_rows(tmp_path):
    file, hub = llama(tmp_path)
    tuned = {key: value.clone() for key, value in hub.items()}
    tuned["model.embed_tokens.weight"] = torch.cat([hub["model.embed_tokens.weight"] + 1, draw(3, WIDTH)])
    with open_pairs(file, tuned, include="embed_tokens") as pairs:
        (pair,) = pairs
    assert pair.shape == (40, WIDTH)
    torch.testing.assert_close(pair.update.dense(), torch.ones(40, WIDTH))
    assert "3 rows" in pair.notes[0]


def test_weights_saved_in_full_beside_an_adapter_are_placed_by_the_hubs_names(tmp_path):
    file, hub = llama(tmp_path)
    name = "model.layers.0.self_attn.q_proj"
    adapter, _ = lora(tmp_path / "a", {"model.layers.0.mlp.down_proj": (WIDTH, 64)}, modules_to_save=["q_proj"])
    from safetensors.torch import load_file

    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors[f"base_model.model.{name}.weight"] = hub[f"{name}.weight"] + 0.5
    save_file(tensors, adapter / "adapter_model.safetensors")
    with open_pairs(file, adapter) as pairs:
        pair = pairs.pair("blk.0.attn_q.weight")
    torch.testing.assert_close(pair.update.dense(), torch.full((32, WIDTH), 0.5))


def test_patterns_choose_by_either_name(tmp_path):
    file, hub = llama(tmp_path)
    for pattern in ("q_proj", "attn_q", "model.layers.0.self_attn.q*", "blk.0.attn_q.weight"):
        with open_pairs(file, dict(hub), include=pattern) as pairs:
            assert pairs.keys == ("blk.0.attn_q.weight",)
    with open_pairs(file, dict(hub), exclude=("layers", "embd")) as pairs:
        assert pairs.keys == ("output.weight",)


# ---- what the file is made of


def test_storage_and_notes_say_what_the_base_is(tmp_path):
    file, hub = llama(tmp_path, kinds={"attn_q": Q8_0, "ffn_down": Q4_0}, **{"general.file_type": 15})
    with open_pairs(file, dict(hub)) as pairs:
        assert pairs.notes == ("the base is dequantised from Q4_K_M",)
        q, down, head = (pairs.pair(f"{key}.weight") for key in ("blk.0.attn_q", "blk.0.ffn_down", "output"))
    assert (q.base_storage.dtype, q.base_storage.parameters, q.base_storage.bytes) == ("Q8_0", 32 * 32, 32 * 34)
    assert (down.base_storage.dtype, down.base_storage.bytes) == ("Q4_0", 32 * 2 * 18)
    assert (head.base_storage.dtype, head.base_storage.bytes) == ("float32", 40 * WIDTH * 4)
    assert q.notes == ("dequantised from Q8_0: dW holds the error of quantisation too",)
    assert head.notes == ()
    assert 0 < q.update.dense().abs().max() < 0.05


def test_types_are_named_where_the_file_does_not_name_its_mixture(tmp_path):
    file, hub = llama(tmp_path, kinds={"attn_q": Q8_0, "ffn_down": Q4_0})
    with open_pairs(file, dict(hub)) as pairs:
        assert pairs.notes == ("the base is dequantised from Q8_0, Q4_0",)


def test_without_the_package_only_quantised_files_are_refused(tmp_path, monkeypatch):
    plain, _ = llama(tmp_path / "plain")
    packed, _ = llama(tmp_path / "packed", kinds={"attn_q": Q8_0})
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setitem(sys.modules, "gguf.quants", None)
    assert open_base(plain).matrix("blk.0.attn_q.weight").shape == (32, WIDTH)
    with pytest.raises(MachineError, match=r"pip install 'spectra-weights\[gguf\]'"):
        open_base(packed)


def test_a_type_that_the_package_does_not_know_is_refused_before_anything_is_read(tmp_path):
    file = write(tmp_path / "m.gguf", "llama", {"blk.0.ffn_up.weight": draw(4, 128)})
    raw = file.read_bytes()
    place = raw.index(b"blk.0.ffn_up.weight") + 19 + 4 + 16
    file.write_bytes(raw[:place] + struct.pack("<I", 41) + raw[place + 4 :])  # Q1_0: one block of 18 bytes a row
    with pytest.raises(UnsupportedError, match=r"Q1_0.*does not dequantise"):
        open_base(file)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_plain_types_are_read_to_the_bit(tmp_path, dtype):
    tensors = {"token_embd.weight": draw(7, 5).to(dtype), "a.weight": draw(3, 2, 4).to(dtype)}
    base = open_base(write(tmp_path / "m.gguf", "llama", tensors))
    for key, value in tensors.items():
        assert torch.equal(base.source.tensor(key), value)
        assert base.tensors[key].bytes == value.numel() * dtype.itemsize


def test_large_tensors_are_dequantised_in_slabs(tmp_path, monkeypatch):
    values = draw(70, 64)
    file = write(tmp_path / "m.gguf", "llama", {"token_embd.weight": values}, kinds={"token": Q8_0})
    expected = quants.dequantize(quants.quantize(values.numpy(), Q8_0), Q8_0)
    monkeypatch.setattr("spectra.loaders.gguf_tensors._SLAB", 4 * 64 * 16)
    assert np.array_equal(open_base(file).matrix("token_embd.weight").numpy(), expected)


# ---- experts


@pytest.mark.parametrize("kind", [None, Q8_0])
def test_experts_are_read_one_by_one(tmp_path, kind):
    before, after = draw(3, 8, 32), draw(3, 8, 32, seed=5)
    kinds = {"exps": kind} if kind else None
    for name, values in (("a", before), ("b", after)):
        tensors = {"blk.0.ffn_up_exps.weight": values, "blk.0.ffn_gate_inp.weight": draw(3, 32)}
        write(tmp_path / f"{name}.gguf", "qwen3moe", tensors, kinds=kinds)
    with open_pairs(tmp_path / "a.gguf", tmp_path / "b.gguf", include="exps") as pairs:
        found = list(pairs)
    assert [pair.index for pair in found] == [0, 1, 2]
    for pair in found:
        exact = [torch.from_numpy(quants.dequantize(quants.quantize(v.numpy(), Q8_0), Q8_0)) if kind else v
                 for v in (before, after)]  # fmt: skip
        assert torch.equal(pair.base, exact[0][pair.index])
        torch.testing.assert_close(pair.update.dense(), (exact[1] - exact[0])[pair.index])
        assert pair.base_storage.parameters == 8 * 32


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("llama", "model.layers.0.block_sparse_moe.experts.{}.w3"),
        ("qwen2moe", "model.layers.0.mlp.experts.{}.up_proj"),
        ("qwen3moe", "model.layers.0.mlp.experts.{}.up_proj"),
    ],
)
def test_experts_of_the_hub_find_their_place_in_a_stack(tmp_path, architecture, names):
    stack, gate = draw(3, 8, 32), draw(3, 32)
    file = write(
        tmp_path / "m.gguf", architecture, {"blk.0.ffn_up_exps.weight": stack, "blk.0.ffn_gate_inp.weight": gate}
    )
    tuned = {f"{names.format(number)}.weight": stack[number] + number + 1 for number in range(3)}
    with open_pairs(file, tuned) as pairs:
        found = list(pairs)
        assert dict(pairs.skipped) == {"blk.0.ffn_gate_inp.weight": "not in the tuned checkpoint"}
    assert [(pair.key, pair.index, pair.name) for pair in found] == [
        ("blk.0.ffn_up_exps.weight", number, f"{names.format(number)}.weight") for number in range(3)
    ]
    for number, pair in enumerate(found):
        torch.testing.assert_close(pair.update.dense(), torch.full((8, 32), number + 1.0))
    adapter, true = lora(tmp_path / "a", {names.format(number): (8, 32) for number in (2, 0)})
    with open_pairs(file, adapter) as pairs:
        found = {pair.index: pair for pair in pairs}
    assert found.keys() == {0, 1, 2}
    for number in (0, 2):
        torch.testing.assert_close(found[number].update.dense(), true[f"{names.format(number)}.weight"])
    assert not found[1].update.dense().any()


def test_experts_that_are_not_all_there_or_differ_are_said(tmp_path):
    file = write(
        tmp_path / "m.gguf", "llama", {"blk.0.ffn_up_exps.weight": draw(3, 8, 32), "token_embd.weight": draw(9, 32)}
    )
    names = [f"model.layers.0.block_sparse_moe.experts.{number}.w3.weight" for number in range(3)]
    tuned = {name: draw(8, 32, seed=place) for place, name in enumerate(names)}
    tuned["model.embed_tokens.weight"] = draw(9, 32)
    with open_pairs(file, {name: value for name, value in tuned.items() if name != names[1]}) as pairs:
        assert pairs.keys == ("token_embd.weight",)
        assert dict(pairs.skipped).keys() == {"blk.0.ffn_up_exps.weight", names[0], names[2]}
    with pytest.raises(MatchError, match=r"experts\.1\.w3\.weight' is \[8, 31\], unlike the experts beside it"):
        open_pairs(file, {**tuned, names[1]: draw(8, 31)})


def test_experts_of_old_files_are_tensors_of_their_own(tmp_path):
    file = write(tmp_path / "m.gguf", "llama", {"blk.0.ffn_up.2.weight": draw(8, 32)})
    tuned = {"model.layers.0.block_sparse_moe.experts.2.w3.weight": draw(8, 32, seed=3)}
    with open_pairs(file, tuned) as pairs:
        (pair,) = pairs
    assert pair.name == next(iter(tuned))


# ---- split files


def split(folder, **told):
    tensors = {f"blk.{block}.ffn_up.weight": draw(6, 4, seed=block) for block in range(5)}
    write(folder / "model.gguf", "llama", tensors, split_max_tensors=2, **told)
    return tensors, sorted(folder.glob("*.gguf"))


def test_a_split_model_is_read_from_its_folder_and_its_first_file(tmp_path):
    tensors, files = split(tmp_path)
    assert [file.name for file in files] == [f"model-{n:05d}-of-00003.gguf" for n in (1, 2, 3)]
    for path in (tmp_path, files[0]):
        base = open_base(path)
        assert base.source.header.container == "GGUF, 3 shards"
        assert [record.name for record in base.source.header.files] == [file.name for file in files]
        for key, value in tensors.items():
            assert torch.equal(base.matrix(key), value)


def test_a_split_model_that_is_not_whole_is_refused(tmp_path):
    _, files = split(tmp_path)
    with pytest.raises(FormatError, match=r"not the first file of its model: give 'model-00001-of-00003\.gguf'"):
        open_base(files[1])
    raw = files[2].read_bytes()
    files[2].unlink()
    with pytest.raises(FormatError, match=r"1 file of its 3 missing \(model-00003-of-00003\.gguf\)"):
        open_base(files[0])
    files[2].write_bytes(files[1].read_bytes())
    with pytest.raises(FormatError, match="does not say that it is file 3"):
        open_base(files[0])
    files[2].write_bytes(raw.replace(b"blk.4.", b"blk.0."))
    with pytest.raises(FormatError, match="stands in an earlier file too"):
        open_base(files[0])
    files[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(FormatError, match="one of 3 files of a model and not named so"):
        open_base(tmp_path / "renamed.gguf")


def test_several_models_in_a_folder_are_named(tmp_path):
    llama(tmp_path, name="a-Q4_K_M.gguf")
    llama(tmp_path, name="a-Q8_0.gguf")
    with pytest.raises(InputError, match=r"several weights files \(a-Q4_K_M\.gguf, a-Q8_0\.gguf\)"):
        open_base(tmp_path)


# ---- what is refused


def test_an_architecture_that_is_not_known_is_compared_with_itself_only(tmp_path):
    file, hub = llama(tmp_path, architecture="falcon")
    other, _ = llama(tmp_path, name="b.gguf", seed=7, architecture="falcon")
    with open_pairs(file, other) as pairs:
        assert len(pairs) == 5
        assert all(pair.name == pair.key for pair in pairs)
    adapter, _ = lora(tmp_path / "a", {"model.layers.0.self_attn.q_proj": (32, WIDTH)})
    for tuned in (dict(hub), adapter):
        with pytest.raises(
            UnsupportedError, match="the architecture falcon, whose names and order of rows are not known"
        ):
            open_pairs(file, tuned)
    with pytest.raises(UnsupportedError, match="falcon"):
        open_pairs(hub, file)


@pytest.mark.parametrize(
    ("heads", "kv", "kind", "words"),
    [
        (None, None, UnsupportedError, r"does not tell one number of attention heads for all blocks \(none\)"),
        ([4, 8], [2, 2], UnsupportedError, r"\(2 items\)"),
        (0, 0, UnsupportedError, r"\(0\)"),
        (5, 2, FormatError, "32 rows, no 5 heads of an even size"),
    ],
)
def test_rows_without_known_heads_are_refused(tmp_path, heads, kv, kind, words):
    file = write(tmp_path / "m.gguf", "llama", {"blk.0.attn_q.weight": draw(32, 8)}, heads=heads, kv=kv) if heads != 0 else (
        write(tmp_path / "m.gguf", "llama", {"blk.0.attn_q.weight": draw(32, 8)}, heads=None,
              **{"llama.attention.head_count": 0}))  # fmt: skip
    with pytest.raises(kind, match=words):
        open_pairs(file, {"model.layers.0.self_attn.q_proj.weight": draw(32, 8, seed=2)})


def test_heads_of_k_are_those_of_q_where_the_file_names_none(tmp_path):
    weight = draw(32, 8)
    told = {"llama.attention.head_count": HEADS}
    file = write(tmp_path / "m.gguf", "llama", {"blk.0.attn_k.weight": interleaved(weight, HEADS)}, heads=None, **told)
    assert torch.equal(open_base(file).matrix("blk.0.attn_k.weight"), weight)


def test_shapes_that_disagree_are_refused_with_the_name_of_the_hub(tmp_path):
    file, _ = llama(tmp_path)
    adapter, _ = lora(tmp_path / "a", {"model.layers.0.self_attn.q_proj": (24, WIDTH)})
    with pytest.raises(MatchError, match=r"q_proj.*\[32, 32\].*\[24, 32\]"):
        open_pairs(file, adapter)


def test_an_adapter_is_no_base(tmp_path):
    file = write(
        tmp_path / "a.gguf", "llama", {"blk.0.attn_q.weight.lora_a": draw(2, 8)}, **{"general.type": "adapter"}
    )
    with pytest.raises(MatchError, match="is an adapter"):
        open_base(file)


# ---- inspection


def test_inspection_says_that_it_is_read(tmp_path):
    file, _ = llama(tmp_path, kinds={"attn_q": Q8_0}, **{"general.file_type": 7})
    for path in (tmp_path, file):
        found = inspect(path)
        assert (found.container, found.readable, found.suspicious) == ("GGUF", True, ())
        assert found.dtypes == {"float32": 5, "Q8_0": 1}
        assert found.blocks == {"blk": (0,)}
    _, files = split(tmp_path / "split")
    assert (inspect(files[0]).container, inspect(files[0]).tensors) == ("GGUF, 3 shards", 5)


# ---- real files


def test_a_real_adapter_on_a_real_quantised_base(real_data, real_bases):
    file = real_bases / "gemma-3-270m-q4_k_m.gguf"
    if not file.is_file():
        pytest.skip("gemma-3-270m-q4_k_m.gguf is not among the real bases (see CONTRIBUTING)")
    for folder in (real_data / "pairs" / "gemma3_270m").iterdir():
        with open_pairs(file, folder, include="layers.3.") as pairs:
            found = list(pairs)
            assert pairs.notes[0] == "the base is dequantised from Q4_K_M"
        assert found
        for pair in found:
            assert pair.name.startswith("model.layers.3.self_attn.")
            assert pair.update.factors is not None
            assert 0.01 < pair.base.std() < 0.1
