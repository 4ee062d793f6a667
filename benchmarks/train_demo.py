"""Train the small trio that `spectra demo` ships: a base, two LoRA adapters, a full fine-tune.

    python benchmarks/train_demo.py --wikipedia enwik8.gz --out spectra/demo

What it does. It pre-trains a byte-level Llama of 1.6 million parameters on Wikipedia text,
rounds it to float16, and fine-tunes that rounded base three times on Python source: LoRA of
rank 2, LoRA of rank 32 (both through PEFT, on all seven kinds of linear layer) and full
fine-tuning. All weights come from training. Each run tries a few learning rates and keeps the
smallest whose loss on held-out Python text is within 10% of the best, so that loss is a little
optimistic. Everything is stored in float16; the losses in `training.json` are those of the stored
files, read back.

The rule matters, and it was not the first one. A first trio took the rate of the lowest loss; its
updates moved a median of 0.42 (r = 2), 0.93 (r = 32) and 0.71 (full) of the weights' norm, so far
that they no longer look like fine-tunes, and 66, 299 and 177 of the 350 leading directions in the
block matrices were intruders. The rule was changed after that was seen. With the trio that ships
they are 51, 111 and 2, at losses 7%, 6% and 8% above the best. One seed each: an example, no study.

Losses of learning rates that the record in --out already holds are not measured again with
--keep-base; the chosen run is always trained anew.

Data. enwik8, the first 10^8 bytes of an English Wikipedia dump of 2006 (mattmahoney.net/dc;
plain, .gz or .zip): the first 90% trains, the rest is held out. The Python text is the running
Python's own standard library without its tests; every 20th file is held out.

Needs torch, transformers, peft and safetensors. With the defaults it takes about 16 minutes on
one NVIDIA H100. It also runs on a CPU, slowly: try `--steps 2000 --finetune-steps 300
--batch 16 --finetune-batch 16`. Seeds fix the data order and the initial weights; another GPU or
another version of torch still gives slightly different weights.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import os
import platform
import sysconfig
import time
import zipfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is local: nothing is looked up

import peft
import torch
import transformers
from torch.nn import functional

CONTEXT = 512
BASE_NAME = "spectra-demo-base"
LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# Each run of the fine-tuning: the LoRA rank (None: all weights are trained), and what to try.
RUNS: dict[str, tuple[int | None, list[float]]] = {
    "lora-r2": (2, [1e-3, 3e-3, 1e-2, 3e-2]),
    "lora-r32": (32, [1e-3, 3e-3, 1e-2, 3e-2]),
    "full": (None, [1e-4, 3e-4, 1e-3, 3e-3]),
}
WITHIN = 1.1
SELECTION = (
    "the smallest rate tried whose held-out Python loss is within 10% of the best; adopted after a first trio, "
    "chosen by the lowest loss, had 66 (lora-r2), 299 (lora-r32) and 177 (full) intruders in 350 directions"
)
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages"}


# ------------------------------------------------------------------------------------- texts


def read_wikipedia(path: Path) -> tuple[bytes, bytes]:
    """The training and the held-out part of enwik8: plain, gzipped or zipped."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            text = archive.read(archive.namelist()[0])
    else:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    cut = len(text) * 9 // 10
    return text[:cut], text[cut:]


def is_library_source(path: Path) -> bool:
    """Whether a file (relative to the library) is part of it rather than a test or a build's."""
    built = path.name.startswith("_sysconfigdata") or path.parts[0].startswith("config-")
    return not built and not SKIPPED_FOLDERS.intersection(path.parts)


def read_python(library: Path) -> tuple[bytes, bytes]:
    """The library's sources in sorted order: 19 of 20 files to train on, every 20th held out."""
    names = sorted(path.relative_to(library).as_posix() for path in library.rglob("*.py"))
    texts = [(library / name).read_bytes() for name in names if is_library_source(Path(name))]
    train = b"\n".join(text for i, text in enumerate(texts) if i % 20 != 19)
    return train, b"\n".join(texts[19::20])


