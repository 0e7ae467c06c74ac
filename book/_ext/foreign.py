"""What a run wrote may quote a model or a stranger: on a page it is read, and does nothing.

In outputs, control characters (terminal colours) and those that turn the direction of text are shown as escapes.
Markdown that code wrote has words, emphasis, code, lists and tables; HTML, links, pictures and headings in it are text.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from myst_nb.core import render
from myst_parser.parsers.mdit import create_md_parser
from sphinx.application import Sphinx

ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # categories of characters that have no picture of their own
SILENT = ("html_block", "html_inline", "link", "image", "autolink", "reference", "heading", "lheading")


def seen(text: str) -> str:
    """Return a text with what acts in it as escapes; in JSON and JavaScript strings they mean the same as before."""
    return "".join(f"\\u{ord(c):04x}" if unicodedata.category(c) in ACTING and c not in "\n\t" else c for c in text)


def make_visible(nb: Any) -> None:
    """Escape what acts in the texts among a notebook's outputs."""
    for output in (output for cell in nb.cells for output in cell.get("outputs", ())):
        if "text" in output:
            output.text = seen(output.text)
        for kind, value in output.get("data", {}).items():
            if kind.startswith("text/"):
                output.data[kind] = seen(value)


def words_alone(config: Any, renderer: Any) -> Any:
    """Return the parser of Markdown outputs, which knows nothing that could act."""
    return create_md_parser(config, renderer).disable([*SILENT])


def setup(app: Sphinx) -> dict[str, Any]:
    render.create_md_parser = words_alone  # it serves outputs alone; MyST-NB has no setting for it
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
