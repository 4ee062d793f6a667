"""Measure what each method of the engine costs on this machine, and fit the model by which `auto` chooses.

    python benchmarks/cost_model.py
    python benchmarks/cost_model.py --device cuda
    python benchmarks/cost_model.py --largest 512      a minute, to see that it runs

Prints the row for MACHINES in spectra/engine/cost.py, the errors of the fit, and how much slower than the fastest
method the model's choices are (regret), for the constants in the file and for the new ones. The least time of some
runs counts: other work on a machine only ever adds. The constants minimise the sum of squared relative errors,
none of them below zero.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cases
import machine
import numpy
import scipy.optimize
import torch
from cases import EPSILON, Case, K, Spec

from spectra.engine import certified, dense
from spectra.engine.choose import Request, decompose, operators
from spectra.engine.cost import (
    CERTIFICATE_WIDTH,
    LEADING_WIDTH,
    MOST_STEPS,
    Machine,
    basis_amounts,
    predicted,
    space_amounts,
    svd_amounts,
)
from spectra.engine.decomposition import SVD
from spectra.engine.leading import leading

SQUARE = (64, 96, 128, 192, 256, 320, 384, 512, 640, 768, 1024, 1536, 2048, 4096)
RECTANGLES = (
    (64, 256),
    (256, 64),
    (128, 512),
    (256, 1024),
    (1024, 256),
    (512, 2048),
    (768, 3072),
    (3072, 768),
    (1024, 4096),
)
SPECTRA: tuple[float | str, ...] = (0.5, "bulk")
NEAR = 1.2  # times the fastest method's time within which a choice is a good one
_RANK, _SPAN, _SLOW = 16, 16, 2.0
_LARGE = 256  # smaller dimension from which the usual number of steps is taken: below, there is a choice of one


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """What one matrix took, in seconds. known : whether the base's SVD was given."""

    spec: Spec
    svd: float
    leading: float
    leading_steps: int
    certificate: float
    certificate_steps: int
    exact_known: float
    certified: float
    basis: float
    by_basis: bool

    def measured(self, *, known: bool) -> dict[str, float]:
        """Seconds of each method that `auto` chooses among."""
        exact = self.exact_known if known else self.exact_known + self.svd
        return {"exact": exact, "certified": self.certified} | ({"basis": self.basis} if known else {})


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    words.add_argument("--device", default="cpu", help="cpu or cuda")
    words.add_argument("--largest", type=int, default=4096, help="largest side of a matrix")
    words.add_argument("--repeats", type=int, default=7, help="runs, of which the least counts; one if it is slow")
    words.add_argument("--json", type=Path, help="write every sample there")
    words.add_argument("--again", type=Path, help="fit the samples of such a file, and measure nothing")
    options = words.parse_args()
    print(machine.in_words(machine.described(options.device)))
    if options.again:
        samples = _read(options.again)
    else:
        samples = []
        for shape in [(n, n) for n in SQUARE] + list(RECTANGLES):
            if max(shape) <= options.largest:
                samples += _measure(shape, options.device, options.repeats)
                print("  " + _told(samples[-1]), flush=True)
    fitted = fit(samples)
    print(f"\n{_row(options.device, fitted)}\n")
    print(_errors(samples, fitted))
    for name, model in (("in cost.py", Machine.of(options.device)), ("fitted", fitted)):
        for known in (False, True):
            print(_regrets(f"{name}, base {'known' if known else 'not known'}", samples, model, known))
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(sample) for sample in samples], indent=1) + "\n")


def _read(path: Path) -> list[Sample]:
    samples = []
    for entry in json.loads(path.read_text()):
        spec = entry.pop("spec")
        samples.append(Sample(Spec((spec["shape"][0], spec["shape"][1]), spec["spectrum"], spec["rank"]), **entry))
    return samples


# ------------------------------------------------------------------------------------- measuring


def _measure(shape: tuple[int, int], device: str, repeats: int) -> list[Sample]:
    found = []
    svd = 0.0
    for spectrum in SPECTRA:
        for rank in (_RANK, None):
            case = cases.make(Spec(shape, spectrum, rank))
            if not svd:
                svd, base = _least(lambda: dense.svd(case.base, device=device), device, repeats)  # noqa: B023
            elif rank is not None:
                base = dense.svd(case.base, device=device)
            found.append(_sample(case, base, svd, device, repeats))
    return found


def _sample(case: Case, base: SVD, svd: float, device: str, repeats: int) -> Sample:
    pair = case.pair()
    plain, tuned = operators([pair], device)
    question = certified.Question(EPSILON, _SPAN)
    first, top = _least(lambda: leading(tuned, K), device, repeats)
    second, sides = _least(
        lambda: certified.certify(plain, top, side="left", question=question, most=MOST_STEPS), device, repeats
    )

    def by(method: str, known: SVD | None) -> tuple[float, Any]:
        request = Request(k=K, epsilon=EPSILON, method=method, device=device)
        return _least(lambda: decompose(pair, request, base=known), device, repeats)

    basis, answer = by("basis", base)
    return Sample(
        spec=case.spec,
        svd=svd,
        leading=first,
        leading_steps=top.steps,
        certificate=second,
        certificate_steps=0 if sides[0] is None else sides[0].steps,
        exact_known=by("exact", base)[0],
        certified=by("certified", None)[0],
        basis=basis,
        by_basis=answer.method == "basis" and case.spec.rank is not None,
    )