def as_tensor(text: bytes, device: torch.device) -> torch.Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).to(device)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ------------------------------------------------------------------------------------- model


def new_model() -> transformers.LlamaForCausalLM:
    config = transformers.LlamaConfig(
        vocab_size=256,
        hidden_size=160,
        num_hidden_layers=5,
        num_attention_heads=5,
        num_key_value_heads=5,
        intermediate_size=432,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(config)


def load_model(folder: Path, device: torch.device) -> transformers.LlamaForCausalLM:
    """A stored model, its float16 weights held in float32."""
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.to(device)


def add_lora(model: torch.nn.Module, rank: int) -> peft.PeftModel:
    """Put fresh LoRA layers into `model`, in place; the returned wrapper can store them."""
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=LINEAR_LAYERS)
    wrapped = peft.get_peft_model(model, config)
    wrapped.peft_config["default"].base_model_name_or_path = BASE_NAME
    return wrapped


def round_to_half(model: torch.nn.Module) -> None:
    """Round the trained weights to what float16 can hold, leaving them in float32."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.half().float()


def save(model: transformers.PreTrainedModel | peft.PeftModel, folder: Path) -> None:
    """Store weights and configuration in float16. Spoils `model` for further training."""
    if isinstance(model, peft.PeftModel):
        model.half().save_pretrained(folder, save_embedding_layers=False)
    else:
        model.half().save_pretrained(folder)
    for extra in ("README.md", "generation_config.json"):
        (folder / extra).unlink(missing_ok=True)


# ---------------------------------------------------------------------------------- training


def next_byte_loss(model: torch.nn.Module, windows: torch.Tensor) -> torch.Tensor:
    """Mean loss, in nats per byte, of predicting each byte of a window from those before it."""
    logits = model(input_ids=windows[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


@torch.no_grad()
def evaluate(model: torch.nn.Module, text: torch.Tensor, limit: int) -> float:
    """Loss in float32 on the text's first `limit` bytes, in windows that do not overlap."""
    model.eval()
    width = CONTEXT + 1
    count = min(len(text), limit) // width
    windows = text[: count * width].view(count, width).long()
    losses = [next_byte_loss(model, part).item() * len(part) for part in windows.split(64)]
    return sum(losses) / count


