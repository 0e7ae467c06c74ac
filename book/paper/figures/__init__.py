"""Figures of the book that judge the paper; `hybret.figures` has those of any run."""

from book.paper.figures.benchmarks import benchmarks, subtasks
from book.paper.figures.emergence import emergence
from book.paper.figures.forest import departures, variants
from book.paper.figures.maps import annotated_map, home
from book.paper.figures.only_keep import attention_parts, doses
from book.paper.figures.verdicts import verdicts

__all__ = ["annotated_map", "attention_parts", "benchmarks", "departures", "doses", "emergence", "home", "subtasks",
           "variants", "verdicts"]  # fmt: skip
