"""The pages promise: one file that loads nothing, every outside name harmless, the numbers in it as data, readable by all."""

import base64
import hashlib
import html.parser
import json
import re
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import spectra
from spectra.errors import InputError
from spectra.metrics.place import place
from spectra.plots import style
from spectra.reports.page.block_map import Measure, block_map
from spectra.reports.page.embedded import embed, read
from spectra.reports.page.sheet import Cell, codes_of, heat, sheet
from spectra.reports.page.small_spectra import HEIGHT, WIDTH, small_spectra

VOID = {"meta", "input", "wbr", "br", "img", "link", "hr"}


class Page(html.parser.HTMLParser):
    """Collects the elements of a page, and each with what stands in it."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(text)
        assert not self.open, "an element is never closed"

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", "within": [outer["tag"] for outer in self.open], **dict(attrs)}
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "text": "", "within": [outer["tag"] for outer in self.open], **dict(attrs)})

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data
        if not self.open or self.open[-1]["tag"] not in ("script", "style"):
            self.words.append(data)

    def all(self, *tags):
        return [element for element in self.elements if element["tag"] in tags]

    def text(self):
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def sweep(spiked):
    return spectra.sweep(*spiked(["a.0.x.weight", "a.1.x.weight", "a.0.y.weight"]), k=3, scales=[0, 0.25, 0.5, 1, 2])


@pytest.fixture(scope="module", params=["report", "hostile", "troubled", "comparison", "sweep"])
def page(request):
    return request.getfixturevalue(request.param).to_html()


# --- nothing runs, nothing is loaded ---------------------------------------------------------------------------------


def test_a_page_runs_one_script_and_loads_nothing(page):
    found = Page(page)
    assert {element["tag"] for element in found.elements}.isdisjoint(
        {"link", "iframe", "object", "embed", "form", "base", "img"}
    )
    assert [script.get("type") for script in found.all("script")] == ["application/json", None]
    names = {name for element in found.elements for name in element}
    assert not [name for name in names if name.startswith("on") or name == "style"]
    for element in found.elements:
        for name in ("src", "href", "xlink:href", "action", "data"):
            if name in element:
                elsewhere = element["tag"] == "a" and element[name].startswith("https://")
                assert elsewhere or element[name].startswith(("data:image/png;base64,", "#"))


def test_the_policy_admits_this_script_and_this_style_alone(page):
    found = Page(page)
    (policy,) = [meta["content"] for meta in found.all("meta") if "http-equiv" in meta]
    stated = dict(part.split(" ", 1) for part in policy.split("; "))
    for name, element in (("script-src", found.all("script")[-1]), ("style-src", found.all("style")[0])):
        digest = base64.b64encode(hashlib.sha256(element["text"].encode()).digest()).decode()
        assert stated.pop(name) == f"'sha256-{digest}'"
    assert stated == {"default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}
    assert len(found.all("style")) == 1


def test_a_hostile_name_becomes_text(hostile):
    page = hostile.to_html()
    assert "<img src=x" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert page.count("</script>") == 2
    assert "</script><img src=x onerror=alert(1)>" in Page(page).text()


def test_a_hostile_name_is_harmless_in_every_other_output(hostile):
    assert "\x1b" not in str(hostile) + hostile.to_csv() + hostile._repr_html_()
    assert "<img" not in hostile._repr_html_()
    assert "\n" not in max(hostile.to_csv().splitlines(), key=len)
    assert hostile.to_json().isascii()


# --- the page is data ------------------------------------------------------------------------------------------------


def close(found, wanted):
    """Whether two documents are one to seven digits."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(close(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(close, found, wanted))
    return found == (pytest.approx(wanted, rel=1e-6, abs=0) if isinstance(wanted, float) else wanted)


@pytest.mark.parametrize("case", ["report", "hostile", "troubled", "comparison", "sweep"])
def test_the_numbers_are_read_back(case, request, tmp_path):
    result = request.getfixturevalue(case)
    result.to_html(tmp_path / "page.html")
    assert close(read(tmp_path / "page.html"), json.loads(result.to_json()))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.integers(-(10**6), 10**6).map(lambda number: number / 100)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_what_is_embedded_is_inert_and_comes_back(document):
    element = str(embed(document))
    inner = element.removeprefix('<script type="application/json" id="spectra-report">').removesuffix("</script>")
    assert not set("<>&\u2028\u2029") & set(inner)
    assert inner.isascii()
    assert json.loads(inner) == document


def test_what_holds_no_numbers_is_refused(tmp_path):
    (tmp_path / "other.html").write_text("<p>no report</p>")
    with pytest.raises(InputError, match="holds no numbers of a report"):
        read(tmp_path / "other.html")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "missing.html")


# --- whoever reads it ------------------------------------------------------------------------------------------------


