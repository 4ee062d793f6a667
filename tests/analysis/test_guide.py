"""The decision table: every cell is measured, computed or has a source, and stands in the column of what it is."""

import re

import pytest

import spectra
from spectra.analysis.guide import COLUMNS, DEFINITION
from spectra.reports import terminal

MODELS = ("lora-r2", "lora-r32", "full")


@pytest.fixture(scope="module")
def compared(trio):
    return spectra.compare(trio / "base", {name: trio / name for name in MODELS})


def cell(found, method, column):
    return found.rows[method][found.columns.index(column)]


def test_every_row_has_a_cell_a_column(trio, compared):
    for found in (compared.guide, spectra.guide(trio / "base")):
        assert found.columns == COLUMNS
        assert {len(cells) for cells in found.rows.values()} == {len(COLUMNS)}


def test_what_is_taken_from_others_names_a_paper_or_is_a_definition(trio):
    for cells in spectra.guide(trio / "base").rows.values():
        for one in cells:
            assert one.known in ("computed", "source")
            if one.known == "source":
                assert one.source == DEFINITION or re.match(r"arXiv:\d{4}\.\d{5}", one.source)


def test_intruders_are_counted_under_intruders_and_never_under_forgetting(compared):
    for method, names in (("full fine-tuning", ("full",)), ("LoRA", ("lora-r2", "lora-r32"))):
        counted = cell(compared.guide, method, "intruders")
        assert counted.known == "measured"
        for name in names:
            summary = compared.models[name].summary
            assert f"{name}: {summary['new'] + summary['rotated']} of {summary['examined']} " in counted.text
        assert cell(compared.guide, method, "forgetting").known == "source"


def test_nothing_is_said_of_the_size_of_full_fine_tuning(compared):
    """It has the smallest update of the demo's three."""
    assert not any("largest" in one.text for one in compared.guide.rows["full fine-tuning"])


def test_the_terminal_names_the_source_of_what_it_took_from_others(trio):
    text = " ".join(terminal.text(terminal.guide(spectra.guide(trio / "base"))).split())
    assert "more than LoRA in the papers' runs [arXiv:2405.09673, 2410.21228]" in text
    assert DEFINITION not in text
