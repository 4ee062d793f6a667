"""Next-token training and its loss in bits per byte."""

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

WINDOWS_AT_ONCE = 16


@dataclass(frozen=True)
class HeldOut:
    """Windows to score: tokens [windows, context], and the bytes of the tokens scored, the first of a window is not."""

    windows: torch.Tensor
    scored_bytes: int


def held_out(tokens: torch.Tensor, token_bytes: torch.Tensor, context: int, most: int) -> HeldOut:
    """The first `most` windows of a text, not overlapping."""
    count = min(len(tokens) // context, most)
    windows = tokens[: count * context].view(count, context)
    return HeldOut(windows, int(token_bytes[windows[:, 1:].long()].sum()))


@torch.no_grad()
def bits_per_byte(model: torch.nn.Module, text: HeldOut) -> float:
    """The sum of -log2 p over every scored token, over the bytes they stand for. In the model's own float32."""
    training = model.training
    model.eval()
    nats = 0.0
    with torch.compiler.set_stance("force_eager"):  # nothing is compiled a second time, for this, in the midst of it
        for windows in text.windows.split(WINDOWS_AT_ONCE):
            tokens = windows.long()
            logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].flatten(0, 1).float()
            nats += functional.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="sum").item()
    model.train(training)
    return nats / math.log(2) / text.scored_bytes


def learning_rate_at(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first 3 % of the steps, then a cosine down to a hundredth."""
    warmup = max(1, steps * 3 // 100)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def new_optimizer(model: torch.nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW on all that is trained; only matrices decay."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in trained if weight.ndim >= 2], "weight_decay": weight_decay},
        {"params": [weight for weight in trained if weight.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], betas=(0.9, 0.95), fused=trained[0].is_cuda)


@contextmanager
def compiled_blocks(model: torch.nn.Module, backend: str | Callable[..., Any] = "inductor") -> Iterator[None]:
    """Within, the transformer blocks of `model` run compiled: one block is compiled, the others are like it.

    So a run pays for one block instead of all, and runs of one shape in a process share it. What cannot be compiled
    runs as it is.
    """
    blocks = [part for name, part in model.named_modules() if name.rpartition(".")[0].endswith("model.layers")]
    with torch._dynamo.config.patch(recompile_limit=64, accumulated_recompile_limit=4096, suppress_errors=True):
        for block in blocks:
            block.compile(backend=backend)
        try:
            yield
        finally:
            for block in blocks:
                block._compiled_call_impl = None


def train(
    model: torch.nn.Module,
    tokens: torch.Tensor,
    *,
    context: int,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    weight_decay: float = 0.0,
    look_at: Collection[int] = (),
    look: Callable[[int], None] | None = None,
    after_step: Callable[[int], None] | None = None,
) -> None:
    """Train `model` in place on windows drawn at random from the seed, in bfloat16 autocast, gradients clipped at 1.

    look : called with the number of steps made, whenever that is in look_at. after_step : called after each step while
    the gradients are still there (AdaLoRA prunes by them).
    """
    draw = torch.Generator().manual_seed(seed)
    optimizer = new_optimizer(model, weight_decay)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    offsets = torch.arange(context, device=tokens.device)
    model.train()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step - 1, steps, learning_rate)
        starts = torch.randint(len(tokens) - context + 1, (batch, 1), generator=draw).to(tokens.device)
        windows = tokens[starts + offsets].long()
        with torch.autocast(tokens.device.type, dtype=torch.bfloat16):
            loss = model(input_ids=windows, labels=windows, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if after_step is not None:
            after_step(step)
        optimizer.zero_grad(set_to_none=True)
        if look is not None and step in look_at:
            look(step)
