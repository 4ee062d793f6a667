"""What a number was measured on: hardware, threads, versions, the day."""

import datetime
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "numpy", "scipy", "peft", "weightwatcher")


def described(device: str) -> dict[str, Any]:
    """Return the machine and the software, as plain data."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "blas": _blas(),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def in_words(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    where = "" if found["device"] == "cpu" else f"{found['device']}; "
    return (
        f"{where}{found['cpu']}, {found['cores']} cores, {found['threads']} threads; {found['blas']}; "
        f"Python {found['python']}, {versions}; {found['date']}"
    )


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    return names[0].strip() if names else platform.processor() or platform.machine()


def _blas() -> str:
    found = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    return f"BLAS {found[1]}" if found else "BLAS unknown"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
