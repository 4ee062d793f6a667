"""Other methods than plain LoRA, each beside LoRA of the same rank and alpha (paper, Fig. 23)."""

from collections.abc import Callable

from matplotlib.figure import Figure

from benchmarks.study.figures.ranks import BITS
from benchmarks.study.figures.spread import key
from benchmarks.study.figures.tables import AbsentError, Row, Tables, grouped, rate, spectra
from benchmarks.study.runs import FULL, LORA
from spectra.plots.elements import log_axis, name_ticks, words
from spectra.plots.style import CATEGORIES, DOUBLE, MARKERS, TICK, figure_of, new_axes

NAMES = {
    LORA: "LoRA",
    "rslora": "rsLoRA",
    "dora": "DoRA",
    "pissa": "PiSSA",
    "b-only": "B alone",
    "adalora": "AdaLoRA",
    "vera": "VeRA",
}


def variants(tables: Tables) -> Figure:
    """Intruders, forgetting, task loss and effective rank of every method that was trained, a line each."""
    others = [row for row in tables.main if row["method"] not in (LORA, FULL)]
    if not others:
        raise AbsentError("no method beside LoRA and full fine-tuning was trained")
    ranks = {row["rank"] for row in others}
    rows = [row for row in tables.main if row["method"] != FULL and row["rank"] in ranks]
    lines = grouped(
        sorted(rows, key=lambda row: (row["rank"], list(NAMES).index(row["method"]), row["alpha"])),
        lambda row: f"{NAMES[row['method']]}, r = {row['rank']}, α = {row['alpha']:g}",
    )
    rates = sorted({row["learning_rate"] for row in rows})
    grid = new_axes(DOUBLE, 0.9 + 0.17 * len(lines), columns=4)
    panels: tuple[tuple[str, str, Callable[[Row], float]], ...] = (
        ("Intruders", "of the model", spectra("count")),
        ("Forgetting", BITS, lambda row: float(row["forgetting"])),
        ("Loss on the task", BITS, lambda row: float(row["task_loss"])),
        ("Effective rank of ΔW", "median", spectra("effective_rank")),
    )
    for ax, (title, unit, take) in zip(grid, panels, strict=True):
        handles = []
        for order, value in enumerate(rates):
            colour, marker = CATEGORIES[order % 6], MARKERS[order]
            for at, own in enumerate(lines.values()):
                seeds = [take(row) for row in own if row["learning_rate"] == value]
                if seeds:
                    ax.hlines(at, min(seeds), max(seeds), color=colour, linewidth=0.9)
                    ax.plot(
                        seeds, [at] * len(seeds), marker, color=colour, markersize=2.8, markeredgewidth=0, alpha=0.75
                    )
            handles += ax.plot([], [], marker, color=colour, markersize=3.4, markeredgewidth=0)
        name_ticks(ax.yaxis, range(len(lines)), list(lines) if ax is grid[0] else [""] * len(lines), 30, fontsize=TICK)
        ax.set_ylim(len(lines) - 0.5, -0.5)
        ax.grid(axis="y", color="#EEEEEE", linewidth=0.5)
        if title == "Effective rank of ΔW":
            values = [take(row) for row in rows]
            log_axis(ax, "x", min(values) / 1.3, max(values) * 1.3)
        elif title != "Loss on the task":
            ax.set_xlim(0)
        words(ax, title=title, x=unit)
    key(grid[0], handles, [f"rate {rate(value)}" for value in rates])
    return figure_of(grid[0])
