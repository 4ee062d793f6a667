"""The main job: what did this fine-tuning do to these weights?"""

import datetime
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Unpack

import numpy
import torch

from spectra import __version__, table
from spectra.analysis.settings import Progress, Settings
from spectra.analysis.stream import stream
from spectra.analysis.summary import summarise
from spectra.findings.finding import Evidence, Finding
from spectra.findings.rules import chosen, find
from spectra.loaders.base import Base
from spectra.loaders.header import FileRecord
from spectra.loaders.options import Reading
from spectra.loaders.pairing import Pairs, open_pairs
from spectra.loaders.plan import Skipped, TunedInfo
from spectra.loaders.source import Model
from spectra.metrics.layer import Layer
from spectra.metrics.place import Place, place
from spectra.metrics.status import FAILURES

SCHEMA = 1


@dataclass(frozen=True)
class Diagnosis(table.Tabular):
    """Everything measured of one tuned model against its base.

    rows : one `Layer` a matrix, in base order; summary : the numbers read first; findings : what they
    mean; skipped : (key, reason) for every tensor left out; provenance : files, hashes, versions, options.
    """

    rows: tuple[Layer, ...]
    summary: dict[str, Any]
    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...]
    provenance: dict[str, Any]
    info: TunedInfo

    @property
    def failed(self) -> int:
        """Rows that could not be measured."""
        return sum(layer.status in FAILURES for layer in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the whole as plain data: JSON schema 1."""
        return {
            "schema": SCHEMA,
            "provenance": self.provenance,
            "summary": self.summary,
            "findings": [finding.to_dict() for finding in self.findings],
            "skipped": [skipped._asdict() for skipped in self.skipped],
            "layers": [layer.to_dict() for layer in self.rows],
        }

    def flat_rows(self) -> list[dict[str, Any]]:
        """Return the rows without their spectra and sweeps."""
        rows = []
        for layer in self.rows:
            row = layer.to_dict()
            del row["spectrum"]
            for block in _blocks(row["intruders"]):
                del block["sweep"]
            rows.append(row)
        return rows


def _blocks(intruders: Any) -> list[dict[str, Any]]:
    if intruders is None:
        return []
    return [intruders] if "side" in intruders else list(intruders.values())


def diagnose(
    base: Model,
    tuned: Model,
    *,
    settings: Settings | None = None,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> Diagnosis:
    """Measure every matrix that `tuned` changes in `base`. See `spectra.diagnose`."""
    settings = settings or Settings()
    started = time.monotonic()
    with open_pairs(base, tuned, **reading) as pairs:
        rows = [row for _, row in stream({"": pairs}, settings, progress)]
        return conclude(pairs, rows, settings, time.monotonic() - started)


def conclude(pairs: Pairs, rows: Sequence[Layer], settings: Settings, seconds: float) -> Diagnosis:
    """Sum rows up into a diagnosis: summary, findings, provenance."""
    header = pairs.base.source.header
    return Diagnosis(
        rows=tuple(rows),
        summary=summarise(rows, pairs.info, header.parameters, header.bytes),
        findings=tuple(find(_evidence(pairs, rows, settings), select=settings.select, ignore=settings.ignore)),
        skipped=tuple(pairs.skipped),
        provenance={**provenance(pairs, settings, seconds), "looked_for": _codes(settings)},
        info=pairs.info,
    )


def _codes(settings: Settings) -> list[str]:
    """The findings that were looked for: without them, that nothing was found says nothing."""
    return [rule.code for rule in chosen(settings.select, settings.ignore)]


def _evidence(pairs: Pairs, rows: Sequence[Layer], settings: Settings) -> Evidence:
    base, targeted = pairs.base, pairs.targeted
    return Evidence(
        rows,
        pairs.info,
        settings.epsilon,
        base_places=_places(base, (key for key in base.tensors if base.reason_against(key) is None)),
        changed_places=_places(base, pairs.changed),
        targeted_places=None if targeted is None else _places(base, targeted),
        base_packed=base.packed,
    )


def _places(base: Base, keys: Iterable[str]) -> tuple[Place, ...]:
    """Return where weights sit, without those behind the last block that the model's code builds."""
    places, blocks = (place(base.name(key)) for key in keys), base.blocks
    return tuple(one for one in places if one.block is None or blocks is None or one.block < blocks)


def provenance(pairs: Pairs, settings: Settings, seconds: float) -> dict[str, Any]:
    """Say where numbers come from: files and their hashes, versions, options, and what was decided on the way."""
    base = pairs.base.source
    return {
        "spectra": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "seed": 0,
        **settings.to_dict(),
        "reading": pairs.reading,
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "base": {
            "label": base.label,
            "container": base.header.container,
            "architecture": _architecture(base.config),
            "files": _files(base.header.files),
        },
        "tuned": {
            **asdict(pairs.info),
            "container": pairs.tuned_header.container,
            "files": _files(pairs.tuned_header.files),
        },
        "notes": [*pairs.notes, *_beyond(pairs, settings.k)],
    }


def _beyond(pairs: Pairs, k: int) -> list[str]:
    """Say where more directions were asked for than there are. The usual k stands for "all" where there are fewer."""
    most = max((min(pairs.base.layout(key).shape) for key, _ in pairs.places), default=k)
    beyond = k > most and k != Settings().k
    return [f"k is {k}, and no matrix has more than {most} directions: all were compared"] if beyond else []


def _architecture(config: Mapping[str, Any]) -> str | None:
    kind = config.get("model_type")
    return kind if isinstance(kind, str) else None


def _files(records: Sequence[FileRecord]) -> list[dict[str, Any]]:
    return [asdict(record) for record in records]
