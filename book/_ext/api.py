"""The reference: every public name of hybret, from its docstrings.

Nothing is listed by hand: ``{public-names}`` on a page becomes one section per module, in MyST and autodoc directives.
"""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import hybret

ORDER = ("models", "niah", "interventions", "recipe", "sweeping", "verifying", "planning")  # as a reader meets them
MARK = "```{public-names}\n```"


def first_line(name: str) -> str:
    """Return the first sentence of a module's docstring."""
    return (inspect.getdoc(import_module(name)) or "").partition("\n")[0]


def entry(module: str, name: str) -> str:
    """Return the autodoc directive of one name."""
    value = getattr(import_module(module), name)
    if not (inspect.isclass(value) or inspect.isroutine(value)):  # autodoc would print the docstring of its type
        shown = "" if len(repr(value)) > 200 else f"\n\n   ``{value!r}``"
        return f".. py:data:: {module}.{name}\n   :type: {type(value).__name__}{shown}"
    kind = "autoclass" if inspect.isclass(value) else "autofunction"
    if inspect.isclass(value) and issubclass(value, BaseException):
        kind = "autoexception"
    lines = [f".. {kind}:: {module}.{name}"]
    if kind == "autoclass":
        lines.append("   :members:")
    return "\n".join(lines)


def exported(module: str) -> list[str]:
    """Return what a module gives: its ``__all__``, or else its own functions, classes and constants."""
    loaded = import_module(module)
    if hasattr(loaded, "__all__"):
        return list(loaded.__all__)
    own = [name for name, value in vars(loaded).items() if getattr(value, "__module__", "") == module]
    # A constant does not say where it is from, so those are looked up that the module's own text assigns.
    own += re.findall(r"^([A-Z][A-Z0-9_]*)(?:: .*)? = ", inspect.getsource(loaded), re.MULTILINE)
    return [name for name in own if not name.startswith("_")]


def stub() -> tuple[dict[str, list[str]], list[str]]:
    """Return the public names of each module of hybret, and its public modules, as ``__init__.pyi`` has them."""
    homes: dict[str, list[str]] = {}
    modules = ["tasks.niah"]
    for node in ast.parse(Path(hybret.__file__).with_suffix(".pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if node.module is None:
                modules += names
            elif node.module != "tasks":
                homes.setdefault(node.module, []).extend(names)
    return homes, modules


def reference() -> str:
    """Return the reference as MyST."""
    homes, modules = stub()
    order = sorted(homes, key=lambda module: ORDER.index(module) if module in ORDER else len(ORDER))
    public = {f"hybret.{module}": homes[module] for module in order}
    above = {name for names in homes.values() for name in names}
    parts = ["## Names of `hybret`"]
    for module, names in public.items():
        parts.append(f"### `{module}`\n\n{first_line(module)}")
        parts += [f"```{{eval-rst}}\n{entry(module, name)}\n```" for name in names]
    parts.append("## Modules of `hybret`")
    for module in (f"hybret.{path}" for path in modules):
        names = exported(module)
        parts.append(f"### `hybret.{module.split('.')[-1]}`\n\n{first_line(module)}")
        if again := ", ".join(f"`{name}`" for name in names if name in above):
            parts.append(f"Above, and here too: {again}.")
        parts += [f"```{{eval-rst}}\n{entry(module, name)}\n```" for name in names if name not in above]
    return "\n\n".join(parts)


def source_read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the reference in the place of its mark."""
    if MARK in source[0]:
        source[0] = source[0].replace(MARK, reference())


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", source_read)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
