"""What the loader tests share: the cases with a known answer, unpacked once."""

import os
import tarfile
from pathlib import Path

import pytest

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
