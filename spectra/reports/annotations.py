"""Findings as annotations of a GitHub workflow: one command a line, which the runner reads off stdout."""

from collections.abc import Sequence

from spectra.reports.located import Located

_COMMANDS = {"error": "error", "warning": "warning", "info": "notice"}
_IN_MESSAGE = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
_IN_PROPERTY = _IN_MESSAGE | str.maketrans({":": "%3A", ",": "%2C"})


def annotations(models: Sequence[Located]) -> str:
    """Return one line a finding: `::warning title=SP103 wrong-base,file=tuned.safetensors::message`."""
    return "".join(
        f"::{_COMMANDS[finding.severity]} title={finding.code} {finding.name},"
        f"file={model.file.translate(_IN_PROPERTY)}::{model.text(finding).translate(_IN_MESSAGE)}\n"
        for model in models
        for finding in model.diagnosis.findings
    )
