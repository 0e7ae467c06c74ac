"""Pages from runs.

The table of contents names ``notebooks/X``, which git keeps free of outputs. Where a run of X exists (this machine's in
``book/executed``, or else a published one) its copy is read in place of the source, with a run card at its end; before
that, one fold holds the cells tagged ``numbers`` and the code that shows nothing. Without a run the page says so, and a
fresh clone builds without warnings. Published runs of other models are pages of
their own, behind the book's; a line under the title leads from one to the other. Download links offer the source.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from nbformat.v4 import new_markdown_cell
from sphinx.application import Sphinx
from sphinx.directives.patches import Figure
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective
from sphinx_external_toc.api import Document, FileItem, TocTree

from book._ext.cards import code, commit, models, moment, plain, run_card, warnings
from book._ext.claims import fold
from book._ext.foreign import make_visible
from book.runner.publish import published
from book.runner.runs import OVERRIDES, Project, Status, meta_of, tags
from hybret.errors import HybretError

FOLDER = "notebooks/"
ANCHOR = re.compile(r'id="(cell-[\w-]+)"')


def look_up(app: Sphinx, config: Any) -> None:
    """Look up every run, once per build, and add a part to the contents for every model with published runs.

    It comes last, so that the numbers of the book's figures do not depend on what else was published.
    """
    project = Project(Path(app.srcdir), json.loads(os.environ.get(OVERRIDES, "{}")))
    try:
        statuses = {FOLDER + name: project.status(name) for name in project.plan}
        others = {path.relative_to(project.root).with_suffix("").as_posix(): path for path in published(project)}
    except HybretError as error:
        raise ExtensionError(str(error)) from error
    parts: dict[str, list[FileItem]] = {}
    for page, path in others.items():
        statuses[page] = Status("published", path, meta_of(path))
        parts.setdefault(path.parent.name, []).append(FileItem(page))
        config.external_site_map[page] = Document(page)
    app.hybret = project, statuses  # type: ignore
    shown = {f"{page}.ipynb" for page in others}
    config.exclude_patterns = [pattern for pattern in config.exclude_patterns if pattern not in shown]
    trees = [TocTree([*items], caption=f"Published: {variant}") for variant, items in parts.items()]
    config.external_site_map.root.subtrees.extend(trees)


def runs(app: Sphinx) -> dict[str, Status]:
    """Return the status of every run by document name."""
    return app.hybret[1]  # type: ignore


def outdated(app: Sphinx, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Read a notebook's page again when its status changed, and with it every page that may quote it."""
    before = getattr(env, "hybret_runs", {})
    env.hybret_runs = today = {
        d: (s.state, s.reason, s.meta.get("key"), s.meta.get("started"), switch(app, d)) for d, s in runs(app).items()
    }
    pages = [d for d in today if d in env.found_docs and today[d] != before.get(d)]
    quoting = [d for d in env.found_docs if not d.startswith(FOLDER)]
    return pages + quoting if pages else []


