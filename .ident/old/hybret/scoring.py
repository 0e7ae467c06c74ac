"""Scores for answers: dated rubrics as data, so that a run can be scored again under another one.

An answer is lower-cased, its punctuation dropped and its spaces collapsed; then the phrases of a rubric are
looked up in it. Rule and dates are those of the authors' evaluation script; ``"table2"`` is the paper's Table
2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from . import asked
from .errors import HybretError
from .prompts import PAPER_NEEDLE, Needle, normalise

__all__ = ["RUBRICS", "Line", "Rubric", "Score", "normalise", "rescore", "score"]


@dataclass(frozen=True)
class Line:
    """One line of a rubric: a phrase adds `points`, or, with ``sets=True``, replaces the sum by them."""

    phrase: str
    points: float
    sets: bool = False


@dataclass(frozen=True)
class Rubric:
    """How an answer about the paper's needle earns points.

    Attributes
    ----------
    name, since : key in `RUBRICS`, and the day (ISO) from which the authors' code, or the paper, used it.
    maximum : the points of the full needle. Accuracy is the mean score divided by this.
    lines : what other phrases earn; added up, then the highest line that sets applies.
    source : where it stands.
    """

    name: str
    since: str
    maximum: float
    lines: tuple[Line, ...]
    source: str


_PARK = (Line("eat a sandwich", 1), Line("dolores park", 0.5), Line("sit in dolores park", 0.5))
_GRAMMAR = Line("is to eat a sandwich and sit in dolores park on a sunny day", 4, sets=True)
RUBRICS = {
    rubric.name: rubric
    for rubric in (
        Rubric("2025-05", "2025-05-01", 10, (), "authors' code until 1 June 2025: all or nothing"),
        Rubric(
            "2025-06",
            "2025-06-01",
            5,
            (Line("best thing to do in san francisco", 1), *_PARK, Line("on a sunny day", 1)),
            "authors' code, 1 to 23 June 2025: the question's own words earn a point",
        ),
        Rubric(
            "table2-code",
            "2025-06-23",
            5,
            (*_PARK, Line("on a sunny day", 1), _GRAMMAR),
            "authors' code from 23 June 2025",
        ),
        Rubric("table2", "2025-10-01", 5, (*_PARK, Line("sunny day", 1), _GRAMMAR), "paper, Table 2"),
    )
}
# Share of the maximum that the keywords of a needle other than the paper's earn together, as Table 2's do (3
# of 5).
_PARTIAL = 0.6


class Score(NamedTuple):
    """Points on the rubric's scale, whether the full needle is there, and the phrases found."""

    points: float
    exact: bool
    matched: tuple[str, ...]


def score(answer: str, rubric: str | Rubric = "table2", needle: Needle = PAPER_NEEDLE) -> Score:
    """Score one answer.

    The full needle anywhere in the answer earns the maximum. Short of that, the paper's needle earns what the
    rubric's lines say. Any other needle is scored by a generic rule of the same shape: three fifths of the
    maximum times the share of its `keywords` that are found, nothing under an all-or-nothing rubric. An empty
    answer earns 0.

    Raises
    ------
    HybretError
        If there is no rubric of that name.
    """
    if not isinstance(answer, str):
        raise HybretError(f"an answer is a text, not {answer!r}; give '' where the model said nothing")
    if not isinstance(rubric, Rubric):
        rubric = RUBRICS[asked.one_of("rubric", rubric, RUBRICS)]
    said = normalise(answer)
    full = normalise(needle.sentence)
    if full in said:
        return Score(rubric.maximum, True, (full,))
    if needle.sentence != PAPER_NEEDLE.sentence:
        phrases = tuple(normalise(k) for k in needle.keywords)
        found = tuple(p for p in phrases if p in said)
        partial = _PARTIAL * rubric.maximum if rubric.lines else 0.0
        return Score(partial * len(found) / len(phrases) if phrases else 0.0, False, found)
    hits = [line for line in rubric.lines if line.phrase in said]
    fixed = [line.points for line in hits if line.sets]
    points = max(fixed) if fixed else sum(line.points for line in hits)
    return Score(float(points), False, tuple(line.phrase for line in hits))


def rescore(rows: pd.DataFrame, rubric: str, needles: Iterable[Needle] = ()) -> pd.DataFrame:
    """A copy of `rows` with `score`, `exact` and `rubric` for another rubric; the model does not run again.

    A control row is scored against the needle that it leaves out. `needles` are those other than the paper's that
    were asked for.

    Raises
    ------
    HybretError
        If the rubric is unknown, a column is missing, or what a row asked for is not among `needles`.
    """
    asked.one_of("rubric", rubric, RUBRICS)
    asked.table(rows, [])
    if missing := {"answer", "needle", "asked"} - set(rows.columns):
        raise HybretError(f"these rows have no column {sorted(missing)[0]!r}, so they cannot be scored again")
    known = {needle.digest: needle for needle in (PAPER_NEEDLE, *needles)}
    if not (strange := rows[~rows["asked"].isin(list(known))]).empty:
        name, digest = strange[["needle", "asked"]].iloc[0]
        raise HybretError(
            f"what was asked for is not known here (needle {name!r}, asked {digest!r}); pass that needle in needles="
        )
    scores = [score(answer, rubric, known[n]) for answer, n in zip(rows["answer"], rows["asked"], strict=True)]
    return rows.assign(score=[s.points for s in scores], exact=[s.exact for s in scores], rubric=rubric)
