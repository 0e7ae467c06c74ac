"""No line ends between a number and its per cent sign, or inside ``k = 6``."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

BOUND = re.compile(r"(?<=\d) (?=%)|(?<=\bk) (?== \d)|(?<=\bk =) (?=\d)")


def bind(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put no-break spaces into prose, and into tables that are HTML already."""
    for text in list(doctree.findall(nodes.Text)):
        within = text.parent
        if isinstance(within, nodes.raw):
            if within.get("format") != "html" or "<table" not in text or "<script" in text:
                continue
        elif isinstance(within, (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block)):
            continue
        if (bound := BOUND.sub("\N{NO-BREAK SPACE}", text)) != text:
            within.replace(text, nodes.Text(bound))


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-resolved", bind)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
