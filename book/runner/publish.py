"""Published runs: what a machine with a large GPU computed, in a form that a clone can keep and every book can show.

``book/published/<model>/`` holds the executed notebooks, beside each its card (where it came from, as JSON), and under
``rows/`` the rows of that model with the note that says whose they are.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat

from book.runner.runs import Project, Run
from hybret.errors import HybretError
from hybret.files import write_whole
from hybret.provenance import ENGINE_DIGEST, RUN_FILE

LARGEST = 8 << 20
"""Bytes of a notebook that may be published: more is a figure with too many points, and burdens every clone."""
BINARY = ("image/png", "image/jpeg", "application/pdf")
PLACE = re.compile(r"/(?:home|Users|root|tmp|work|opt|mnt|scratch|var|data)/[^\s\"'<>:;,)\]}]*/")
CARD = ("model", "recipe", "device", "seconds", "started", "commit", "dirty", "python", "versions", "key", "package")


def published(project: Project) -> list[Path]:
    """The published runs of other models, in the order of the models' names and of the chapters."""
    if project.variant:
        return []
    folders = sorted(project.published.glob("*/"))
    if odd := [folder.name for folder in folders if not re.fullmatch(r"[\w.+-]+", folder.name)]:
        raise HybretError(f"book/published has a folder {odd[0]!r}; rename it to letters, digits and .+-")
    chapters = sorted(name for name, run in project.plan.items() if name == run.notebook)
    return [path for folder in folders for name in chapters if (path := folder / f"{name}.ipynb").is_file()]


def publish(project: Project) -> Path:
    """Copy the finished runs of a project with overrides into its published folder, and return that.

    Outputs are kept, without what was written to stderr and without places of this machine.
    """
    ready = [run for name, run in project.plan.items() if (project.executed / f"{name}.ipynb").is_file()]
    if not ready:
        raise HybretError(f"there is no run in {project.executed}; run the notebooks on this model first")
    states = {run.name: project.status(run.name) for run in ready}
    if late := [name for name, status in states.items() if status.state != "current"]:
        raise HybretError(f"the run of {late[0]} is out of date ({states[late[0]].reason}); run it again")
    texts = {run.name: cleaned_notebook(project, run) for run in ready}
    project.published.mkdir(parents=True, exist_ok=True)
    notes = copy_rows(project, {project.notebooks / str(run.settings.get("out", "../runs")) for run in ready})
    rows = {name: sorted({str(note[name]) for note in notes if name in note}) for name in ("weights", "dtype")}
    for run in ready:
        meta = states[run.name].meta
        card = {name: meta.get(name) for name in CARD} | rows
        card["revision"] = str(meta.get("model")).partition("@")[2] or None
        card["parameters"] = {**run.settings, "out": "", "results": ""}
        write_whole(project.published / f"{run.name}.ipynb", texts[run.name].encode())
        write_whole(project.published / f"{run.name}.json", (json.dumps(card, indent=1) + "\n").encode())
    return project.published


def cleaned_notebook(project: Project, run: Run, largest: int = LARGEST) -> str:
    """Return an executed notebook as text, fit to be published."""

    def clean(text: str) -> str:
        return PLACE.sub("", text.replace(f"{project.root}/", ""))

    nb = nbformat.read(project.executed / f"{run.name}.ipynb", as_version=4)
    for cell in (cell for cell in nb.cells if cell.cell_type == "code"):
        cell.source = clean(cell.source)
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            for kind, value in output.get("data", {}).items():
                if kind not in BINARY:
                    output.data[kind] = json.loads(clean(json.dumps(value)))
            if "text" in output:
                output.text = clean(output.text)
    nb.metadata["hybret"] = json.loads(clean(json.dumps(nb.metadata["hybret"])))
    text = str(nbformat.writes(nb)) + "\n"
    if len(text) > largest:
        size = f"{run.name} has {len(text) / 2**20:.0f} MiB, and at most {largest >> 20} are published"
        raise HybretError(f"{size}; draw fewer points, or run it with fewer lengths and depths")
    return text


def copy_rows(project: Project, folders: set[Path]) -> list[dict[str, Any]]:
    """Copy the rows of this model by today's engine; return the notes that say whose they are."""
    target, notes = project.published / "rows", []
    shutil.rmtree(target, ignore_errors=True)
    models = str(project.overrides.get("model")).split(",")
    for path in sorted(path for folder in folders for path in folder.glob(f"*/{RUN_FILE}")):
        note = json.loads(path.read_text())
        if note.get("engine") == ENGINE_DIGEST and note.get("model") in models:
            notes.append(note)
            kept = target / path.parent.name
            kept.mkdir(parents=True)
            for file in (path, *path.parent.glob("rows-*.parquet")):
                shutil.copyfile(file, kept / file.name)
    return notes
