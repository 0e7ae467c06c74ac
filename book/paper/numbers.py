"""The numbers that the paper reports, typed in from its text, and where this book makes each of its figures again.

Michalak and Abreu, "Some Attention is All You Need for Retrieval". Accuracies are fractions of the maximum score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd


class Reported(NamedTuple):
    """One number of the paper."""

    what: str
    value: float  # as printed, except that percentages of the units accuracy and share are fractions
    unit: str  # accuracy or share (0 to 1), heads (a k), points (of 100), tokens, score (of 5), GB, count
    where: str  # section, table or figure
    text: str = ""  # the printed words; empty for the cell of a table


@dataclass(frozen=True)
class ModelSpec:
    """A row of the model table (Section 2.1 and Appendix A)."""

    name: str
    checkpoint: str
    parameters: float  # without embeddings
    active: float | None  # of one token, where the paper gives it
    layers: int
    attention_layers: int
    heads: int
    window: int | None  # tokens; None for global attention
    pattern: str
    instruct: bool
    where: str = "Section 2.1, Appendix A"


MODELS = (
    ModelSpec("RG-2B", "google/recurrentgemma-2b", 2.03e9, None, 26, 8, 10, 2048,
              "8 x (2 SSM, 1 attention), 2 SSM", False),
    ModelSpec("RG-9B", "google/recurrentgemma-9b", 7.53e9, None, 38, 12, 16, 2048,
              "12 x (2 SSM, 1 attention), 2 SSM", False),
    ModelSpec("Jamba", "ai21labs/AI21-Jamba-Mini-1.6", 51.03e9, 12e9, 32, 4, 32, None,
              "4 x (3 SSM, 1 attention, 4 SSM)", True),
)  # fmt: skip


def counterpart(heads: int) -> str | None:
    """Name of the paper's model with this number of heads, to compare a model with; None if there is none."""
    return next((spec.name for spec in MODELS if spec.heads == heads), None)


def few_heads(heads: int) -> int:
    """15 % of the heads, rounded up: 5 of Jamba's 32. With these, the paper says, retrieval is near-perfect."""
    return math.ceil(BENCHMARKS["heads kept"].value * heads)


PREFILL = ("Keep", "Omit", "Only", "Binary", "Null")  # rows of Table 1
GENERATION = ("Keep", "Omit", "Only", "Binary")  # columns of Table 1
# Table 1 prints these columns as numbers: accuracy by prefill row, for generation Keep, Omit and Only.
_PRINTED = {
    "Keep": (0.503, 0.037, 0.857),
    "Omit": (0.630, 0.0, 0.530),
    "Only": (0.706, 0.001, 0.182),
    "Binary": (0.0, 0.0, 0.0),
    "Null": (0.688, 0.0, 0.170),
}


# By (prefill, generation); the paper's names put generation first. Of Binary during generation the text says that it
# gave the same accuracies as Omit.
TABLE1 = {
    (prefill, generation): Reported(
        f"RG-2B, {generation}-{prefill}", value, "accuracy",
        "Section 5.1 (text: as Omit)" if generation == "Binary" else "Table 1",
    )
    for prefill, printed in _PRINTED.items()
    for generation, value in zip(GENERATION, (*printed, printed[1]), strict=True)
}  # fmt: skip


class RubricLine(NamedTuple):
    """A row of Table 2 (Appendix B): the phrase, its points, and whether it adds to the score or sets it."""

    phrase: str
    points: float
    sets: bool
    where: str = "Table 2"


TABLE2 = (
    RubricLine("eat a sandwich", 1.0, False),
    RubricLine("Dolores Park", 0.5, False),
    RubricLine("sit in Dolores Park", 0.5, False),
    RubricLine("sunny day", 1.0, False),
    RubricLine("is to eat a sandwich and sit in Dolores Park on a sunny day", 4.0, True),
    RubricLine("The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day",
               5.0, True),
)  # fmt: skip

