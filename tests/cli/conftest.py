"""Small models on disk and a way to run the command line in this process."""

import json

import pytest
import torch
from safetensors.torch import save_file

from spectra.cli.main import main


@pytest.fixture
def run(capsys, monkeypatch):
    """Run `spectra WORDS` on a terminal 100 wide and return (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "100")

    def _run(*words):
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return _run


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A base, a full fine-tune, an adapter that intrudes, and one that was never trained."""
    folder = tmp_path_factory.mktemp("models")
    generator = torch.Generator().manual_seed(0)
    names = [f"model.layers.{block}.self_attn.{kind}.weight" for block in range(2) for kind in ("q_proj", "v_proj")]
    base = {name: torch.randn(96, 96, generator=generator) for name in names}
    base["model.norm.weight"] = torch.ones(96)
    for name in ("base", "full", "lora", "untrained"):
        (folder / name).mkdir()
    save_file(base, folder / "base" / "model.safetensors")
    full = {name: weight + 0.02 * torch.randn(weight.shape, generator=generator) for name, weight in base.items()}
    save_file(full, folder / "full" / "model.safetensors")
    for name, strength in (("lora", 6.0), ("untrained", 0.0)):
        tensors = {}
        for key in names:
            module = f"base_model.model.{key.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = torch.randn(4, 96, generator=generator)
            tensors[f"{module}.lora_B.weight"] = strength * torch.randn(96, 4, generator=generator) / 4
        save_file(tensors, folder / name / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
        (folder / name / "adapter_config.json").write_text(json.dumps(config))
    return folder
