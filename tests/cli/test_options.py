"""The command line takes options at their word, refuses them, or says that they had no effect; and paths likewise."""

import json

import pytest
import torch
from safetensors.torch import save_file

COMMANDS = {
    "diagnose": ("diagnose", "BASE", ""),
    "the base": ("diagnose", "", "BASE"),
    "compare": ("compare", "BASE", "--lora", "a="),
    "a fleet": ("compare", "BASE", "--fleet", ""),
    "sweep": ("sweep", "", "BASE"),
    "overlap": ("overlap", "BASE", "BASE", ""),
    "card": ("card", "BASE", ""),
    "base": ("base", ""),
    "inspect": ("inspect", ""),
    "initial": ("diagnose", "BASE", "BASE", "--initial", ""),
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_an_empty_path_is_refused_as_one(run, models, words):
    code, out, err = run(*(models / "base" if word == "BASE" else word for word in words))
    assert (code, out) == (2, "")
    assert err.startswith("error: an empty path names no file") or "takes NAME=PATH" in err


@pytest.mark.parametrize("words", [("--alpha", "5"), ("--alpha", "-5"), ("--truncate", "8")])
@pytest.mark.parametrize("name", ["lora", "full"])
def test_an_option_without_effect_is_refused(run, models, name, words):
    code, out, err = run("diagnose", models / "base", models / name, *words)
    assert (code, out) == (2, "")
    assert f"`{words[0]}" in err
    assert f"'{name}'" in err
    assert err.endswith("Leave it out.\n")


def test_in_a_comparison_it_need_only_serve_one(run, models):
    words = ("compare", models / "base", "--lora", f"l={models / 'lora'}", "--full", f"f={models / 'full'}")
    code, out, _ = run(*words, "--truncate", "2", "--json", "-")
    assert code == 0
    found = json.loads(out)["models"]
    assert found["l"]["provenance"]["tuned"]["ranks"] == [2]
    assert "'full' is a full fine-tune: it has no effect here" in found["f"]["provenance"]["notes"][-1]
    code, _, err = run(*words, "--alpha", "5")
    assert code == 2
    assert "that of 'lora' is 8" in err


def test_a_folder_without_weights_says_where_they_are_to_every_command(run, models):
    said = "holds no weights itself, but these do: base, full, lora, untrained. Name one.\n"
    for words in (("diagnose", models, models / "full"), ("diagnose", models / "base", models), ("inspect", models)):
        code, _, err = run(*words)
        assert code == 3
        assert err.endswith(said)


@pytest.fixture
def prompt(tmp_path):
    save_file({"prompt_embeddings": torch.randn(5, 64)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING"}')
    return tmp_path


def test_what_is_about_updates_of_weights_is_refused_of_an_adapter_without(run, models, prompt):
    options = {"--alpha": "5", "--truncate": "2", "--epsilon": "0.4", "--include": "q", "--initial": prompt,
               "--method": "exact", "--spectrum": "exact", "--side": "both"}  # fmt: skip
    for option, value in options.items():
        code, _, err = run("diagnose", models / "base", prompt, option, value)
        assert code == 2, option
        assert f"error: {option} is for weight updates, and '{prompt.name}' (prompt tuning) has none." in err


def test_a_prompt_that_fits_no_embedding_is_named_by_its_file(run, models, tmp_path):
    torch.save(torch.randn(5, 64), tmp_path / "soft.pt")
    code, _, err = run("diagnose", models / "base", tmp_path / "soft.pt")
    assert code == 3
    assert err.startswith("error: the prompt of 'soft.pt' has vectors of 64 numbers")


def test_inspect_says_what_diagnose_does_with_it(run, prompt):
    _, out, _ = run("inspect", prompt)
    assert "reads this: yes, for the matrices it inserts (prompt tuning), each measured" in " ".join(out.split())
    tensors = {
        f"w_{side}_{number:03}": torch.zeros(shape)
        for side, shape in (("a", (4, 8)), ("b", (8, 4)))
        for number in range(2)
    }
    save_file(tensors, prompt / "vit.safetensors")
    _, out, _ = run("inspect", prompt / "vit.safetensors")
    assert "give `--alpha NUMBER` (alpha=), and `--names FILE` (names=)" in " ".join(out.split())
    save_file({key: value for key, value in tensors.items() if "_a_" in key}, prompt / "half.safetensors")
    _, out, _ = run("inspect", prompt / "half.safetensors")
    assert "no, because a factor is missing: 000, 001" in " ".join(out.split())