def learning_rate_at(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first 3% of the steps, then a cosine down to a hundredth."""
    warmup = max(1, steps * 3 // 100)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def new_optimizer(model: torch.nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW on all that is trained; only matrices decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = trained[0].is_cuda
    return torch.optim.AdamW([g for g in groups if g["params"]], betas=(0.9, 0.98), fused=fused)


def train(
    model: torch.nn.Module,
    text: torch.Tensor,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    weight_decay: float,
    seed: int,
    compiled: bool,
) -> float:
    """Train `model` in place on windows drawn at random; returns the seconds it took."""
    start = time.perf_counter()
    draw = torch.Generator().manual_seed(seed)
    optimizer = new_optimizer(model, weight_decay)
    weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    network = torch.compile(model) if compiled else model
    offsets = torch.arange(CONTEXT + 1, device=text.device)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, steps, learning_rate)
        starts = torch.randint(len(text) - CONTEXT, (batch, 1), generator=draw)
        windows = text[starts.to(text.device) + offsets].long()
        with torch.autocast(text.device.type, dtype=torch.bfloat16):
            loss = next_byte_loss(network, windows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % max(1, steps // 20) == 0 or step == steps - 1:
            elapsed = time.perf_counter() - start
            print(f"  step {step:6d}  loss {loss.item():.4f}  {elapsed:6.1f} s", flush=True)
    return time.perf_counter() - start


# --------------------------------------------------------------------------------- the recipe


class Recipe:
    """The texts, the options and the record, shared by the pre-training and the three runs."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.out: Path = options.out
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.compiled = self.device.type == "cuda" and not options.no_compile
        wikipedia, python = read_wikipedia(options.wikipedia), read_python(options.python_library)
        source = f"standard library of {options.python_name}"
        texts = {
            "wikipedia-train": ("enwik8, the first 90%", wikipedia[0]),
            "wikipedia": ("enwik8, the last 10%", wikipedia[1]),
            "python-train": (f"{source}, all but every 20th file", python[0]),
            "python": (f"{source}, every 20th file", python[1]),
        }
        self.texts = {name: as_tensor(text, self.device) for name, (_, text) in texts.items()}
        self.record: dict[str, Any] = {
            "seed": options.seed,
            "texts": {
                name: {"source": where, "bytes": len(text), "sha256": sha256(text)}
                for name, (where, text) in texts.items()
            },
            "loss": {
                "bytes_per_held_out_text": options.eval_bytes,
                "windows": f"{CONTEXT + 1} bytes, not overlapping; the first byte is not scored",
                "arithmetic": "float32 on the stored float16 weights",
            },
            "learning_rate_rule": SELECTION,
            "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
            "versions": {
                "python": platform.python_version(),
                **{m.__name__: m.__version__ for m in (torch, transformers, peft)},
            },
        }
        self.known: dict[str, Any] = {}
        if options.keep_base:
            self.known = json.loads((self.out / "training.json").read_text())
            self.record["base"] = self.known["base"]

    def losses(self, model: torch.nn.Module) -> dict[str, dict[str, float]]:
        """What training.json says of a model: its loss on both held-out texts."""
        nats = {name: evaluate(model, self.texts[name], self.options.eval_bytes) for name in ("wikipedia", "python")}
        return {
            name: {"nats_per_byte": round(x, 5), "bits_per_byte": round(x / math.log(2), 5)} for name, x in nats.items()
        }

    def settings(self, steps: int, batch: int, weight_decay: float) -> dict[str, Any]:
        """How a run was trained; `tokens_seen` counts the bytes predicted."""
        return {
            "steps": steps,
            "batch": batch,
            "context": CONTEXT,
            "tokens_seen": steps * batch * CONTEXT,
            "optimizer": f"AdamW, betas 0.9 and 0.98, weight decay {weight_decay}, clip 1.0",
            "schedule": "linear warm-up over 3% of the steps, cosine to 1% of the peak",
        }

    def write_record(self) -> None:
        """Write training.json, with the digests of the weights stored so far."""
        stored = sorted(self.out.glob("*/*.safetensors"))
        self.record["sha256"] = {path.relative_to(self.out).as_posix(): sha256(path.read_bytes()) for path in stored}
        (self.out / "training.json").write_text(json.dumps(self.record, indent=2) + "\n")

    def pretrain(self) -> None:
        """Train the base and store it rounded to float16."""
        options = self.options
        torch.manual_seed(options.seed)
        model = new_model().to(self.device)
        seconds = train(
            model,
            self.texts["wikipedia-train"],
            steps=options.steps,
            batch=options.batch,
            learning_rate=options.learning_rate,
            weight_decay=0.1,
            seed=options.seed,
            compiled=self.compiled,
        )
        before = evaluate(model, self.texts["wikipedia"], options.eval_bytes)
        save(model, self.out / "base")
        stored = load_model(self.out / "base", self.device)
        self.record["base"] = {
            "parameters": sum(parameter.numel() for parameter in stored.parameters()),
            **self.settings(options.steps, options.batch, 0.1),
            "learning_rate": options.learning_rate,
            "seconds": round(seconds, 1),
            "wikipedia_nats_per_byte_before_rounding": round(before, 5),
            "held_out": self.losses(stored),
        }
        print("base", self.record["base"]["held_out"])

    def attempt(
        self, rank: int | None, learning_rate: float
    ) -> tuple[transformers.PreTrainedModel | peft.PeftModel, dict[str, float]]:
        """Fine-tune a fresh copy of the stored base; its Python loss before and after rounding."""
        options = self.options
        torch.manual_seed(options.seed + 1)
        torch.compiler.reset()
        model = load_model(self.out / "base", self.device)
        shell = model if rank is None else add_lora(model, rank)
        seconds = train(
            model,
            self.texts["python-train"],
            steps=options.finetune_steps,
            batch=options.finetune_batch,
            learning_rate=learning_rate,
            weight_decay=0.0,
            seed=options.seed + 1,
            compiled=self.compiled,
        )
        before = evaluate(model, self.texts["python"], options.eval_bytes)
        round_to_half(model)
        after = evaluate(model, self.texts["python"], options.eval_bytes)
        return shell, {
            "learning_rate": learning_rate,
            "python_nats_per_byte_before_rounding": round(before, 5),
            "python_nats_per_byte": round(after, 5),
            "seconds": round(seconds, 1),
        }

    def finetune(self, name: str) -> None:
        """One run: try its learning rates, store the gentlest good one, record the losses of what is stored."""
        rank, learning_rates = RUNS[name]
        known = self.known.get(name, {}).get("learning_rates_tried", [])
        tried = {result["learning_rate"]: result for result in known}
        for learning_rate in learning_rates:
            if learning_rate not in tried:
                _, tried[learning_rate] = self.attempt(rank, learning_rate)
                print(name, tried[learning_rate], flush=True)
        best = min(result["python_nats_per_byte"] for result in tried.values())
        chosen = min(rate for rate, result in tried.items() if result["python_nats_per_byte"] <= WITHIN * best)
        model, tried[chosen] = self.attempt(rank, chosen)
        print(name, "chosen:", tried[chosen], flush=True)
        save(model, self.out / name)
        if rank is None:
            stored = load_model(self.out / name, self.device)
        else:
            base = load_model(self.out / "base", self.device)
            stored = peft.PeftModel.from_pretrained(base, self.out / name)
        self.record[name] = {
            "rank": rank,
            "alpha": None if rank is None else 2 * rank,
            "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            **self.settings(self.options.finetune_steps, self.options.finetune_batch, 0.0),
            "learning_rate": chosen,
            "learning_rates_tried": [tried[rate] for rate in sorted(tried)],
            "held_out": self.losses(stored),
        }
        print(name, self.record[name]["held_out"])


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the trio that `spectra demo` ships.")
    add = parser.add_argument
    add("--wikipedia", type=Path, required=True, help="enwik8: plain, .gz or .zip")
    add("--out", type=Path, required=True, help="folder to write the trio to")
    add("--python-library", type=Path, help="folder of *.py files (this Python's own library)")
    add("--python-name", help="what to call that folder in training.json")
    add("--steps", type=int, default=34500, help="steps of pre-training (%(default)s)")
    add("--batch", type=int, default=128, help="windows a step (%(default)s)")
    add("--learning-rate", type=float, default=4e-3, help="of pre-training (%(default)s)")
    add("--finetune-steps", type=int, default=1500, help="steps a run, 0: none (%(default)s)")
    add("--finetune-batch", type=int, default=64, help="windows a step (%(default)s)")
    add("--eval-bytes", type=int, default=2_000_000, help="scored of each text (%(default)s)")
    add("--seed", type=int, default=0)
    add("--keep-base", action="store_true", help="fine-tune the base that is already in --out")
    add("--no-compile", action="store_true", help="do without torch.compile on the GPU")
    options = parser.parse_args()
    if options.python_library is None:
        options.python_library = Path(sysconfig.get_path("stdlib"))
        options.python_name = f"CPython {platform.python_version()}"
    options.python_name = options.python_name or options.python_library.name
    return options


def main() -> None:
    options = parse_options()
    transformers.utils.logging.disable_progress_bar()
    recipe = Recipe(options)
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.keep_base:
        recipe.pretrain()
        recipe.write_record()
    if options.finetune_steps:
        for name in RUNS:
            recipe.finetune(name)
            recipe.write_record()


if __name__ == "__main__":
    main()
