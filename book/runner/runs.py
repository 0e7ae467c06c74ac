"""Notebook runs: what a run depends on, and whether a finished one is still current.

A run is one notebook with its parameters. Its key is a hash of everything that can change its results: the
code cells, the parameters, the code and checkpoints that notebooks use, and the keys of the runs it needs. The
key is written into the executed copy, so a run is current exactly when the key in the file is the key of today.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat
import yaml
from pydantic import TypeAdapter, ValidationError

from hybret.errors import HybretError
from hybret.families import PACKAGES, RANDOM
from hybret.files import MANIFEST, cache_folder, digest

CODE = ("hybret", "book/paper", "book/speed")
"""What notebooks use; the runner, the pages and the commands cannot change what a run computes."""
HASHED = {".py", ".js", ".css", ".json", ".safetensors", ".txt", ".yaml"}
ENTRY: dict[str, Any] = {"notebook": None, "parameters": {}, "needs": (), "reads": ()}
OVERRIDES = "HYBRET_BOOK_OVERRIDES"  # environment variable: JSON of the overrides whose runs the pages show
TYPES = {kind.__name__: kind for kind in (bool, int, float, str, list, dict)}


def tags(cell: Any) -> set[str]:
    """Return the tags of a notebook cell."""
    return set(cell.metadata.get("tags", []))


def key_of(*parts: object) -> str:
    """Return 16 hex digits of a hash of parts that JSON can hold."""
    return digest(json.dumps(parts, sort_keys=True, default=str), digits=16)


def source_key(nb: Any) -> str:
    """Hash the code cells of a notebook; prose, outputs and the cell that papermill injects do not count."""
    return key_of(*(c.source for c in nb.cells if c.cell_type == "code" and "injected-parameters" not in tags(c)))


@dataclass(frozen=True)
class Run:
    """One notebook with the parameters it is run with."""

    name: str
    notebook: str  # its file; a part of a chapter has a name of its own
    parameters: dict[str, Any]  # injected, instead of the notebook's defaults
    settings: dict[str, Any]  # every parameter with its value
    needs: tuple[str, ...]  # runs whose results this one reads
    source: str  # hash of the code cells
    key: str  # hash of everything that the run depends on
    lacks: tuple[str, ...]  # models and texts that it needs and `hybret fetch` has not brought

    @property
    def unmet(self) -> str:
        """What has to be done before it can run, in words; empty if nothing."""
        return f"it needs `hybret fetch {' '.join(self.lacks)}` once, with a network" if self.lacks else ""


@dataclass(frozen=True)
class Status:
    """Where a run stands: ``"current"``, ``"stale"`` or ``"not run"``, and why it is stale."""

    state: str
    path: Path | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Project:
    """A clone: a folder with ``notebooks/`` and its ``runs.yml``, ``book/`` and ``hybret/``.

    `overrides` are parameters that replace those of ``runs.yml`` in every notebook that has them. Runs with overrides
    live in folders of their own and never replace the book's.
    """

    root: Path
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def notebooks(self) -> Path:
        return self.root / "notebooks"

    @property
    def executed(self) -> Path:
        """Runs of this machine, ignored by git."""
        return self.root / "book" / "executed" / self.variant

    @property
    def published(self) -> Path:
        """Runs that need hardware not everybody has: committed, read where this machine has none."""
        return self.root / "book" / "published" / self.variant

    @property
    def results(self) -> Path:
        """Figure and table files that pages include."""
        return self.root / "book" / "results" / self.variant

    @property
    def html(self) -> Path:
        """The built pages."""
        return (self.root / "_build" / self.variant if self.variant else self.root) / "_build" / "html"

    @cached_property
    def variant(self) -> str:
        """Folder name of the runs with these overrides; empty for the book's own runs."""
        words = []
        for name, value in self.overrides.items():
            models = ",".join(short(model.rstrip("/")) for model in str(value).split(","))
            words.append(models if name == "model" else f"{name}-{value}")
        text = re.sub(r"[^\w.+-]+", "-", "_".join(words)).strip("-.")
        if not self.overrides or (text and len(text) <= 100):
            return text
        # What is left is nothing, which is where the book's own runs are, or longer than a file name.
        return f"{text[:80]}-{key_of(dict(self.overrides))}".strip("-.")

    @cached_property
    def package_key(self) -> str:
        """Hash of the code that notebooks use, the embedded checkpoints, and the versions it is installed with."""
        paths = [p for folder in CODE for p in (self.root / folder).rglob("*.*") if p.suffix in HASHED]
        paths += [lock for lock in [self.root / "requirements.lock"] if lock.is_file()]
        names = {path.relative_to(self.root).as_posix(): path for path in paths}
        kept = [name for name in sorted(names) if "__pycache__" not in name and not name.startswith("hybret/cli")]
        return key_of(*((name, digest(names[name])) for name in kept))

    @cached_property
    def plan(self) -> dict[str, Run]:
        """Every run of ``runs.yml`` by name, checked, each after the runs it needs."""
        runs: dict[str, Run] = {}
        used: set[str] = set()
        for name, entry in expand(self._entries(), self.overrides).items():
            notebook = entry["notebook"]
            path = self.notebooks / f"{notebook}.ipynb"
            if not path.is_file():
                raise HybretError(f"runs.yml names {notebook!r}, but {path} does not exist: add it or drop the entry.")
            if late := [need for need in entry["needs"] if need not in runs]:
                raise HybretError(f"runs.yml: {name!r} needs {late[0]!r}, which must stand above it in the file.")
            known = parameters(path)
            overrides = {k: v for k, v in self.overrides.items() if k in known}
            used |= set(overrides)
            if (self.variant or notebook != name) and "results" in known:  # a part must not replace its chapter's files
                folder = self.results / (name if notebook != name else "")
                overrides.setdefault("results", os.path.relpath(folder, self.notebooks))
            injected = {**entry["parameters"], **overrides}
            check(path.name, known, injected)
            source = source_key(nbformat.read(path, as_version=4))
            reads = sorted(file for pattern in entry["reads"] for file in self.root.glob(pattern))
            upstream = [runs[need].key for need in entry["needs"]] + [(file.name, digest(file)) for file in reads]
            settings = {k: ast.literal_eval(p["default"]) for k, p in known.items()} | injected
            key = key_of(source, self.package_key, injected, upstream)
            absent = dict.fromkeys(sum((runs[need].lacks for need in entry["needs"]), lacks(settings)))
            runs[name] = Run(name, notebook, injected, settings, tuple(entry["needs"]), source, key, tuple(absent))
        if unknown := set(self.overrides) - used:
            raise HybretError(f"no notebook has a parameter named {sorted(unknown)[0]!r}; see their first cells.")
        return runs

    def _entries(self) -> dict[str, dict[str, Any]]:
        path = self.notebooks / "runs.yml"
        if not path.is_file():
            raise HybretError(f"{path} does not exist: run this command in a clone of the project.")
        try:
            entries = {name: entry or {} for name, entry in (yaml.safe_load(path.read_text()) or {}).items()}
        except yaml.YAMLError as error:
            raise HybretError(f"{path} is not valid YAML: {error}.") from error
        if wrong := [name for name, entry in entries.items() if not isinstance(entry, dict) or {*entry} - {*ENTRY}]:
            raise HybretError(f"{path}: the entry {wrong[0]!r} may only hold {', '.join(ENTRY)}.")
        return {
            name: {**ENTRY, "notebook": name, **{key: value for key, value in entry.items() if value}}
            for name, entry in entries.items()
        }

    def find(self, name: str) -> Path | None:
        """Return the copy of a run that the book reads: this machine's, else the published one."""
        paths = (folder / f"{name}.ipynb" for folder in (self.executed, self.published))
        return next(filter(Path.is_file, paths), None)

    def status(self, name: str) -> Status:
        """Say whether a finished run exists and whether what it depends on is as it was."""
        path, run = self.find(name), self.plan[name]
        if path is None:
            return Status("not run", reason=run.unmet)
        meta = meta_of(path)
        if meta.get("key") == run.key:
            for file, written in dict(meta.get("files") or {}).items():
                there = self.results / file
                if not there.is_file() or digest(there) != written:
                    fault = "is another run's" if there.is_file() else "is gone"
                    return Status("stale", path, meta, f"its file {file} {fault}")
            return Status("current", path, meta)
        changed = {
            "the notebook's code": meta.get("source") != run.source,
            "its parameters": meta.get("parameters") != run.parameters,
            "the hybret package": meta.get("package") != self.package_key,
        }
        what = [name for name, differs in changed.items() if differs] or ["a run that it needs or a file that it reads"]
        return Status("stale", path, meta, " and ".join(what) + " changed after it")


