"""The README is true: its commands, names and numbers are those of the code."""

import re
from pathlib import Path

import pytest

import spectra
from spectra.cli.main import COMMANDS

CHECKOUT = Path(__file__).parent.parent
README = (CHECKOUT / "README.md").read_text()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_is_in_the_readme(command):
    assert f"spectra {command.name}" in README


@pytest.mark.parametrize("name", [name for name in spectra.__all__ if name not in ("__version__", "errors")])
def test_every_public_name_is_documented(name):
    assert len((getattr(spectra, name).__doc__ or "").strip()) > 40
    assert f"`{name}" in README or f"spectra.{name}" in README


def test_every_error_says_when_it_is_raised():
    for name, kind in vars(spectra.errors).items():
        if isinstance(kind, type) and issubclass(kind, Exception):
            assert len(kind.__doc__ or "") > 40, name


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", README, re.S)[1]
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_every_picture_and_link_to_a_file_is_there():
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", README) + re.findall(r'src="([^"]+)"', README):
        assert (CHECKOUT / target).exists(), target


def test_the_version_heads_the_changelog():
    assert "## [Unreleased]" in (CHECKOUT / "CHANGELOG.md").read_text()