def source_read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the run in place of the source notebook."""
    status = runs(app).get(docname)
    if status is None:
        return
    if status.path is None:
        source[0] = nbformat.writes(
            not_run(nbformat.reads(source[0], as_version=4), switch(app, docname), status.reason)
        )
        return
    nb = nbformat.read(status.path, as_version=4)
    make_visible(nb)
    if status.state == "published":
        set_apart(nb, status.path.parent.name)
        prose = {}
    else:  # prose is no part of a run: it comes from the notebook of today
        prose = {cell.id: cell.source for cell in nbformat.reads(source[0], as_version=4).cells}
    cells: list[Any] = []
    folded: list[Any] = []
    for cell in nb.cells:
        if tags(cell) & {"parameters", "injected-parameters"}:
            continue  # the card shows them
        place = folded if "numbers" in tags(cell) else cells
        if cell.cell_type == "markdown":
            cell.source = prose.get(cell.id, cell.source)
            if place is folded:  # a section cannot begin inside a fold
                cell.source = re.sub(r"^#+ (.*)", r"```{rubric} \1\n```", cell.source, flags=re.MULTILINE)
        if cell.cell_type == "code":
            if all(output.get("name") == "stderr" for output in cell.outputs):  # pages leave it out
                place = folded
            place.append(
                new_markdown_cell(f'<a id="cell-{re.sub(r"[^A-Za-z0-9_-]", "", cell.id)}" class="hb-cell"></a>')
            )
        place.append(cell)
    project = app.hybret[0]  # type: ignore
    if folded:
        opening, closing = map(new_markdown_cell, fold("All numbers, and code"))
        folded = [opening, *folded, closing]
    nb.cells = under_title([*cells, *folded], f"{switch(app, docname)}\n\n{warnings(project, status)}")
    nb.cells.append(new_markdown_cell(run_card(project, status)))
    source[0] = nbformat.writes(nb)


def set_apart(nb: Any, variant: str) -> None:
    """Name the model in the title, and make the names of figures this page's own: the chapter has the same ones."""
    prefix = re.sub(r"[^a-z0-9]+", "-", variant.lower()) + "-"
    named = {c.metadata.get("mystnb", {}).get("figure", {}).get("name") for c in nb.cells} - {None}
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            if cell.source.lstrip().startswith("# "):
                title, _, rest = cell.source.lstrip().partition("\n")
                cell.source = f"{title}: {variant}\n{rest}"
            cell.source = re.sub(
                r"(\{(?:numref|ref)\}`(?:[^`<]*<)?)([\w-]+)",
                lambda m: m[1] + (prefix if m[2] in named else "") + m[2],
                cell.source,
            )
        elif figure := cell.metadata.get("mystnb", {}).get("figure"):
            figure["name"] = prefix + figure["name"]


def switch(app: Sphinx, docname: str) -> str:
    """Return the line that leads from a chapter to its published runs and back; empty where there are none."""
    name = docname.rpartition("/")[2]
    others = [d for d, s in runs(app).items() if s.state == "published" and d.rpartition("/")[2] == name]
    if not others or not (docname in others or docname == FOLDER + name):
        return ""
    labels = {FOLDER + name: "this book's models"} | {d: d.split("/")[-2] for d in others}
    words = [f"**{label}**" if d == docname else f"[{label}](/{d}.ipynb)" for d, label in labels.items()]
    return f"```{{rst-class}} hb-switch\n```\nThis chapter on: {' · '.join(words)}"


def under_title(cells: list[Any], text: str) -> list[Any]:
    """Insert text directly under the first heading."""
    for i, cell in enumerate(cells):
        if cell.cell_type == "markdown" and cell.source.lstrip().startswith("# "):
            title, _, rest = cell.source.lstrip().partition("\n")
            return [*cells[:i], *map(new_markdown_cell, filter(str.strip, [title, text, rest])), *cells[i + 1 :]]
    return [new_markdown_cell(text), *cells]


