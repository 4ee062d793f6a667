"""Matrices from host memory to a CUDA device while it computes: pinned, double-buffered, one batch ahead."""

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

Sent = tuple[torch.Tensor, torch.cuda.Event]


class _Slot:
    """One pinned buffer, and the event after which it may be overwritten."""

    def __init__(self) -> None:
        self.buffer: torch.Tensor | None = None
        self.read = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def filled(self, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
        shape, dtype = (len(matrices), *matrices[0].shape), matrices[0].dtype
        self.read.synchronize()
        size = math.prod(shape) * dtype.itemsize
        if self.buffer is None or len(self.buffer) < size:
            self.buffer = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        batch = self.buffer[:size].view(dtype).view(shape)
        for place, matrix in zip(batch, matrices, strict=True):
            place.copy_(matrix)
        return batch


class Feed:
    """Two pinned buffers and a stream, kept from one run of batches to the next."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._slots = (_Slot(), _Slot())

    def __call__(self, batches: Iterable[Sequence[torch.Tensor]]) -> Iterator[torch.Tensor]:
        """Yield each batch of host matrices of one shape and dtype as one tensor [g, m, n] on the device.

        While the caller computes on one batch, the next is copied into pinned memory by a thread and from there to
        the device on the feed's own stream. Two batches are on the device and two in pinned memory at a time.
        """
        with ThreadPoolExecutor(1) as pool:
            waiting: Future[Sent] | None = None
            for number, batch in enumerate(batches):
                coming = pool.submit(self._send, batch, self._slots[number % 2])
                if waiting is not None:
                    yield _received(*waiting.result())
                waiting = coming
            if waiting is not None:
                yield _received(*waiting.result())

    def _send(self, batch: Sequence[torch.Tensor], slot: _Slot) -> Sent:
        pinned = slot.filled(batch)
        with torch.cuda.stream(self._stream):
            sent = pinned.to(self.device, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(self._stream)
            slot.read = arrived
        return sent, arrived


def _received(sent: torch.Tensor, arrived: torch.cuda.Event) -> torch.Tensor:
    current = torch.cuda.current_stream(sent.device)
    current.wait_event(arrived)
    sent.record_stream(current)
    return sent
