"""The numbers that the paper reports, and where this book makes each of its figures again: `numbers.yaml` as values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml


class Reported(NamedTuple):
    """One number of the paper."""

    what: str
    value: float  # as printed, except that percentages of the units accuracy and share are fractions
    unit: str  # accuracy or share (0 to 1), heads (a k), points (of 100), tokens, score (of 5), GB, count
    where: str  # section, table or figure
    text: str = ""  # the printed words; empty for the cell of a table


class ModelSpec(NamedTuple):
    """A row of the model table (Section 2.1 and Appendix A)."""

    name: str
    checkpoint: str
    parameters: float  # without embeddings
    layers: int
    attention_layers: int
    heads: int
    window: int | None  # tokens; None for global attention
    pattern: str
    instruct: bool
    active: float | None = None  # parameters of one token


_DATA = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
MODELS = tuple(ModelSpec(**spec) for spec in _DATA["models"])
THRESHOLDS, BENCHMARKS, SETUP = (
    {name: Reported(*line) for name, line in _DATA[part].items()} for part in ("thresholds", "benchmarks", "setup")
)
TABLE2: list[tuple[str, float, bool]] = _DATA["table2"]  # phrase, points, whether they are the score or add to it
DISAGREEMENTS: list[dict[str, str]] = _DATA["disagreements"]  # what does not fit together, and where it stands
LIMITS: list[str] = _DATA["limits"]  # what no verdict covers, told on the first page and on that of H1
SOURCES: dict[str, dict[str, Any]] = _DATA["sources"]  # by field of a recipe: the text, the code, and where it is
# Figures, tables and appendices: name, what it shows, the notebook that makes it again, its figures and tables there.
PARTS: list[tuple[str, str, str, list[str]]] = _DATA["parts"]
PREFILL = ("Keep", "Omit", "Only", "Binary", "Null")  # rows of Table 1
GENERATION = ("Keep", "Omit", "Only", "Binary")  # columns of Table 1
TABLE1 = {
    (prefill, generation): Reported(
        f"RG-2B, {generation}-{prefill}", value, "accuracy",
        "Section 5.1 (text: as Omit)" if generation == "Binary" else "Table 1",
    )
    for prefill, printed in _DATA["table1"].items()
    for generation, value in zip(GENERATION, (*printed, printed[1]), strict=True)
}  # fmt: skip
"""By (prefill, generation); the paper's names put generation first."""
TIPPING_POINTS = {spec.heads: int(THRESHOLDS[f"{spec.name} tipping point"].value) for spec in MODELS}
"""Number of heads to k, of the three models."""


def source_link(place: str) -> tuple[str, str]:
    """Address and short name of lines in the authors' code, given as "repository commit file lines"."""
    repository, commit, path, lines = place.split()
    anchor = "-".join(f"L{line}" for line in lines.split("-"))
    address = f"https://github.com/{repository}/blob/{commit}/{path}#{anchor}"
    return address, f"{repository} {commit[:7]}, {path}, {'lines' if '-' in lines else 'line'} {lines}"


def counterpart(heads: int) -> str | None:
    """Name of the paper's model with this number of heads, to compare a model with; None if there is none."""
    return next((spec.name for spec in MODELS if spec.heads == heads), None)


def model_of(name: str) -> str | None:
    """Name in the paper of one of its own models, given that of a checkpoint; None for any other model."""
    return next((m.name for m in MODELS if name.lower().endswith(m.checkpoint.lower().split("/")[1])), None)


def tipping_point(heads: int) -> str:
    """The tipping point of the paper's model with this number of heads, in words; empty if there is none."""
    return f"{counterpart(heads)}: k = {TIPPING_POINTS[heads]}" if heads in TIPPING_POINTS else ""


def few_heads(heads: int) -> int:
    """15 % of the heads, rounded up: 5 of Jamba's 32. With these, the paper says, retrieval is near-perfect."""
    return math.ceil(BENCHMARKS["heads kept"].value * heads)


def numbers() -> pd.DataFrame:
    """Every number of the paper, one line each: what, value, unit, where, text."""
    fields = ("parameters", "active", "layers", "attention_layers", "heads", "window")
    specs = [
        Reported(f"{m.name}: {field.replace('_', ' ')}", value, "tokens" if field == "window" else "count",
                 "Section 2.1, Appendix A")
        for m in MODELS
        for field in fields
        if (value := getattr(m, field)) is not None
    ]  # fmt: skip
    rubric = [Reported(f"an answer with: {phrase}", points, "score", "Table 2") for phrase, points, _ in TABLE2]
    every = [*specs, *SETUP.values(), *rubric, *THRESHOLDS.values(), *BENCHMARKS.values(), *TABLE1.values()]
    return pd.DataFrame(every, columns=Reported._fields)