# The k at which accuracy turns, in the generation version unless another is named. For Jamba, Section 3.1 names the k
# at which accuracy drops to zero, and Section 3.2 another one as its "tipping point"; both are kept as printed.
THRESHOLDS = {
    "RG-2B collapses at": Reported("RG-2B: collapses at", 1, "heads", "Section 3.1", "k = 1 where it collapsed"),
    "RG-2B prefill": Reported("RG-2B, prefill version: drops to", 0.20, "accuracy", "Section 3.1", "to 20% accuracy"),
    "RG-9B degrades from": Reported("RG-9B: degrades from", 16, "heads", "Section 3.1", "degraded from k = 16"),
    "RG-9B degrades down to": Reported("RG-9B: degrades down to", 3, "heads", "Section 3.1", "to k = 3"),
    "RG-9B fails at": Reported("RG-9B: fails completely at", 2, "heads", "Section 3.1", "failing completely at k = 2"),
    "Jamba perfect": Reported("Jamba: accuracy that it sustains", 1.0, "accuracy", "Section 3.1", "sustained 100%"),
    "Jamba perfect down to": Reported("Jamba: sustains it down to", 27, "heads", "Section 3.1", "until k = 27"),
    "Jamba drops at": Reported("Jamba: drops to zero at", 6, "heads", "Section 3.1", "k = 6 where it sharply dropped"),
    "first tipping point": Reported("least final tipping point", 1, "heads", "Section 3.1", "1, 2, 3, 4"),
    "last tipping point": Reported("greatest final tipping point", 4, "heads", "Section 3.1", "1, 2, 3, 4"),
    "RG-2B tipping point": Reported("RG-2B: tipping point", 1, "heads", "Section 3.2", "k = 1 for RG-2B"),
    "RG-9B tipping point": Reported("RG-9B: tipping point", 2, "heads", "Section 3.2", "k = 2 for RG-9B"),
    "Jamba tipping point": Reported("Jamba: tipping point", 4, "heads", "Section 3.2", "k = 4 for Jamba"),
    "earlier tipping point": Reported("RG-2B, Zani et al.: tipping point", 2, "heads", "Section 3.2", "around k = 2"),
    "k = 0": Reported(
        "every model at k = 0, with and without JRT", 0.0, "accuracy", "Abstract, Sections 3.1, 3.2", "0% accuracy"
    ),
    "Jamba sparse": Reported("Jamba, prefill version: near-perfect down to", 5, "heads", "Section 4", "k = 5"),
}


def tipping_point(heads: int) -> str:
    """The tipping point of the paper's model with this number of heads, in words; empty if there is none."""
    name = counterpart(heads)
    return f"{name}: k = {THRESHOLDS[f'{name} tipping point'].value:g}" if name else ""


TIPPING_POINTS = {spec.heads: int(THRESHOLDS[f"{spec.name} tipping point"].value) for spec in MODELS}
"""Number of heads to k, of the three models."""

# Section 4 (Jamba-Mini-1.6). "Points" below the base configuration.
BENCHMARKS = {
    "GLUE ablated": Reported("GLUE, ablated: below base", 6.6, "points", "Section 4.1", "6.6 and 9.1 points"),
    "GLUE sparse": Reported("GLUE, sparse: below base", 9.1, "points", "Section 4.1", "6.6 and 9.1 points"),
    "GLUE ablated over sparse": Reported("GLUE, ablated above sparse", 2.8, "points", "Section 4.1", "2.8 points"),
    "MMLU sparse": Reported("MMLU, sparse: below base", 6, "points", "Section 4.1", "six points below"),
    "MMLU ablated": Reported("MMLU, ablated: below base", 42, "points", "Section 4.1", "around 42 points below"),
    "MMLU kept": Reported("MMLU performance kept by the sparse model", 0.84, "share", "Abstract", "84% MMLU"),
    "heads kept": Reported("heads that keep near-perfect retrieval", 0.15, "share", "Abstract", "15% of heads"),
    "GLUE tasks": Reported("tasks of GLUE", 9, "count", "Section 2.4", "nine tasks"),
    "GLUE shots": Reported("examples before a GLUE question", 0, "count", "Section 2.4", "zero-shot"),
    "MMLU subjects": Reported("subjects of MMLU", 57, "count", "Section 2.4", "57 subjects"),
    "MMLU shots": Reported("examples before an MMLU question", 5, "count", "Section 2.4", "five-shot"),
}

