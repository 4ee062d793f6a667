"""The same question put to others: the paper's method as published, PEFT's tool, WeightWatcher."""

import contextlib
import io
import logging
import re
import warnings
from typing import Any

import torch
from cases import EPSILON, Case, K
from work import Answer, Setting, UnavailableError, Work, of_svds


def paper(case: Case, setting: Setting) -> Work:
    """Two full SVDs and all cosines (Shuttleworth et al., arXiv:2410.21228, Algorithm 1), W formed from its factors."""
    base = case.base.to(setting.device)
    moved = Case(case.spec, base, *(None if part is None else part.to(base) for part in (case.B, case.A, case.dense)))

    def run() -> torch.Tensor:
        U0 = torch.linalg.svd(base, full_matrices=False).U
        U = torch.linalg.svd(moved.tuned(), full_matrices=False).U
        return (U0.T @ U[:, :K]).abs().amax(0).cpu()

    def read(similarity: torch.Tensor) -> Answer:
        passes, counted = of_svds(case.spec.shape, 2, setting.device)
        return _from(similarity, passes, counted)

    return Work(run, read)


def in_float64(case: Case) -> list[float]:
    """Return the paper's similarities in float64: what the verdicts are held against."""
    base, *update = (part.double() for part in (case.base, case.B, case.A, case.dense) if part is not None)
    tuned = base + (update[0] if len(update) == 1 else update[0] @ update[1])
    U0, U = (torch.linalg.svd(matrix, full_matrices=False).U for matrix in (base, tuned))
    return list((U0.T @ U[:, :K]).abs().amax(0).tolist())


def _from(similarity: torch.Tensor, passes: float | None, counted: str) -> Answer:
    return Answer(
        intruder=tuple((similarity < EPSILON).tolist()),
        similarity=tuple(similarity.double().tolist()),
        passes=passes,
        counted=counted,
    )


def peft(case: Case, setting: Setting) -> Work:
    """PEFT's `reduce_intruder_dimension`, the real function, on a model of this one layer.

    It detects by two full SVDs and, where it finds intruders, edits the adapter by a third: all of it is timed.
    """
    if case.B is None or case.A is None:
        raise UnavailableError("it takes LoRA alone")
    with _quiet():
        try:
            import peft as library
            from peft.tuners.lora.intruders import reduce_intruder_dimension
        except ImportError:
            raise UnavailableError("peft is not installed, or has no reduce_intruder_dimension") from None
        model = torch.nn.Module()
        model.layer = torch.nn.Linear(case.base.shape[1], case.base.shape[0], bias=False, device="meta")
        model.layer.weight = torch.nn.Parameter(case.base, requires_grad=False)
        rank = len(case.A)
        tuned: Any = library.get_peft_model(
            model, library.LoraConfig(r=rank, lora_alpha=rank, target_modules=["layer"])
        )
    lora = tuned.base_model.model.layer
    lora.lora_A["default"].weight.data, lora.lora_B["default"].weight.data = case.A, case.B
    tuned.to(setting.device)
    made = 0

    def run() -> list[str]:
        nonlocal made
        made += 1
        said: list[str] = []
        with _quiet():
            reduce_intruder_dimension(
                tuned, new_adapter_name=f"reduced_{made}", top_k=K, threshold_epsilon=EPSILON, logging_sink=said.append
            )
        return said

    def read(said: list[str]) -> Answer:
        (found,) = [match for line in said if (match := re.search(r": (?:No intruders|Intruders: (\d+))$", line))]
        count = int(found[1] or 0)
        passes, counted = of_svds(case.spec.shape, 3 if count else 2, setting.device)
        return Answer(count=count, passes=passes, counted=counted, note="the real function, its weight edit included")

    return Work(run, read)


def weightwatcher(case: Case, setting: Setting) -> Work:
    """WeightWatcher's analysis of W alone: its singular values and a power law's alpha. It knows no intruders."""
    if setting.device != "cpu":
        raise UnavailableError("compared on the CPU alone")
    with _quiet():
        try:
            import weightwatcher as library
        except ImportError as fault:
            raise UnavailableError(f"weightwatcher cannot be imported ({fault})") from None
    model = torch.nn.Sequential(torch.nn.Linear(case.base.shape[1], case.base.shape[0], bias=False, device="meta"))
    model[0].weight = torch.nn.Parameter(case.tuned(), requires_grad=False)
    watcher = library.WeightWatcher(model=model)

    def run() -> Any:
        with _quiet():
            return watcher.analyze()

    def read(details: Any) -> Answer:
        if not len(details):
            raise UnavailableError("it skips a matrix of this size")
        alpha, largest = float(details.alpha[0]), float(details.sv_max[0])
        return Answer(note=f"singular values and alpha of W alone: sigma_1 {largest:.3f}, alpha {alpha:.2f}")

    return Work(run, read)


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep a peer's printing, logging and warnings out of the table."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
