"""Draw what `benchmarks/engine.py --json` wrote: the time of every method for every matrix, and how many times less.

    python benchmarks/figure.py engine.json [engine-cuda.json] --out figures/engine

How to read: one bar a method, on a logarithmic axis; the number at its end is the paper's time over its own. Blue is
spectra, grey are the others.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from spectra.plots.style import (
    CATEGORIES,
    DOUBLE,
    FAINT,
    INK,
    LABEL,
    MUTED,
    SINGLE,
    SMALL,
    TICK,
    figure_of,
    new_axes,
    save,
)

_NAMES = {
    "peft": "PEFT's tool",
    "paper": "paper: two SVDs",
    "exact": "exact",
    "certified": "certified",
    "verdicts": "certified, verdicts alone",
    "batch": "certified, batch of {}",
    "cached": "basis, from disk",
    "basis": "basis, in memory",
    "curve": "phase curve, 40 scales",
    "adapters": "basis, {} adapters",
}
_THEIRS, _PER_BAR, _HEAD, _COLUMNS = ("paper", "peft"), 0.125, 0.55, 3
_USUAL, _LOW_RANK, _LARGE = 0.5, 8, 4096


def draw(results: list[dict[str, Any]], target: Path) -> None:
    """Write a figure of some runs, a panel a matrix, as target.png and target.svg."""
    panels = [(result["machine"], case) for result in results for case in result["cases"] if _drawn(case)]
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    shown = _labels([case for _, case in panels])
    times = [row["median"] for _, case in panels for row in case["lines"] if row["line"] in shown and "median" in row]
    grid = new_axes(max(SINGLE, DOUBLE * columns / _COLUMNS), rows * (_HEAD + _PER_BAR * len(shown)), rows=rows,
                    columns=columns)  # fmt: skip
    for at, ax in enumerate(grid):
        if at >= len(panels):
            ax.set_axis_off()
            continue
        _panel(ax, *panels[at], list(shown), times)
        ax.set_yticks(range(len(shown)), shown.values() if at % columns == 0 else [""] * len(shown), fontsize=TICK)
        ax.set_xlabel("time for one matrix", fontsize=LABEL, color=INK)
    whole = figure_of(grid[0])
    whole.set_label("Time of each method for each matrix, with its ratio to two full SVDs")
    for form in ("png", "svg"):
        save(whole, target.with_name(f"{target.name}.{form}"), form)


def _drawn(case: dict[str, Any]) -> bool:
    """Whether a case has a panel: one spectrum and one rank of each shape, a bulk and a dense update at the largest."""
    large = min(case["shape"]) >= _LARGE
    return case["rank"] != _LOW_RANK and (case["spectrum"] == _USUAL or (large and case["spectrum"] == "bulk"))


def _labels(drawn: list[dict[str, Any]]) -> dict[str, str]:
    """Return the lines that some panel has, in order, with what stands beside their bars."""
    rows = {row["line"]: row for case in drawn for row in case["lines"] if "median" in row}
    return {line: name.format(rows[line]["per"]) for line, name in _NAMES.items() if line in rows}


def _panel(ax: Axes, machine: dict[str, Any], case: dict[str, Any], shown: list[str], times: list[float]) -> None:
    rows = [row for row in case["lines"] if "median" in row and row["line"] in shown]
    low, high = 10 ** math.floor(math.log10(min(times) / 1.5)), max(times) * 12
    ax.set_xscale("log")
    for row in rows:
        place, seconds = shown.index(row["line"]), row["median"]
        colour = MUTED if row["line"] in _THEIRS else CATEGORIES[0]
        ax.barh(place, seconds - low, left=low, height=0.74, color=colour, zorder=2)
        ax.annotate(_said(row), (seconds, place), (2, 0), textcoords="offset points", va="center", fontsize=SMALL,
                    color=INK)  # fmt: skip
    ax.set_xlim(low, high)
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.xaxis.set_major_locator(LogLocator(100))
    ax.xaxis.set_major_formatter(lambda value, _: _seconds(value))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color=FAINT, linewidth=0.5, zorder=0)
    ax.set_title(_title(machine, case), fontsize=LABEL, color=INK, loc="left")


def _title(machine: dict[str, Any], case: dict[str, Any]) -> str:
    shape, _, rest = case["name"].partition(", ")
    where = "CPU" if machine["device"] == "cpu" else machine["device"]
    return f"{shape}, {where}\n{rest}"


def _said(row: dict[str, Any]) -> str:
    if row["line"] == "paper" or row["ratio"] is None:
        return _seconds(row["median"])
    ratio = row["ratio"]
    return f"{ratio:,.0f}x" if ratio >= 10 else f"{ratio:.1f}x"


def _seconds(value: float) -> str:
    return (
        f"{value:,.0f} s"
        if value >= 100
        else f"{value:.3g} s"
        if value >= 1
        else f"{1e3 * value:.3g} ms"
        if value >= 1e-3
        else f"{1e6 * value:.3g} us"
    )


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    words.add_argument("results", type=Path, nargs="+", help="JSON of benchmarks/engine.py")
    words.add_argument("--out", type=Path, required=True, help="write OUT.png and OUT.svg")
    options = words.parse_args()
    draw([json.loads(path.read_text()) for path in options.results], options.out)


if __name__ == "__main__":
    main()