def test_headings_go_down_one_level_at_a_time(page):
    levels = [int(element["tag"][1]) for element in Page(page).all("h1", "h2", "h3", "h4", "h5")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_control_table_and_drawing_has_a_name(page):
    found = Page(page)
    for control in found.all("input", "select"):
        assert "label" in control["within"] or control.get("aria-label")
    for named in found.all("button", "summary", "caption", "label"):
        assert named["text"].strip()
    assert len(found.all("caption")) == len(found.all("table"))
    assert all(head.get("scope") in ("row", "col") for head in found.all("th"))
    for drawing in found.all("svg"):
        assert drawing.get("aria-label") or drawing.get("aria-hidden") == "true"


def test_no_id_stands_twice_and_every_link_arrives(page):
    found = Page(page)
    ids = [element["id"] for element in found.elements if "id" in element]
    assert len(ids) == len(set(ids))
    for element in found.elements:
        for name in ("href", "xlink:href", "aria-labelledby"):
            target = element.get(name, "")
            if (name == "aria-labelledby" and target) or target.startswith("#"):
                assert target.lstrip("#") in ids


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(report, mode):
    css = Page(report.to_html()).all("style")[0]["text"]
    colours = {name: pair[mode] for name, *pair in re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", css)}
    for word in ("ink", "soft", "accent", "error", "warning"):
        for ground in ("paper", "card"):
            assert contrast(colours[word], colours[ground]) >= 4.5, (word, ground)
    for ground in ("h1", "h2", "h3", "h4", "h5"):
        assert contrast(colours["ink"], colours[ground]) >= 4.5, ground
    for line in ("blue", "red", "green", "pink", "gold", "sky"):  # drawings: 3, as WCAG asks of graphics
        assert contrast(colours[line], colours["paper"]) >= 3, line


def test_every_colour_of_a_figure_has_one_for_the_dark(report):
    css = Page(report.to_html()).all("style")[0]["text"]
    for colour in {*style.CATEGORIES, style.ALARM, style.INK, style.MUTED, style.FAINT, "#FFFFFF"}:
        for name in ("fill", "stroke"):
            written = f'[{name}="{colour.lower()}"]'
            assert written in css or written == '[stroke="#ffffff"]', written


# --- what it says ----------------------------------------------------------------------------------------------------


def test_the_page_says_what_the_report_says(report):
    words = Page(report.to_html()).text()
    assert f"{report.summary['intruders']} of {report.summary['examined']}" in words
    assert report.findings
    for finding in report.findings:
        assert finding.code in words
        assert finding.source in words
        assert finding.message.replace("`", "") in words
        assert finding.advice.replace("`", "") in words
    for layer in report.rows:
        assert layer.place.module in words


def rows_of(page):
    return [element for element in Page(page).all("tr") if re.fullmatch(r"m\d+", element.get("id", ""))]


def test_five_hundred_rows_stand_in_base_order(many):
    rows = rows_of(many.to_html())
    assert [row["data-key"] for row in rows] == [layer.key for layer in many.rows]
    assert [row["id"] for row in rows] == [f"m{number}" for number in range(504)]
    assert all(json.loads(row["data-at"]) == [["", number]] for number, row in enumerate(rows))


def test_a_finding_leads_to_its_matrices(report):
    found = Page(report.to_html())
    lines = {row["id"]: row for row in rows_of(report.to_html())}
    buttons = [element for element in found.all("button") if "data-lines" in element]
    raised = [finding for finding in report.findings if finding.keys]
    assert len(buttons) == len(raised)
    for button, finding in zip(buttons, raised, strict=True):
        named = [lines[f"m{number}"] for number in button["data-lines"].split()]
        assert [row["data-key"] for row in named] == list(finding.keys)
        assert all(finding.code in row["data-code"].split() for row in named)


def test_rows_without_measurement_say_why(troubled):
    words = Page(troubled.to_html()).text()
    assert "nonfinite" in words
    assert "first at [3, 5]" in words
    assert "zero_update" in words


def test_a_report_without_any_measurement_is_still_a_page(spiked):
    base, _ = spiked(["a.0.x.weight"])
    report = spectra.diagnose(base, dict(base))
    assert "Nothing changed" in report.to_html()
    assert "Nothing changed" in str(report)
    assert "Nothing changed" in report._repr_html_()
    swept = spectra.sweep(base, dict(base))
    assert "Nothing could be swept" in swept.to_html()


def test_a_comparison_page_has_ranking_guide_and_sources(comparison):
    page = comparison.to_html()
    assert [standing.name for standing in comparison.standings] == ["small <b>", "strong"]
    assert "small &lt;b&gt;" in page
    assert "small <b>" not in page
    assert "arXiv:2410.21228" in page
    assert "measured" in page
    assert "small &lt;b&gt;" in comparison._repr_html_()
    for row, layer in zip(rows_of(page), comparison.models["strong"].rows, strict=True):
        assert row["data-key"] == layer.key
        assert dict(json.loads(row["data-at"])) == {"strong": int(row["id"][1:]), "small <b>": int(row["id"][1:])}


def test_a_comparison_page_says_of_the_order_what_the_ranking_says(comparison):
    page = Page(comparison.to_html()).text()
    for line in (comparison.ranking.headline, comparison.ranking.title, comparison.ranking.rule):
        assert line in page
    assert "Ranking by evidence" not in page


def test_each_code_of_a_compared_matrix_stands_with_its_model(comparison):
    name = next(name for name, model in comparison.models.items() if any(found.keys for found in model.findings))
    found = next(found for found in comparison.models[name].findings if found.keys)
    (row,) = (row for row in rows_of(comparison.to_html()) if row["data-key"] == found.keys[0])
    assert found.code in row["data-code"].split()
    held = codes_of({"a<b": [found], "c": [found, found]})
    lines = sheet(comparison.models[name].rows, [], codes=held).lines
    at = [layer.key for layer in comparison.models[name].rows].index(found.keys[0])
    assert lines[at].findings == f"a<b: {found.code}; c: {found.code}"
    assert lines[at].codes == (found.code,)
    alone = sheet(comparison.models[name].rows, [], codes=codes_of({"": [found]})).lines[at]
    assert alone.findings == found.code


def test_each_claim_stands_beside_its_limits(comparison):
    words = Page(comparison.to_html()).text()
    assert comparison.claims
    for claim in comparison.claims:
        for line in (claim.text, *claim.evidence, *claim.limits, *(source.name for source in claim.sources)):
            assert line.replace("`", "") in words


def test_a_sweep_page_has_the_critical_scale_of_every_matrix(sweep):
    words = Page(sweep.to_html()).text()
    known = [row.critical for row in sweep.rows if row.critical is not None]
    assert known
    assert all(f"{critical:.4f}" in words for critical in known)


# --- its parts -------------------------------------------------------------------------------------------------------


@given(st.floats(0, 1))
def test_a_shade_is_pale_for_nothing_alone(share):
    assert 0 <= heat(share) <= 5
    assert (heat(share) == 0) == (share == 0)
    assert heat(share) >= 5 * share - 1e-9


class Row:
    def __init__(self, name, value):
        self.place, self.index, self.ok, self.value = place(name), None, value is not None, value


def test_the_map_puts_each_matrix_in_its_place():
    rows = [Row(f"m.layers.{block}.{kind}.weight", value) for block, kind, value in
            [(0, "q", 1.0), (0, "k", 3.0), (1, "q", None), (2, "k", 2.0)]]  # fmt: skip
    measure = Measure(
        "sum", lambda found: Cell(str(sum(row.value for row in found)), sum(row.value for row in found)),
        lambda value, low, high: (value - low) / (high - low), lambda low, high: (str(low), str(high)),
    )  # fmt: skip
    found = block_map(rows, [measure])
    assert found.columns == ("q", "k")
    assert found.measures == (("sum", "1.0", "3.0"),)
    shown = {(name, column): place and (place.first, place.cells[0].text, place.cells[0].heat)
             for name, places in found.lines for column, place in zip(found.columns, places, strict=True)}  # fmt: skip
    assert shown == {
        ("0", "q"): (0, "1.0", 0), ("0", "k"): (1, "3.0", 5),
        ("1", "q"): (2, "–", 0), ("1", "k"): None,
        ("2", "q"): None, ("2", "k"): (3, "2.0", 3),
    }  # fmt: skip
    assert block_map(rows[:1], [measure]) is None
    assert block_map(rows[2:3] * 2, [measure]) is None


def corners(path):
    """The points of a path in the page's own spelling: one move, then relative steps."""
    x, y, *_ = map(int, re.findall(r"-?\d+", path.split("l")[0].split("h")[0]))
    points = [(x, y)]
    steps = list(map(int, re.findall(r"-?\d+", path.split("l")[1]))) if "l" in path else []
    for dx, dy in zip(steps[::2], steps[1::2], strict=True):
        points.append((points[-1][0] + dx, points[-1][1] + dy))
    return points


def test_small_spectra_share_axes_and_stay_on_them(report):
    found = small_spectra(report.rows)
    assert len(found.first) + len(found.rest) == len(report.rows)
    telling = [report.rows[panel.number].found for panel in found.first]
    assert telling == sorted(telling, reverse=True)
    for panel in found.first:
        assert [curve.name for curve in panel.curves] == ["base", "tuned", "update"]
        for curve in panel.curves:
            for x, y in corners(curve.path):
                assert 0 <= x <= WIDTH
                assert 0 <= y <= HEIGHT
        heights = [y for _, y in corners(panel.curves[0].path)]
        assert heights == sorted(heights)  # values fall, so heights, counted from the top, rise


def test_small_spectra_put_known_values_where_they_belong(report):
    first = report.rows[0]
    known = replace(first.spectrum, index=(1, 10, 100), base=(1.0, 0.1, 0.01), tuned=(1.0, 0.1, 0.01), update=(0.1,))
    panel = small_spectra([replace(first, spectrum=known)]).first[0]
    base, _, update = (corners(curve.path) for curve in panel.curves)
    assert [x for x, _ in base] == [0, WIDTH // 2, WIDTH]
    assert base[1][1] - base[0][1] == pytest.approx(base[2][1] - base[1][1], abs=1)
    assert update == [(0, base[1][1])]