def meta_of(path: Path) -> dict[str, Any]:
    """Return what a run wrote down about itself in its executed copy."""
    return dict(nbformat.read(path, as_version=4).metadata.get("hybret", {}))


def lacks(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Names to fetch of the models and texts among a run's parameters, as far as they are not in the cache."""
    wanted = {part.strip() for value in settings.values() if isinstance(value, str) for part in value.split(",")}
    return tuple(
        name for name, source in PACKAGES.items()
        if {name, source.get("model")} & wanted and not (cache_folder() / name / MANIFEST).is_file()
    )  # fmt: skip


def expand(entries: Mapping[str, dict[str, Any]], overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Put the chapter itself in the place of its first part whose own parameter is overridden."""
    replaced = [
        name for name, entry in entries.items() if name != entry["notebook"] and {*entry["parameters"]} & {*overrides}
    ]
    chapters = {name: entries[name]["notebook"] for name in replaced}
    expanded = {}
    for name in dict.fromkeys(chapters.get(name, name) for name in entries):
        needs = [need for need in entries[name]["needs"] if chapters.get(need) != name]
        expanded[name] = {**entries[name], "needs": [*dict.fromkeys(chapters.get(need, need) for need in needs)]}
    return expanded


def short(model: str) -> str:
    """Return a model's name without its owner; one with random weights keeps that it is."""
    return (RANDOM if model.startswith(RANDOM) else "") + model.split("/")[-1]


def parameters(path: Path) -> dict[str, dict[str, str]]:
    """Read the cell tagged ``parameters``: name to ``{"type", "default", "help"}``, all as source text.

    papermill's own inspection leaves out what it cannot read, such as an annotation with ``|``.
    """
    source = next((c.source for c in nbformat.read(path, as_version=4).cells if "parameters" in tags(c)), "")
    try:
        body, lines = ast.parse(source).body, source.splitlines()
    except SyntaxError as error:
        raise HybretError(f"the parameters cell of {path.name} is not valid Python: {error.msg}.") from error
    known = {}
    for node in body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and (value := node.value):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            kind = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else ""
            # What stands behind the value, on its last line, is its comment.
            comment = lines[(value.end_lineno or 1) - 1].encode()[value.end_col_offset or 0 :].decode().strip("# ")
            known[ast.unparse(target)] = {"type": kind, "default": ast.unparse(value), "help": comment}
    return known


def check(notebook: str, known: Mapping[str, Mapping[str, str]], injected: Mapping[str, Any]) -> None:
    """Refuse a parameter that the notebook lacks or annotates with another type; other names than `TYPES` fit all.

    papermill itself only warns about an unknown name, and injects the string ``"false"`` for a flag.
    """
    for name, value in injected.items():
        if name not in known:
            raise HybretError(f"{notebook} has no parameter {name!r}; it has {', '.join(known) or 'none'}.")
        wanted = known[name]["type"]
        if not re.fullmatch(rf"(\b({'|'.join(TYPES)}|None)\b|[\[\], |])+", wanted):
            continue
        try:
            TypeAdapter(eval(wanted, {"__builtins__": {}}, TYPES)).validate_python(value, strict=True)
        except ValidationError:
            raise HybretError(f"{notebook}: the parameter {name!r} must be {wanted}, not {value!r}.") from None
