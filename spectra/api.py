"""The two public verbs, `diagnose` and `compare`, and what they return: results that print and draw themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from spectra import table
from spectra.analysis import comparison, diagnosis
from spectra.analysis import guide as decision
from spectra.analysis.guide import Guide
from spectra.analysis.settings import Progress, Settings
from spectra.loaders.base import open_base
from spectra.loaders.source import Model
from spectra.plots.figures import comparison_figures, report_figures, save_figures
from spectra.reports import html, notebook, terminal, words


class Report(diagnosis.Diagnosis):
    """A diagnosis that prints as a summary, shows itself in a notebook, and writes HTML and figures."""

    def __repr__(self) -> str:
        return f"<Report of {len(self.rows)} matrices: {words.headline(self)}>"

    def __str__(self) -> str:
        return terminal.text(terminal.summary(self))

    def _repr_html_(self) -> str:
        return notebook.fragment(self)

    def to_html(self, path: str | Path | None = None) -> str:
        """Return the report as one HTML page without script or network, and write it when a path is given."""
        page = html.report_page(self)
        if path is not None:
            table.write(path, page)
        return page

    def save_figures(self, folder: str | Path, formats: Sequence[str] = ("png", "svg", "pdf")) -> list[Path]:
        """Write every figure into a folder in each format; return the paths."""
        return save_figures(report_figures(self), Path(folder), formats)


class Comparison(comparison.ModelComparison):
    """A comparison that prints as a ranking, shows itself in a notebook, and writes HTML and figures."""

    def __repr__(self) -> str:
        order = ", ".join(f"{standing.place}. {standing.name}" for standing in self.standings)
        return f"<Comparison of {len(self.models)} models: {order}>"

    def __str__(self) -> str:
        return terminal.text(terminal.comparison(self))

    def _repr_html_(self) -> str:
        return notebook.comparison_fragment(self)

    def to_html(self, path: str | Path | None = None) -> str:
        """Return the comparison as one HTML page without script or network, written when a path is given."""
        page = html.comparison_page(self)
        if path is not None:
            table.write(path, page)
        return page

    def save_figures(self, folder: str | Path, formats: Sequence[str] = ("png", "svg", "pdf")) -> list[Path]:
        """Write every figure into a folder in each format; return the paths."""
        return save_figures(comparison_figures(self), Path(folder), formats)


def guide(base: Model) -> Guide:
    """Return the decision table for a base alone: every cell that can be is computed for it.

    `compare(...).guide` has the same table with the numbers of the models compared.
    """
    opened = open_base(base)
    try:
        return decision.guide(opened)
    finally:
        opened.source.close()


def diagnose(
    base: Model,
    tuned: Model,
    *,
    k: int = 10,
    epsilon: float = 0.5,
    side: str = "left",
    method: str = "auto",
    device: str = "auto",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    allow_unmatched: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Measure what fine-tuning did to every matrix it changed.

    Parameters
    ----------
    base, tuned : path, torch.nn.Module or state dict
        tuned is a full fine-tune or an adapter folder as PEFT writes it (LoRA, rsLoRA, DoRA).
    k : int, default 10
        Leading singular vectors of the tuned weight that are compared (the paper's).
    epsilon : float in (0, 1], default 0.5
        A vector whose largest |cosine| with all base vectors is below it is an intruder (the paper's).
    side : "left" (default, the paper's), "right" or "both"
        Output directions, input directions, or one block of each.
    method : "auto" or "exact"
    device : "auto", "cpu" or "cuda"
    include, exclude : shell patterns or parts of names
    allow_unmatched : bool
        List adapter tensors that match nothing as skipped instead of refusing.
    progress : callable(done, total, key)

    Returns
    -------
    Report

    Raises
    ------
    SpectraError
        One of its kinds: wrong arguments, input that cannot be used, a machine that cannot do it. A fault
        of one matrix is no error: it is a row with a status.

    Notes
    -----
    Two full decompositions a matrix in float32, about `40 m n min(m, n)` operations; memory about
    fifteen times the largest matrix, whatever the model's size.

    References
    ----------
    Shuttleworth et al. 2024, arXiv:2410.21228v3, Definition 3.1 and Algorithm 1.

    Examples
    --------
    >>> import torch, spectra
    >>> base = {"w.weight": torch.diag(torch.arange(8.0, 0, -1))}
    >>> tuned = {"w.weight": base["w.weight"] + 9 * torch.full((8, 8), 1 / 8)}
    >>> spectra.diagnose(base, tuned, k=1).summary["intruders"]
    0
    """
    found = diagnosis.diagnose(
        base,
        tuned,
        settings=Settings(k, epsilon, side, method, device),
        include=include,
        exclude=exclude,
        allow_unmatched=allow_unmatched,
        progress=progress,
    )
    return Report(**{field.name: getattr(found, field.name) for field in fields(found)})


def compare(
    base: Model,
    models: Mapping[str, Model],
    *,
    k: int = 10,
    epsilon: float = 0.5,
    side: str = "left",
    method: str = "auto",
    device: str = "auto",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    allow_unmatched: bool = False,
    matrix: str | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Put several tuned models of one base on one page, LoRA beside full fine-tuning.

    Parameters
    ----------
    models : name -> path, module or state dict
    matrix : the base name whose similarity maps are drawn; by default the one with most intruders among
        those that most models change.
    The rest as for `diagnose`.

    Returns
    -------
    Comparison : the diagnoses, the ranking by evidence, the similarity maps, the decision table.

    Notes
    -----
    One pass over the base: its decomposition of each matrix is made once for all models.
    """
    found = comparison.compare(
        base,
        models,
        settings=Settings(k, epsilon, side, method, device),
        include=include,
        exclude=exclude,
        allow_unmatched=allow_unmatched,
        matrix=matrix,
        progress=progress,
    )
    return Comparison(**{field.name: getattr(found, field.name) for field in fields(found)})
