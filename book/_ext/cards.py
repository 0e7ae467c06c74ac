"""The run card of a page: what a reader should know of the run first, its parameters, and where it came from."""

from __future__ import annotations

import json
import re
from typing import Any

from book.runner.runs import Project, Status, parameters
from hybret.errors import printable
from hybret.families import RANDOM, has_random_weights

MADE_UP = "The weights of this run are random: it shows time and memory. What the model answers means nothing."


def code(value: Any) -> str:
    """Return a value as inline code that may stand in a table."""
    return "`" + (printable(value) or " ").replace("`", "'").replace("|", "\\|") + "`"


def plain(value: Any) -> str:
    """Return foreign text as MyST that shows it as it is: no tag, link, role or formula in it acts."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", printable(value))


CARD = """::::{{dropdown}} Run of {models}, recipe {recipe}, {seconds} s
:icon: beaker
:class-container: hb-card

| parameter | this run | default | meaning |
|---|---|---|---|
{rows}

From {commit}, on {device}, Python {software}. {downloads}
::::"""


def warnings(project: Project, status: Status) -> str:
    """Return what a reader of a run should know first, as MyST."""
    meta, path = status.meta, status.path
    assert path is not None
    card, notes = path.with_suffix(".json"), []
    if status.state == "stale":
        notes.append(
            f":::{{warning}}\nThis run is out of date: {plain(status.reason)}. `make book` runs it again.\n:::\n"
        )
    if project.published in path.parents:
        names = str(meta.get("model")).split(",")
        digests = json.loads(card.read_text()).get("weights", []) if card.is_file() else []
        made_up = [name.startswith(RANDOM) or has_random_weights(name, "") for name in names]
        if any(made_up) or any(has_random_weights("", digest) for digest in digests):
            notes.append(f":::{{warning}}\n{MADE_UP}\n:::\n")
        whose = f"A published run of {code(meta.get('model'))}: made elsewhere, and shown as it was committed."
        notes.append(f":::{{note}}\n{whose}\n:::\n")
    return "\n".join(notes)


def run_card(project: Project, status: Status) -> str:
    """Return the run card as MyST: parameters and provenance."""
    meta, path = status.meta, status.path
    assert path is not None
    used, card = meta.get("parameters", {}), path.with_suffix(".json")
    rows = []
    for name, p in parameters(path).items():
        value = code(json.dumps(used[name])) if name in used else "default"
        rows.append(f"| `{name}` | {value} | {code(p['default'])} | {p['help']} |")
    files = {"Executed notebook": path} | ({"run card": card} if card.is_file() else {})
    links = [f"{{download}}`{text} </{file.relative_to(project.root).as_posix()}>`" for text, file in files.items()]
    versions = ", ".join(f"{name} {v}" for name, v in meta.get("versions", {}).items())
    return CARD.format(
        models=models(meta),
        **{name: plain(meta.get(name)) for name in ("recipe", "seconds", "device")},
        rows="\n".join(rows),
        commit=commit(meta) or "a folder without git history",
        software=plain(", ".join(filter(None, [str(meta.get("python")), versions, moment(meta)]))),
        downloads=", ".join(links),
    )


def models(meta: dict[str, Any]) -> str:
    """Return the models of a run as words that a line may break between."""
    return plain(str(meta.get("model") or "").replace(",", ", "))


def commit(meta: dict[str, Any]) -> str:
    """Return the commit of a run, and whether its folder was changed."""
    if not meta.get("commit"):
        return ""
    return f"commit {code(meta['commit'][:9])}" + (" with local changes" if meta.get("dirty") else "")


def moment(meta: dict[str, Any]) -> str:
    """Return when the run began, to the minute."""
    return f"{meta['started'][:16].replace('T', ' ')} UTC" if meta.get("started") else ""
