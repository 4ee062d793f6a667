"""What a report shows of itself in a notebook: the headline, the findings and a small table."""

from html import escape

from spectra.analysis.comparison import ModelComparison
from spectra.analysis.diagnosis import Diagnosis
from spectra.reports import words
from spectra.text import numbered, show

_MAX_ROWS = 12


def fragment(report: Diagnosis) -> str:
    """Return a diagnosis as a fragment of HTML without style or script of its own."""
    rows = sorted(report.rows, key=lambda layer: -layer.found)[:_MAX_ROWS]
    lines = [
        "<tr><th>matrix</th><th>intruders</th><th>least similarity</th><th>effective rank</th><th>dW / W0</th></tr>"
    ]
    for layer in rows:
        cells = (
            _text(numbered(layer.name, layer.index)),
            f"{layer.found} of {layer.examined}" if layer.ok else _text(layer.status),
            words.least_similarity(layer),
            words.rank_value(layer.rank, "effective") if layer.rank else "",
            f"{layer.norm.ratio:.3g}" if layer.norm else "",
        )
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    more = len(report.rows) - len(rows)
    findings = "".join(
        f"<li><b>{finding.severity}</b> {finding.code}: {_text(finding.message)}</li>" for finding in report.findings
    )
    return (
        f"<p><b>{_text(words.headline(report))}</b><br>{_text(words.kind(report.info))}</p>"
        f"<ul>{findings}</ul><table>{''.join(lines)}</table>"
        + (f"<p>and {more} more, with as many intruders or fewer</p>" if more else "")
    )


def comparison_fragment(found: ModelComparison) -> str:
    """Return a comparison as a fragment of HTML without style or script of its own."""
    lines = ["<tr><th></th><th>model</th><th>method</th><th>intruders</th><th>effective rank</th><th>dW / W0</th></tr>"]
    for standing in found.standings:
        place, *numbers, _ = words.place_and_numbers(found, standing)
        cells = (place, _text(standing.name), _text(standing.method), *numbers)
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    headline, rule = _text(found.ranking.headline), _text(found.ranking.rule)
    return f"<p><b>{headline}</b></p><table>{''.join(lines)}</table><p>{rule}</p>"


def _text(value: object) -> str:
    return escape(show(value, None))
