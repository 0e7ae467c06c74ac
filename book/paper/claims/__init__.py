"""The claims of the paper as data (`claims.yaml`), and how an interval decides one.

A claim names a limit, and a number must lie on one side of it. It is *reproduced* if the whole 95 % interval does, *not
reproduced* if the interval lies beyond the limit or across it, and *not testable on this model* if the model or the run
cannot show it: nothing to lose, no window, no such rows, or so few prompts that even the clearest result would leave
the limit inside the interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import pandas as pd

from book.paper.claims.evidence import NO_MORE, Estimate, NotTestable, difference, over_floor
from hybret.metrics import unseen

REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE = "reproduced", "not reproduced", "not testable on this model"
VERDICTS = (REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE)
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
    label: str  # the claim in a few words, for a figure
    hypothesis: str  # a key of `HYPOTHESES`
    says: str  # the sentence in our own words
    where: str  # section, table or figure of the paper
    paper: str  # the paper's figure
    test: str  # the condition for "reproduced"; "interval" is the 95 % interval
    notebook: str  # notebook and figure of this book that measure it
    figure: str
    across: bool = False  # whether it compares models


class Outcome(NamedTuple):
    """The answer to one claim."""

    verdict: str  # one of `VERDICTS`
    ours: str  # our figure in words, with its interval
    estimate: Estimate | None  # the number that was compared with the limit
    why: str  # the reason for the verdict, in words
    slack: float = 0.0  # how far inside the limit the interval ends; negative beyond it


def at_most(e: Estimate, limit: float, ours: str, best: float = 0.0) -> Outcome:
    """Whether a number is at most `limit`; `best` is its value in the clearest possible result."""
    hopeless = best + unseen(e.prompts) * (e.scale[1] - best) > limit
    return _decided(e, ours, limit - e.high, within=e.high <= limit, beyond=e.low > limit, hopeless=hopeless)


def at_least(e: Estimate, limit: float, ours: str, best: float = 1.0) -> Outcome:
    """Whether a number is more than `limit`; as `at_most`."""
    hopeless = best + unseen(e.prompts) * (e.scale[0] - best) < limit
    return _decided(e, ours, e.low - limit, within=e.low > limit, beyond=e.high < limit, hopeless=hopeless)


def _decided(e: Estimate, ours: str, slack: float, *, within: bool, beyond: bool, hopeless: bool) -> Outcome:
    """The verdict on an interval within the limit, beyond it or across it; `hopeless`: by too few prompts."""
    verdict, why = NOT_REPRODUCED, "the interval includes the limit, so it is not shown"
    if within:
        verdict, why = REPRODUCED, "the interval is within the limit"
    elif beyond:
        why = "the interval lies beyond the limit"
    elif hopeless:
        verdict = NOT_TESTABLE
        why = f"{e.prompts} prompts are too few: even the clearest result would leave the limit in the interval"
    return Outcome(verdict, ours, e, why, slack)


def nothing(cells: pd.DataFrame, where: str = "", column: str = "value") -> Outcome:
    """Whether the accuracy above the floor is none; of any points at all with ``column="credit"``."""
    e = over_floor(cells, column)
    return at_most(e, NO_MORE, f"{e} above the floor{where}")


def keeps(cells: pd.DataFrame, full: pd.DataFrame, share: float, ours: str) -> Outcome:
    """Whether accuracy is more than `share` of that in the cells of `full`."""
    return at_least(difference(cells, full, share), 0.0, ours, best=1 - share)


def falls_below(cells: pd.DataFrame, full: pd.DataFrame, share: float, ours: str) -> Outcome:
    """Whether accuracy is at most `share` of that in the cells of `full`."""
    return at_most(difference(cells, full, share), 0.0, ours, best=-share)


def hardest(outcomes: Iterable[Outcome]) -> Outcome:
    """The answer for conditions that must all hold: failure before doubt before success, the clearest first."""
    order = (NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED)
    return min(outcomes, key=lambda outcome: (order.index(outcome.verdict), outcome.slack))


def rising(models: Sequence[tuple[float, str, Estimate]], sizes: str) -> Outcome:
    """Whether a number rises with size, intervals apart; `models`: the size, our figure in words, the number."""
    models = sorted(models, key=lambda model: model[:2])
    steps = [
        Estimate(b.value - a.value, b.low - a.high, b.high - a.low, a.n + b.n, a.prompts + b.prompts, unit=a.unit)
        for (small, _, a), (large, _, b) in combinations(models, 2)
        if small < large
    ]
    if not steps:
        raise NotTestable(f"it takes two models {sizes} that retrieve")
    ours = "; ".join(words for _, words, _ in models)
    return hardest([at_least(step, 0.0, ours) for step in steps])
