"""What the paper reports, with where it stands: facts to compare a run with, typed in from the text.

Michalak and Abreu, "Some Attention is All You Need for Retrieval". Accuracies are fractions of the maximum
score.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reported:
    """One number of the paper.

    Attributes
    ----------
    what : what it measures.
    value : the number; `unit` says of what.
    unit : ``"accuracy"`` (0 to 1), ``"heads"`` (a k), or ``"points"`` (on a scale of 100).
    where : section, table or figure.
    """

    what: str
    value: float
    unit: str
    where: str


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
        "RG-2B",
        "google/recurrentgemma-2b",
        2.03e9,
        None,
        26,
        8,
        10,
        2048,
        "8 x (2 SSM, 1 attention), 2 SSM",
        False,
    ),
    ModelSpec(
        "RG-9B",
        "google/recurrentgemma-9b",
        7.53e9,
        None,
        38,
        12,
        16,
        2048,
        "12 x (2 SSM, 1 attention), 2 SSM",
        False,
    ),
    ModelSpec(
        "Jamba",
        "ai21labs/AI21-Jamba-Mini-1.6",
        51.03e9,
        12e9,
        32,
        4,
        32,
        None,
        "4 x (3 SSM, 1 attention, 4 SSM), mixture of experts in every other layer",
        True,
    ),
)

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

# Where accuracy turns as k falls. Sections 3.1 and 3.2 name different heads for Jamba and RG-9B: in 3.1 the k
# where accuracy has dropped, in 3.2 the "tipping point" after which it falls. Both are kept as printed.
THRESHOLDS = {
    "RG-2B collapses at": Reported("RG-2B, generation version: collapses at", 1, "heads", "Section 3.1"),
    "RG-2B prefill": Reported("RG-2B, prefill version: drops immediately to", 0.20, "accuracy", "Section 3.1"),
    "RG-9B degrades down to": Reported("RG-9B: degrades from k = 16 down to", 3, "heads", "Section 3.1"),
    "RG-9B fails at": Reported("RG-9B: fails completely at", 2, "heads", "Section 3.1"),
    "Jamba perfect down to": Reported("Jamba: 100 % accuracy down to", 27, "heads", "Section 3.1"),
    "Jamba drops at": Reported("Jamba: declines down to, then drops to zero", 6, "heads", "Section 3.1"),
    "RG-2B tipping point": Reported("RG-2B, generation version", 1, "heads", "Section 3.2"),
    "RG-9B tipping point": Reported("RG-9B, generation version", 2, "heads", "Section 3.2"),
    "Jamba tipping point": Reported("Jamba, generation version", 4, "heads", "Section 3.2"),
    "RG-2B tipping point, Zani et al.": Reported("RG-2B, earlier study", 2, "heads", "Section 3.2"),
    "k = 0": Reported("every model and version, with and without JRT", 0.0, "accuracy", "Sections 3.1, 3.2"),
    "Jamba sparse": Reported("Jamba, least k with near-perfect retrieval, prefill", 5, "heads", "Section 4"),
}
