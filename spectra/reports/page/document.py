"""The page around every result: templates, own style and script, and the policy that lets nothing else run.

Everything from outside is escaped by the template engine after `show`. The policy admits this one script and this one
style by their hashes, and no request at all: no image but a data URL, no frame, no form, no base address.
"""

import base64
import hashlib
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from spectra import __version__
from spectra.reports.page.embedded import embed
from spectra.text import percent, show


def render(template: str, document: Mapping[str, Any], provenance: Mapping[str, Any], **values: Any) -> str:
    """Return a whole page: a template filled in, with the document it was made from inside it."""
    style, script = _asset("page.css"), _asset("page.js")
    return (
        _environment()
        .get_template(template)
        .render(
            version=__version__,
            policy=policy(style, script),
            style=Markup(style),  # noqa: S704
            script=Markup(script),  # noqa: S704
            numbers=embed(document),
            provenance=_flat(provenance),
            **values,
        )
    )


def policy(style: str, script: str) -> str:
    """Return the content security policy of a page with this style and this script and nothing else."""
    return (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("spectra.reports.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["show"] = lambda value: show(value, None)
    environment.filters["percent"] = percent
    environment.filters["prose"] = _prose
    environment.filters["sortable"] = _sortable
    environment.filters["soft_breaks"] = _soft_breaks
    return environment


def _prose(sentence: str) -> Markup:
    """Return a sentence of ours with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(show(sentence, None)))))  # noqa: S704


def _soft_breaks(name: str) -> Markup:
    """Return a dotted name that may break after its dots and underscores."""
    return Markup(re.sub(r"(?<=[._])", "<wbr>", str(escape(name))))  # noqa: S704


def _sortable(value: float | None) -> str:
    """Return a number as the page's script reads it; nothing for what has none."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:.9g}" if math.isfinite(value) else "Infinity"


def _asset(name: str) -> str:
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _flat(provenance: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return (name, text) lines: one for a value or a list of values, one for each record of a list of records."""
    lines: list[tuple[str, str]] = []
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{key} ")
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            lines += [(prefix + key, _one_line(item)) for item in value]
        elif isinstance(value, list | tuple):
            lines.append((prefix + key, ", ".join(show(item, None) for item in value)))
        elif value is not None:
            lines.append((prefix + key, show(value, None)))
    return [(name.replace("_", " "), text) for name, text in lines if text]


def _one_line(item: Any) -> str:
    if isinstance(item, Mapping):
        return ", ".join(f"{key} {show(value, None)}" for key, value in item.items())
    return show(item, None)
