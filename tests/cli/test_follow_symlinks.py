"""Every command that opens a checkpoint refuses a link that leaves its folder, and has `--follow-symlinks`."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

import spectra
from spectra import testing
from spectra.cli import demo
from spectra.errors import UnsafeFileError

LEAVES = "is a link that leaves"


@pytest.fixture
def linked(models, tmp_path):
    """A copy of the models: the weights of `base`, `full` and `lora` are links to files outside their folders."""
    folder = tmp_path / "linked"
    for name, weights in (("base", "model"), ("full", "model"), ("lora", "adapter_model")):
        (folder / name).mkdir(parents=True)
        for path in (models / name).iterdir():
            if path.name == f"{weights}.safetensors":
                (folder / name / path.name).symlink_to(path)
            else:
                shutil.copy(path, folder / name)
    return folder


COMMANDS = {
    "inspect": ["inspect", "{linked}/lora"],
    "diagnose, tuned": ["diagnose", "{models}/base", "{linked}/lora"],
    "diagnose, base": ["diagnose", "{linked}/base", "{models}/lora"],
    "compare": ["compare", "{models}/base", "--lora", "{linked}/lora", "--full", "{linked}/full"],
    "compare, base": ["compare", "{linked}/base", "--lora", "{models}/lora"],
    "compare, guide": ["compare", "{linked}/base", "--guide"],
    "overlap": ["overlap", "{models}/base", "{models}/lora", "{linked}/full"],
    "overlap, base": ["overlap", "{linked}/base", "{models}/lora", "{models}/full"],
    "sweep": ["sweep", "{models}/base", "{linked}/lora", "--scales", "0,1"],
    "sweep, alphas": ["sweep", "{models}/base", "{linked}/lora", "--scales", "0,1", "--alpha-pattern", "-"],
    "base": ["base", "{linked}/base", "--dry-run"],
    "card": ["card", "{models}/base", "{linked}/lora", "--dry-run"],
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_every_command_asks_before_it_follows_a_link_that_leaves(run, models, linked, words):
    (linked / "lora" / "README.md").write_text("# A model\n")
    words = [word.format(models=models, linked=linked) for word in words]
    code, out, err = run(*words)
    assert (code, out) == (3, "")
    assert LEAVES in err
    code, _, err = run(*words, "--follow-symlinks")
    assert (code, LEAVES in err) == (0, False)


def test_a_fleet_is_a_folder_too(run, models, tmp_path):
    fleet = tmp_path / "fleet"
    fleet.mkdir()
    (fleet / "one").symlink_to(models / "lora")
    code, _, err = run("compare", models / "base", "--fleet", fleet)
    assert code == 3
    assert f"'one' {LEAVES} 'fleet'" in err
    assert run("compare", models / "base", "--fleet", fleet, "--follow-symlinks")[0] == 0


def test_the_library_asks_too(linked, models):
    calls = {
        "guide": lambda **option: spectra.guide(linked / "base", **option),
        "fill_base_cache": lambda **option: spectra.fill_base_cache(
            linked / "base", include=["0.self_attn.q_proj"], **option
        ),
        "diagnose": lambda **option: spectra.diagnose(models / "base", linked / "lora", **option),
        "sweep": lambda **option: spectra.sweep(models / "base", linked / "lora", scales=[1], **option),
        "overlap": lambda **option: spectra.overlap(linked / "base", models / "lora", models / "full", **option),
        "compare": lambda **option: spectra.compare(linked / "base", {"lora": models / "lora"}, **option),
    }
    for call in calls.values():
        with pytest.raises(UnsafeFileError, match=LEAVES):
            call()
        assert call(follow_symlinks=True)


def test_an_adapter_without_weight_updates_is_held_to_it(run, tmp_path):
    base = testing.save_checkpoint(tmp_path / "base", testing.llama(seed=0, blocks=1, width=8, vocabulary=8))
    prompt = tmp_path / "prompt"
    prompt.mkdir()
    (prompt / "adapter_config.json").write_text(json.dumps({"peft_type": "PROMPT_TUNING"}))
    save_file({"prompt_embeddings": torch.ones(3, 8)}, tmp_path / "outside.safetensors")
    (prompt / "adapter_model.safetensors").symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(UnsafeFileError, match=LEAVES):
        spectra.insertions(base, prompt)
    assert len(spectra.insertions(base, prompt, follow_symlinks=True).rows) == 1
    assert run("diagnose", base, prompt)[0] == 3
    assert run("diagnose", base, prompt, "--follow-symlinks")[0] == 0


def test_the_demo_runs_from_files_that_an_installer_linked(run, trio, tmp_path, monkeypatch):
    for path in trio.rglob("*"):
        link = tmp_path / "spectra" / "demo" / path.relative_to(trio)
        link.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            link.symlink_to(path)
    monkeypatch.setattr(demo, "__file__", str(tmp_path / "spectra" / "cli" / "demo.py"))
    (tmp_path / "spectra" / "cli").mkdir()
    code, out, err = run("demo", "--into", tmp_path / "written")
    assert (code, "Held-out loss" in out) == (0, True), err
    assert sorted(path.name for path in (tmp_path / "written").iterdir()) == ["compare.html", "report.html"]
