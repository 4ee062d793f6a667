"""Small files that claim much: refused at once, and nothing that a configuration names is fetched or opened."""

import json
import pickle
import sys
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from spectra import open_pairs
from spectra.errors import FormatError, InputError, MatchError, UnsafeFileError, UnsupportedError
from spectra.loaders.adapters.families import table

BASE = {"model.layers.0.self_attn.q_proj.weight": torch.eye(8)}


def adapter(folder, tensors, config):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def empty(path, key, shape):
    """A safetensors file of one tensor without bytes, whatever it claims."""
    header = json.dumps({key: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


@pytest.mark.parametrize("shape", [[2**40, 0, 4], [70_000, 1, 0]])
def test_a_stack_of_countless_experts_is_refused(tmp_path, shape):
    base = empty(tmp_path / "base.safetensors", "model.layers.0.mlp.experts.gate_up_proj", shape)
    tuned = adapter(
        tmp_path / "a",
        {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(1, 8)},
        {"peft_type": "LORA", "r": 1, "lora_alpha": 1},
    )
    with pytest.raises(FormatError, match="experts"):
        open_pairs(base, tuned)


@pytest.mark.parametrize("shape", [[2**36, 0, 2, 2], [40, 4, 2, 2]])
def test_rotations_of_countless_stages_are_refused(tmp_path, shape):
    folder = tmp_path / "a"
    folder.mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj.boft_R"
    if 0 in shape:
        empty(folder / "adapter_model.safetensors", name, shape)
    else:
        save_file({name: torch.zeros(shape)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "BOFT"}))
    with pytest.raises(InputError):
        open_pairs(BASE, folder)


def test_a_pickle_that_copies_a_list_for_ever_is_refused(tmp_path):
    class Many:
        def __reduce__(self):
            storage = torch.zeros(1).untyped_storage()
            return torch._utils._rebuild_tensor_v2, (storage, 0, [1] * 1000, [1] * 1000, False, {})

    plain = tmp_path / "plain.bin"
    torch.save({"a": torch.zeros(1)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(tmp_path / "m.bin", "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                extents = pickle.dumps((1,) * 1000, protocol=2)[2:-1]
                assert data.count(b"K\x01\x85") >= 1  # the tuple (1,), the shape of a lone number
                data = data.replace(b"K\x01\x85", extents, 1)
            target.writestr(name, data)
    with pytest.raises((UnsafeFileError, FormatError)):
        open_pairs(BASE, tmp_path / "m.bin")


def _watched(events):
    seen = []

    def hook(event, arguments):
        if events and event in ("open", "socket.connect", "socket.getaddrinfo"):
            seen.append((event, str(arguments[0])))

    sys.addaudithook(hook)
    return seen


@pytest.mark.parametrize("known", [True, False])
def test_a_model_that_a_configuration_names_is_never_opened(tmp_path, monkeypatch, known):
    """As ShadowPEFT's does; a method without a family must not pass it on to PEFT either."""
    outside = tmp_path / "outside"
    outside.mkdir()
    config = {"peft_type": "SHADOW", "shadow_model": str(outside), "target_modules": ["q_proj"]}
    folder = adapter(
        tmp_path / "a",
        {"base_model.model.model.layers.0.self_attn.q_proj.shadow_down.weight": torch.ones(2, 8)},
        config,
    )
    if not known:
        pytest.importorskip("peft")
        monkeypatch.setattr(table, "CONDITIONAL", {})
    active = [True]
    seen = _watched(active)
    with pytest.raises(UnsupportedError):
        list(open_pairs(BASE, folder))
    active.clear()
    assert not [event for event in seen if event[0] != "open" or str(outside) in event[1]]


def test_a_unilora_of_two_million_ranks_is_refused(tmp_path):
    config = {
        "peft_type": "UNILORA",
        "r": 2_000_000,
        "proj_seed": 1,
        "peft_version": "0.21.2",
        "target_modules": ["q_proj"],
    }
    folder = adapter(tmp_path / "a", {"base_model.unilora_theta_d": torch.ones(16)}, config)
    with pytest.raises((MatchError, UnsupportedError)):
        list(open_pairs(BASE, folder))
