"""Matrices from host memory to a CUDA device while it computes: pinned, double-buffered, one batch ahead."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch


class _Slot:
    """One pinned buffer, and the event after which it may be overwritten."""

    def __init__(self) -> None:
        self.buffer: torch.Tensor | None = None
        self.read = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def filled(self, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
        shape = (len(matrices), *matrices[0].shape)
        self.read.synchronize()
        if self.buffer is None or self.buffer.shape != shape or self.buffer.dtype != matrices[0].dtype:
            self.buffer = torch.empty(shape, dtype=matrices[0].dtype, pin_memory=True)
        for place, matrix in zip(self.buffer, matrices, strict=True):
            place.copy_(matrix)
        return self.buffer


def feed(batches: Iterable[Sequence[torch.Tensor]], device: str) -> Iterator[torch.Tensor]:
    """Yield each batch of host matrices of one shape and dtype as one tensor [g, m, n] on a CUDA device.

    While the caller computes on one batch, the next is copied into pinned memory by a thread and from there to
    the device on a stream of its own. Two batches are on the device and two in pinned memory at a time.
    """
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    slots = (_Slot(), _Slot())

    def send(batch: Sequence[torch.Tensor], slot: _Slot) -> tuple[torch.Tensor, torch.cuda.Event]:
        pinned = slot.filled(batch)
        with torch.cuda.stream(stream):
            sent = pinned.to(device, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(stream)
            slot.read = arrived
        return sent, arrived

    with ThreadPoolExecutor(1) as pool:
        waiting: Future[tuple[torch.Tensor, torch.cuda.Event]] | None = None
        for number, batch in enumerate(batches):
            coming = pool.submit(send, batch, slots[number % 2])
            if waiting is not None:
                yield _received(*waiting.result())
            waiting = coming
        if waiting is not None:
            yield _received(*waiting.result())


def _received(sent: torch.Tensor, arrived: torch.cuda.Event) -> torch.Tensor:
    current = torch.cuda.current_stream(sent.device)
    current.wait_event(arrived)
    sent.record_stream(current)
    return sent
