"""Bytes from anywhere: only our own errors leave the readers, whatever is changed in a file, and at once."""

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
SECONDS = 60
EVERY = 400  # positions of a seed that are tried; of a longer one, every second or third
CHANGES = {
    "a bit": lambda byte: bytes([byte ^ 1]),
    "the high bit": lambda byte: bytes([byte ^ 0x80]),
    "all bits": lambda byte: bytes([byte ^ 0xFF]),
    "a NUL": lambda byte: b"\0",
    "nothing": lambda byte: b"",
    "a quote": lambda byte: b'"',
    "twice": lambda byte: bytes([byte, byte]),
}


@pytest.fixture
def folder():
    """A folder in memory where there is one: what is tried is the reader, not the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as made:
        yield Path(made)


@pytest.fixture(scope="module")
def fuzzed():
    """The modules beside this file: the readers, and the seeds of the fuzzer by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import corpus
        import readers

        yield readers, corpus.seeds()


def test_every_reader_has_a_seed_that_it_reads_and_one_that_it_refuses(fuzzed, folder):
    readers, seeds = fuzzed
    for kind in readers.READERS:
        found = [readers.read(folder, content) for name, content in seeds.items() if name.rpartition("-")[0] == kind]
        assert None in found, kind
        assert kind == "inspected" or any(found), kind


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_at_every_position_of_every_seed(fuzzed, folder, change):
    """Deterministic, a few thousand inputs: each is read or refused by one of our own errors, in no time."""
    readers, seeds = fuzzed
    slowest = 0.0
    for content in seeds.values():
        for position in range(1, len(content), 1 + len(content) // EVERY):
            changed = content[:position] + change(content[position]) + content[position + 1 :]
            started = time.process_time()
            readers.read(folder, changed)
            slowest = max(slowest, time.process_time() - started)
    assert slowest < 1


def test_every_seed_cut_anywhere(fuzzed, folder):
    readers, seeds = fuzzed
    for content in seeds.values():
        for length in range(0, len(content), 1 + len(content) // EVERY):
            readers.read(folder, content[:length])


@pytest.mark.slow
def test_a_minute_of_the_fuzzer_finds_nothing(tmp_path):
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed (pip install atheris; it exists for Linux and Python up to 3.13)")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    corpus = tmp_path / "corpus"
    subprocess.run([sys.executable, FOLDER / "corpus.py", corpus], check=True, env=environment)
    words = [sys.executable, FOLDER / "run.py", corpus, f"-dict={corpus}.dict", f"-max_total_time={SECONDS}"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=SECONDS + 120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not list(tmp_path.glob("crash-*")) + list(tmp_path.glob("timeout-*")) + list(tmp_path.glob("oom-*"))
    assert "DONE" in done.stderr
