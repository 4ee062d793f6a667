"""What must not change a row: the gauge of the factors, signs, rotations, a common scale, and swapping the sides."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spectra import testing
from spectra.engine.choose import Request, decompose
from spectra.engine.resemblance import SIDES
from spectra.metrics.layer import measure
from spectra.updates import LowRank

SEEDS = st.integers(0, 10**6)
METHOD = st.sampled_from(["exact", "basis"])
BEYOND = re.compile(r"sweep\.count\.[3-9]|\.steps$")  # vectors after the k-th, which `clear` does not look at
TURNED = (  # of rows and entries of the matrix as it lies
    "balance", "magnitude", "floor", "rank.above_floor", "norm.base_largest", "norm.tuned_largest", "norm.largest",
)  # fmt: skip
UNITS = (  # of the scale of base and update together
    "norm.base", "norm.update", "norm.largest", "norm.tuned_largest", "amplification.within", "edges.sigma",
    "edges.marchenko_pastur", "edges.gavish_donoho", "tails.base.x_min", "tails.tuned.x_min", "tails.update.x_min",
    "floor.sigma", "floor.edge", "magnitude.dM", "magnitude.median_norm", "spectrum.base", "spectrum.tuned",
    "spectrum.update", "threshold",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    base: torch.Tensor
    update: LowRank


def case(seed, m=72, n=66, rank=4):
    base = testing.decaying(m, n, seed=seed)
    return Case(base, LowRank(*testing.lora({"w.weight": base}, ["w"], rank=rank, strength=0.7, seed=seed + 1)["w"]))


def measured(one, method="exact", k=5):
    pair = dataclasses.replace(testing.weight_pair(one.base, one.update), scaling=0.5, allotted=4)
    found = decompose(pair, Request(k=k, method=method, sides=SIDES))
    return measure(pair, found, k=k)


def numbers(row, without=()):
    """A row's numbers and words by name, lists entry by entry, without what is named and what tells how it was had."""
    left_out = (*without, "notes", "method", "key", "name")
    return {
        name: value
        for name, value in _entries(row.to_dict())
        if not name.startswith(left_out) and not BEYOND.search(name)
    }


def _entries(value, name=""):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _entries(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _entries(item, f"{name}.{place}")
    else:
        yield name, value


def same(one, other, tolerance=1e-4):
    assert one.keys() == other.keys()
    steep = {name: 10 for name in one if "null_quantile" in name}  # a hundredth of similarity is a tenth of quantile
    off = {
        name: (one[name], other[name])
        for name in one
        if not _close(one[name], other[name], steep.get(name, 1) * tolerance)
    }
    assert off == {}


def _close(one, other, tolerance):
    if isinstance(one, float) and isinstance(other, float) and math.isfinite(one):
        return bool(np.isclose(one, other, rtol=tolerance, atol=tolerance))
    return one == other


def clear(row):
    """Whether no number of the row hangs on a choice: no similarity near a swept epsilon, no near tie of any kind."""
    gaps = [gap for side in row.intruders for gap in side.relative_gap]
    near = [abs(value / 0.05 - round(value / 0.05)) for side in row.intruders for value in side.similarity]
    novel = [abs(value - 0.5) for side in row.intruders for value in side.novelty]
    apart = min(float(-np.diff(values).max()) / values[0] for values in (row.spectrum.base, row.spectrum.update))
    return min(gaps) > 5e-3 and min(near) > 5e-3 and min(novel) > 1e-3 and apart > 1e-5


LAWS = settings(max_examples=10)


@LAWS
@given(seed=SEEDS, method=METHOD)
def test_the_gauge_of_the_factors_changes_nothing_but_their_balance(seed, method):
    one = case(seed)
    generator = torch.Generator().manual_seed(seed)
    Q = torch.randn(4, 4, generator=generator, dtype=torch.float64) + 2 * torch.eye(4, dtype=torch.float64)
    assume(float(torch.linalg.cond(Q)) < 30)
    other = Case(one.base, LowRank(one.update.B @ Q, torch.linalg.solve(Q, one.update.A)))
    before, after = measured(one, method), measured(other, method)
    assume(clear(before))
    same(numbers(before, ("balance", "floor.lost")), numbers(after, ("balance", "floor.lost")), 2e-3)
    assert before.balance.ratio != pytest.approx(after.balance.ratio, rel=1e-3)


@LAWS
@given(seed=SEEDS, method=METHOD)
def test_signs_change_nothing(seed, method):
    """-B, -A is the same update; and both matrices may be turned over."""
    one = case(seed)
    before = measured(one, method)
    same(numbers(before), numbers(measured(Case(one.base, LowRank(-one.update.B, -one.update.A)), method)), 1e-12)
    over = measured(Case(-one.base, LowRank(-one.update.B, one.update.A)), method)
    assume(clear(before))
    same(numbers(before), numbers(over), 2e-3)


@LAWS
@given(seed=SEEDS, method=METHOD)
def test_a_joint_rotation_changes_nothing_but_what_belongs_to_rows(seed, method):
    one = case(seed)
    R, T = testing.orthogonal(72, 72, seed=seed + 2), testing.orthogonal(66, 66, seed=seed + 3)
    other = Case(R @ one.base @ T.T, LowRank(R @ one.update.B, one.update.A @ T.T))
    before, after = measured(one, method), measured(other, method)
    assume(clear(before))
    same(numbers(before, TURNED), numbers(after, TURNED), 2e-3)


@LAWS
@given(seed=SEEDS, method=METHOD, exponent=st.integers(-20, 20))
def test_a_common_scale_changes_nothing_but_what_has_its_unit(seed, method, exponent):
    """A power of two is exact: every number without a unit is the same to the last digits."""
    one, scale = case(seed), 2.0**exponent
    other = Case(one.base * scale, LowRank(one.update.B * scale, one.update.A))
    before, after = (numbers(measured(each, method), ("balance",)) for each in (one, other))
    unit = {name for name in before if name.startswith(UNITS) or ".sigma." in name}
    same({name: value for name, value in before.items() if name not in unit},
         {name: value for name, value in after.items() if name not in unit}, 1e-9)  # fmt: skip


@LAWS
@given(seed=SEEDS, method=METHOD)
def test_transposing_swaps_the_sides(seed, method):
    one = case(seed)
    other = Case(one.base.T.contiguous(), LowRank(one.update.A.T.contiguous(), one.update.B.T.contiguous()))
    before, after = measured(one, method), measured(other, method)
    assume(clear(before))
    swapped = dataclasses.replace(
        after,
        shape=before.shape,
        intruders=tuple(
            dataclasses.replace(block, side=side) for block, side in zip(reversed(after.intruders), SIDES, strict=True)
        ),
    )
    without = ("balance", "magnitude")
    same(numbers(before, without), numbers(swapped, without), 2e-3)
