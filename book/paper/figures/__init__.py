"""Figures of the book that judge the paper; `hybret.figures` has those of any run."""

from book.paper.figures.benchmarks import benchmarks, by_task, subtasks
from book.paper.figures.emergence import emergence
from book.paper.figures.forest import departures, variants
from book.paper.figures.maps import annotated_map, home
from book.paper.figures.only_keep import attention_parts, doses
from book.paper.figures.other_half import dissociation, layers
from book.paper.figures.pretrained import paths
from book.paper.figures.verdicts import verdicts
from book.paper.figures.which_heads import head_maps, ways

__all__ = ["annotated_map", "attention_parts", "benchmarks", "by_task", "departures", "dissociation", "doses",
           "emergence", "head_maps", "home", "layers", "paths", "subtasks", "variants", "verdicts", "ways"]  # fmt: skip
