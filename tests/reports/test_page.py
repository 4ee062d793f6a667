"""The page promises: one file, no script, no network, every outside name harmless, readable at 500 rows."""

import html.parser
import re
import shutil
import subprocess

import pytest
import torch

import spectra

HOSTILE = "</script><img src=x onerror=alert(1)>.layers.3.$\\bad{$\x1b[31m\u202e.weight"


class Tags(html.parser.HTMLParser):
    """Collects every element, attribute and piece of text of a page."""

    def __init__(self, page):
        super().__init__()
        self.names, self.attributes, self.words = set(), [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)


def models(names, *, strength=6.0, width=48):
    generator = torch.Generator().manual_seed(1)
    base = {name: torch.randn(width, width, generator=generator) for name in names}
    spike = torch.randn(width, 1, generator=generator) @ torch.randn(1, width, generator=generator)
    return base, {name: weight + strength * spike / 8 for name, weight in base.items()}


@pytest.fixture(scope="module")
def report():
    return spectra.diagnose(
        *models([f"model.layers.{block}.mlp.{kind}.weight" for block in range(3) for kind in ("up", "down")])
    )


@pytest.fixture(scope="module")
def hostile():
    base, tuned = models([HOSTILE, "model.layers.0.mlp.up.weight"])
    tuned["=cmd|' /C calc'!A0"] = torch.ones(3)
    return spectra.diagnose(base, tuned)


def test_a_page_holds_no_script_and_loads_nothing(report, hostile):
    for page in (report.to_html(), hostile.to_html()):
        tags = Tags(page)
        assert tags.names.isdisjoint({"script", "link", "iframe", "object", "embed", "form", "base"})
        assert not [name for name, _ in tags.attributes if name.startswith("on")]
        links = [value for name, value in tags.attributes if name in ("src", "href", "xlink:href", "action", "data")]
        assert all(value.startswith(("data:image/png;base64,", "#")) for value in links)
        assert "default-src 'none'" in page


def test_a_hostile_name_becomes_text(hostile):
    page = hostile.to_html()
    assert "<img src=x" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in page


def test_a_hostile_name_is_harmless_in_every_other_output(hostile):
    assert "\x1b" not in str(hostile) + hostile.to_csv() + hostile._repr_html_()
    assert "<img" not in hostile._repr_html_()
    assert "\n" not in max(hostile.to_csv().splitlines(), key=len)
    assert hostile.to_json().isascii()


def test_no_id_stands_twice_in_a_page(report):
    ids = [value for name, value in Tags(report.to_html()).attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_the_page_says_what_the_report_says(report):
    words = " ".join(" ".join(Tags(report.to_html()).words).split())
    assert f"{report.summary['intruders']} of {report.summary['examined']}" in words
    for finding in report.findings:
        assert finding.code in words
        assert finding.message in words
    for layer in report.rows:
        assert layer.place.module in words


def test_every_finding_names_its_source(report):
    assert report.findings
    assert all(finding.source in report.to_html() for finding in report.findings)


def test_five_hundred_rows_are_grouped_by_block():
    names = [f"model.layers.{block}.m.{kind}.weight" for block in range(72) for kind in "abcdefg"]
    report = spectra.diagnose(*models(names, width=8), k=2)
    page = report.to_html()
    assert len(report.rows) == 504
    assert page.count("<summary>") == 73
    headings = re.findall(r"<summary>(model\.layers\.\d+)", page)
    assert headings == [f"model.layers.{block}" for block in range(72)]


def test_rows_without_measurement_say_why():
    base, tuned = models(["a.0.x.weight", "a.1.x.weight", "a.2.x.weight"])
    tuned["a.0.x.weight"] = tuned["a.0.x.weight"].clone()
    tuned["a.0.x.weight"][3, 5] = float("nan")
    tuned["a.1.x.weight"] = base["a.1.x.weight"].clone()
    words = " ".join(" ".join(Tags(spectra.diagnose(base, tuned).to_html()).words).split())
    assert "nonfinite" in words
    assert "first at [3, 5]" in words
    assert "zero_update" in words


def test_a_report_without_any_measurement_is_still_a_page():
    base, _ = models(["a.0.x.weight"])
    report = spectra.diagnose(base, dict(base))
    assert "Nothing changed" in report.to_html()
    assert "Nothing changed" in str(report)
    assert "Nothing changed" in report._repr_html_()


def test_a_comparison_page_has_ranking_guide_and_sources(report):
    base, tuned = models(["model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"])
    small = {name: weight + 0.01 * (tuned[name] - weight) for name, weight in base.items()}
    found = spectra.compare(base, {"strong": tuned, "small <b>": small})
    page = found.to_html()
    assert [standing.name for standing in found.standings] == ["small <b>", "strong"]
    assert "small &lt;b&gt;" in page
    assert "small <b>" not in page
    assert "arXiv:2410.21228" in page
    assert "measured" in page
    assert "small &lt;b&gt;" in found._repr_html_()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no headless Chromium on this machine")
def test_a_browser_shows_the_hostile_page_without_error(hostile, tmp_path):
    page = tmp_path / "page.html"
    hostile.to_html(page)
    ran = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--disable-background-networking", "--enable-logging=stderr", "--v=0", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0
    assert "onerror=alert(1)&gt;" in ran.stdout
    assert "<img src=" not in ran.stdout
    assert "CONSOLE" not in ran.stderr
