"""A matrix that does not fit becomes a row that says how much the method asked for would need."""

import pytest
import torch

from spectra.analysis import stream
from spectra.analysis.diagnosis import diagnose
from spectra.analysis.settings import Settings

BASE = {"w.weight": torch.eye(256)}
TUNED = {"w.weight": torch.eye(256) + 0.1 * torch.ones(256, 256)}


@pytest.mark.parametrize("method", ["exact", "basis", "certified", "auto"])
def test_the_refusal_states_the_memory_of_the_method(method, monkeypatch):
    def full(*arguments, **options):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(stream, "decompose", full)
    monkeypatch.setitem(stream.COPIES, method, 2**13)  # a small matrix would need 0.0 GB
    (row,) = diagnose(BASE, TUNED, settings=Settings(method=method, device="cpu")).rows
    assert row.status == "oom"
    assert row.reason == f"out of memory: 256 x 256 needs about 2.0 GB with the method {method}"


def test_the_certified_path_states_the_least():
    assert stream.COPIES["certified"] == min(stream.COPIES.values())
    assert stream.COPIES["auto"] == max(stream.COPIES.values())
