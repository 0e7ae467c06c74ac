"""What the paper reports, with where it stands: facts to compare a run with, typed in from the text.

Michalak and Abreu, "Some Attention is All You Need for Retrieval". Accuracies are fractions of the maximum
score. Where each figure, table and appendix of the paper is in this book: `hybret.paper_parts`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Reported:
    """One number of the paper.

    Attributes
    ----------
    what : what it measures.
    value : the number, as printed, except that percentages of `unit` accuracy and share are fractions here.
    unit : ``"accuracy"`` (0 to 1), ``"share"`` (0 to 1), ``"heads"`` (a k), ``"points"`` (on a scale of 100),
        ``"tokens"``, ``"score"`` (of 5), ``"GB"``, or ``"count"``.
    where : section, table or figure.
    text : the few printed words or figures that say so; empty where a table's cell does.
    """

    what: str
    value: float
    unit: str
    where: str
    text: str = ""


@dataclass(frozen=True)
class ModelSpec:
    """A row of the model table (Section 2.1 and Appendix A).

    `parameters` counts without embeddings; `active` is what one token uses, where the paper gives it;
    `window` is in tokens, None for global attention; `pattern` names the layers in order.
    """

    name: str
    checkpoint: str
    parameters: float
    active: float | None
    layers: int
    attention_layers: int
    heads: int
    window: int | None
    pattern: str
    instruct: bool
    where: str = "Section 2.1, Appendix A"


MODELS = (
    ModelSpec(
        "RG-2B", "google/recurrentgemma-2b", 2.03e9, None, 26, 8, 10, 2048, "8 x (2 SSM, 1 attention), 2 SSM", False
    ),
    ModelSpec(
        "RG-9B", "google/recurrentgemma-9b", 7.53e9, None, 38, 12, 16, 2048, "12 x (2 SSM, 1 attention), 2 SSM", False
    ),
    ModelSpec(
        "Jamba", "ai21labs/AI21-Jamba-Mini-1.6", 51.03e9, 12e9, 32, 4, 32, None, "4 x (3 SSM, 1 attention, 4 SSM)", True
    ),
)


def counterpart(heads: int) -> str | None:
    """Name of the paper's model with as many heads, beside which a model's results are put; None if it has none."""
    return next((spec.name for spec in MODELS if spec.heads == heads), None)


def few_heads(heads: int) -> int:
    """The paper's share of the heads that keeps near-perfect retrieval, 15 %, rounded up: 5 of Jamba's 32."""
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


def _table1() -> dict[tuple[str, str], Reported]:
    cells = {}
    for prefill, printed in _PRINTED.items():
        # Of Binary during generation the text says that it gave the same accuracies as Omit.
        for generation, value in zip(GENERATION, (*printed, printed[1]), strict=True):
            where = "Section 5.1 (text: as Omit)" if generation == "Binary" else "Table 1"
            cells[prefill, generation] = Reported(f"RG-2B, {generation}-{prefill}", value, "accuracy", where)
    return cells


TABLE1 = _table1()  # by (prefill, generation); the paper's names put generation first


@dataclass(frozen=True)
class RubricLine:
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
    RubricLine(
        "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day",
        5.0,
        True,
    ),
)

# Where accuracy turns as k falls, in the generation version unless another is named. For Jamba Section 3.1 names the k
# at which accuracy drops to zero, Section 3.2 another one as its "tipping point"; both are kept as printed.
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


@dataclass(frozen=True)
class Disagreement:
    """A place where the printed numbers or sentences of the paper do not fit together; all are kept as printed."""

    what: str
    where: str


DISAGREEMENTS = (
    Disagreement(
        "On GLUE the ablated version is 6.6 and the sparse one 9.1 points below base, which puts the first 2.5 points "
        "above the second; 2.8 is printed.",
        "Section 4.1",
    ),
    Disagreement(
        "On MMLU the sparse version keeps 84 % of base and loses 6 points, which puts base at 37.5 points; the ablated "
        "version loses 42, which is more than that.",
        "Abstract, Section 4.1",
    ),
    Disagreement(
        "Jamba drops to zero at k = 6, has its tipping point at k = 4, and is near-perfect at k = 5 in its prefill "
        "version.",
        "Sections 3.1, 3.2, 4",
    ),
    Disagreement(
        "The tipping points are said to be 1, 2, 3 and 4; those named for the three models are 1, 2 and 4.",
        "Sections 3.1, 3.2",
    ),
    Disagreement(
        "85.7 and 53.0 % are given to keeping only the needle during prefill; in Table 1 they belong to generation.",
        "Section 5.1, Table 1",
    ),
    Disagreement(
        "Figure 4 counts depth from the end of the prompt; the authors' code counts from its start.",
        "Figure 4",
    ),
)


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
    return pd.DataFrame([vars(one) for one in every])
