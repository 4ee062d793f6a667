"""What every test may use: the real data beside the checkout, where it is, and the demo trio."""

import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported: workers share the cores, and two pools of threads on one core wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

settings.register_profile("ci", deadline=None, max_examples=60, derandomize=True)
settings.register_profile("nightly", deadline=None, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of adapters and checkpoints made by strangers; tests that use it skip without it."""
    folder = Path(os.environ.get("SPECTRA_SHARED", CHECKOUT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip("the folder of real checkpoints is not on this machine (set SPECTRA_SHARED)")
    return folder


@pytest.fixture(scope="session")
def real_bases() -> Path:
    """The folder of unpacked base models (see CONTRIBUTING); tests that use it skip without it."""
    folder = os.environ.get("SPECTRA_BASES")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no real base models on this machine (set SPECTRA_BASES, see CONTRIBUTING)")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep every test, and every command that one starts, away from the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECTRA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def trio() -> Path:
    """The demo's base and its three fine-tunes."""
    return CHECKOUT / "spectra" / "demo"
