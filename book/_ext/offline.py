"""Pages without a network: MathJax is copied out of an installed package, and nothing is for a server that is not used.

The package's own extension copies all of its 30 MB. One file and TeX's optional macros are enough.
"""

from __future__ import annotations

import shutil
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

EXTENSIONS = "input/tex/extensions"


def copy(app: Sphinx, error: Exception | None) -> None:
    """Copy what the pages load into ``_static/mathjax``."""
    if error or app.builder.format != "html":
        return
    installed = distribution("sphinx-mathjax-offline")
    folder = Path(str(installed.locate_file("sphinx-mathjax-offline/static/mathjax")))
    target = Path(app.outdir, "_static", "mathjax")
    shutil.copytree(folder / EXTENSIONS, target / EXTENSIONS, dirs_exist_ok=True)
    shutil.copy2(folder / "tex-svg.js", target)


def leave_out(_: Sphinx, __: str, ___: str, context: dict[str, Any], page: nodes.document | None) -> None:
    """Leave out scripts that a page does not use.

    The lines that name thebe's address stand twice on every page, which is an error in a browser. And Sphinx loads
    MathJax (2 MB) wherever a page below has a formula, so always on the home page.
    """
    formulas = page is not None and any(isinstance(node, nodes.math | nodes.math_block) for node in page.findall())
    context["script_files"] = [
        script
        for script in context["script_files"]
        if "THEBE_JS_URL" not in str(getattr(script, "attributes", {}).get("body"))
        and (formulas or "mathjax" not in str(getattr(script, "filename", "")))
    ]


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", copy)
    app.connect("html-page-context", leave_out, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
