"""Starting is quick: the help and `inspect` never import torch."""

import subprocess
import sys

import pytest

PROBE = """
import sys
from spectra.cli.main import main
try:
    main({words!r})
except SystemExit as end:
    assert end.code == 0, end.code
heavy = sorted(set(sys.modules) & {{"torch", "matplotlib", "scipy", "transformers"}})
print("HEAVY", heavy)
"""


def heavy_imports(*words):
    ran = subprocess.run([sys.executable, "-c", PROBE.format(words=list(words))], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.rsplit("HEAVY", 1)[1].strip()


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("diagnose", "--help"),
        ("compare", "--help"),
        ("demo", "--help"),
        ("base", "--help"),
        ("overlap", "--help"),
        ("inspect", "--help"),
        ("explain",),
        ("explain", "SP2", "rank-unused"),
        ("explain", "--markdown"),
    ],
)
def test_help_imports_no_torch(words):
    assert heavy_imports(*words) == "[]"


def test_inspect_imports_no_torch(trio):
    assert heavy_imports("inspect", str(trio / "lora-r2")) == "[]"
    assert heavy_imports("inspect", str(trio / "base")) == "[]"


def test_import_spectra_imports_no_torch():
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, spectra; assert 'torch' not in sys.modules; spectra.SVD; assert 'torch' in sys.modules",
        ],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
