"""hybret: in hybrid language models (recurrent layers plus a few attention layers), which part does the retrieving?"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public names and the modules that hold them. They are imported on first use: `import hybret` and the command line
# stay quick, although torch, transformers and matplotlib are not.
_HOME = {
    "cluster": ["Ray"],
    "compare": ["Diff", "diff"],
    "engine.attach": ["Trace", "attach", "phase"],
    "errors": ["HybretError"],
    "explorer.heads": ["explore_heads"],
    "explorer.maps": ["explore"],
    "explorer.record": ["Look", "look"],
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
    "prompts": ["PAPER_NEEDLE", "Needle", "Prompt"],
    "recipe": ["CORRECTED", "PAPER", "RECIPES", "Recipe"],
    "sweeping": ["load_rows", "run_folder", "sweep"],
    "verifying": ["verify"],
}
_MODULES = {
    "figures": "figures",
    "harness": "harness.evaluate",
    "metrics": "metrics",
    "models": "models",
    "niah": "tasks.niah",
    "recipe": "recipe",
    "scoring": "scoring",
}
_NAMES = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted([*_NAMES, *_MODULES])

if TYPE_CHECKING:
    from . import figures, metrics, models, recipe, scoring
    from .cluster import Ray
    from .compare import Diff, diff
    from .engine.attach import Trace, attach, phase
    from .errors import HybretError
    from .explorer.heads import explore_heads
    from .explorer.maps import explore
    from .explorer.record import Look, look
    from .harness import evaluate as harness
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
    from .prompts import PAPER_NEEDLE, Needle, Prompt
    from .recipe import CORRECTED, PAPER, RECIPES, Recipe
    from .sweeping import load_rows, run_folder, sweep
    from .tasks import niah
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
