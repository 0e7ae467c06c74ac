"""Notebook runs: what a run depends on, and whether a finished one is still current.

A run is one notebook with its parameters. Its key is a hash of everything that can change its results: the
code cells, the parameters, the package (code and embedded checkpoints) and the keys of the runs it needs. The
key is written into the executed copy, so a run is current exactly when the key in the file is the key of today.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat
import yaml

from .errors import HybretError
from .presets import RANDOM

HASHED = {".py", ".js", ".css", ".json", ".safetensors", ".txt", ".yaml"}
RUNNER = {
    "runs.py",
    "execution.py",
    "book.py",
    "publishing.py",
    "records.py",
    "packing.py",
    "cli",
}  # they carry runs out and cannot change what a run computes
INJECTED = {"injected-parameters"}
OVERRIDES = "HYBRET_BOOK_OVERRIDES"  # environment variable: JSON of the overrides whose runs the pages show


def tags(cell: Any) -> set[str]:
    """Return the tags of a notebook cell."""
    return set(cell.metadata.get("tags", []))


def digest(parts: Iterable[bytes]) -> str:
    """Return 16 hex digits of SHA-256 over length-prefixed parts."""
    h = hashlib.sha256()
    for part in parts:
        h.update(len(part).to_bytes(8, "big") + part)
    return h.hexdigest()[:16]


def source_key(nb: Any) -> str:
    """Hash the code cells of a notebook; prose, outputs and the cell that papermill injects do not count."""
    return digest(c.source.encode() for c in nb.cells if c.cell_type == "code" and not tags(c) & INJECTED)


@dataclass(frozen=True)
class Run:
    """One notebook with the parameters it is run with.

    Attributes
    ----------
    name : str
        What the run is called, and its executed copy.
    notebook : str
        File name of the notebook without its suffix; also the run's name, unless ``runs.yml`` says otherwise.
    parameters : dict
        What is injected; everything else keeps the default of the notebook's parameters cell.
    needs : tuple of str
        Runs whose results this one reads; they are carried out before it.
    source, key : str
        Hash of the code cells, and of everything the run depends on.
    """

    name: str
    notebook: str
    parameters: dict[str, Any]
    needs: tuple[str, ...]
    source: str
    key: str


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

    Parameters
    ----------
    root : Path
        The folder.
    overrides : mapping
        Parameters that replace those of ``runs.yml`` in every notebook that has them. Runs with overrides live
        in a folder of their own and never replace the book's.

    Raises
    ------
    HybretError
        From `plan`: no notebooks, an unreadable ``runs.yml``, an unknown or wrongly typed parameter.
    """

    root: Path
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def package(self) -> Path:
        """The code that the notebooks use."""
        return self.root / "hybret"

    @property
    def notebooks(self) -> Path:
        return self.root / "notebooks"

    @property
    def variant(self) -> str:
        """Folder name of the runs with these overrides; empty for the book's own runs."""
        if not self.overrides:
            return ""
        named = {k: ",".join(short(m.rstrip("/")) for m in str(v).split(",")) for k, v in self.overrides.items()}
        words = (v if k == "model" else f"{k}-{self.overrides[k]}" for k, v in named.items())
        name = re.sub(r"[^\w.+-]+", "-", "_".join(words)).strip("-.")
        # What is left may be nothing, which is where the book's own runs are, or longer than a file name.
        rest = digest([json.dumps(dict(self.overrides), sort_keys=True, default=str).encode()])
        return name if name and len(name) <= 100 else f"{name[:80]}-{rest}".strip("-.")

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

    @cached_property
    def package_key(self) -> str:
        """Hash of the package's code, the checkpoints embedded in it, and the versions it is installed with."""
        files = (p for p in sorted(self.package.rglob("*")) if p.suffix in HASHED and "__pycache__" not in p.parts)
        kept = [p for p in files if p.relative_to(self.package).parts[0] not in RUNNER]
        kept += [lock for lock in [self.root / "requirements.lock"] if lock.is_file()]
        return digest(b for p in kept for b in (os.path.relpath(p, self.package).encode(), p.read_bytes()))

    @cached_property
    def plan(self) -> dict[str, Run]:
        """Every run of ``runs.yml`` by name, checked, each after the runs it needs."""
        spec = self._spec()
        # A part of a chapter that differs from it in a parameter is the chapter itself where that is overridden.
        parts = {name: entry for name, entry in spec.items() if entry.get("notebook") not in (None, name)}
        dropped = {n: e["notebook"] for n, e in parts.items() if set(e.get("parameters") or ()) & set(self.overrides)}
        # It comes where the first of its parts stood, above what needs them.
        spec = {name: spec[name] for name in dict.fromkeys(dropped.get(n, n) for n in spec)}
        runs: dict[str, Run] = {}
        used: set[str] = set()
        for name, entry in spec.items():
            notebook = entry.get("notebook") or name
            path = self.notebooks / f"{notebook}.ipynb"
            if not path.is_file():
                raise HybretError(f"runs.yml names {notebook!r}, but {path} does not exist: add it or drop the entry.")
            needs = tuple(dict.fromkeys(dropped.get(n, n) for n in entry.get("needs") or () if dropped.get(n) != name))
            if late := [n for n in needs if n not in runs]:
                raise HybretError(f"runs.yml: {name!r} needs {late[0]!r}, which must stand above it in the file.")
            known = parameters(path)
            here = {k: v for k, v in self.overrides.items() if k in known}
            used |= set(here)
            if (self.variant or notebook != name) and "results" in known:  # a part must not replace its chapter's files
                folder = self.results / (name if notebook != name else "")
                here.setdefault("results", os.path.relpath(folder, self.notebooks))
            given = {**(entry.get("parameters") or {}), **here}
            check(path.name, known, given)
            source = source_key(nbformat.read(path, as_version=4))
            upstream = [runs[n].key for n in needs]
            reads = sorted(f for pattern in entry.get("reads") or () for f in self.root.glob(pattern))
            upstream += [digest([f.name.encode(), f.read_bytes()]) for f in reads]
            key = digest([json.dumps([source, self.package_key, given, upstream], sort_keys=True).encode()])
            runs[name] = Run(name, notebook, given, needs, source, key)
        if unknown := set(self.overrides) - used:
            raise HybretError(f"no notebook has a parameter named {sorted(unknown)[0]!r}; see their first cells.")
        return runs

    def _spec(self) -> dict[str, dict[str, Any]]:
        path = self.notebooks / "runs.yml"
        if not path.is_file():
            raise HybretError(f"{path} does not exist: run this command in a clone of the project, or name its folder.")
        try:
            spec = yaml.safe_load(path.read_text()) or {}
        except yaml.YAMLError as error:
            raise HybretError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
        allowed = {"notebook", "parameters", "needs", "reads"}
        for name, entry in spec.items():
            if not isinstance(entry or {}, dict) or set(entry or {}) - allowed:
                raise HybretError(f"{path}: the entry {name!r} may only hold {', '.join(sorted(allowed))}.")
        return {name: entry or {} for name, entry in spec.items()}

    def find(self, name: str) -> Path | None:
        """Return the copy of a run that the book reads: this machine's, else the published one."""
        for folder in (self.executed, self.published):
            if (path := folder / f"{name}.ipynb").is_file():
                return path
        return None

    def status(self, name: str) -> Status:
        """Say whether a finished run exists and whether what it depends on is as it was."""
        path, run = self.find(name), self.plan[name]
        if path is None:
            return Status("not run")
        meta = dict(nbformat.read(path, as_version=4).metadata.get("hybret", {}))
        if meta.get("key") == run.key:
            lost = [f for f in meta.get("files", []) if not (self.results / f).is_file()]
            return Status("stale", path, meta, f"its file {lost[0]} is gone") if lost else Status("current", path, meta)
        changed = {
            "the notebook's code": meta.get("source") != run.source,
            "its parameters": meta.get("parameters") != run.parameters,
            "the hybret package": meta.get("package") != self.package_key,
        }
        what = [k for k, v in changed.items() if v] or ["a run that it needs or a file that it reads"]
        return Status("stale", path, meta, " and ".join(what) + " changed after it")


