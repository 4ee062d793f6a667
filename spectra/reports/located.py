"""The findings of a tuned model beside the file that they are about, for the outputs that pipelines read."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from spectra.analysis.diagnosis import Diagnosis
from spectra.findings.finding import Finding
from spectra.text import show


@dataclass(frozen=True, slots=True)
class Located:
    """One tuned model of a log.

    given : its path as the reader of the log finds it, relative, of a file or of its folder; None where that is not
    known. name : what it is called where a log has several.
    """

    diagnosis: Diagnosis
    given: str | None = None
    name: str | None = None

    @property
    def file(self) -> str:
        """The file of the tuned weights, the first of several: `adapters/r8/adapter_model.safetensors`."""
        tuned = self.diagnosis.provenance["tuned"]
        path = PurePosixPath(show(self.given or tuned["label"], None))
        files = [show(record["name"], None) for record in tuned["files"][:1]]
        return str(path) if not files or path.name == files[0] else str(path / files[0])

    def text(self, finding: Finding) -> str:
        """Message and advice of a finding in one line, with the model's name where there are several."""
        whole = f"{finding.message} {finding.advice}"
        return show(whole if self.name is None else f"{self.name}: {whole}", None)
