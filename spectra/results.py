"""What the public verbs return: results of the analysis that print, show and draw themselves."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.figure import Figure
from rich.console import RenderableType

from spectra import table
from spectra.analysis import comparison, diagnosis
from spectra.analysis import insertions as inserted
from spectra.analysis.overlap import ModelOverlap
from spectra.analysis.sweep import ModelSweep
from spectra.plots.figures import comparison_figures, overlap_figures, report_figures, save_figures, sweep_figures
from spectra.reports import annotations, markdown, notebook, sarif, terminal, words
from spectra.reports import insertions as insertions_summary
from spectra.reports import overlap as overlap_summary
from spectra.reports import sweep as sweep_summary
from spectra.reports.located import Located
from spectra.reports.page.comparison import comparison_page
from spectra.reports.page.report import report_page
from spectra.reports.page.sweep import sweep_page

Result = TypeVar("Result", bound="Shown")


class Shown(ABC):
    """A result that prints as the summary of the command line."""

    @abstractmethod
    def _summary(self) -> RenderableType: ...

    def __str__(self) -> str:
        return terminal.text(self._summary())


class Drawn(ABC):
    """A result that has figures."""

    @abstractmethod
    def figures(self) -> dict[str, Figure]:
        """Draw every figure that there is data for, by name."""

    def save_figures(self, folder: str | Path, formats: Sequence[str] = ("png", "svg", "pdf")) -> list[Path]:
        """Write every figure into a folder in each format; return the paths."""
        return save_figures(self.figures(), Path(folder), formats)


class Paged(ABC):
    """A result that is a page to read."""

    @abstractmethod
    def _page(self) -> str: ...

    def to_html(self, path: str | Path | None = None) -> str:
        """Return the result as one HTML page that loads nothing, and write it when a path is given."""
        return table.given(self._page(), path)


class Report(Shown, Drawn, Paged, diagnosis.Diagnosis):
    """A diagnosis that prints as a summary, shows itself in a notebook, and writes HTML and figures."""

    def __repr__(self) -> str:
        return f"<Report of {len(self.rows)} matrices: {words.headline(self)}>"

    def _summary(self) -> RenderableType:
        return terminal.summary(self)

    def _repr_html_(self) -> str:
        return notebook.fragment(self)

    def _page(self) -> str:
        return report_page(self)

    def to_markdown(self, path: str | Path | None = None) -> str:
        """Return the summary for a model card as GitHub-flavoured Markdown, and write it when a path is given."""
        return table.given(markdown.report(self), path)

    def to_sarif(self, path: str | Path | None = None, *, file: str | None = None) -> str:
        """Return the findings as SARIF 2.1.0, for code scanners, and write them when a path is given.

        file : where the tuned model lies, as the reader of the log finds it (relative); by default its name.
        """
        return table.given(table.to_json(sarif.sarif([Located(self, file)])), path)

    def to_github(self, *, file: str | None = None) -> str:
        """Return the findings as annotations of a GitHub workflow, one a line. file : as for `to_sarif`."""
        return annotations.annotations([Located(self, file)])

    def figures(self) -> dict[str, Figure]:
        return report_figures(self)


class Comparison(Shown, Drawn, Paged, comparison.ModelComparison):
    """A comparison that prints as a ranking, shows itself in a notebook, and writes HTML and figures."""

    def __repr__(self) -> str:
        order = ", ".join(f"{standing.label} {standing.name}".strip() for standing in self.standings)
        return f"<Comparison of {len(self.models)} models: {order}>"

    def _summary(self) -> RenderableType:
        return terminal.comparison(self)

    def _repr_html_(self) -> str:
        return notebook.comparison_fragment(self)

    def _page(self) -> str:
        return comparison_page(self)

    def to_markdown(self, path: str | Path | None = None) -> str:
        """Return the comparison for a model card as GitHub-flavoured Markdown, and write it when a path is given."""
        return table.given(markdown.comparison(self), path)

    def to_sarif(self, path: str | Path | None = None, *, files: Mapping[str, str] | None = None) -> str:
        """Return the findings of every model as SARIF 2.1.0, and write them when a path is given.

        files : by a model's name, where it lies, as the reader of the log finds it (relative); by default its name.
        """
        return table.given(table.to_json(sarif.sarif(self._located(files))), path)

    def to_github(self, *, files: Mapping[str, str] | None = None) -> str:
        """Return the findings of every model as annotations of a GitHub workflow. files : as for `to_sarif`."""
        return annotations.annotations(self._located(files))

    def _located(self, files: Mapping[str, str] | None) -> list[Located]:
        return [Located(diagnosis, (files or {}).get(name), name) for name, diagnosis in self.models.items()]

    def figures(self) -> dict[str, Figure]:
        return comparison_figures(self)


class Sweep(Shown, Drawn, Paged, ModelSweep):
    """The phase curves of a model, which print as a summary, write JSON, CSV and HTML, and draw themselves."""

    def __repr__(self) -> str:
        return f"<Sweep of {len(self.rows)} matrices at {len(self.scales)} scales: {sweep_summary.headline(self)}>"

    def _summary(self) -> RenderableType:
        return sweep_summary.summary(self)

    def _page(self) -> str:
        return sweep_page(self)

    def figures(self) -> dict[str, Figure]:
        return sweep_figures(self)


class Overlap(Shown, Drawn, ModelOverlap):
    """What two models of one base have in common, which prints as a summary, writes JSON and CSV, and draws itself."""

    def __repr__(self) -> str:
        return f"<Overlap of {len(self.rows)} matrices: {overlap_summary.headline(self)}>"

    def _summary(self) -> RenderableType:
        return overlap_summary.summary(self)

    def figures(self) -> dict[str, Figure]:
        return overlap_figures(self)


class Insertions(Shown, inserted.Insertions):
    """The matrices of an adapter without weight updates, which print as a summary and write JSON and CSV."""

    def __repr__(self) -> str:
        return f"<Insertions: {insertions_summary.headline(self)}>"

    def _summary(self) -> RenderableType:
        return insertions_summary.summary(self)


def shown(kind: type[Result], found: Any) -> Result:
    """Return what an analysis found as a result of this kind."""
    return kind(**{field.name: getattr(found, field.name) for field in fields(found)})
