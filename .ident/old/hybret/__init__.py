"""hybret: in hybrid language models (recurrent layers plus a few attention layers), which part does the retrieving?"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public names and the modules that hold them. They are imported on first use: `import hybret` and the command line
# stay quick, although torch, transformers and matplotlib are not.
_HOME = {
    "cluster": ["Ray"],
    "differing": ["Diff", "diff"],
    "engine.tracing": ["Trace", "attach", "phase"],
    "errors": ["HybretError"],
    "explorer.heads": ["explore_heads"],
    "explorer.maps": ["explore"],
    "interventions": [
        "Binary",
        "Compose",
        "Intervention",
        "Keep",
        "KeepHeads",
        "Mass",
        "Null",
        "Omit",
        "Only",
        "PerPhase",
        "table1_conditions",
    ],
    "looking": ["Look", "look"],
    "models": ["Model", "load"],
    "prompts": ["PAPER_NEEDLE", "Needle", "Prompt"],
    "planning": ["plan"],
    "recipe": ["CORRECTED", "PAPER", "RECIPES", "Recipe"],
    "sweeping": ["run_folder", "stored", "sweep"],
    "verifying": ["verify"],
}
_MODULES = {
    name: f"engine.{name}" if name == "generation" else name
    for name in (
        "averages", "figures", "generation", "harness", "models", "niah", "paper", "recipe", "scoring", "spread",
        "tables", "tipping", "verdicts",
    )
}  # fmt: skip
_NAMES = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted([*_NAMES, *_MODULES])

if TYPE_CHECKING:
    from . import averages, figures, harness, models, niah, paper, recipe, scoring, spread, tables, tipping, verdicts
    from .cluster import Ray
    from .differing import Diff, diff
    from .engine import generation
    from .engine.tracing import Trace, attach, phase
    from .errors import HybretError
    from .explorer.heads import explore_heads
    from .explorer.maps import explore
    from .interventions import (
        Binary,
        Compose,
        Intervention,
        Keep,
        KeepHeads,
        Mass,
        Null,
        Omit,
        Only,
        PerPhase,
        table1_conditions,
    )
    from .looking import Look, look
    from .models import Model, load
    from .planning import plan
    from .prompts import PAPER_NEEDLE, Needle, Prompt
    from .recipe import CORRECTED, PAPER, RECIPES, Recipe
    from .sweeping import run_folder, stored, sweep
    from .verifying import verify


def __getattr__(name: str) -> Any:
    if name not in _NAMES and name not in _MODULES:
        raise AttributeError(f"module 'hybret' has no attribute {name!r}")
    with warnings.catch_warnings():
        # transformers asks for tqdm's bars, which ask for ipywidgets in every notebook; nothing here needs it.
        warnings.filterwarnings("ignore", message="IProgress not found")
        module = import_module(f".{_NAMES.get(name) or _MODULES[name]}", __name__)
    value = getattr(module, name) if name in _NAMES else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Names that are not imported yet are offered too: to `dir`, `help` and the tab key."""
    return sorted({*globals(), *__all__})
