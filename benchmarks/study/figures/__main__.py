"""Draw every figure of the study from its results.

    python -m benchmarks.study.figures
    python -m benchmarks.study.figures --results benchmarks/study/results --out figures/study --only rank

Each is written as PNG and SVG, the same bytes at every run. A figure that the results have no data for is named with
the reason, and the command ends with 1.
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.study.figures.catalogue import FIGURES
from benchmarks.study.figures.tables import AbsentError, Tables
from spectra.plots.figures import save_figures

ROOT = Path(__file__).parents[3]


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--results", type=Path, default=ROOT / "benchmarks/study/results", help="a study's results")
    add("--out", type=Path, default=ROOT / "figures/study", help="folder of the figures")
    add("--only", action="append", choices=list(FIGURES), help="only this one; may be given again")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    drawn: dict[str, Figure] = {}
    absent: dict[str, str] = {}
    tables = Tables(options.results)
    for name in options.only or FIGURES:
        try:
            drawn[name] = FIGURES[name].draw(tables)
        except AbsentError as reason:
            absent[name] = str(reason)
        else:
            drawn[name].set_label(FIGURES[name].caption)
    save_figures(drawn, options.out, ("png", "svg"))
    print(f"{len(drawn)} figures in {options.out}")
    for name, why in absent.items():
        print(f"{name} not drawn: {why}")
    if absent:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
