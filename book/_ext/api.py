"""The reference: every public name of hybret, from its docstrings.

No name is listed by hand: ``{public-names} MODULE ...`` on a page becomes one autodoc directive for each name that
``hybret/__init__.pyi`` takes from these modules, and for all that a public module exports.
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

MARK = re.compile(r"```\{public-names\} (.*)\n```")


def entry(module: str, name: str) -> str:
    """Return the autodoc directive of one name."""
    value = getattr(import_module(module), name)
    if not (inspect.isclass(value) or inspect.isroutine(value)):  # autodoc would print the docstring of its type
        hidden = isinstance(value, Path) or len(repr(value)) > 200  # a path is that of the machine that built the page
        shown = "" if hidden else f"\n\n   ``{value!r}``"
        text = f".. py:data:: {module}.{name}\n   :type: {type(value).__name__}{shown}"
    elif not inspect.isclass(value):
        text = f".. autofunction:: {module}.{name}\n"
    elif issubclass(value, BaseException):
        text = f".. autoexception:: {module}.{name}\n"
    else:
        text = f".. autoclass:: {module}.{name}\n   :members:"
    return f"```{{eval-rst}}\n{text}\n```"


def exported(module: str) -> list[str]:
    """Return what a module gives: its ``__all__``, or else its own functions, classes and constants."""
    loaded = import_module(module)
    if hasattr(loaded, "__all__"):
        return list(loaded.__all__)
    own = [name for name, value in vars(loaded).items() if getattr(value, "__module__", "") == module]
    # A constant does not say where it is from, so those are looked up that the module's own text assigns.
    own += re.findall(r"^([A-Z][A-Z0-9_]*)(?:: .*)? = ", inspect.getsource(loaded), re.MULTILINE)
    return [name for name in own if not name.startswith("_")]


def public() -> dict[str, list[str]]:
    """Return the public names of hybret by their module; those of a public module are all that it exports."""
    names, modules = dict[str, list[str]](), []
    imports = ast.parse(Path(hybret.__file__).with_suffix(".pyi").read_text()).body
    for node in (node for node in imports if isinstance(node, ast.ImportFrom)):
        home = ".".join(filter(None, ["hybret", node.module]))
        for alias in node.names:
            if inspect.ismodule(getattr(hybret, alias.name)):
                modules.append(f"{home}.{alias.name}")
            else:
                names.setdefault(home, []).append(alias.name)
    for module in modules:
        listed = names.setdefault(module, [])
        for name in exported(module):  # one that hybret takes from another module is on that one's page
            if name not in listed and getattr(hybret, name, None) is not getattr(import_module(module), name):
                listed.append(name)
    return names


def names_of(modules: str) -> str:
    """Return the part of a page for these modules, as MyST."""
    parts = []
    for module in modules.split():
        parts += [inspect.getdoc(import_module(module)) or "", *(entry(module, name) for name in public()[module])]
    return "\n\n".join(parts)


def source_read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the names in the places of their marks."""
    source[0] = MARK.sub(lambda mark: names_of(mark[1]), source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", source_read)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