def not_run(nb: Any, switcher: str = "", reason: str = "") -> Any:
    """Make a source notebook fit to be a page: a note, with a reason if there is one, and placeholders."""
    cells: list[Any] = []
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\{glue:\w*\}`[^`]*`", "*not run yet*", cell.source)
        cells.append(cell)
        figure = cell.metadata.get("mystnb", {}).get("figure", {})
        if cell.cell_type == "code" and figure.get("name"):
            text = f"::::{{run-figure}}\n:name: {figure['name']}\n\n{figure.get('caption', '')}\n::::"
            cells.append(new_markdown_cell(text))
    why = f": {reason}" if reason else " yet"
    note = f":::{{note}}\nThis page has not been run here{why}. `make book` runs it and draws its figures.\n:::"
    nb.cells = under_title(cells, f"{switcher}\n\n{note}")
    return nb


class RunFigure(Figure):
    """``{run-figure} name``: a figure file that a notebook wrote, or a placeholder where there is none yet.

    The placeholder is numbered and can be referred to like the figure itself.
    """

    required_arguments = 0
    optional_arguments = 1
    option_spec = {**(Figure.option_spec or {}), "alt": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        project: Project = self.state.document.settings.env.app.hybret[0]
        if self.arguments and any(project.results.glob(f"{self.arguments[0]}.*")):
            folder = project.results.relative_to(project.root).as_posix()
            self.arguments[0] = f"/{folder}/{self.arguments[0]}.*"
            return list(super().run())
        figure = nodes.figure(classes=["hb-missing"])
        figure += nodes.paragraph("", "This figure is drawn by a run that has not happened here yet: make book.")
        box = nodes.container()
        self.state.nested_parse(self.content, self.content_offset, box)
        text = box.children[0].children if box.children else [nodes.Text("Not drawn yet.")]
        figure += nodes.caption("", "", *text)
        self.add_name(figure)
        return [figure]


class Hero(SphinxDirective):
    """``{hero} name``: what a run wrote for a reader to move, shown by `book/_assets/hero.js`.

    It takes the place of the next figure; a print, or a page without scripts, has the figure.
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = self.env.app.hybret[0].results / f"{self.arguments[0]}.json"  # type: ignore
        self.env.note_dependency(str(path))
        if not path.is_file():
            return []
        made = json.dumps(json.loads(path.read_text(encoding="utf-8"))).replace("<", "\\u003c")  # never ends the script
        return [nodes.raw("", f'<script type="application/json" class="hb-hero">{made}</script>', format="html")]


class Runs(SphinxDirective):
    """``{runs}``: one line per notebook of the book."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        project: Project = self.env.app.hybret[0]  # type: ignore
        lines = ["| page | state | model | recipe | seconds | made |", "|" + "---|" * 6]
        for docname, s in runs(self.env.app).items():
            state = s.state + (f": {plain(s.reason)}" if s.reason else "")
            if s.path and project.published in s.path.parents and s.state != "published":
                state += ", published"
            m = s.meta
            run = project.plan[docname.rpartition("/")[2]]
            shown = docname if s.state == "published" else FOLDER + run.notebook
            link = f"[](/{shown}.ipynb)" if shown in self.env.found_docs else code(shown)
            link += "" if run.notebook == run.name else f": {code(run.name)}"
            facts = [models(m), *(plain(m.get(name) or "") for name in ("recipe", "seconds"))]
            made = ", ".join(filter(None, [plain(m.get("device") or ""), commit(m), plain(moment(m))]))
            lines.append(f"| {' | '.join([link, state, *facts, made])} |")
        box = nodes.container(classes=["hb-runs"])
        self.state.nested_parse(StringList(lines), 0, box)
        return [box]


def glue_not_run(app: Sphinx, doctree: nodes.document) -> None:
    """Say "not run yet" where a page quotes a number of a notebook that has not run."""
    from myst_nb.ext.glue.utils import PendingGlueReference

    for node in list(doctree.findall(PendingGlueReference)):
        status = runs(app).get(node.refdoc)
        if status is not None and status.path is None:
            text = nodes.emphasis("", "not run yet")
            node.replace_self(text if isinstance(node.parent, nodes.TextElement) else nodes.paragraph("", "", text))


def made_by(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Link every figure and table that a run made to the cell that made it."""
    if app.builder.format != "html":
        return
    cell = ""
    for node in list(doctree.findall()):
        if isinstance(node, nodes.raw) and (found := ANCHOR.search(node.astext())):
            cell = f"#{found[1]}"
        if not isinstance(node, (nodes.figure, nodes.table)) or "hb-missing" in node["classes"]:
            continue
        caption = next(iter([*node.findall(nodes.caption), *node.findall(nodes.title)]), None)
        image = next(iter(node.findall(nodes.image)), None)
        target = cell if docname in runs(app) else ""
        if image is not None and not target:
            target = saved_by(app, docname, Path(image["uri"]).stem)
        if caption is not None and target:
            link = nodes.reference("", "made by this cell", internal=True, refuri=target, classes=["hb-made-by"])
            caption += [nodes.Text(" "), link]


def saved_by(app: Sphinx, docname: str, stem: str) -> str:
    """Return the address of the cell that saves the file `stem`, or "" for a file that no notebook names."""
    named = re.compile(rf"""["']{re.escape(stem)}(\.\w+)?["']""")
    for page, status in runs(app).items():
        if status.path is not None and page in app.env.found_docs:
            for cell in nbformat.read(status.path, as_version=4).cells:
                if cell.cell_type == "code" and named.search(cell.source):
                    return f"{app.builder.get_relative_uri(docname, page)}#cell-{cell.id}"
    return ""


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("runs", Runs)
    app.add_directive("run-figure", RunFigure)
    app.add_directive("hero", Hero)
    app.connect("config-inited", look_up, priority=901)  # after sphinx-external-toc has read _toc.yml
    app.connect("env-get-outdated", outdated)
    app.connect("source-read", source_read)
    app.connect("doctree-read", glue_not_run)
    app.connect("doctree-resolved", made_by)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
