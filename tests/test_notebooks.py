"""Every notebook runs from top to bottom on the public names, shows what it was committed with, and answers from it."""

import ast
import base64
import contextlib
import io
import json
import re
from pathlib import Path

import matplotlib
import pytest
from matplotlib import pyplot

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NUMBER = re.compile(r"\d+(?:\.\d+)?")
ASIDE = re.compile(r"`[^`]*`|\([^)]*arXiv[^)]*\)")  # settings and references: not what was found


def numbers(text):
    return [float(found) for found in NUMBER.findall(text)]


def cells(path, kind="code"):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def printed(cell):
    return "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")


def shown(cell, kind):
    """What a cell displays of one kind, such as image/png."""
    return [data for output in cell["outputs"] if (data := output.get("data", {}).get(kind))]


def run(source, names):
    """Run a cell as Jupyter does: everything, and the value of an expression that stands last without a semicolon."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None
    return None if source.rstrip().endswith(";") else value


def same(found, committed):
    assert NUMBER.sub("#", found) == NUMBER.sub("#", committed)
    # Another processor may round the last digit, or a count at its threshold, another way.
    assert numbers(found) == pytest.approx(numbers(committed), rel=0.05, abs=0.02)


@pytest.fixture
def in_its_folder(monkeypatch):
    """Notebooks run where they lie, as under Jupyter, and draw into memory."""
    monkeypatch.chdir(FOLDER)
    with matplotlib.rc_context({"backend": "agg"}):
        yield
    pyplot.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_was_committed_with(path, in_its_folder):
    names = {}
    for cell in cells(path):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            value = run("".join(cell["source"]), names)
        same(out.getvalue(), printed(cell))
        pages = [value._repr_html_()] if hasattr(value, "_repr_html_") else []
        for page, committed in zip(pages, map("".join, shown(cell, "text/html")), strict=True):
            same(page, committed)
        drawn = [pyplot.figure(number) for number in pyplot.get_fignums()]
        assert len(drawn) == len(shown(cell, "image/png"))
        for figure in drawn:
            figure.savefig(io.BytesIO(), format="png")
        pyplot.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_number_of_an_answer_is_printed_above_it(path):
    *_, last = cells(path, "markdown")
    answer = "".join(last["source"])
    assert answer.startswith("**Answer.** ")
    assert "Evidence: " in answer
    found = {
        number
        for cell in cells(path)
        for number in numbers(printed(cell) + "".join(map("".join, shown(cell, "text/html"))))
    }
    told = numbers(ASIDE.sub("", answer))
    assert told
    assert [number for number in told if number not in found] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_asks_one_question_and_uses_public_names_only(path):
    assert path.stat().st_size < 200_000
    assert "".join(cells(path, "markdown")[0]["source"]).splitlines()[0].endswith("?")
    for cell in cells(path):
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("spectra.")
        for image in shown(cell, "image/png"):
            assert base64.b64decode(image).startswith(b"\x89PNG")


def test_notebooks_are_numbered_without_a_gap():
    assert NOTEBOOKS
    assert [int(path.stem.split("-")[0]) for path in NOTEBOOKS] == list(range(1, len(NOTEBOOKS) + 1))
