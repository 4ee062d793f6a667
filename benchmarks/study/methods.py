"""The methods of fine-tuning, through PEFT, on all seven kinds of linear layer."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from benchmarks.study import model as models
from benchmarks.study.runs import FULL, Run

Configure = Callable[[Run], peft.PeftConfig]
TARGETS = list(models.LINEAR)


def _lora(run: Run, **options: Any) -> peft.PeftConfig:
    return peft.LoraConfig(r=run.rank, lora_alpha=run.alpha, lora_dropout=0.0, target_modules=TARGETS, **options)


def _adalora(run: Run) -> peft.PeftConfig:
    """Half as many directions again as wanted at the start, pruned to the rank over the middle of the run."""
    return peft.AdaLoraConfig(
        init_r=run.rank * 3 // 2,
        target_r=run.rank,
        lora_alpha=run.alpha,
        lora_dropout=0.0,
        target_modules=TARGETS,
        tinit=run.steps // 10,
        tfinal=run.steps // 2,
        deltaT=max(1, run.steps // 50),
        total_step=run.steps,
    )


def _vera(run: Run) -> peft.PeftConfig:
    return peft.VeraConfig(r=run.rank, target_modules=TARGETS, projection_prng_key=run.seed, vera_dropout=0.0)


METHODS: Mapping[str, Configure] = {
    "lora": _lora,
    "rslora": lambda run: _lora(run, use_rslora=True),
    "dora": lambda run: _lora(run, use_dora=True),
    "pissa": lambda run: _lora(run, init_lora_weights="pissa"),
    "b-only": _lora,
    "adalora": _adalora,
    "vera": _vera,
}


def prepare(
    model: transformers.PreTrainedModel, run: Run, base: Path, alpha_pattern: Mapping[str, float]
) -> torch.nn.Module:
    """Return `model` ready to be trained by the run's method: itself, or wrapped by PEFT with all else frozen.

    base : the folder that the adapter will name as its base. alpha_pattern : alphas of modules that have their own.
    "b-only" (LoRA-FA, arXiv:2308.03303) is LoRA whose A stays as it was drawn.
    """
    if run.method == FULL:
        return model
    config = METHODS[run.method](run)
    if alpha_pattern:
        config.alpha_pattern = dict(alpha_pattern)
    wrapped = peft.get_peft_model(model, config)
    wrapped.peft_config["default"].base_model_name_or_path = str(base)
    if run.method == "b-only":
        for name, weight in wrapped.named_parameters():
            if "lora_A" in name:
                weight.requires_grad_(False)
    return wrapped


def after_step(model: torch.nn.Module, run: Run) -> Callable[[int], None] | None:
    """What a method does after each step: AdaLoRA prunes."""
    return model.base_model.update_and_allocate if run.method == "adalora" else None


def starts_from_the_base(run: Run) -> bool:
    """Whether the update is zero before training. PiSSA's is not: its first factors are kept beside the last."""
    return run.method != "pissa"


def save(model: torch.nn.Module, folder: Path) -> None:
    """Store the fine-tune in the format that users have: a PEFT folder, or a model folder, in float32."""
    if isinstance(model, peft.PeftModel):
        model.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
    else:
        models.save(model, folder)


def merged(model: torch.nn.Module) -> transformers.PreTrainedModel:
    """Return the plain model with the update added to its weights. The adapter is used up."""
    return model.merge_and_unload() if isinstance(model, peft.PeftModel) else model
