"""What the loader tests share: the cases with a known answer, unpacked once."""

import json
import os
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def oracle(tmp_path_factory) -> Path:
    """The folder of the cases of ORACLE.md, one folder a case; tests that use it skip without the archive."""
    archive = Path(os.environ.get("SPECTRA_SHARED", CHECKOUT.parent / "shared")) / "oracle.tar.xz"
    if not archive.is_file():
        pytest.skip("oracle.tar.xz is not on this machine (set SPECTRA_SHARED to the folder that holds it)")
    folder = tmp_path_factory.mktemp("oracle")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / "oracle"


def _require_right(case, pairs, truth):
    """Assert that every matrix of the truth is there, right in the stored layout, and nothing else is changed."""
    tolerance = json.loads((case / "case.json").read_text())["tolerance"]
    true = {key: value.double() for key, value in load_file(case / f"{truth}.safetensors").items() if value.ndim > 1}
    skipped = dict(pairs.skipped)
    found = {}
    for pair in pairs:  # the experts of a stack, which come in their order, are put together again
        value = pair.to_stored(pair.update.dense()).double()
        before = found.get(pair.key, value.new_empty(0, *value.shape))
        found[pair.key] = value if pair.index is None else torch.cat([before, value[None]])
    for key, value in found.items():
        expected = true.get(key, torch.zeros_like(value))
        # dW is handed out in float32: half a unit in its last place, 2^-24, comes on top of the case's tolerance.
        allowed = tolerance["atol"] + (tolerance["rtol"] + 2.0**-24) * expected.abs()
        assert value.shape == expected.shape, key
        assert bool(((value - expected).abs() <= allowed).all()), f"{key}: off by {(value - expected).abs().max():.2e}"
    for key in true.keys() - found.keys():
        same = [other for other in found if true.get(other) is not None and torch.equal(true[other], true[key])]
        assert not true[key].any() or (skipped.get(key, "").startswith("tied") and same), f"{key} is missing"


@pytest.fixture(scope="session")
def require_right():
    """Return the judge of a case: a function of its folder, its pairs, and the name of its truth."""
    return _require_right
