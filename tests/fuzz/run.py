"""The fuzzer: libFuzzer through atheris, over the readers of `readers.py`. Needs Linux and `pip install atheris`.

    python tests/fuzz/corpus.py corpus
    python tests/fuzz/run.py corpus -dict=corpus.dict -runs=1000000            # the long run
    python tests/fuzz/run.py corpus -dict=corpus.dict -max_total_time=60       # that of CI

What it finds is written to crash-* in the working folder; `python tests/fuzz/run.py crash-...` runs one again.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["spectra", "pickletools", "zipfile"]):
    import readers

_MEMORY = Path("/dev/shm")
_LIMITS = ("-timeout=5", "-rss_limit_mb=2048", "-max_len=4096")


def main() -> None:
    given = [word.partition("=")[0] for word in sys.argv[1:]]
    limits = [limit for limit in _LIMITS if limit.partition("=")[0] not in given]
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:

        def once(content: bytes) -> None:
            readers.read(Path(folder), content)

        atheris.Setup([*sys.argv, *limits], once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
