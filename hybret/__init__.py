"""hybret: in hybrid language models (recurrent layers plus a few attention layers), which part does the retrieving?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public names and the modules that hold them. They are imported on first use: `import hybret` and the command line
# stay quick, although torch, transformers and matplotlib are not.
_HOME = {
    "cluster": ["Ray"],
    "engine.tracing": ["Trace", "attach", "phase"],
    "errors": ["HybretError"],
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
    "models": ["Model", "load"],
    "niah": ["PAPER_NEEDLE", "Needle", "Prompt"],
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
    from .engine import generation
    from .engine.tracing import Trace, attach, phase
    from .errors import HybretError
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
    from .models import Model, load
    from .niah import PAPER_NEEDLE, Needle, Prompt
    from .planning import plan
    from .recipe import CORRECTED, PAPER, RECIPES, Recipe
    from .sweeping import run_folder, stored, sweep
    from .verifying import verify


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(import_module(f".{_NAMES[name]}", __name__), name)
    elif name in _MODULES:
        value = import_module(f".{_MODULES[name]}", __name__)
    else:
        raise AttributeError(f"module 'hybret' has no attribute {name!r}")
    globals()[name] = value
    return value
