"""The base: trained from a seed on the general text, or a given one, scored on every text."""

import time

import torch

from benchmarks.study import model as models
from benchmarks.study import training
from benchmarks.study.state import State

SEED = 0


def pretrain(state: State, *, compiled: bool) -> None:
    """Train the base and store it rounded (to bfloat16, as most published bases are); its losses are those as stored.

    AdamW, betas 0.9 and 0.95, weight decay 0.1, cosine to a hundredth. A base that is there already is only scored.
    """
    if "base" in state.done("base"):
        return
    plan, texts = state.plan, state.texts()
    seconds, exact = None, None
    if not (state.base / "config.json").exists():
        model = models.new_model(models.SIZES[plan.size], SEED).to(state.device)
        started = time.perf_counter()
        training.train(
            torch.compile(model) if compiled else model,
            texts.train(plan.general),
            context=plan.context,
            steps=plan.pretrain_steps,
            batch=plan.pretrain_batch,
            learning_rate=plan.pretrain_rate,
            seed=SEED,
            weight_decay=0.1,
            look_at=range(0, plan.pretrain_steps, max(1, plan.pretrain_steps // 10)),
            look=lambda step: print(f"base: step {step}, {time.perf_counter() - started:.0f} s", flush=True),
        )
        seconds = time.perf_counter() - started
        exact = training.bits_per_byte(model, texts.held_out[plan.general])
        models.save(model, state.base, getattr(torch, plan.stored))
    model = models.load(state.base, state.device)
    row = {
        "id": "base",
        "status": "ok",
        "seed": SEED,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "in_blocks": sum(w.numel() for name, w in model.named_parameters() if name.startswith(models.BLOCKS)),
        "steps": plan.pretrain_steps,
        "tokens_seen": plan.pretrain_steps * plan.pretrain_batch * plan.context,
        "seconds": seconds,
        "stored": plan.stored if seconds is not None else "as given",
        "general_loss_before_rounding": exact,
        "losses": {name: training.bits_per_byte(model, text) for name, text in texts.held_out.items()},
    }
    state.append("base", row)
    print("base:", row["losses"], flush=True)
