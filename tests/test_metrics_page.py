"""docs/metrics.md explains every number: each name that a row of a result can hold is in it, as code."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

import spectra
from spectra import testing
from spectra.metrics.insertion import InsertionRow, Overlap
from spectra.metrics.ranks import RankErrors

CHECKOUT = Path(__file__).parents[1]
PAGE = (CHECKOUT / "docs" / "metrics.md").read_text()
CODE = " ".join(re.findall(r"`([^`\n]+)`", PAGE))
NAMES = set(re.findall(r"[A-Za-z_][A-Za-z_0-9]*", CODE))


def names(data):
    """Every key of nested data, those of rows in lists too."""
    found = set()
    for key, value in data.items():
        found.add(key)
        inside = value if isinstance(value, list | tuple) else [value]
        for part in inside:
            if isinstance(part, dict):
                found |= names(part)
    return found


@pytest.fixture(scope="module")
def models():
    """A base large enough for every measurement, with a low-rank and a dense update of it."""
    base = {"layers.0.proj.weight": testing.decaying(120, 100, seed=1).float()}
    noise = {key: weight + testing.noise(120, 100, level=0.2, seed=2).float() for key, weight in base.items()}
    return base, noise


@pytest.fixture(scope="module")
def adapter(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    return testing.save_lora(folder / "lora", testing.lora(models[0], ["proj"], rank=3, seed=3), alpha=3)


def test_every_number_of_a_diagnosis_is_explained(models, adapter):
    base, tuned = models
    found = set()
    for model in (tuned, adapter):
        report = spectra.diagnose(base, model, method="exact", side="both", k=3)
        found |= names(report.rows[0].to_dict()) | names(report.summary)
    assert {"edges", "tails", "threshold", "attribution", "balance"} <= found
    assert found - NAMES == set()


def test_every_part_of_a_row_was_measured_in_one_of_the_two(models, adapter):
    """So that no key of a part that is None is missed by the test above."""
    rows = [spectra.diagnose(models[0], model, method="exact", k=3).rows[0].to_dict() for model in (models[1], adapter)]
    for part in set(rows[0]) - {"index"}:
        assert any(row[part] is not None for row in rows), part


def test_every_number_of_a_sweep_and_of_an_overlap_is_explained(models, adapter):
    base, tuned = models
    swept = spectra.sweep(base, adapter, scales=[0, 1, 4], side="both", k=3)
    both = spectra.overlap(base, adapter, tuned)
    assert (names(swept.rows[0].to_dict()) | names(both.rows[0].to_dict())) - NAMES == set()


@pytest.mark.parametrize("record", [InsertionRow, Overlap, RankErrors])
def test_every_field_of_the_other_rows_is_explained(record):
    assert {field.name for field in fields(record)} - NAMES == set()


def test_every_section_says_when_not_to_trust_it():
    measured = PAGE.split("\n## ")[2:-1]
    silent = [section.splitlines()[0] for section in measured if "not trust" not in section and "trust" not in section]
    assert silent == ["Sweep over k and epsilon", "Base and update share", "Spectrum"]


def test_every_link_of_the_contents_leads_to_a_section():
    heads = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^## (.+)$", PAGE, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= heads


def test_the_error_of_the_law_is_the_one_measured():
    measured = json.loads((CHECKOUT / "benchmarks" / "results" / "threshold-law.json").read_text())
    for line in measured["lines"]:
        cells = [line["name"], str(line["compared"]), f"{line['share']:.0%}".replace("%", " %"), f"{line['ratio']:.2f}"]
        assert line["name"].startswith(" ") or f"| {' | '.join(cells)} |" in PAGE


def test_a_name_that_is_not_there_would_be_missed():
    assert "no_such_number" not in NAMES
    assert names({"a": [{"b": 1}], "c": {"d": None}}) == {"a", "b", "c", "d"}