def _least(work: Callable[[], Any], device: str, repeats: int) -> tuple[float, Any]:
    """Return the least time of some runs, one where it is slow, and what the last gave."""
    least = float("inf")
    for _ in range(max(2, repeats)):
        began = time.perf_counter()
        answer = work()
        if device != "cpu":
            torch.cuda.synchronize()
        least = min(least, time.perf_counter() - began)
        if least > _SLOW:
            break
    return least, answer


def _told(sample: Sample) -> str:
    m, n = sample.spec.shape
    times = " ".join(f"{name} {1e3 * seconds:.1f} ms," for name, seconds in sample.measured(known=True).items())
    return f"{m} x {n}: svd {1e3 * sample.svd:.1f} ms; dense update, base known: {times[:-1]}"


# ------------------------------------------------------------------------------------- fitting


def fit(samples: Sequence[Sample]) -> Machine:
    """Fit the constants to what was measured, each path on its own samples."""
    svd = _solve([svd_amounts(sample.spec.shape) for sample in samples], [sample.svd for sample in samples])
    decided = [sample for sample in samples if sample.certificate_steps]
    spaces = [((*space_amounts(s.spec.shape, LEADING_WIDTH, s.leading_steps), 0), s.leading) for s in decided]
    spaces += [
        ((*space_amounts(s.spec.shape, CERTIFICATE_WIDTH, s.certificate_steps), 1), s.certificate) for s in decided
    ]
    krylov = _solve([amounts for amounts, _ in spaces], [seconds for _, seconds in spaces])
    inside = [sample for sample in samples if sample.by_basis]
    read = [basis_amounts(sample.spec.shape, _RANK) for sample in inside]
    # What a product costs is known from the spaces; only the rest is left to fit.
    rest = [max(s.basis - krylov[0] * amounts[0], 0.1 * s.basis) for s, amounts in zip(inside, read, strict=True)]
    path = _solve([amounts[1:] for amounts in read], rest)
    large = [s for s in decided if min(s.spec.shape) >= _LARGE] or decided
    usual = statistics.mean(s.leading_steps for s in large), statistics.mean(s.certificate_steps for s in large)
    return Machine(*svd, *krylov, *path, *(float(steps) for steps in usual))


def _solve(amounts: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Non-negative least squares of `amounts rates / seconds - 1`."""
    relative = numpy.array(amounts, dtype=float) / numpy.array(seconds)[:, None]
    scale = numpy.maximum(relative.max(0), 1e-300)
    rates, _ = scipy.optimize.nnls(relative / scale, numpy.ones(len(relative)))
    return [float(rate) for rate in rates / scale]


# ------------------------------------------------------------------------------------- what is printed


def _row(device: str, fitted: Machine) -> str:
    values = ", ".join(f"{name}={value:.2g}" for name, value in dataclasses.asdict(fitted).items())
    return f'    "{device.partition(":")[0]}": Machine({values}),'


def _errors(samples: Sequence[Sample], model: Machine) -> str:
    lines = ["relative error of the fit (median, worst):"]
    parts = {
        "svd": [(model.exact(sample.spec.shape), sample.svd) for sample in samples],
        "leading": [(model.space(s.spec.shape, LEADING_WIDTH, s.leading_steps), s.leading) for s in samples],
        "certificate": [
            (model.bounds + model.space(s.spec.shape, CERTIFICATE_WIDTH, s.certificate_steps), s.certificate)
            for s in samples
            if s.certificate_steps
        ],
        "basis": [(model.basis(sample.spec.shape, _RANK), sample.basis) for sample in samples if sample.by_basis],
    }
    for name, pairs in parts.items():
        off = [abs(told / seconds - 1) for told, seconds in pairs]
        if off:
            lines.append(f"  {name:12} {statistics.median(off):6.0%} {max(off):6.0%}")
    return "\n".join(lines)


def _regrets(name: str, samples: Sequence[Sample], model: Machine, known: bool) -> str:
    """Say how often the model's choice is the fastest, or near it, and where it is farthest from it."""
    ratios = [(_regret(sample, model, known), sample.spec.name) for sample in samples]
    fastest, near = (sum(ratio <= limit for (ratio, _), _ in ratios) for limit in (1.0, NEAR))
    worst = sorted(ratios, key=lambda entry: -entry[0][0])[:3]
    total = sum(ratio for (ratio, _), _ in ratios) / len(ratios)
    told = "; ".join(f"{ratio:.2f}x at {where} ({choice})" for (ratio, choice), where in worst if ratio > NEAR)
    return f"{name}: fastest in {fastest} of {len(ratios)}, within {NEAR - 1:.0%} in {near}, mean {total:.2f}x" + (
        f"; worst {told}" if told else ""
    )


def _regret(sample: Sample, model: Machine, known: bool) -> tuple[float, str]:
    costs = predicted(model, sample.spec.shape, k=K, sides=1, rank=sample.spec.rank, has_base=known)
    measured = sample.measured(known=known)
    choice = min(costs, key=lambda method: costs[method])
    return measured[choice] / min(measured.values()), choice


if __name__ == "__main__":
    main()
