"""The public verbs: each opens what it is given, calls one analysis, and returns a result that shows itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from spectra.analysis import base_filling, comparison, diagnosis
from spectra.analysis import guide as decision
from spectra.analysis import insertions as inserted
from spectra.analysis.base_filling import Filling
from spectra.analysis.guide import Guide
from spectra.analysis.overlap import overlap as overlap_models
from spectra.analysis.settings import Progress, Settings
from spectra.analysis.sweep import SCALES
from spectra.analysis.sweep import sweep as sweep_model
from spectra.loaders.base import open_base
from spectra.loaders.source import Model
from spectra.results import Comparison, Insertions, Overlap, Report, Sweep, shown


def guide(base: Model, *, follow_symlinks: bool = False) -> Guide:
    """Return the decision table for a base alone: every cell that can be is computed for it.

    `compare(...).guide` has the same table with the numbers of the models compared.
    """
    opened = open_base(base, follow_symlinks=follow_symlinks)
    try:
        return decision.guide(opened)
    finally:
        opened.source.close()


def fill_base_cache(
    base: Model,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    device: str = "auto",
    follow_symlinks: bool = False,
    progress: Progress | None = None,
) -> Filling:
    """Decompose every matrix of a base that can be compared, and keep the results for the models tuned from it.

    `diagnose` and `compare` find them by the weights themselves. The cache is `$SPECTRA_CACHE`, else in the user's
    cache folder.

    Parameters
    ----------
    base : path, torch.nn.Module or state dict
    include, exclude, device, follow_symlinks, progress : as for `diagnose`.

    Returns
    -------
    Filling : which matrices were made, were there already, or failed, and why.

    Raises
    ------
    MachineError
        The cache cannot be written, or the disk cannot hold it. What was made until then stays.

    Notes
    -----
    One full decomposition a matrix, `20 m n min(m, n)` operations, and `2 (m + n) min(m, n)` bytes on disk: 11 s
    and 64 MB at 4096 x 4096 on 2 cores. `spectra.analysis.base_filling.plan` predicts both for a base.
    """
    opened = open_base(base, follow_symlinks=follow_symlinks)
    try:
        return base_filling.fill(
            opened, base_filling.plan(opened, include=include, exclude=exclude, device=device), progress
        )
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
    spectrum: str = "auto",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    allow_unmatched: bool = False,
    as_stored: bool = False,
    initial: str | Path | None = None,
    alpha: float | None = None,
    names: Mapping[str, str] | None = None,
    truncate: int | None = None,
    follow_symlinks: bool = False,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
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
    method : "auto", "exact", "certified" or "basis"
        Full decompositions of base and tuned; products alone with proven intervals; coordinates in the base's own
        decomposition. "auto" takes the cheapest for each matrix.
    device : "auto", "cpu" or "cuda"
    spectrum : "auto", "exact" or "estimated"
        How the ranks of an update without factors are had: from every singular value, or estimated from products
        alone, each with an error bar in `rank.error`. "auto" estimates where both sides are above 8192.
    include, exclude : shell patterns or parts of names
    allow_unmatched : bool
        List adapter tensors that match nothing as skipped instead of refusing.
    as_stored : bool
        Read an adapter whose start changed the base (PiSSA, CorDA, LoftQ, ...) as `s B A` alone, and say so.
    initial : path
        The adapter before training, whose factors are subtracted, where its start changed the base.
    alpha : float
        The alpha of an adapter whose file does not hold it; refused where it does, as every option without effect.
    names : mapping
        From module names in the adapter to those in the base, where they are not the same.
    truncate : int
        Read every low-rank update at this rank, its first pieces alone, as DyLoRA (arXiv:2210.07558) trains them.
    follow_symlinks : bool
        Follow links in a folder that leave it. Those within it, and within a repository of the Hub's cache, always are.
    select, ignore : sequences of codes (SP201), starts of codes (SP2) and names (rank-unused)
        The findings to look for, all by default, and those to leave out.
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
    Exact: two full decompositions a matrix in float32, about `40 m n min(m, n)` operations; memory about fifteen
    times the largest matrix, whatever the model's size. Certified: some fifty products of the matrix with a dozen
    vectors, about `1500 m n` operations; memory at most four times the largest matrix.

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
        settings=Settings(k, epsilon, side, method, device, spectrum, select, ignore),
        include=include,
        exclude=exclude,
        allow_unmatched=allow_unmatched,
        as_stored=as_stored,
        initial=initial,
        alpha=alpha,
        names=names,
        truncate=truncate,
        follow_symlinks=follow_symlinks,
        progress=progress,
    )
    return shown(Report, found)


def insertions(
    base: Model, tuned: str | Path, *, k: int = 10, device: str = "auto", follow_symlinks: bool = False
) -> Insertions:
    """Measure an adapter that changes no weight for what it is: a prompt, a prefix, bottlenecks.

    Parameters
    ----------
    base : path, torch.nn.Module or state dict
    tuned : path of the adapter. k : leading singular values that each row carries.
    device, follow_symlinks : as for `diagnose`.

    Returns
    -------
    Insertions : one row an inserted matrix: its singular values, its ranks, and the share of its energy within the
    16 leading directions of the base weight whose space it lives in (the embedding, a layer's keys or values).

    Raises
    ------
    UnsupportedError
        The adapter inserts nothing that is read; `diagnose` is for what has weight updates.

    References
    ----------
    Prompt tuning arXiv:2104.08691, prefix tuning 2101.00190, bottleneck adapters 1902.00751.
    """
    found = inserted.insertions(base, tuned, Settings(k=k, device=device), follow_symlinks=follow_symlinks)
    return shown(Insertions, found)


def compare(
    base: Model,
    models: Mapping[str, Model],
    *,
    k: int = 10,
    epsilon: float = 0.5,
    side: str = "left",
    method: str = "auto",
    device: str = "auto",
    spectrum: str = "auto",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    allow_unmatched: bool = False,
    as_stored: bool = False,
    initial: Mapping[str, str | Path] | None = None,
    alpha: float | None = None,
    names: Mapping[str, str] | None = None,
    truncate: int | None = None,
    follow_symlinks: bool = False,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    matrix: str | None = None,
    equal_size: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Put several tuned models of one base on one page, LoRA beside full fine-tuning.

    Parameters
    ----------
    models : name -> path, module or state dict
    matrix : the base name whose similarity maps are drawn (in a stack of experts `name[number]`); by default the one
        with most intruders among those that most models change.
    equal_size : bool
        Count intruders too where the larger of two updates is scaled to the size of the smaller, as `sweep` scales:
        whether size alone makes the difference. One full decomposition of each base matrix that both change.
    initial : name -> path of that model as it was before training.
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
        settings=Settings(k, epsilon, side, method, device, spectrum, select, ignore),
        include=include,
        exclude=exclude,
        allow_unmatched=allow_unmatched,
        as_stored=as_stored,
        initials=initial,
        alpha=alpha,
        names=names,
        truncate=truncate,
        follow_symlinks=follow_symlinks,
        matrix=matrix,
        equal_size=equal_size,
        progress=progress,
    )
    return shown(Comparison, found)


def sweep(
    base: Model,
    tuned: Model,
    *,
    scales: Sequence[float] = SCALES,
    k: int = 10,
    epsilon: float = 0.5,
    side: str = "left",
    method: str = "auto",
    device: str = "auto",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    allow_unmatched: bool = False,
    as_stored: bool = False,
    initial: str | Path | None = None,
    alpha: float | None = None,
    names: Mapping[str, str] | None = None,
    truncate: int | None = None,
    follow_symlinks: bool = False,
    progress: Progress | None = None,
) -> Sweep:
    """Follow the intruders of every matrix as its update is scaled: `W0 + s dW`, from nothing to twice as trained.

    Parameters
    ----------
    scales : sequence of float, default 0, 0.05, .. 2
        From 0 upwards, at most 1000. 0 (W is W0) and 1 (as trained) are always among them.
    method : "auto" or "basis"
        One full decomposition of each base matrix, then every scale from it. "exact": one more a scale, the reference.
    The rest as for `diagnose`. The scale multiplies the whole of dW: a LoRA's alpha does that, the magnitudes of a DoRA
    and a full fine-tune are interpolated.

    Returns
    -------
    Sweep : a `PhaseCurve` a matrix with its critical scale, the threshold law beside it, and `alpha_pattern()`.

    Raises
    ------
    SpectraError
        As `diagnose` does. A fault of one matrix is a row with a status.

    Notes
    -----
    At scale 1 the counts are those of `diagnose`; at 0 none is rotated or new. The critical scale is the smallest
    found, to 1e-4 of its value (`bracket` holds both ends), whatever the scales asked for: scales between neighbours
    are looked at where a leading direction, turning by the shortest way, might pass below epsilon. Stretches that
    were too short to look into are at most `resolution` long. `intervals` know only the scales looked at. At 4096 x
    4096 with r = 16 and the base known, 40 scales take about eight times as long as one.

    References
    ----------
    Shuttleworth et al. 2024, arXiv:2410.21228, Definition 3.1; Xie, arXiv:2607.23711, for the law.

    Examples
    --------
    >>> import torch, spectra
    >>> base = {"w.weight": torch.diag(torch.arange(8.0, 0, -1))}
    >>> tuned = {"w.weight": base["w.weight"] + 9 * torch.full((8, 8), 1 / 8)}
    >>> found = spectra.sweep(base, tuned, k=1, scales=[0, 1, 2, 4])
    >>> found.total("count")
    (0, 0, 1, 1)
    """
    found = sweep_model(
        base,
        tuned,
        scales=scales,
        settings=Settings(k, epsilon, side, method, device),
        include=include,
        exclude=exclude,
        allow_unmatched=allow_unmatched,
        as_stored=as_stored,
        initial=initial,
        alpha=alpha,
        names=names,
        truncate=truncate,
        follow_symlinks=follow_symlinks,
        progress=progress,
    )
    return shown(Sweep, found)


def overlap(
    base: Model,
    first: Model,
    second: Model,
    *,
    k: int = 10,
    device: str = "auto",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    allow_unmatched: bool = False,
    as_stored: bool = False,
    initial: tuple[str | Path | None, str | Path | None] = (None, None),
    alpha: float | None = None,
    names: Mapping[str, str] | None = None,
    truncate: int | None = None,
    follow_symlinks: bool = False,
    progress: Progress | None = None,
) -> Overlap:
    """Compare the updates of two models tuned from one base: two ranks, two seeds, two checkpoints.

    Parameters
    ----------
    first, second : path, torch.nn.Module or state dict.
    k : int, default 10
        Leading directions of each update that are compared; fewer where an update has fewer.
    initial : (path, path)
        The adapters before training, of the first and of the second, where their start changed the base.
    The rest as for `diagnose`.

    Returns
    -------
    Overlap : one row for each matrix that both change: `phi(i, j) = ||U_i^T U'_j||_F^2 / min(i, j)` of their leading
    singular directions on both sides, `shared = phi(k, k)` with the mean and standard deviation that random spaces
    have, the principal angles, and the cosine of the two updates.

    Raises
    ------
    SpectraError
        As `diagnose` does; UsageError also where the two change no matrix in common.

    Notes
    -----
    Of adapters everything comes from their factors, `O((m + n) r^2)` a matrix. Of a full fine-tune at most 16
    directions are known. Two LoRAs of one seed share the random start of A, so that their input directions agree
    whatever they learned.

    References
    ----------
    Hu et al. 2021, arXiv:2106.09685, section 7.2; Bjorck and Golub 1973.

    Examples
    --------
    >>> import torch, spectra
    >>> base = {"w.weight": torch.eye(4)}
    >>> one, other = ({"w.weight": torch.eye(4) + torch.outer(torch.eye(4)[i], torch.ones(4))} for i in (0, 1))
    >>> row = spectra.overlap(base, one, other).rows[0]
    >>> [(side.side, round(side.shared, 6)) for side in row.sides]
    [('left', 0.0), ('right', 1.0)]
    """
    found = overlap_models(
        base,
        first,
        second,
        settings=Settings(k=k, device=device),
        initials=initial,
        include=include,
        exclude=exclude,
        allow_unmatched=allow_unmatched,
        as_stored=as_stored,
        alpha=alpha,
        names=names,
        truncate=truncate,
        follow_symlinks=follow_symlinks,
        progress=progress,
    )
    return shown(Overlap, found)