def short(model: str) -> str:
    """Return a model's name without its owner; one with random weights keeps that it is."""
    return (RANDOM if model.startswith(RANDOM) else "") + model.split("/")[-1]


def parameters(path: Path) -> dict[str, dict[str, str]]:
    """Read the cell tagged ``parameters``: name to ``{"type", "default", "help"}``, all as source text.

    papermill's own inspection leaves out what it cannot read, such as an annotation with ``|``.
    """
    cells = nbformat.read(path, as_version=4).cells
    source = next((c.source for c in cells if "parameters" in tags(c)), "")
    found: dict[str, dict[str, str]] = {}
    try:
        body, lines = ast.parse(source).body, source.splitlines()
    except SyntaxError as error:
        raise HybretError(f"the parameters cell of {path.name} is not valid Python: {error.msg}.") from error
    for node in body:
        target = node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.expr):
            kind = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else ""
            comment = lines[(value.end_lineno or 1) - 1].encode()[value.end_col_offset or 0 :].decode()
            found[target.id] = {
                "type": kind,
                "default": ast.unparse(value),
                "help": comment.strip().lstrip("# "),
            }
    return found


def check(notebook: str, known: Mapping[str, Mapping[str, str]], given: Mapping[str, Any]) -> None:
    """Raise HybretError for a parameter that the notebook lacks or annotates with another type.

    papermill itself only warns about an unknown name, and injects the string ``"false"`` for a flag.
    """
    for name, value in given.items():
        if name not in known:
            raise HybretError(f"{notebook} has no parameter {name!r}; it has {', '.join(known) or 'none'}.")
        wanted = known[name]["type"]
        if wanted and not fits(value, ast.parse(wanted, mode="eval").body):
            raise HybretError(f"{notebook}: the parameter {name!r} must be {wanted}, not {value!r}.")


def fits(value: Any, annotation: ast.expr) -> bool:
    """Say whether a value has an annotated type (builtins, ``list[...]``, ``dict``, ``... | None``)."""
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return fits(value, left) or fits(value, right)
        case ast.Constant(value=None):
            return value is None
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return isinstance(value, list) and all(fits(v, item) for v in value)
        case ast.Name(id=name):
            if isinstance(value, bool):
                return name == "bool"
            types: dict[str, Any] = {
                "int": int,
                "float": (int, float),
                "str": str,
                "list": list,
                "dict": dict,
                "bool": bool,
            }
            return isinstance(value, types.get(name, object))
    return True
