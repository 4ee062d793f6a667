"""The phase curve draws the totals and every matrix's own line."""

import numpy as np
from matplotlib.colors import to_hex

from spectra.plots.phase_curve import KINDS, phase_curve
from spectra.plots.style import CATEGORIES


def test_the_stack_is_the_total_by_kind(sweep):
    counts, _ = phase_curve(sweep).axes
    for area in counts.collections:
        (kind,) = [kind for kind, colour in KINDS.items() if to_hex(area.get_facecolor()[0]) == colour.lower()]
        vertices = area.get_paths()[0].vertices
        spread = [np.ptp(vertices[np.isclose(vertices[:, 0], scale), 1]) for scale in sweep.scales]
        assert spread == list(sweep.total(kind))
    assert counts.get_ylim()[1] > max(sweep.total("count"))


def test_every_matrix_has_its_line_and_one_is_as_trained(sweep):
    counts, likeness = phase_curve(sweep).axes
    own = [
        line for line in likeness.lines if to_hex(line.get_color()) == CATEGORIES[0].lower() and len(line.get_xdata())
    ]
    assert [list(line.get_ydata()) for line in own] == [list(row.least_similarity()) for row in sweep.measured]
    for ax in (counts, likeness):
        assert any(list(line.get_xdata()) == [1, 1] for line in ax.lines)
        assert ax.get_xlim() == (sweep.scales[0], sweep.scales[-1])


def test_the_threshold_is_the_one_used(sweep):
    _, likeness = phase_curve(sweep).axes
    assert any(list(line.get_ydata()) == [0.5, 0.5] for line in likeness.lines)
    assert "ε = 0.5" in [text.get_text() for text in likeness.texts]


def test_nothing_swept_says_so(unswept):
    counts, _ = phase_curve(unswept).axes
    assert [text.get_text() for text in counts.texts] == ["no matrix was swept"]
