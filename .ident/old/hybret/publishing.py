"""Published runs: what a machine with a large GPU computed, in a form that a clone can keep and every book can show.

``book/published/<model>/`` holds the executed notebooks, beside each its card (where it came from, as JSON), and under
``rows/`` the rows of that model with the note that says whose they are.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from .errors import HybretError
from .execution import settings
from .runs import Project, Run
from .store import RUN_FILE, write_whole

LARGEST = 8 << 20
"""Bytes of a notebook that may be published: more is a figure with too many points, and burdens every clone."""
BINARY = ("image/png", "image/jpeg", "application/pdf")
PLACE = re.compile(r"/(?:home|Users|root|tmp|work|opt|mnt|scratch|var|data)/[^\s\"'<>:;,)\]}]*/")


@dataclass(frozen=True)
class Published:
    """A published run: which model's, of which notebook, and its executed copy."""

    variant: str
    name: str
    path: Path

    @property
    def meta(self) -> dict[str, Any]:
        """What the run wrote down about itself."""
        return dict(nbformat.read(self.path, as_version=4).metadata.get("hybret", {}))


def published(project: Project) -> list[Published]:
    """The published runs of other models, in the order of the models' names and of the chapters.

    Raises
    ------
    HybretError
        A folder with a name that hybret gives to none: pages take it as it is.
    """
    if project.variant:
        return []
    for folder in project.published.glob("*/"):
        if not re.fullmatch(r"[\w.+-]+", folder.name):
            raise HybretError(
                f"book/published has a folder {folder.name!r}, a name that pages show; rename it to letters, digits .+-"
            )
    found = [
        Published(folder.name, name, path)
        for folder in sorted(project.published.glob("*/"))
        for name, run in project.plan.items()
        if run.name == run.notebook and (path := folder / f"{name}.ipynb").is_file()
    ]
    order = [p.stem for p in sorted(project.notebooks.glob("*.ipynb"))]
    return sorted(found, key=lambda p: (p.variant, order.index(p.name)))


def publish(project: Project) -> Path:
    """Copy the finished runs of a project with overrides into its published folder.

    Outputs are kept, without what was written to stderr and without places of this machine.

    Parameters
    ----------
    project : Project
        With overrides: the book's own runs are not published, everybody has them.

    Returns
    -------
    Path
        The folder, to be committed.

    Raises
    ------
    HybretError
        No overrides, nothing that has run, a run that is out of date, or a notebook that is too large.
    """
    if not project.variant:
        raise HybretError("only runs of another model are published: name one (hybret book --model M --publish)")
    states = {name: project.status(name) for name in project.plan}
    ready = [run for name, run in project.plan.items() if (project.executed / f"{name}.ipynb").is_file()]
    if not ready:
        raise HybretError(f"there is no run in {project.executed}; run the notebooks on this model first")
    if late := [run.name for run in ready if states[run.name].state != "current"]:
        raise HybretError(f"the run of {late[0]} is out of date ({states[late[0]].reason}); run it again")
    cleaned = [(run, cleaned_notebook(project, run)) for run in ready]
    project.published.mkdir(parents=True, exist_ok=True)
    used = {run.name: settings(project, run) for run in ready}
    notes = copy_rows(project, {project.notebooks / str(u.get("out", "../runs")) for u in used.values()})
    for run, text in cleaned:
        write_whole(project.published / f"{run.name}.ipynb", text.encode())
        about = card(states[run.name].meta, used[run.name], notes)
        write_whole(project.published / f"{run.name}.json", (json.dumps(about, indent=1) + "\n").encode())
    return project.published


def cleaned_notebook(project: Project, run: Run) -> str:
    """An executed notebook as text, fit to be published.

    Raises
    ------
    HybretError
        If it is larger than `LARGEST`.
    """
    nb = nbformat.read(project.executed / f"{run.name}.ipynb", as_version=4)
    for cell in nb.cells:
        if cell.cell_type != "code":
            continue
        cell.source = without_places(project, cell.source)
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        for output in cell.outputs:
            for kind, value in output.get("data", {}).items():
                if kind not in BINARY:
                    output.data[kind] = json.loads(without_places(project, json.dumps(value)))
            if "text" in output:
                output.text = without_places(project, output.text)
    nb.metadata["hybret"] = json.loads(without_places(project, json.dumps(nb.metadata["hybret"])))
    text = str(nbformat.writes(nb)) + "\n"
    if len(text) > LARGEST:
        raise HybretError(
            f"{run.name} is {len(text) / 2**20:.0f} MiB large and at most {LARGEST >> 20} are published; "
            "draw fewer points, or run it with fewer lengths and depths"
        )
    return text


def without_places(project: Project, text: str) -> str:
    """A text without folders of this machine; what lies in the clone is named from its top."""
    return PLACE.sub("", text.replace(f"{project.root}/", ""))


def card(meta: dict[str, Any], used: dict[str, Any], notes: list[dict[str, Any]]) -> dict[str, Any]:
    """Where a published run came from: provenance, every parameter with its value, and what its rows say of it."""
    kept = (
        "model",
        "recipe",
        "device",
        "seconds",
        "started",
        "commit",
        "dirty",
        "python",
        "versions",
        "key",
        "package",
    )
    told = {name: sorted({str(note[name]) for note in notes if name in note}) for name in ("weights", "dtype")}
    out = {"out": "", "results": ""}
    revision = str(meta.get("model")).partition("@")[2] or None
    return {**{k: meta.get(k) for k in kept}, "revision": revision, **told, "parameters": {**used, **out}}


def copy_rows(project: Project, folders: set[Path]) -> list[dict[str, Any]]:
    """Copy the rows of this model by today's engine; return the notes that say whose they are."""
    from .sweeping import ENGINE_DIGEST  # here: it brings torch, and pages are built without

    target, notes = project.published / "rows", []
    shutil.rmtree(target, ignore_errors=True)
    for path in sorted(p for folder in folders for p in folder.glob(f"*/{RUN_FILE}")):
        note = json.loads(path.read_text())
        if note.get("engine") != ENGINE_DIGEST or note.get("model") not in str(project.overrides.get("model")).split(
            ","
        ):
            continue
        notes.append(note)
        kept = target / path.parent.name
        kept.mkdir(parents=True)
        for file in (path, *path.parent.glob("rows-*.parquet")):
            shutil.copyfile(file, kept / file.name)
    return notes
