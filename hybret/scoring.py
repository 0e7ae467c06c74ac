"""Scores for answers: dated rubrics as data, so that a run can be scored again under another one.

Rule and dates are those of the authors' evaluation script.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from hybret.errors import HybretError, one_of
from hybret.prompts import PAPER_NEEDLE, Needle, contains, normalise
from hybret.rows import checked

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

    `since` is the day (ISO) from which the authors' code, or the paper, used it; accuracy divides by `maximum`, the
    points of the full needle.
    """

    name: str
    since: str
    maximum: float
    lines: tuple[Line, ...]
    source: str


_PARK = (Line("eat a sandwich", 1), Line("dolores park", 0.5), Line("sit in dolores park", 0.5))
_GRAMMAR = Line("is to eat a sandwich and sit in dolores park on a sunny day", 4, sets=True)
RUBRICS = {
    name: Rubric(name, since, maximum, lines, source)
    for name, since, maximum, lines, source in (
        ("2025-05", "2025-05-01", 10, (), "authors' code until 1 June 2025: all or nothing"),
        ("2025-06", "2025-06-01", 5, (Line("best thing to do in san francisco", 1), *_PARK, Line("on a sunny day", 1)),
         "authors' code, 1 to 23 June 2025: the question's own words earn a point"),
        ("2025-06-23", "2025-06-23", 5, (*_PARK, Line("on a sunny day", 1)),
         "authors' code from 23 June 2025: 3 for corrected grammar"),
        ("table2", "2025-10-01", 5, (*_PARK, Line("sunny day", 1), _GRAMMAR),
         "paper, Table 2: 4 for corrected grammar, which no published code gives"),
    )
}  # fmt: skip
PARTIAL = 0.6  # of the maximum, for all keywords of another needle: as for Table 2's (3 of 5)


class Score(NamedTuple):
    """Points on the rubric's scale, whether the full needle is there, and the phrases found."""

    points: float
    exact: bool
    matched: tuple[str, ...]


def score(answer: str, rubric: str | Rubric = "table2", needle: Needle = PAPER_NEEDLE) -> Score:
    """Score one answer: the maximum for the full needle, else what the phrases in it earn.

    The phrases of the paper's needle are the rubric's lines, looked up as in the authors' code, which drops all
    punctuation and looks inside words. Any other needle is scored by a rule of the same shape on whole words
    (`hybret.prompts.words`): three fifths of the maximum times the share of its `keywords` that are found, nothing
    under an all-or-nothing rubric.
    """
    if not isinstance(answer, str):
        raise HybretError(f"answer is {answer!r}; give a text, '' where the model said nothing")
    if not isinstance(rubric, Rubric):
        rubric = RUBRICS[one_of("rubric", rubric, RUBRICS)]
    papers = needle.sentence == PAPER_NEEDLE.sentence
    plain = normalise(answer)
    if normalise(needle.sentence) in plain if papers else contains(answer, needle.sentence):
        return Score(rubric.maximum, True, (needle.sentence,))
    if papers:
        hits = [line for line in rubric.lines if line.phrase in plain]
        fixed = [line.points for line in hits if line.sets]
        points = max(fixed) if fixed else sum(line.points for line in hits)
        return Score(float(points), False, tuple(line.phrase for line in hits))
    matched = tuple(keyword for keyword in needle.keywords if contains(answer, keyword))
    most = PARTIAL * rubric.maximum if rubric.lines else 0.0
    return Score(most * len(matched) / max(1, len(needle.keywords)), False, matched)


def rescore(rows: pd.DataFrame, rubric: str, needles: Iterable[Needle] = ()) -> pd.DataFrame:
    """A copy of `rows` with `score`, `exact` and `rubric` for another rubric; the model does not run again.

    A control row is scored against the needle that it leaves out. `needles` are those other than the paper's that
    were asked for.
    """
    one_of("rubric", rubric, RUBRICS)
    checked(rows, ["answer", "needle", "asked"])
    known = {needle.digest: needle for needle in (PAPER_NEEDLE, *needles)}
    if not (unknown := rows[~rows["asked"].isin(list(known))]).empty:
        name, asked = unknown[["needle", "asked"]].iloc[0]
        raise HybretError(f"needle {name!r} (asked {asked!r}) is not known; pass that needle in needles=")
    scores = [score(answer, rubric, known[n]) for answer, n in zip(rows["answer"], rows["asked"], strict=True)]
    return rows.assign(score=[s.points for s in scores], exact=[s.exact for s in scores], rubric=rubric)
