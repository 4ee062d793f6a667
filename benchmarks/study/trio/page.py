"""README.md of the shipped models, every number in it from their record."""

from collections.abc import Iterator
from typing import Any

from benchmarks.study.report import table
from benchmarks.study.summary import spread
from benchmarks.study.trio.choice import by_rate

Row = dict[str, Any]


def page(record: Row) -> str:
    """Markdown: what the models are, how each was chosen, what it loses and shows, and the rates there were."""
    base, rule = record["base"], record["rule"]
    models = {name: record[name] for name in record["models"]}
    general, task, *_ = base["held_out"]
    first = next(iter(models.values()))
    blocks, runs = first["intruders"], sum(len(model["runs"]) for model in models.values())
    return "\n\n".join(
        [
            "# The demo's models",
            f"A Llama of {base['parameters']:,} parameters and {base['vocabulary']} tokens, trained on {general}, and "
            f"{len(models)} fine-tunes of it on {task}: LoRA (PEFT, on every linear layer of the blocks, alpha = 2r) "
            f"and full fine-tuning. Stored in float16. `python -m benchmarks.study --plan {record['plan']}` trains "
            "them from seeds, and with `--ship` chooses them and writes this folder. Every number here is in "
            f"`training.json`, with the sources and hashes of the texts, all {runs} runs, machines and versions.",
            table(
                ["model", "learning rate", "seed", f"loss on {task}", f"loss on {general}", "intruders"],
                [_shipped("base", base, None), *(_shipped(name, one, _intruders(one)) for name, one in models.items())],
            ),
            "Loss: bits per byte of held-out text, of the stored files. Intruders: of the "
            f"{blocks['examined']} leading directions of the {first['matrices']} matrices in the blocks "
            f"(k = {blocks['k']}, epsilon = {blocks['epsilon']}), [least, most over the seeds of that rate].",
            f"How a run was chosen. Learning rate: {rule['learning_rate']}. Seed: {rule['seed']}. The choice of rate "
            "makes the picture:",
            table(
                ["model", "learning rate", f"loss on {task}", "forgetting", "intruders", "size of dW"],
                (line for name, model in models.items() for line in _rates(name, model)),
            ),
            f"Mean [least, most] over seeds, as trained. Forgetting: {record['measured']['forgetting']}. Size of dW: "
            "its norm over that of the weights, in the blocks. These are models to try commands on; what LoRA and full "
            "fine-tuning do is the question of the study, in `benchmarks/study`.\n",
        ]
    )


def _shipped(name: str, model: Row, intruders: str | None) -> list[Any]:
    general, task, *_ = (text["bits_per_byte"] for text in model["held_out"].values())
    return [name, model["learning_rate"], model["seed"], task, general, intruders]


def _intruders(model: Row) -> str:
    seeds = [run["intruders"] for run in by_rate(model["runs"])[model["learning_rate"]]]
    return f"{model['intruders']['count']} [{min(seeds)}, {max(seeds)}]"


def _rates(name: str, model: Row) -> Iterator[list[Any]]:
    for rate, runs in by_rate(model["runs"]).items():
        numbers = ("task_loss", "forgetting", "intruders", "update_over_base")
        yield [name, rate, *(spread([run[number] for run in runs]) for number in numbers)]
