"""The certified path holds at most four matrices of float32 at its peak, base and dense update included.

VmHWM of Linux is the peak of all resident pages. Each case runs in a process of its own, after the same work on a
smaller pair: what the interpreter, torch and its kernels hold then is subtracted. The allocator is told to give back
every large block that is freed, as it does by itself for the blocks of larger matrices.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spectra.analysis.stream import COPIES

GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
RUN = """
import ctypes, re, sys
from pathlib import Path
import torch
from spectra import testing
from spectra.analysis.stream import nothing_to_measure
from spectra.engine.choose import Request, decompose
from spectra.metrics.layer import measure
from spectra.updates import LowRank

kind, method, spectrum, side = *sys.argv[1:4], int(sys.argv[4])

def resident(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

def pair(n):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(n, n, generator=generator)
    for at in range(16):  # a decaying top, as trained weights have
        base[:, at] *= 4 - at / 8
        base[at] *= 4 - at / 8
    if kind == "dense":
        return testing.weight_pair(base, torch.randn(n, n, generator=generator).mul_(0.02))
    B, A = torch.randn(n, 16, generator=generator), torch.randn(16, n, generator=generator)
    return testing.weight_pair(base, LowRank(B * 0.02, A))

def row(found):
    assert nothing_to_measure(found) is None
    return measure(found, decompose(found, Request(method=method, spectrum=spectrum)))

row(pair(1100))  # above 1024, where the certified path computes in float32
ctypes.CDLL(None).malloc_trim(0)
before = resident("VmRSS")
found = row(pair(side))
assert (found.ok, found.method) == (True, method), found.notes
assert (found.rank.error is not None) == (spectrum == "estimated")
print((resident("VmHWM") - before) / (4 * side**2))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident pages are read from /proc"),
]


def copies(kind, method, spectrum, side):
    """Return the peak memory of one row in matrices of float32."""
    command = [sys.executable, "-c", RUN, kind, method, spectrum, str(side)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | GIVE_BACK)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.parametrize(("kind", "spectrum"), [("factored", "auto"), ("dense", "exact"), ("dense", "estimated")])
def test_the_certified_path_holds_four_matrices_at_most(kind, spectrum):
    held = copies(kind, "certified", spectrum, side=2048)
    assert 1 <= held < COPIES["certified"] == 4


@pytest.mark.parametrize("kind", ["factored", "dense"])
def test_the_exact_path_holds_what_its_refusal_says(kind):
    held = copies(kind, "exact", "auto", side=1536)
    assert COPIES["certified"] < held < COPIES["exact"]
