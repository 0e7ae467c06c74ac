"""Figures of the book that judge the paper; `hybret.figures` has those of any run."""

from book.paper.figures.benchmarks import benchmarks, subtasks
from book.paper.figures.forest import arms, departures
from book.paper.figures.judged import verdicts
from book.paper.figures.only_keep import attention_parts, doses

__all__ = ["arms", "attention_parts", "benchmarks", "departures", "doses", "subtasks", "verdicts"]
