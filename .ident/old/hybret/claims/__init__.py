"""What a claim of the paper is, and how an interval decides it.

A claim names a limit, and asks that a number lie on one side of it. It is *reproduced* if the whole 95 % interval does,
*not reproduced* if the interval lies beyond the limit or across it, and *not testable on this model* if the model or
the run cannot show it: nothing to lose, no window, no such rows, or so few prompts that even the clearest result would
leave the limit inside the interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from hybret.claims.evidence import NO_MORE, Estimate, NotTestable, difference, percent

REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE = "reproduced", "not reproduced", "not testable on this model"
VERDICTS = (REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE)
HYPOTHESES = {
    "H1": "Retrieval depends on attention alone",
    "H2": "Attention serves retrieval above all",
    "H3": "What retrieval needs to see",
    "abstract": "The numbers of the abstract",
    "appendix": "What manipulated models say",
}
FLOOR = f"accuracy above the floor: interval at most {percent(NO_MORE)} %"


@dataclass(frozen=True)
class Outcome:
    """The answer to one claim.

    Attributes
    ----------
    verdict : one of `VERDICTS`.
    ours : our figure in words, with its interval.
    estimate : the number that was held against the limit; None if there is none.
    why : what decided, in words.
    slack : how far inside the limit the interval ends; negative where it does not.
    """

    verdict: str
    ours: str
    estimate: Estimate | None
    why: str
    slack: float = 0.0


@dataclass(frozen=True)
class Claim:
    """One testable sentence of the paper.

    Attributes
    ----------
    name : short key.
    label : the claim in a few words, for a figure.
    hypothesis : a key of `HYPOTHESES`.
    says : the sentence in our own words.
    where : where it stands in the paper.
    paper : the paper's figure.
    test : what must hold for "reproduced"; "interval" is the 95 % interval.
    notebook, figure : where this book measures it.
    judge : `hybret.claims.evidence.Evidence` to `Outcome`; a list of them, one per model, where `across` is set.
    across : whether it compares models.
    """

    name: str
    label: str
    hypothesis: str
    says: str
    where: str
    paper: str
    test: str
    notebook: str
    figure: str
    judge: Callable[[Any], Outcome]
    across: bool = False


def claim(
    label: str, where: str, paper: str, test: str, hypothesis: str, notebook: str, figure: str, across: bool = False
) -> Callable[[Callable[[Any], Outcome]], Claim]:
    """Make a claim of the function that judges it: it has the function's name, and says what the docstring says."""

    def made(judge: Callable[[Any], Outcome]) -> Claim:
        name, says = judge.__name__.replace("_", "-"), judge.__doc__ or ""
        return Claim(name, label, hypothesis, says, where, paper, test, notebook, figure, judge, across)

    return made


def at_most(e: Estimate, limit: float, ours: str, best: float = 0.0) -> Outcome:
    """Whether a number is at most `limit`; `best` is its value in the clearest possible result."""
    return _decide(e, limit - e.high, e.high <= limit, e.low > limit, e.best_bound(best, 1) > limit, ours)


def at_least(e: Estimate, limit: float, ours: str, best: float = 1.0) -> Outcome:
    """Whether a number is more than `limit`; as `at_most`."""
    return _decide(e, e.low - limit, e.low > limit, e.high < limit, e.best_bound(best, -1) < limit, ours)


def _decide(e: Estimate, slack: float, within: bool, beyond: bool, hopeless: bool, ours: str) -> Outcome:
    if within:
        return Outcome(REPRODUCED, ours, e, "the interval is within the limit", slack)
    if beyond:
        return Outcome(NOT_REPRODUCED, ours, e, "the interval lies beyond the limit", slack)
    if hopeless:
        why = f"{e.prompts} prompts are too few: even the clearest result would leave the limit in the interval"
        return Outcome(NOT_TESTABLE, ours, e, why, slack)
    return Outcome(NOT_REPRODUCED, ours, e, "the interval includes the limit, so it is not shown", slack)


def nothing(e: Estimate, where: str = "") -> Outcome:
    """Whether an accuracy above the floor is none."""
    return at_most(e, NO_MORE, f"{e} above the floor{where}")


def keeps(cells: pd.DataFrame, full: pd.DataFrame, share: float, ours: str) -> Outcome:
    """Whether accuracy is more than `share` of that in the cells of `full`."""
    return at_least(difference(cells, full, share), 0.0, ours, best=1 - share)


def falls_below(cells: pd.DataFrame, full: pd.DataFrame, share: float, ours: str) -> Outcome:
    """Whether accuracy is at most `share` of that in the cells of `full`."""
    return at_most(difference(cells, full, share), 0.0, ours, best=-share)


def hardest(outcomes: Iterable[Outcome]) -> Outcome:
    """One answer for conditions that must all hold: failure before doubt before success, the clearest first."""
    order = (NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED)
    return min(outcomes, key=lambda outcome: (order.index(outcome.verdict), outcome.slack))


def rising(found: Sequence[tuple[float, str, Estimate]], sizes: str) -> Outcome:
    """Whether independent numbers of several models rise with a size of theirs, intervals apart.

    Parameters
    ----------
    found : size, our figure in words, and the number of each model.
    sizes : what the sizes are, in words.
    """
    found = sorted(found, key=lambda one: one[:2])
    ours = "; ".join(said for _, said, _ in found)
    steps = [
        Estimate(b.value - a.value, b.low - a.high, b.high - a.low, a.n + b.n, a.prompts + b.prompts, unit=a.unit)
        for (small, _, a), (large, _, b) in combinations(found, 2)
        if small < large
    ]
    if not steps:
        raise NotTestable(f"it takes two models {sizes} that retrieve")
    return hardest([at_least(step, 0.0, ours) for step in steps])
