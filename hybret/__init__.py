"""hybret: in hybrid language models (recurrent layers plus a few attention layers), which part does the retrieving?"""

from . import figures, niah, paper, scoring, tables
from .attach import Trace, attach, phase
from .errors import HybretError
from .interventions import Binary, Compose, Intervention, Keep, KeepHeads, Null, Omit, Only, PerPhase, table1_conditions
from .models import Model, load, organisms
from .recipe import CORRECTED, PAPER, RECIPES, Recipe
from .sweep import run_folder, sweep

__version__ = "0.1.0"

__all__ = [
    "CORRECTED",
    "PAPER",
    "RECIPES",
    "Binary",
    "Compose",
    "HybretError",
    "Intervention",
    "Keep",
    "KeepHeads",
    "Model",
    "Null",
    "Omit",
    "Only",
    "PerPhase",
    "Recipe",
    "Trace",
    "attach",
    "figures",
    "load",
    "niah",
    "organisms",
    "paper",
    "phase",
    "run_folder",
    "scoring",
    "sweep",
    "table1_conditions",
    "tables",
]
