"""The page: template, style and script in one file that asks for nothing else.

Its Content-Security-Policy names the two scripts and the style by their SHA-256, so that nothing
else runs, whatever a name in the findings says. Names reach the page by two ways only: through
the template, which escapes them, and as JSON, which the script puts into text nodes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

TEMPLATE = "page.html.j2"
# Joined in this order into one script.
SCRIPTS = (
    "basics",
    "arrays",
    "colours",
    "images",
    "signals",
    "features",
    "address",
    "gallery",
    "filters",
    "histogram",
    "fields",
    "detail",
    "start",
)
UPLOT, UPLOT_CSS, UPLOT_LICENSE = "uPlot.iife.min.js", "uPlot.min.css", "uPlot.LICENSE"
# In JSON each of them may stand as an escape; in HTML they could end the script element.
ESCAPED = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}


def page_from(context: dict[str, Any], payload: dict[str, Any]) -> bytes:
    """Render the page.

    Args:
        context: Of the template.
        payload: What the script works with, JSON-ready.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = f"{_licensed(UPLOT_CSS)}\n{resource('page.css')}"
    scripts = [_licensed(UPLOT), "\n".join(resource(f"{name}.js") for name in SCRIPTS)]
    text = environment.from_string(resource(TEMPLATE)).render(
        **context,
        policy=policy(scripts, style),
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        payload=Markup(script_json(payload)),
    )
    # Names may hold halves of surrogate pairs, which UTF-8 has no bytes for.
    return text.encode("utf-8", "replace")


def policy(scripts: list[str], style: str) -> str:
    """The Content-Security-Policy that allows these and nothing else."""
    allowed = " ".join(_source(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_source(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def script_json(document: dict[str, Any]) -> str:
    """As it may stand in a script element: ASCII, nothing that HTML knows, no NaN."""
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.translate(ESCAPED)


@cache
def resource(name: str) -> str:
    """A file of `audit/reporting/page`."""
    return (files("audit.reporting") / "page" / name).read_text(encoding="utf-8")


def _licensed(name: str) -> str:
    source = "uPlot, https://github.com/leeoniya/uPlot"
    return f"/*! {source}\n{resource(UPLOT_LICENSE)}*/\n{resource(name)}"


def _source(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
