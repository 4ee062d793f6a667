"""The intervention (paper, section 5): scale what spectra calls an intruder, and what it is compared with."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import spectra
from benchmarks.study import model as models
from benchmarks.study import training
from benchmarks.study.measure import diagnosis
from benchmarks.study.prepare import Texts
from benchmarks.study.runs import Run
from benchmarks.study.state import State

SCALES = (0.0, 0.25, 0.5, 0.75, 1.25, 1.5)
KINDS = ("top intruder", "all intruders", "random direction", "random directions", "uniform")
UPDATE = "update"
TOP = 10


@dataclass(frozen=True)
class Matrix:
    """One tuned weight and the parts of it that may be scaled.

    weight, update : [m, n]. pieces : of its top k singular directions, `sigma_j u_j v_j^T` by j. intruders : the j that
    are, strongest first. drawn : as many j that are not, drawn at random.
    """

    key: str
    weight: torch.Tensor
    update: torch.Tensor
    U: torch.Tensor
    S: torch.Tensor
    Vh: torch.Tensor
    intruders: tuple[int, ...]
    drawn: tuple[int, ...]

    def piece(self, which: Sequence[int]) -> torch.Tensor:
        """The sum of sigma_j u_j v_j^T over the j given."""
        at = list(which)
        return (self.U[:, at] * self.S[at]) @ self.Vh[at]


def intervene(run: Run, state: State, texts: Texts) -> dict[str, Any]:
    """Score one finished run under every kind of scaling and every scale.

    "top intruder" and "all intruders": `W + (scale - 1) sum sigma_j u_j v_j^T` in each matrix that has one. "random
    direction" and "random directions": the same with one, or as many, of the other leading directions. "uniform": the
    update shrunk (or grown) alike everywhere until it has moved as far, in the Frobenius norm over all matrices, as
    scaling all intruders moves it; None where that is more than the whole update. "update": `W0 + scale dW`, scale 1
    being the run as trained. Without intruders the last is the only kind.
    """
    matrices = list(_matrices(run, state))
    model = models.load(state.base, state.device)
    _install_rest(model, run, state)
    intruders = sum(len(matrix.intruders) for matrix in matrices)
    rows = []
    for kind, scale in [(UPDATE, 1.0), *itertools.product((*(KINDS if intruders else ()), UPDATE), SCALES)]:
        found = _scaled(matrices, kind, scale)
        row: dict[str, Any] = {"kind": kind, "scale": scale, "moved": None, "task_loss": None, "general_loss": None}
        if found is not None:
            row["moved"] = _install(model, matrices, found)
            row["task_loss"] = training.bits_per_byte(model, texts.held_out[run.task])
            row["general_loss"] = training.bits_per_byte(model, texts.held_out[texts.general])
        rows.append(row)
    return {
        **run.to_dict(),
        "status": "ok",
        "reason": "",
        "intruders": intruders,
        "with_intruders": sum(bool(matrix.intruders) for matrix in matrices),
        "scaled": rows,
    }


def _matrices(run: Run, state: State) -> Iterator[Matrix]:
    folder = state.checkpoint(run.id)
    verdicts = {row.key: row["intruders"]["verdict"] for row in diagnosis(state.base, folder).rows if row.ok}
    draw = random.Random(run.seed)
    with spectra.open_pairs(state.base, folder, include=[models.BLOCKS]) as pairs:
        for pair in pairs:
            update = pair.update.dense()
            weight = pair.base + update
            U, S, Vh = torch.linalg.svd(weight.double(), full_matrices=False)  # a GPU is slower at this size
            verdict = verdicts[pair.key]
            intruders = tuple(at for at, word in enumerate(verdict) if word != "kept")
            kept = [at for at, word in enumerate(verdict) if word == "kept"]
            drawn = tuple(draw.sample(kept, min(len(intruders), len(kept))))
            parts = (weight, update, U[:, :TOP].float(), S[:TOP].float(), Vh[:TOP].float())
            yield Matrix(pair.key, *(part.to(state.device) for part in parts), intruders, drawn)


def _scaled(matrices: list[Matrix], kind: str, scale: float) -> Callable[[Matrix], torch.Tensor] | None:
    """What is added to each tuned weight, None where the kind cannot be had at this scale."""
    if kind == UPDATE:
        return lambda matrix: (scale - 1) * matrix.update
    if kind == "uniform":
        moved = abs(scale - 1) * _norm(matrix.piece(matrix.intruders) for matrix in matrices)
        share = moved / _norm(matrix.update for matrix in matrices)
        return None if scale < 1 and share > 1 else lambda matrix: (share if scale > 1 else -share) * matrix.update
    which: dict[str, Callable[[Matrix], Sequence[int]]] = {
        "top intruder": lambda matrix: matrix.intruders[:1],
        "all intruders": lambda matrix: matrix.intruders,
        "random direction": lambda matrix: matrix.drawn[:1],
        "random directions": lambda matrix: matrix.drawn,
    }
    return lambda matrix: (scale - 1) * matrix.piece(which[kind](matrix))


def _norm(parts: Iterator[torch.Tensor]) -> float:
    return float(sum(part.double().square().sum().item() for part in parts)) ** 0.5


@torch.no_grad()
def _install(model: torch.nn.Module, matrices: list[Matrix], added: Callable[[Matrix], torch.Tensor]) -> float:
    """Put the changed weights into the model; return how far they moved, over the size of the update."""
    for matrix in matrices:
        model.get_parameter(matrix.key).copy_(matrix.weight + added(matrix))
    return _norm(added(matrix) for matrix in matrices) / _norm(matrix.update for matrix in matrices)


@torch.no_grad()
def _install_rest(model: torch.nn.Module, run: Run, state: State) -> None:
    """What a full fine-tune changed outside the matrices: embedding and norms, as trained."""
    if run.rank is None:
        model.load_state_dict(models.load(state.checkpoint(run.id), state.device).state_dict())