# How the experiments were set up (Section 2, Appendices A and B).
SETUP = {
    "batch": Reported("prompts in a batch", 1, "count", "Section 2.1", "batch size of one"),
    "longest": Reported("longest prompt", 4096, "tokens", "Section 2.1, Appendix B", "4096 tokens"),
    "lengths": Reported("prompt lengths", 10, "count", "Section 2.1, Appendix B", "ten prompt lengths"),
    "depths": Reported("needle depths", 10, "count", "Section 2.1, Appendix B", "ten depths"),
    "prompts": Reported("prompts of a condition", 100, "count", "Section 2.1, Appendix B", "100 prompts"),
    "maximum": Reported("greatest score of an answer", 5, "score", "Figure 2, Appendix B", "maximum score (5)"),
    "partial": Reported("greatest score from keywords alone", 3, "score", "Appendix B", "added up to three"),
    "JRT from": Reported("least k that JRT is tried at", 0, "heads", "Section 2.3", "0, 1, 2"),
    "JRT to": Reported("greatest k that JRT is tried at", 2, "heads", "Section 2.3", "0, 1, 2"),
    "CPUs": Reported("AMD EPYC 7763 processors, at most", 2, "count", "Appendix A", "two AMD Zen 3 EPYC 7763"),
    "GPUs": Reported("NVIDIA A100 cards, at most", 8, "count", "Appendix A", "eight NVIDIA A100"),
    "GPU memory": Reported("memory of a card", 40, "GB", "Appendix A", "40 GB HBM2"),
    "memory": Reported("main memory, at most", 1024, "GB", "Appendix A", "1024 GB"),
}


class Disagreement(NamedTuple):
    """Printed numbers or sentences of the paper that do not fit together; all are kept as printed."""

    what: str
    where: str


DISAGREEMENTS = (
    Disagreement(
        "On GLUE the ablated version is 6.6 and the sparse one 9.1 points below base, which puts the first 2.5 points "
        "above the second; 2.8 is printed.", "Section 4.1"),
    Disagreement(
        "On MMLU the sparse version keeps 84 % of base and loses 6 points, which puts base at 37.5 points; the ablated "
        "version loses 42, which is more than that.", "Abstract, Section 4.1"),
    Disagreement(
        "Jamba drops to zero at k = 6, has its tipping point at k = 4, and is near-perfect at k = 5 in its prefill "
        "version.", "Sections 3.1, 3.2, 4"),
    Disagreement(
        "The tipping points are said to be 1, 2, 3 and 4; those named for the three models are 1, 2 and 4.",
        "Sections 3.1, 3.2"),
    Disagreement(
        "85.7 and 53.0 % are given to keeping only the needle during prefill; in Table 1 they belong to generation.",
        "Section 5.1, Table 1"),
    Disagreement(
        "Figure 4 counts depth from the end of the prompt; the authors' code counts from its start.", "Figure 4"),
)  # fmt: skip


def numbers() -> pd.DataFrame:
    """Every number of the paper, one line each: what, value, unit, where, text."""
    fields = ("parameters", "active", "layers", "attention_layers", "heads", "window")
    specs = [
        Reported(f"{m.name}: {field.replace('_', ' ')}", value, "tokens" if field == "window" else "count", m.where)
        for m in MODELS
        for field in fields
        if (value := getattr(m, field)) is not None
    ]
    rubric = [Reported(f"an answer with: {line.phrase}", line.points, "score", line.where) for line in TABLE2]
    every = [*specs, *SETUP.values(), *rubric, *THRESHOLDS.values(), *BENCHMARKS.values(), *TABLE1.values()]
    return pd.DataFrame(every, columns=Reported._fields)


class Part(NamedTuple):
    """One figure, table or appendix of the paper, and the figures or tables of the notebook that makes it again."""

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
