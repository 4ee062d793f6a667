"""`--spectrum` reaches the engine, and a wrong word is refused by name."""

import json

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(140, 130, generator=generator)
    for name, weight in (("base", base), ("tuned", base + 0.1 * torch.randn(140, 130, generator=generator))):
        (folder / name).mkdir()
        save_file({"a.weight": weight}, folder / name / "model.safetensors")
    return folder


@pytest.mark.parametrize(("word", "estimated"), [("estimated", True), ("exact", False), ("auto", False)])
def test_diagnose_has_the_spectrum_asked_for(run, pair, word, estimated):
    code, out, _ = run("diagnose", pair / "base", pair / "tuned", "--spectrum", word, "--json", "-")
    document = json.loads(out)
    assert code == 0
    assert (document["layers"][0]["rank"]["error"] is not None) == estimated
    assert document["provenance"]["spectrum"] == word


def test_compare_takes_it_too(run, pair):
    code, out, _ = run(
        "compare", pair / "base", "--full", f"f={pair / 'tuned'}", "--spectrum", "estimated", "--json", "-"
    )
    assert code == 0
    assert json.loads(out)["models"]["f"]["layers"][0]["rank"]["error"] is not None


def test_a_wrong_word_is_refused_with_the_nearest(run, pair):
    code, _, err = run("diagnose", pair / "base", pair / "tuned", "--spectrum", "estimate")
    assert code == 2
    assert "spectrum 'estimate' is unknown; did you mean 'estimated'?" in err
