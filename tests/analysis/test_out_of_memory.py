"""A matrix that does not fit becomes a row that says how much the method asked for would need."""

import pytest
import torch

from spectra import testing
from spectra.analysis import batches, stream
from spectra.analysis.diagnosis import diagnose
from spectra.analysis.settings import Settings
from spectra.engine.choose import Request

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


def test_a_batch_without_room_is_halved(monkeypatch):
    sizes = []

    def of_two_at_most(pairs, request, base=None):
        sizes.append(len(pairs))
        if len(pairs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [pair.key for pair in pairs]

    monkeypatch.setattr(batches, "certified_batch", of_two_at_most)
    pairs = [testing.weight_pair(torch.eye(4), torch.eye(4), key=str(place)) for place in range(7)]
    assert batches._answer(pairs, Request(), None) == [str(place) for place in range(7)]
    assert sizes == [7, 3, 1, 2, 4, 2, 2]


def test_a_matrix_without_room_on_the_device_is_answered_on_the_cpu(monkeypatch):
    plain = stream.decompose

    def on_the_cpu_alone(pair, request, *, base):
        if request.device != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(pair, request, base=base)

    monkeypatch.setattr(stream, "decompose", on_the_cpu_alone)
    pair = testing.weight_pair(TUNED["w.weight"], torch.eye(256))
    found, notes = stream._decomposed(pair, Request(device="cuda"), None)
    assert len(found.base_values) == 256
    assert notes == ("answered on the CPU: the memory of cuda ran out",)
