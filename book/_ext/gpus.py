"""``{gpu-records} runs|models|long-context|checks|exact``: a table of ``book/published/full-size-*.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from executed import plain
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from book.speed.records import TABLES, checks_table, exact_table, records
from hybret.errors import HybretError

FILES = {"checks": checks_table, "exact": exact_table}
NONE = "*Nothing of this kind has been published in this copy of the book yet.*"


class GpuRecords(SphinxDirective):
    """The table, or a sentence where no record makes a line of it."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        folder = Path(self.env.srcdir) / "book" / "published"
        try:
            what = self.arguments[0]
            head, *lines = FILES[what](folder) if what in FILES else TABLES[what](records(folder))
        except HybretError as error:
            raise ExtensionError(str(error)) from error
        rows = [head, ["---"] * len(head), *([plain(cell) for cell in line] for line in lines)]
        text = [f"| {' | '.join(row)} |" for row in rows] if lines else [NONE]
        box = nodes.container(classes=["hb-runs"])
        self.state.nested_parse(StringList(text), 0, box)
        return [box]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("gpu-records", GpuRecords)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
