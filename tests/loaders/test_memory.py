"""One matrix in memory at a time: what is held stays at a few matrices, whatever the checkpoint's size.

Two numbers of Linux: VmHWM, the peak of all resident pages, and RssAnon, without the pages of mapped files.
The latter the system takes back when it needs them; a torch pickle is mapped, and mapped anew after each window.
ru_maxrss would not do: it keeps the peak of the process that started this one.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spectra import open_pairs
from spectra.errors import InputError

COUNT, SIDE = 30, 1024  # 30 matrices of 4 MB
LIMIT_MB = 60
READ = """
import re, sys
from pathlib import Path
import torch
from spectra import open_pairs
from spectra.loaders import source

def resident(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

with open_pairs({"w.weight": torch.ones(8, 8)}, {"w.weight": torch.zeros(8, 8)}) as pairs:
    sum(float(pair.update.dense().sum()) for pair in pairs)
source._PICKLE_WINDOW = int(sys.argv[3]) or source._PICKLE_WINDOW
before, own, total, held = resident("VmHWM"), resident("RssAnon"), 0.0, []
with open_pairs(sys.argv[1], sys.argv[2]) as pairs:
    for pair in pairs:
        total += float(pair.update.dense().abs().sum())
        held.append(resident("RssAnon"))
print(len(held), total > 0, resident("VmHWM") - before, max(held) - own)
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident pages are read from /proc")


def checkpoint(folder, container, scale):
    folder.mkdir()
    state = {f"layers.{index}.weight": torch.full((SIDE, SIDE), scale * (index + 1)) for index in range(COUNT)}
    if container == "safetensors":
        save_file(state, folder / "model.safetensors")
    else:
        torch.save(state, folder / "pytorch_model.bin")
    return folder


def adapter(folder):
    folder.mkdir()
    names = [f"base_model.model.layers.{index}" for index in range(COUNT)]
    state = {f"{name}.lora_A.weight": torch.ones(4, SIDE) for name in names}
    state |= {f"{name}.lora_B.weight": torch.ones(SIDE, 4) for name in names}
    save_file(state, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    return folder


def growth_while_reading(base, tuned, window=0):
    """Return by how many MB all resident pages, and those of no file, grow in a process that reads every pair."""
    command = [sys.executable, "-c", READ, base, tuned, str(window)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    count, changed, everything, own = done.stdout.split()
    assert (int(count), changed) == (COUNT, "True")
    return float(everything), float(own)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("memory") / "base", "safetensors", 1.0)


@pytest.mark.slow
def test_safetensors_are_read_in_bounded_memory(base, tmp_path):
    everything, own = growth_while_reading(base, checkpoint(tmp_path / "tuned", "safetensors", 1.5))
    assert everything < LIMIT_MB
    assert own < LIMIT_MB


@pytest.mark.slow
def test_an_adapter_is_read_in_bounded_memory(base, tmp_path):
    everything, own = growth_while_reading(base, adapter(tmp_path / "adapter"))
    assert everything < LIMIT_MB
    assert own < LIMIT_MB


@pytest.mark.slow
def test_the_mapped_pages_of_a_pickle_are_bounded_by_its_window(base, tmp_path):
    window_mb = 8  # far below the file's 120 MB
    everything, own = growth_while_reading(base, checkpoint(tmp_path / "tuned", "bin", 1.5), window_mb * 2**20)
    assert everything < LIMIT_MB + window_mb
    assert own < LIMIT_MB


def test_opening_reads_no_weights(tmp_path, monkeypatch):
    pickled = tmp_path / "pickled.bin"
    torch.save({f"layers.{index}.weight": torch.ones(4, SIDE) for index in range(COUNT)}, pickled)

    def refuse(*_, **__):
        raise AssertionError("a weight was read before its turn")

    monkeypatch.setattr(torch, "load", refuse)
    with open_pairs(pickled, pickled) as pairs:
        assert len(pairs) == COUNT
        with pytest.raises(InputError, match="before its turn"):
            pairs.pair("layers.3.weight")
