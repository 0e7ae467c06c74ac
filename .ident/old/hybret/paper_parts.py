"""Where every figure, table and appendix of the paper is in this book."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One figure, table or appendix of the paper, and where the book makes it again.

    Attributes
    ----------
    name : as the paper numbers it.
    what : what it shows.
    notebook : the notebook (its page has the same name) that makes it from a run.
    figures : names of figures or tables there, at least one.
    """

    name: str
    what: str
    notebook: str
    figures: tuple[str, ...]


MAPS_BY_K = ("fig-maps-k0", "fig-maps-k1", "fig-maps-k2")
SUBTASKS = ("fig-glue-subtasks", "fig-mmlu-subtasks")

PARTS = (
    Part("Figure 1", "manipulations of attention weights", "methods", ("fig-weights",)),
    Part("Figure 2", "accuracy by k, generation and prefill versions", "sparsification", ("fig-accuracy-by-k",)),
    Part("Figure 3, left", "accuracy by k with and without JRT", "sparsification", ("fig-jrt-by-k",)),
    Part("Figure 3, right", "GLUE and MMLU, base, sparse and ablated", "benchmarks", ("fig-benchmarks",)),
    Part("Figure 4", "maps of Keep-Omit, Omit-Keep and Keep-Keep", "manipulation", ("fig-maps-three",)),
    Part("Figure 5", "maps at k = 0, with and without JRT", "sparsification", MAPS_BY_K[:1]),
    Part("Figure 6", "maps at k = 1, with and without JRT", "sparsification", MAPS_BY_K[1:2]),
    Part("Figure 7", "maps at k = 2, with and without JRT", "sparsification", MAPS_BY_K[2:]),
    Part("Figure 8", "GLUE by subtask", "benchmarks", SUBTASKS[:1]),
    Part("Figure 9", "MMLU by subtask", "benchmarks", SUBTASKS[1:]),
    Part("Figure 10", "maps of all manipulations", "manipulation", ("fig-maps-all",)),
    Part("Table 1", "accuracy of all manipulations", "manipulation", ("fig-table1",)),
    Part("Table 2", "the score, with worked examples", "setup", ("tab-rubric", "tab-examples")),
    Part("Appendix A", "the models", "setup", ("tab-models",)),
    Part("Appendix B", "the prompts and the score", "setup", ("tab-lengths", "tab-rubric")),
    Part("Appendix C", "maps with and without JRT", "sparsification", MAPS_BY_K),
    Part("Appendix D", "benchmarks by subtask", "benchmarks", SUBTASKS),
    Part("Appendix E", "maps of all manipulations", "manipulation", ("fig-maps-all",)),
    Part("Appendix F", "what manipulated models say", "pearls", ("tab-pearls",)),
)
