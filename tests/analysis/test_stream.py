"""The pass over the matrices: what cannot be read is a row, and nothing else changes."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import spectra
from spectra import open_pairs, testing
from spectra.analysis import batches
from spectra.analysis.comparison import compare
from spectra.analysis.diagnosis import diagnose
from spectra.analysis.settings import Settings
from spectra.analysis.stream import stream
from spectra.errors import FormatError


def _broken(pairs, keys):
    """Make some pairs of an open model unreadable, as a file that is cut while it is read."""
    for place, planned in list(pairs._plan.pairs.items()):
        if place[0] in keys:

            def fail(key=place[0]):
                raise FormatError(f"'{key}' cannot be read")

            pairs._plan.pairs[place] = replace(planned, build=fail)


@pytest.mark.parametrize("broken", [[0], [1], [2], [0, 2], [1, 2]])
def test_a_pair_that_cannot_be_read_is_a_row_and_the_others_are_as_ever(broken):
    torch.manual_seed(0)
    base = {f"layers.{at}.weight": torch.randn(24, 20) for at in range(3)}
    tuned = {key: weight + 0.1 * torch.randn(24, 20) for key, weight in base.items()}
    settings = Settings(device="cpu")
    keys = list(base)
    with open_pairs(base, tuned) as pairs:
        clean = dict(zip(keys, [row for _, row in stream({"m": pairs}, settings)], strict=True))
        _broken(pairs, [keys[at] for at in broken])
        rows = [row for _, row in stream({"m": pairs}, settings)]
    assert [row.key for row in rows] == keys
    for at, row in enumerate(rows):
        if at in broken:
            assert (row.status, row.reason) == ("failed", f"'{row.key}' cannot be read")
            assert row.shape == (24, 20)
        else:
            assert row.to_dict() == clean[row.key].to_dict()


def test_where_nothing_can_be_read_that_is_the_answer():
    base = {"a.weight": torch.eye(4)}
    with open_pairs(base, {"a.weight": 2 * torch.eye(4)}) as pairs:
        _broken(pairs, ["a.weight"])
        with pytest.raises(FormatError, match="cannot be read"):
            list(stream({"m": pairs}, Settings(device="cpu")))


def _fleet(tmp_path, count=5):
    base = testing.llama(seed=1, blocks=1, width=128, vocabulary=160)
    folder = testing.save_checkpoint(tmp_path / "base", base)
    adapters = {}
    for at in range(count):
        factors = testing.lora(base, ("q_proj", "up_proj"), rank=2 + at, strength=0.6, seed=at)
        adapters[f"user-{at}"] = testing.save_lora(tmp_path / f"user-{at}", factors, alpha=8)
    return folder, adapters


def test_a_fleet_on_a_known_base_is_answered_together_as_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "cache"))
    folder, adapters = _fleet(tmp_path)
    settings = Settings(method="basis", device="cpu", side="both")
    sizes, plain = [], batches.basis_batch

    def counted(pairs, *rest):
        sizes.append(len(pairs))
        return plain(pairs, *rest)

    monkeypatch.setattr(batches, "basis_batch", counted)
    spectra.fill_base_cache(folder)
    together = compare(folder, adapters, settings=settings)
    assert sizes == [5, 5]
    for name, adapter in adapters.items():
        alone = diagnose(folder, adapter, settings=settings)
        for one, other in zip(together.models[name].rows, alone.rows, strict=True):
            assert one.method == other.method == "basis"
            assert one.key == other.key
            assert [side.count for side in one.intruders] == [side.count for side in other.intruders]
            for mine, theirs in zip(one.intruders, other.intruders, strict=True):  # one interval, had in other steps
                assert all(a <= b + 1e-9 for a, b in zip(mine.similarity, theirs.similarity_bound, strict=True))
                assert all(a <= b + 1e-9 for a, b in zip(theirs.similarity, mine.similarity_bound, strict=True))
            assert one.rank.effective == pytest.approx(other.rank.effective)
            assert any("5 updates at once" in note for note in one.notes)
            assert any("from the cache of bases" in note for note in one.notes)


def test_a_broken_member_of_a_fleet_is_a_row_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "cache"))
    folder, adapters = _fleet(tmp_path, 3)
    path = adapters["user-1"] / "adapter_model.safetensors"
    tensors = load_file(path)
    key = next(key for key in tensors if "q_proj.lora_B" in key)
    tensors[key][0, 0] = torch.nan
    save_file(tensors, path)
    spectra.fill_base_cache(folder)
    found = compare(folder, adapters, settings=Settings(method="basis", device="cpu"))
    bad = [(name, row.key) for name, model in found.models.items() for row in model.rows if row.status != "ok"]
    assert bad == [("user-1", "model.layers.0.self_attn.q_proj.weight")]
    assert found.failed == 1
