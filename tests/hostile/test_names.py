"""Names from strangers: nothing in one steers a terminal, a table or a page."""

import csv
import io
import json

import pytest
import torch

from spectra import table
from spectra.errors import SpectraError
from spectra.loaders.pairing import open_pairs
from spectra.text import listing, nearest, show

HOSTILE = {
    "an escape": "a\x1b[2J\x1b]0;owned\x07b",
    "an 8-bit escape": "a\x9b31mb",
    "a right-to-left override": "a\u202egpj.exe",
    "isolates": "a\u2066b\u2069c",
    "marks": "a\u200e\u200f\u061cb",
    "line breaks": "a\nb\rc\x0bd\x85e\u2028f\u2029g",
    "a tab and a NUL": "a\tb\x00c",
    "delete": "a\x7fb",
    "invisible letters": "a\u200bb\u2060c\ufeffd\u00ade",
    "tags": "a\U000e0041b",
    "private letters": "a\ue000b",
    "markup": "</script><img src=x onerror=alert(1)>",
    "rich markup": "[red]a[/]b[link=x]",
    "mathtext": "layer.$\\bad{$",
    "a formula": "=HYPERLINK(1)",
    "a path": "../../etc/passwd",
    "quotes": "'\"`;,",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_what_is_shown_prints_and_keeps_its_letters(name):
    shown = show(name)
    assert shown.isprintable()
    assert shown == name if name.isprintable() else "\\" in shown


SHOWN = {
    "\x1b": "\\x1b",
    "\x9b": "\\x9b",
    "\u202e": "\\u202e",
    "\udc80": "\\udc80",
    "\U000e0041": "\\U000e0041",
    "x" * 500: "x" * 119 + "…",
    "日本": "日本",
    10**5000: "a int too large to show",
}


@pytest.mark.parametrize(("text", "shown"), SHOWN.items(), ids=[str(number) for number in range(len(SHOWN))])
def test_each_letter_is_shown_as_documented(text, shown):
    assert show(text) == shown


def test_showing_never_fails_and_never_grows_without_bound():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    assert "too large" in show(nested)
    assert len(show("\x1b" * 10_000_000)) == 120
    assert len(listing(["x" * 1000] * 1_000_000)) < 1300


def test_the_nearest_name_is_found_at_once_among_many_and_long_ones(refused):
    import time

    started = time.process_time()
    many = [f"model.layers.{layer}.mlp.experts.{expert}.w1" for layer in range(100) for expert in range(100)]
    assert nearest("model.layers.77.mlp.experts.42.w11", many) == "model.layers.77.mlp.experts.42.w1"
    nearest("x" * 2**20, ["y" * 2**20] * 20)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_goes_through_the_whole_report(tmp_path, craft, diagnose, name):
    key = f"{name}.weight"
    base = craft.model(tmp_path / "b", {key: torch.eye(8), f"{name}.bias": torch.ones(8)})
    report = diagnose(base, craft.model(tmp_path / "t", {key: torch.eye(8) + 0.1 * torch.randn(8, 8)}))
    text = report.to_json()
    assert text.isascii()
    assert json.loads(text)["layers"][0]["key"] == key
    (row,) = csv.DictReader(io.StringIO(report.to_csv()))
    assert row["key"] == ("'" if key.startswith("=") else "") + show(key, None)
    assert all(cell.isprintable() for cell in row.values())


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_is_clean_in_every_refusal(tmp_path, craft, name):
    """Each way to be refused is tried with the name in every place that a message can quote."""
    key = f"{name}.weight"
    good = craft.model(tmp_path / "b", {key: torch.eye(8), "q.weight": torch.eye(8)})
    bad = [
        craft.model(tmp_path / "shape", {key: torch.ones(8, 4)}),
        craft.model(tmp_path / "other", {"x" + name: torch.eye(8)}),
    ]
    for number, factors in enumerate(
        (
            craft.factors((name,), m=8, n=4),
            craft.factors((name + "x",), m=8, n=8),
            {f"{name}.lora_A.weight": torch.ones(4, 8)},
            {f"{name}.lora_A.weight": torch.ones(4, 8), f"{name}.lora_B.weight": torch.ones(8, 3)},
            {
                f"{name}.lora_A.{name.replace('.', '_')}.weight": torch.ones(4, 8),
                f"{name}.lora_B.weight": torch.ones(8, 4),
            },
            {f"{name}.lora_A.weight": torch.ones(4, 8).to(torch.int8), f"{name}.lora_B.weight": torch.ones(8, 4)},
        )
    ):
        bad.append(craft.adapter(tmp_path / f"a{number}", factors))
    bad.append(craft.adapter(tmp_path / "m", craft.factors(("q",), m=8, n=8), peft_type=name))
    bad.append(craft.adapter(tmp_path / "p", craft.factors(("q",), m=8, n=8), init_lora_weights="pissa" + name))
    bad.append(craft.adapter(tmp_path / "e", craft.factors(("q",), m=8, n=8), rank_pattern={"(" + name: 4}))
    bad.append(craft.adapter(tmp_path / "r", craft.factors(("q",), m=8, n=8), r=name))
    bad.append(craft.model(tmp_path / "k", {key: torch.zeros(8, 8, dtype=torch.int8), f"{name}.SCB": torch.ones(5)}))
    for tuned in bad:
        with pytest.raises(SpectraError) as caught:
            for _ in open_pairs(good, tuned):
                pass
        assert all(line.isprintable() for line in str(caught.value).split("\n")), tuned
    with pytest.raises(SpectraError) as caught:
        open_pairs(good, good, include=[name + "zzz"])
    assert str(caught.value).isprintable()
    with pytest.raises(SpectraError) as caught:
        open_pairs(good, tmp_path / name.replace("/", "_"))
    assert str(caught.value).isprintable()


FORMULAS = ("=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1", "-cmd|' /C calc'!A0", "=1 2")
HARMLESS = ("a=1", "model.q", "-0.5", "+3", "1e-05 -2 3.5", "", "'quoted", "-1e+20")


def test_no_cell_of_a_table_is_a_formula_and_every_text_comes_back():
    rows = [{"key": text, "value": [-1.0, 2.0], "number": -3.5} for text in (*FORMULAS, *HARMLESS)]
    found = list(csv.DictReader(io.StringIO(table.to_csv(rows))))
    assert [row["key"] for row in found] == [*("'" + show(text) for text in FORMULAS), *HARMLESS]
    assert {row["value"] for row in found} == {"-1 2"}
    assert {row["number"] for row in found} == {"-3.5"}


def test_json_has_no_number_that_is_none():
    text = table.to_json({"a": float("nan"), "b": [float("inf")], "c": "</script>\u2028"})
    assert json.loads(text) == {"a": None, "b": [None], "c": "</script>\u2028"}
    assert text.isascii()
