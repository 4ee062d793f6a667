"""Figures repeat to the byte, stand side by side in a page, and leave matplotlib as they found it."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest
from matplotlib.figure import Figure

from spectra.errors import MachineError, UsageError
from spectra.plots.elements import log_axis, power, safe
from spectra.plots.epsilon import epsilon
from spectra.plots.style import CATEGORIES, FORMATS, figure_of, new_axes, render, save, swatch, to_svg

STARTS = {"png": b"\x89PNG\r\n", "pdf": b"%PDF-", "svg": b"<?xml"}


@pytest.mark.parametrize("form", FORMATS)
def test_bytes_repeat_for_figures_drawn_anew(report, form):
    first, second = (render(figure_of(epsilon({"": report})), "epsilon", form) for _ in range(2))
    assert first.startswith(STARTS[form])
    assert first == second


@pytest.mark.parametrize("form", FORMATS)
def test_files_carry_no_date_and_no_program(report, form):
    raw = render(figure_of(epsilon({"": report})), "epsilon", form)
    assert not re.search(rb"<dc:date>|CreationDate|Software|Matplotlib v|/Producer", raw)


def test_drawing_and_writing_leave_the_global_settings_alone(report):
    with matplotlib.rc_context({"svg.hashsalt": "mine", "font.size": 31}):
        before = dict(matplotlib.rcParams)
        ax = epsilon({"": report})
        render(figure_of(ax), "epsilon", "svg")
        assert dict(matplotlib.rcParams) == before
    assert ax.xaxis.get_label().get_fontsize() == 7


def test_no_figure_needs_pyplot():
    code = "import sys, spectra.plots.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_inline_figures_of_one_page_share_no_id(report):
    figure = figure_of(epsilon({"": report}))
    first, second = to_svg(figure, "left"), to_svg(figure, "right $x")
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for text, own in zip((first, second), ids, strict=True):
        used = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
        assert used
        assert used <= own


def test_an_inline_figure_is_an_element_that_speaks_and_styles_nothing_else(report):
    figure = figure_of(epsilon({"": report}))
    figure.set_label('a "label" <b>')
    text = to_svg(figure, "epsilon")
    root = ElementTree.fromstring(text)
    assert text.startswith("<svg ")
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'a "label" <b>'
    assert not re.search(r"<style|style=|<!--|<metadata|<\?xml|<!DOCTYPE|<text", text)
    assert to_svg(figure, "epsilon") == text


def test_save_writes_what_it_returns(report, tmp_path):
    raw = save(figure_of(epsilon({"": report})), tmp_path / "a.png", "png")
    assert (tmp_path / "a.png").read_bytes() == raw
    with pytest.raises(MachineError, match="cannot be written"):
        save(figure_of(epsilon({"": report})), tmp_path / "missing" / "a.png", "png")


def test_an_unknown_format_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'png'"):
        render(Figure(), "x", "pgn")


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("q_proj", None, "q_proj"),
        ("\x1b[31m", None, r"\x1b[31m"),
        ("\ud800", None, r"\ud800"),
        ("中", None, r"\u4e2d"),
        ("$x$", None, "$x$"),
        ("model.layers.0.self_attn.q_proj", 13, "mode…n.q_proj"),
        ("a" * 10**6, 5, "a…aaa"),
    ],
)
def test_outside_words_are_escaped_and_lose_their_middle(text, limit, shown):
    assert safe(text, limit) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(1.0, "1"), (0.001, "0.001"), (50, "50"), (1e-5, "10⁻⁵"), (2e-5, "2·10⁻⁵"), (1e6, "10⁶")]
)
def test_tick_values_are_plain(value, shown):
    assert power(value) == shown


@pytest.mark.parametrize(("low", "high"), [(1, 1), (0.021, 0.022), (1e-5, 4e-5), (0.9, 280), (1, 1e9), (1e-310, 10)])
def test_a_logarithmic_axis_has_two_to_ten_ticks_in_view(low, high):
    ax = Figure().add_subplot()
    log_axis(ax, "y", low, high)
    seen = [tick for tick in ax.get_yticks() if ax.get_ylim()[0] <= tick <= ax.get_ylim()[1]]
    assert 2 <= len(seen) <= 10
    assert ax.get_ylim()[0] <= low <= high <= ax.get_ylim()[1]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert len(set(labels)) == len(labels)


def test_the_first_categories_all_differ_with_markers_and_without():
    looks = list(map(swatch, range(28)))
    for shown in (("color", "marker"), ("color", "linestyle")):
        assert len({tuple(look[part] for part in shown) for look in looks}) == 28
    assert len(set(CATEGORIES)) == len(CATEGORIES)


def test_axes_inside_a_part_of_a_figure_find_the_whole(report):
    figure = Figure()
    ax = figure.subfigures(1, 2)[0].add_subplot()
    assert figure_of(epsilon({"a": report, "b": report}, ax=ax)) is figure
    assert figure_of(new_axes()[0]).get_size_inches().tolist() == [3.4, 2.4]
