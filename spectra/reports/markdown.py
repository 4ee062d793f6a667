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
from spectra.text import count, show

_STAMP = "<sub>Measured "
_TITLE = "What fine-tuning changed"
_HEADING = re.compile(rf"## (?:{_TITLE}: |[\d,]+ ways? of fine-tuning )")
_OPTIONS = ("k", "epsilon", "side", "method", "spectrum")
# A mark that Markdown reads: all of these, an underscore at the edge of a word, and what makes an address a link.
_MARKS = re.compile(r"[\\`*{}\[\]<>#|~&!$]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\.")
_TICKS = re.compile(r"`+")
# Code in a sentence of ours: a command, an option or a field, apart from the words around it.
_SPAN = re.compile(r"(?<![\w`])`([A-Za-z-][\w .=-]*)`(?![\w`])")


def report(found: Diagnosis) -> str:
    """Return a diagnosis as Markdown: verdict, key numbers, findings, what an intruder is, how it was measured."""
    base, tuned = found.provenance["base"]["label"], found.provenance["tuned"]["label"]
    return _joined(
        f"## {_TITLE}: {code(tuned)}",
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
        f"- {code(name)}: **{finding.severity} {finding.code}** {prose(finding.message)}"
        for name, model in found.models.items()
        for finding in model.findings
    ]
    told = words.told(found)
    sources = dict.fromkeys(source for _, claim in told for source in claim.sources)
    return _joined(
        f"## {count(len(found.models), 'way')} of fine-tuning {code(first.provenance['base']['label'])}",
        f"**{prose(found.ranking.headline)}**",
        prose(f"{found.ranking.title}. {found.ranking.rule}"),
        _table(
            ("", "Model", "Method", "Intruders", "Effective rank of dW", "Size of dW beside W0", "Parameters"),
            _models(found),
        ),
        "### What follows, and how far",
        *(_claim(claim, whose) for whose, claim in told),
        f"Sources: {'; '.join(map(_link, sources))}." if sources else "",
        "### Findings",
        "\n".join(heads) or escaped(words.nothing_found(first)),
        _about_intruders(),
        _measured(found.models),
    )


def is_summary(text: str) -> bool:
    """Whether a text is a whole report or comparison as written here: from its heading to its stamp."""
    lines = text.strip().split("\n")
    return bool(_HEADING.match(lines[0])) and lines[-1].startswith(_STAMP)


def same_but_for_the_stamp(one: str, other: str) -> bool:
    """Whether two texts say the same, versions and dates aside."""
    return _unstamped(one) == _unstamped(other)


def _unstamped(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith(_STAMP)]


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def escaped(value: object) -> str:
    """Any text from outside as Markdown that shows it letter for letter, in one line."""
    return _MARKS.sub(lambda found: "\\" + found.group(), show(value, None))


def prose(sentence: str) -> str:
    """A sentence of ours as Markdown: a command, option or field between backticks as code, all else as `escaped`."""
    parts = _SPAN.split(show(sentence, None))
    parts[::2], parts[1::2] = map(escaped, parts[::2]), map(code, parts[1::2])
    return "".join(parts)


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
    head = f"- **{finding.severity} {finding.code}** {prose(finding.message)}"
    return f"{head}\n  - What to do: {prose(finding.advice)}"


def _link(source: Source) -> str:
    return f"[{escaped(source.name)}]({source.url})"


def _about_intruders() -> str:
    return (
        "An intruder dimension is a leading singular vector of the tuned weight whose |cosine| with every singular "
        f"vector of the base is below epsilon ({_link(SHUTTLEWORTH)}, Definition 3.1). The count is evidence of how "
        "the weights changed, not a measurement of forgetting. Whether intruders cause forgetting is disputed: for it "
        f"speak sec. 5 of that paper and {_link(XIE)}, against it {_link(REVIEW)}."
    )


def _models(found: ModelComparison) -> list[tuple[str, ...]]:
    rows = []
    for standing in found.standings:
        place, *numbers = words.place_and_numbers(found, standing)
        rows.append((place, code(standing.name, cell=True), escaped(standing.method), *numbers))
    return rows


def _claim(claim: Claim, whose: str = "") -> str:
    lines = [f"{f'{code(whose)}: ' if whose else ''}**{prose(claim.text)}**", ""]
    lines += [f"- Evidence: {prose(line)}" for line in claim.evidence]
    lines += [f"- Limit: {prose(line)}" for line in claim.limits]
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
