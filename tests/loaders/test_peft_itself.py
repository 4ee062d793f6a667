"""Methods without a family are read through PEFT, a module at a time: it must say what our families say."""

import importlib.util
import json

import pytest
import torch

from spectra import open_pairs
from spectra.errors import SpectraError, UnsupportedError
from spectra.loaders.adapters.families import peft_itself
from spectra.loaders.adapters.families import table as families

pytestmark = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="PEFT is not installed")

ALONE = [
    ("LOHA", "loha"), ("LOKR", "lokr"), ("HRA", "hra"), ("FOURIERFT", "fourierft"), ("C3A", "c3a"), ("MISS", "miss"),
    ("HIRA", "hira"), ("OFT", "oft_cayley_neumann"), ("DELORA", "delora"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "case"), ALONE, ids=[case for _, case in ALONE])
def test_peft_one_module_at_a_time_is_the_truth(oracle, require_right, monkeypatch, method, case):
    monkeypatch.delitem(families.FAMILIES, method)
    folder = oracle / case
    with open_pairs(folder / "base", folder / "adapter") as pairs:
        assert f"{method} (through PEFT)" == pairs.info.method
        assert any("merges it, one module at a time" in note for note in pairs.notes)
        require_right(folder, pairs, "truth")


def test_what_peft_cannot_merge_alone_is_refused_with_the_remedy(oracle, monkeypatch):
    """The configuration of IA3 ties its modules together: one alone is no valid one."""
    monkeypatch.delitem(families.FAMILIES, "IA3")
    refused = pytest.raises(UnsupportedError, match=r"cannot merge this IA3 module alone .*Merge the adapter with PEFT")
    with open_pairs(oracle / "ia3" / "base", oracle / "ia3" / "adapter") as pairs, refused:
        list(pairs)


def test_a_method_that_nothing_knows_is_refused_by_name(oracle, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(
        (oracle / "loha" / "adapter" / "adapter_model.safetensors").read_bytes()
    )
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "NEVER_HEARD"}))
    with pytest.raises(UnsupportedError, match=r"NEVER_HEARD.*merge it"):
        open_pairs(oracle / "loha" / "base", folder)


def test_without_peft_the_refusal_says_how_to_get_it(oracle, monkeypatch):
    monkeypatch.delitem(families.FAMILIES, "LOHA")
    monkeypatch.setattr(families, "through_peft", lambda config: None)
    monkeypatch.setattr(families, "installed", lambda: False)
    with pytest.raises(SpectraError, match="pip install"):
        open_pairs(oracle / "loha" / "base", oracle / "loha" / "adapter")


def test_nothing_random_is_left_behind(oracle, monkeypatch):
    """PEFT draws initial factors: the caller's generator must not notice."""
    monkeypatch.delitem(families.FAMILIES, "LOHA")
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    with open_pairs(oracle / "loha" / "base", oracle / "loha" / "adapter") as pairs:
        next(iter(pairs))
    assert torch.equal(torch.randn(4), expected)
    assert peft_itself.installed()
