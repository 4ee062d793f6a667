"""Crafting files that are broken or hostile, and one way to check a refusal."""

import json
import struct
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spectra.analysis.diagnosis import diagnose as run_diagnosis
from spectra.errors import InputError
from spectra.loaders.pairing import open_pairs

MATRICES = tuple(f"model.layers.{block}.self_attn.{name}_proj.weight" for block in range(3) for name in "qkvo")
SECONDS = 2.0


def safetensors_bytes(header: dict | str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file with this header, whatever it says; `length` may lie."""
    raw = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def weights(*, seed: int, names: tuple[str, ...] = MATRICES, size: int = 16) -> dict[str, torch.Tensor]:
    """Draw square float32 matrices under the given names."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(size, size, generator=generator) for name in names}


def write_adapter(folder: Path, tensors: dict[str, torch.Tensor], **config: object) -> Path:
    """Write an adapter folder; keys are given without PEFT's prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {f"base_model.model.{key}": tensor.contiguous() for key, tensor in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    document = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **config}
    (folder / "adapter_config.json").write_text(json.dumps(document))
    return folder


def factors(modules: tuple[str, ...], *, m: int = 16, n: int = 16, rank: int = 4, seed: int = 7) -> dict:
    """Draw lora_A and lora_B for each module."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for module in modules:
        found[f"{module}.lora_A.weight"] = torch.randn(rank, n, generator=generator)
        found[f"{module}.lora_B.weight"] = 0.1 * torch.randn(m, rank, generator=generator)
    return found


def write_model(folder: Path, tensors: dict[str, torch.Tensor], config: dict | None = None) -> Path:
    """Write a checkpoint folder of one safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


class Craft:
    """The functions above, for tests: `craft.safetensors(...)`."""

    names = MATRICES
    modules = tuple(name.removesuffix(".weight") for name in MATRICES)
    safetensors = staticmethod(safetensors_bytes)
    weights = staticmethod(weights)
    adapter = staticmethod(write_adapter)
    factors = staticmethod(factors)
    model = staticmethod(write_model)


@pytest.fixture(scope="session")
def craft():
    return Craft


@pytest.fixture
def base(tmp_path):
    """A base of twelve 16 x 16 matrices."""
    return write_model(tmp_path / "base", weights(seed=0))


@pytest.fixture
def diagnose():
    """`spectra.diagnose` without its drawing: the rows of base and tuned."""
    return run_diagnosis


@pytest.fixture
def refused(tmp_path):
    """Call and check the refusal: its class, its exit code, its speed, and a message fit to be read."""

    def _refused(call, *fragments, kind=InputError, exit_code=3, lines=1):
        started = time.process_time()
        with pytest.raises(kind) as caught:
            call()
        message = str(caught.value)
        assert caught.value.exit_code == exit_code
        assert time.process_time() - started < SECONDS
        for fragment in fragments:
            assert fragment in message
        assert message.endswith((".", "?", "on.")), "a message is sentences"
        assert all(line.isprintable() for line in message.split("\n")), "nothing in it steers a terminal"
        assert len(message.split("\n")) <= lines
        assert len(message) < 400 + 300 * (lines - 1)
        assert str(tmp_path) not in message or f"'{tmp_path}" in message, "no paths but those typed"
        return message

    return _refused


@pytest.fixture
def pairs():
    """Open pairs and read every one of them, as an analysis does."""

    def _pairs(base, tuned, **options):
        with open_pairs(base, tuned, **options) as opened:
            return {pair.key: pair for pair in opened}

    return _pairs
