"""Which figures a result has, whatever its names, and how they reach a folder."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import matplotlib
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from spectra.errors import MachineError, UsageError
from spectra.plots.figures import (
    FIGURES,
    comparison_figures,
    overlap_figures,
    report_figures,
    save_figures,
    sweep_figures,
    telling,
)
from spectra.plots.style import render, to_svg

OF_A_REPORT = ["intruders", "spectrum", "epsilon", "rank", "update-size"]
OF_A_COMPARISON = ["similarity", "epsilon", "rank", "update-size"]
OF_A_SWEEP = ["phase-curve", "critical-scales", "law"]
OF_AN_OVERLAP = ["overlap", "overlap-by-block"]


def test_every_figure_of_the_table_is_drawn_somewhere(report, comparison, sweep, overlapping):
    assert list(report_figures(report)) == OF_A_REPORT
    assert list(comparison_figures(comparison)) == OF_A_COMPARISON
    assert list(sweep_figures(sweep)) == OF_A_SWEEP
    assert list(overlap_figures(overlapping)) == OF_AN_OVERLAP
    assert {*OF_A_REPORT, *OF_A_COMPARISON, *OF_A_SWEEP, *OF_AN_OVERLAP} == set(FIGURES)


def test_each_figure_speaks_its_caption(report):
    for name, figure in report_figures(report).items():
        assert figure.get_label() == FIGURES[name].caption


@pytest.mark.parametrize("case", ["one_matrix", "both_sides", "hostile"])
def test_every_figure_of_every_report_is_well_formed(case, request):
    for name, figure in report_figures(request.getfixturevalue(case)).items():
        text = to_svg(figure, name)
        ElementTree.fromstring(text)
        assert not re.search(r"<script|[\x00-\x08\x0b-\x1f\x7f]", text)


def test_files_with_hostile_names_are_well_formed(hostile):
    for name, figure in report_figures(hostile).items():
        ElementTree.fromstring(render(figure, name, "svg"))


def test_every_figure_of_a_sweep_is_well_formed(sweep, hostile, renamed):
    for name, figure in sweep_figures(renamed(sweep, [row.name for row in hostile.rows])).items():
        ElementTree.fromstring(render(figure, name, "svg"))
        assert figure.get_label() == FIGURES[name].caption


def test_every_figure_of_an_overlap_is_well_formed(overlapping, hostile, renamed):
    strange = replace(renamed(overlapping, [row.name for row in hostile.rows]), labels=("\x1b$\\bad{$", "<b>"))
    for name, figure in overlap_figures(strange).items():
        ElementTree.fromstring(render(figure, name, "svg"))
        assert figure.get_label() == FIGURES[name].caption


def test_every_figure_of_a_comparison_is_well_formed(comparison):
    models = {f"\x1b<b>{name}": model for name, model in comparison.models.items()}
    maps = {f"\x1b<b>{name}": found for name, found in comparison.maps.items()}
    for name, figure in comparison_figures(replace(comparison, models=models, maps=maps)).items():
        ElementTree.fromstring(render(figure, name, "svg"))


def test_no_text_is_read_as_mathematics(hostile, comparison):
    drawn = [*report_figures(hostile).values(), *comparison_figures(comparison).values()]
    texts = [text for figure in drawn for text in figure.findobj(Text) if "$" in text.get_text()]
    assert any(r"$\bad{$" in text.get_text() for text in texts)
    assert not any(text.get_parse_math() or text.get_usetex() for text in texts)


def test_a_users_style_does_not_change_a_byte(report):
    def drawn():
        return [render(figure, name, "svg") for name, figure in report_figures(report).items()]

    plain = drawn()
    mine = {"axes.facecolor": "red", "font.size": 31, "font.family": "serif", "savefig.facecolor": "red"}
    with matplotlib.rc_context(mine):
        assert drawn() == plain


def test_nothing_measured_is_nothing_to_draw(unchanged, comparison, unswept):
    assert sweep_figures(unswept) == {}
    assert report_figures(unchanged) == {}
    assert comparison_figures(replace(comparison, models={"same": unchanged}, maps={})) == {}


def test_a_figure_without_data_is_skipped(report, comparison):
    row = report.rows[0]
    endless = replace(report, rows=(replace(row, norm=replace(row.norm, ratio=float("inf"))),))
    assert "update-size" not in report_figures(endless)
    assert "similarity" not in comparison_figures(replace(comparison, maps={}))


def test_the_spectrum_is_that_of_the_most_intruders_then_the_least_similarity(report):
    def row(name, verdict, similarity):
        first = report.rows[0]
        side = replace(first.intruders[0], verdict=verdict, similarity=similarity)
        return replace(first, name=name, intruders=(side,))

    few = row("few", ("new", "kept"), (0.01, 0.9))
    many = row("many", ("new", "new"), (0.3, 0.4))
    lower = row("lower", ("new", "new"), (0.4, 0.2))
    assert max([few, many, lower], key=telling).name == "lower"
    drawn = report_figures(replace(report, rows=(few, lower, many)))["spectrum"]
    assert drawn.axes[0].get_title() == "lower"


def test_similarity_takes_the_threshold_of_the_comparison(comparison):
    models = {
        name: replace(model, provenance=model.provenance | {"epsilon": 0.99})
        for name, model in comparison.models.items()
    }
    figure = comparison_figures(replace(comparison, models=models))["similarity"]
    assert "below 0.99" in figure.axes[0].child_axes[0].get_title(loc="right")


def test_files_carry_the_names_of_figures_never_those_of_tensors(hostile, tmp_path):
    folder = tmp_path / "a" / "b"
    paths = save_figures(report_figures(hostile), folder, ("png", "svg", "pdf", "png"))
    assert [path.name for path in paths] == [f"{name}.{form}" for name in OF_A_REPORT for form in ("png", "svg", "pdf")]
    assert sorted(folder.iterdir()) == sorted(paths)
    assert all(path.stat().st_size > 1000 for path in paths)


def test_saved_files_repeat(report, tmp_path):
    for folder in ("one", "two"):
        save_figures(report_figures(report), tmp_path / folder, ("svg",))
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_an_unknown_format_is_refused_before_anything_is_written(report, tmp_path):
    with pytest.raises(UsageError, match="'svgz' is unknown: choose among png, svg, pdf; did you mean 'svg'"):
        save_figures(report_figures(report), tmp_path / "new", ("png", "svgz"))
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_the_machines_fault(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot be made"):
        save_figures({"x": Figure()}, tmp_path / "file" / "folder", ("png",))


def test_five_hundred_rows_are_drawn(report, renamed):
    names = [f"model.layers.{block}.part_{chr(97 + part)}.weight" for block in range(50) for part in range(10)]
    figures = report_figures(renamed(report, names))
    assert list(figures) == OF_A_REPORT
    assert render(figures["intruders"], "intruders", "png")
