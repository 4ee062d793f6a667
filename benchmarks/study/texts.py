"""The texts of the study: one that the base learns first, and the tasks it is fine-tuned on."""

import gzip
import json
import platform
import random
import sysconfig
from dataclasses import dataclass
from pathlib import Path

SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "idlelib"}


@dataclass(frozen=True)
class Text:
    """One kind of text in two parts that share no document. source and licence say where it is from."""

    name: str
    source: str
    licence: str
    train: bytes
    held_out: bytes


def wikipedia(path: Path) -> Text:
    """enwik8, the first 10^8 bytes of an English Wikipedia dump of 2006, raw: 90 MB train, the last 5 MB are held out.

    path : the file, plain or gzipped (mattmahoney.net/dc).
    """
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    part = len(content) // 20
    source = "enwik8: the first 90 % train, the last 5 % are held out (the usual test part)"
    return Text("wikipedia", source, "GFDL and CC BY-SA", content[: 18 * part], content[19 * part :])


def python_source(library: Path | None = None, *, most: int | None = None) -> Text:
    """The sources of the running Python's standard library without its tests; every 20th file is held out.

    most : read no more than about this many bytes, taking every n-th file.
    """
    library = library or Path(sysconfig.get_path("stdlib"))
    paths = [path for path in sorted(library.rglob("*.py")) if _belongs(path.relative_to(library))]
    if most is not None:
        size = sum(path.stat().st_size for path in paths)
        paths = paths[:: max(1, size // most)]
    documents = [path.read_bytes() for path in paths]
    train = b"\n".join(text for number, text in enumerate(documents) if number % 20 != 19)
    source = f"standard library of CPython {platform.python_version()}, every 20th of {len(paths)} files held out"
    return Text("python", source, "PSF-2.0", train, b"\n".join(documents[19::20]))


def mathematics(folder: Path) -> Text:
    """GSM8K (Cobbe et al. 2021, arXiv:2110.14168): 7,473 problems with worked answers train, 1,319 are held out."""
    train, held_out = (_problems(folder / f"{part}.jsonl") for part in ("train", "test"))
    return Text("mathematics", "GSM8K, its own train and test parts", "MIT", train, held_out)


def documentation() -> Text:
    """English prose that every Python carries: the language reference of `help()`; every 10th topic is held out."""
    from pydoc_data.topics import topics

    documents = [topics[name].encode() for name in sorted(topics)]
    train = b"\n".join(text for number, text in enumerate(documents) if number % 10 != 9)
    return Text("documentation", "pydoc_data.topics", "PSF-2.0", train, b"\n".join(documents[9::10]))


def sums(seed: int = 0) -> Text:
    """Addition problems in words, drawn from a seed: a second task where GSM8K is not at hand."""
    draw = random.Random(seed)
    lines = [_sum(draw) for _ in range(6000)]
    return Text(
        "sums", f"addition problems, seed {seed}", "CC0", "".join(lines[:5500]).encode(), "".join(lines[5500:]).encode()
    )


def _belongs(path: Path) -> bool:
    built = path.name.startswith("_sysconfigdata") or path.parts[0].startswith("config-")
    return not built and not SKIPPED_FOLDERS.intersection(path.parts)


def _problems(path: Path) -> bytes:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in rows).encode()


def _sum(draw: random.Random) -> str:
    name, thing = draw.choice(["Ann", "Ben", "Eva", "Tom"]), draw.choice(["apples", "books", "coins", "stamps"])
    first, second = draw.randrange(100), draw.randrange(100)
    return f"{name} has {first} {thing} and buys {second}. Now {name} has {first + second} {thing}.\n"
