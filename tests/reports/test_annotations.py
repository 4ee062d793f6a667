"""Annotations of a GitHub workflow: one line a finding, and no name can end a property or start a command."""

import re
from dataclasses import replace

import pytest

import spectra
from spectra import testing

LINE = re.compile(r"::(error|warning|notice) title=(SP\d{3}) ([a-z-]+),file=([^:,\r\n]*)::([^\r\n]*)")


def decoded(text):
    """Undo the escapes as the runner does."""
    for character, escape in (("\r", "%0D"), ("\n", "%0A"), (":", "%3A"), (",", "%2C"), ("%", "%25")):
        text = text.replace(escape, character)
    return text


@pytest.fixture(scope="module")
def report():
    base = {f"h.{block}.mlp.weight": testing.decaying(96, 96, seed=block).float() for block in range(4)}
    tuned = {name: weight + testing.plant_intruders(weight, 3, seed=2).dense().float() for name, weight in base.items()}
    return spectra.diagnose(base, tuned)


def lines(text):
    found = [LINE.fullmatch(line) for line in text.splitlines()]
    assert all(found), text
    return [line.groups() for line in found]


def test_one_line_a_finding_with_severity_code_file_and_message(report):
    found = lines(report.to_github(file="models/tuned.safetensors"))
    assert len(found) == len(report.findings) > 0
    words = {"error": "error", "warning": "warning", "info": "notice"}
    for (command, code, name, file, message), finding in zip(found, report.findings, strict=True):
        assert (command, code, name) == (words[finding.severity], finding.code, finding.name)
        assert file == "models/tuned.safetensors"
        assert decoded(message) == f"{finding.message} {finding.advice}"
    assert any("%25" in message for *_, message in found)


@pytest.mark.parametrize("name", ["a,title=b", "a::b", "a%0Ab", "a%b", "c:d", "a\r\nb", "\x1b]0;x\x07", "::error::x"])
def test_hostile_files_and_messages_stay_in_their_place(report, name):
    hostile = replace(report, findings=(replace(report.findings[0], message=name, advice=""),))
    ((_, _, _, file, message),) = lines(hostile.to_github(file=name))
    assert decoded(file).isprintable()
    assert decoded(message).isprintable()
    if name.isprintable():
        assert decoded(file) == name
        assert decoded(message) == f"{name} "


def test_a_comparison_names_the_model_of_each_line(trio):
    """At an epsilon so large that the full fine-tune has findings too."""
    models = {"r2": trio / "lora-r2", "all, of it": trio / "full"}
    found = spectra.compare(trio / "base", models, include=["layers.0.mlp"], select=["SP2"], epsilon=0.9)
    text = lines(found.to_github(files={"r2": "demo/lora-r2"}))
    assert len(text) == sum(len(model.findings) for model in found.models.values())
    assert {(message.split(": ", 1)[0], file) for *_, file, message in text} == {
        ("r2", "demo/lora-r2/adapter_model.safetensors"), ("all, of it", "full/model.safetensors"),
    }  # fmt: skip


def test_no_finding_no_line(report):
    assert replace(report, findings=()).to_github() == ""
