"""Every notebook runs from top to bottom on the public names and prints what it was committed with."""

import ast
import contextlib
import io
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def numbers(text):
    return [float(found) for found in NUMBER.findall(text)]


def cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_prints_what_it_shows(path):
    names = {}
    for cell in cells(path):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile("".join(cell["source"]), path.name, "exec"), names)
        shown = "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")
        assert NUMBER.sub("#", out.getvalue()) == NUMBER.sub("#", shown)
        # Another processor may round the last digit, or a count at its threshold, another way.
        assert numbers(out.getvalue()) == pytest.approx(numbers(shown), rel=0.05, abs=0.02)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_uses_public_names_only(path):
    assert path.stat().st_size < 200_000
    for cell in cells(path):
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("spectra.")


def test_there_are_notebooks():
    assert NOTEBOOKS
