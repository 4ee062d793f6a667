"""The report as GitHub-flavoured Markdown, fit for a model card: no path of this machine, no HTML from outside.

Everything that came from outside goes through `show` and then through `escaped` or `code`, so that no name can open a
link, a table cell or a tag.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from spectra.analysis.claims import REVIEW, SHUTTLEWORTH, XIE, Claim, Source
from spectra.analysis.comparison import ModelComparison
from spectra.analysis.diagnosis import Diagnosis
from spectra.findings.finding import Finding
from spectra.reports import words
from spectra.text import count, percent, show

_STAMP = "<sub>Measured "
_OPTIONS = ("k", "epsilon", "side", "method", "spectrum")
# A mark that Markdown reads: all of these, an underscore at the edge of a word, and what makes an address a link.
_MARKS = re.compile(r"[\\`*{}\[\]<>#|~&!$]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\.")
_TICKS = re.compile(r"`+")


def report(found: Diagnosis) -> str:
    """Return a diagnosis as Markdown: verdict, key numbers, findings, what an intruder is, how it was measured."""
    base, tuned = found.provenance["base"]["label"], found.provenance["tuned"]["label"]
    return _joined(
        f"## What fine-tuning changed: {code(tuned)}",
        f"Base {code(base)}. {escaped(words.kind(found.info))}; {escaped(words.stored(found))}.",
        f"**{escaped(words.headline(found))}**",
        _table(("Measured", "Value"), _numbers(found)),
        "### Findings",
        "\n".join(map(_finding, found.findings)) or escaped(words.nothing_found(found)),
        _about_intruders(),
        _measured({tuned: found}),
    )


def comparison(found: ModelComparison) -> str:
    """Return a comparison as Markdown: the ranking, what follows with evidence and limits, findings, how measured."""
    first = next(iter(found.models.values()))
    heads = [
        f"- {code(name)}: **{finding.severity} {finding.code}** {escaped(finding.message)}"
        for name, model in found.models.items()
        for finding in model.findings
    ]
    advice = [_claim(standing.advice, f"{code(standing.name)}: ") for standing in found.standings if standing.advice]
    return _joined(
        f"## {count(len(found.models), 'way')} of fine-tuning {code(first.provenance['base']['label'])}",
        "Most like full fine-tuning first: fewest intruder dimensions, then the highest effective rank of the update.",
        _table(
            ("", "Model", "Method", "Intruders", "Effective rank of dW", "Size of dW beside W0", "Parameters"),
            _ranking(found),
        ),
        "### What follows, and how far",
        *(_claim(claim) for claim in found.claims),
        *advice,
        "### Findings",
        "\n".join(heads) or escaped(words.nothing_found(first)),
        _about_intruders(),
        _measured(found.models),
    )


def same_but_for_the_stamp(one: str, other: str) -> bool:
    """Whether two texts say the same, versions and dates aside."""
    return _unstamped(one) == _unstamped(other)


def _unstamped(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith(_STAMP)]


def _joined(*parts: str) -> str:
    return "\n\n".join(parts) + "\n"


def escaped(value: object) -> str:
    """Any text from outside as Markdown that shows it letter for letter, in one line."""
    return _MARKS.sub(lambda found: "\\" + found.group(), show(value, None))


def code(value: object, *, cell: bool = False) -> str:
    """A name as a code span, which holds back links and mentions too; in a table the bar is escaped even there."""
    name = show(value)
    if not name.strip():
        return "(no name)"
    ticks = "`" * (max(map(len, _TICKS.findall(name)), default=0) + 1)
    space = " " if name[0] in "` " or name[-1] in "` " else ""
    return ticks + space + (name.replace("|", "\\|") if cell else name) + space + ticks


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _numbers(found: Diagnosis) -> list[tuple[str, str]]:
    summary, options = found.summary, found.provenance
    parts = [f"{summary['measured']} measured"]
    parts += [
        f"{summary[key]} {word}" for key, word in (("zero_updates", "unchanged"), ("failed", "failed")) if summary[key]
    ]
    if found.skipped:
        parts.append(f"{count(len(found.skipped), 'tensor')} not analysed")
    rows = [("Matrices", ", ".join(parts))]
    if not summary["measured"]:
        return rows
    asked = f"k = {options['k']}, epsilon = {options['epsilon']:g}, {options['side']} singular vectors"
    kinds = f"{summary['new']} new, {summary['rotated']} rotated, {summary['degenerate']} from ties of the base"
    rows += [
        (
            "Intruder dimensions",
            f"{summary['intruders']} of {summary['examined']} leading directions: {kinds} ({asked}; a random "
            f"direction has similarity {words.chance(found)})",
        ),
        ("Rank of the update", escaped(words.rank_line(found))),
        ("Size of the update", escaped(words.size_line(found))),
    ]
    return rows


def _finding(finding: Finding) -> str:
    head = f"- **{finding.severity} {finding.code}** {escaped(finding.message)}"
    return f"{head}\n  - What to do: {escaped(finding.advice)}"


def _link(source: Source) -> str:
    return f"[{escaped(source.name)}]({source.url})"


def _about_intruders() -> str:
    return (
        "An intruder dimension is a leading singular vector of the tuned weight whose |cosine| with every singular "
        f"vector of the base is below epsilon ({_link(SHUTTLEWORTH)}, Definition 3.1). The count is evidence of how "
        "the weights changed, not a measurement of forgetting. Whether intruders cause forgetting is disputed: for it "
        f"speak sec. 5 of that paper and {_link(XIE)}, against it {_link(REVIEW)}."
    )


def _ranking(found: ModelComparison) -> list[tuple[str, ...]]:
    return [
        (
            str(standing.place),
            code(standing.name, cell=True),
            escaped(standing.method),
            f"{standing.intruders} of {standing.examined} ({percent(standing.share)})",
            f"{standing.effective_rank:.1f}",
            f"{standing.update_ratio:.3g}",
            percent(found.models[standing.name].summary["parameters"]["share"] or 0.0),
        )
        for standing in found.standings
    ]


def _claim(claim: Claim, whose: str = "") -> str:
    lines = [f"{whose}**{escaped(claim.text)}**", ""]
    lines += [f"- Evidence: {escaped(line)}" for line in claim.evidence]
    lines += [f"- Limit: {escaped(line)}" for line in claim.limits]
    if claim.sources:
        lines.append(f"- Sources: {'; '.join(map(_link, claim.sources))}")
    return "\n".join(lines).rstrip("\n")


def _measured(models: Mapping[str, Diagnosis]) -> str:
    """What it takes to measure the same again: notes of the reading, options, and on a last line versions and day."""
    made = next(iter(models.values())).provenance
    notes = [
        f"Note on {code(name)}: {escaped(note)}" for name, model in models.items() for note in model.provenance["notes"]
    ]
    options = ", ".join(f"{name} = {escaped(made[name])}" for name in _OPTIONS)
    versions = ", ".join(f"{name} {escaped(made[name])}" for name in ("torch", "numpy", "python", "device"))
    stamp = f"{_STAMP}{made['written'][:10]} with spectra {escaped(made['spectra'])} ({versions}).</sub>"
    return _joined(*notes, f"Options: {options}.", stamp).rstrip("\n")
