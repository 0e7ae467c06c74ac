"""The claims of the paper as data (`claims.yaml`), and how an interval decides one.

A claim names a limit, and a number must lie on one side of it. It *agrees* with the paper if the whole 95 % interval
does, *contradicts* it if the whole interval lies beyond the limit, and is *undecided* if the interval holds the limit.
It is *not run* without the rows, and *cannot be tested on this model* only where the unmodified model lacks what the
claim rests on (retrieval to lose, room for a gain, a window), or where the claim is about other models or recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import pandas as pd

from book.paper.claims.evidence import NO_MORE, CannotTest, Estimate, NotRun, Unjudged, difference, over_floor, words

AGREES, CONTRADICTS, UNDECIDED, NOT_RUN, CANNOT = VERDICTS = (
    "agrees", "contradicts", "undecided", NotRun.state, CannotTest.state
)  # fmt: skip
JUDGED = (AGREES, CONTRADICTS, UNDECIDED)
HYPOTHESES = {
    "H1": "Retrieval depends on attention alone",
    "H2": "Attention serves retrieval above all",
    "H3": "What retrieval needs to see",
    "abstract": "The numbers of the abstract",
    "appendix": "What manipulated models say",
}


class Claim(NamedTuple):
    """One testable sentence of the paper."""

    name: str  # short key
    label: str  # the claim in a few words
    hypothesis: str  # a key of `HYPOTHESES`
    says: str  # the sentence in our own words
    where: str  # section, table or figure of the paper
    paper: str  # the paper's figure
    test: str  # the condition for "agrees"; "interval" is the 95 % interval
    notebook: str  # notebook and figure of this book that measure it
    figure: str
    across: bool = False  # whether it compares models
    exact: bool = True  # whether it is judged by exact answers, too


class Outcome(NamedTuple):
    """The answer to one claim."""

    verdict: str  # one of `VERDICTS`
    ours: str  # our figure in words
    estimate: Estimate | None  # the number that was compared with the limit
    why: str  # the reason for the verdict, in words
    slack: float = 0.0  # how far inside the limit the interval ends; negative beyond it


def at_most(e: Estimate, limit: float, ours: str) -> Outcome:
    """Whether a number is at most `limit`."""
    return decided(e, ours, e.high <= limit, e.low > limit, limit - e.high)


def at_least(e: Estimate, limit: float, ours: str) -> Outcome:
    """Whether a number is more than `limit`."""
    return decided(e, ours, e.low > limit, e.high <= limit, e.low - limit)


def decided(e: Estimate, ours: str, within: bool, beyond: bool, slack: float) -> Outcome:
    """The verdict on an interval within the limit, beyond it, or across it."""
    verdict = AGREES if within else CONTRADICTS if beyond else UNDECIDED
    why = {AGREES: "is within", CONTRADICTS: "is beyond", UNDECIDED: "holds"}[verdict]
    return Outcome(verdict, ours, e, f"the interval {why} the limit", slack)


def outcome(judge: Callable[..., Outcome], *args: Any, **options: Any) -> Outcome:
    """What a judge answers, also where nothing could be decided."""
    try:
        return judge(*args, **options)
    except Unjudged as reason:
        return Outcome(reason.state, reason.ours, None, reason.why)


def nothing(cells: pd.DataFrame, where: str = "", column: str = "value", limit: float = NO_MORE) -> Outcome:
    """Whether the accuracy is none; of any points at all with ``column="credit"``."""
    e = over_floor(cells, column)
    return at_most(e, limit, f"{words(cells.assign(value=cells[column]))}{where}")


def keeps(cells: pd.DataFrame, full: pd.DataFrame, share: float, ours: str) -> Outcome:
    """Whether accuracy is more than `share` of that in the cells of `full`."""
    return at_least(difference(cells, full, share), 0.0, ours)


def falls_below(cells: pd.DataFrame, full: pd.DataFrame, share: float, ours: str) -> Outcome:
    """Whether accuracy is at most `share` of that in the cells of `full`."""
    return at_most(difference(cells, full, share), 0.0, ours)


def hardest(outcomes: Iterable[Outcome]) -> Outcome:
    """The answer for conditions that must all hold: failure, then what could not be judged, then doubt, then success.

    What was measured of the others is told beside a condition that was not judged.
    """
    order = (CONTRADICTS, CANNOT, NOT_RUN, UNDECIDED, AGREES)
    ranked = sorted(outcomes, key=lambda outcome: (order.index(outcome.verdict), outcome.slack))
    return ranked[0]._replace(ours=ranked[0].ours or next((o.ours for o in ranked if o.ours), ""))


def every(judge: Callable[..., Outcome], values: Iterable[Any]) -> Outcome:
    """The answer for a condition that must hold for each of several values."""
    return hardest(outcome(judge, value) for value in values)


def rising(models: Sequence[tuple[float, str, Estimate]], sizes: str, factor: float = 1.0) -> Outcome:
    """Whether a number rises with size, intervals apart.

    `models`: the size, our figure in words, the number. Sizes of one step differ by more than `factor`.
    """
    models = sorted(models, key=lambda model: model[:2])
    steps = [
        Estimate(b.value - a.value, b.low - a.high, b.high - a.low, a.n + b.n, a.prompts + b.prompts, unit=a.unit)
        for (small, _, a), (large, _, b) in combinations(models, 2)
        if large > factor * small
    ]
    ours = "; ".join(text for _, text, _ in models)
    if not steps:
        reason = NotRun if len(models) < 2 else CannotTest
        raise reason(f"it takes two models {sizes} that retrieve", ours)
    return hardest([at_least(step, 0.0, ours) for step in steps])
