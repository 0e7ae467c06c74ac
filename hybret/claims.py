"""What a claim of the paper is, and how an interval decides it.

A claim names a limit, and asks that a number lie on one side of it. It is *reproduced* if the whole 95 % interval does,
*not reproduced* if the interval lies beyond the limit or across it, and *not testable on this model* if the model or
the run cannot show it: nothing to lose, no window, no such rows, or so few prompts that even the clearest result would
leave the limit inside the interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from .evidence import Estimate, Evidence, NotTestable

N = TypeVar("N")

REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE = "reproduced", "not reproduced", "not testable on this model"
VERDICTS = (REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE)
HYPOTHESES = {
    "H1": "Retrieval depends on attention alone",
    "H2": "Attention serves retrieval above all",
    "H3": "What retrieval needs to see",
    "abstract": "The numbers of the abstract",
    "appendix": "What manipulated models say",
}


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
    needs : the rows that it is judged by.
    notebook, figure : where this book measures it.
    judge : `hybret.evidence.Evidence` to `Outcome`; a list of them, one per model, where `across` is set.
    across : whether it compares models.
    """

    name: str
    label: str
    hypothesis: str
    says: str
    where: str
    paper: str
    test: str
    needs: str
    notebook: str
    figure: str
    judge: Callable[[Any], Outcome]
    across: bool = False


def at_most(e: Estimate, limit: float, ours: str, best: float = 0.0) -> Outcome:
    """Whether a number is at most `limit`; `best` is its value in the clearest possible result."""
    return _decide(e, limit - e.high, e.low > limit, e.best_bound(best, 1) > limit, ours)


def at_least(e: Estimate, limit: float, ours: str, best: float = 1.0) -> Outcome:
    """Whether a number is more than `limit`; as `at_most`."""
    return _decide(e, e.low - limit or -1e-12, e.high < limit, e.best_bound(best, -1) < limit, ours)


def _decide(e: Estimate, slack: float, beyond: bool, hopeless: bool, ours: str) -> Outcome:
    if slack >= 0:
        return Outcome(REPRODUCED, ours, e, "the interval is within the limit", slack)
    if beyond:
        return Outcome(NOT_REPRODUCED, ours, e, "the interval lies beyond the limit", slack)
    if hopeless:
        why = f"{e.prompts} prompts are too few: even the clearest result would leave the limit in the interval"
        return Outcome(NOT_TESTABLE, ours, e, why, slack)
    return Outcome(NOT_REPRODUCED, ours, e, "the interval includes the limit, so it is not shown", slack)


def hardest(outcomes: Iterable[Outcome]) -> Outcome:
    """One answer for conditions that must all hold: failure before doubt before success, the clearest first."""
    order = (NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED)
    return min(outcomes, key=lambda outcome: (order.index(outcome.verdict), outcome.slack))


def each(models: Sequence[Evidence], number: Callable[[Evidence], N]) -> list[tuple[Evidence, N]]:
    """A number of every model that has it; the others are left out."""
    found = []
    for e in models:
        with suppress(NotTestable):
            found.append((e, number(e)))
    return found


def rising(numbers: Sequence[Estimate], ours: str) -> Outcome:
    """Whether each of several independent numbers is greater than the one before, intervals apart."""
    steps = list(zip(numbers, numbers[1:], strict=False))
    slack = min(after.low - before.high for before, after in steps)
    total = Estimate(
        numbers[-1].value - numbers[0].value,
        numbers[-1].low - numbers[0].high,
        numbers[-1].high - numbers[0].low,
        sum(number.n for number in numbers),
        sum(number.prompts for number in numbers),
        unit=numbers[0].unit,
    )
    if slack > 0:
        return Outcome(REPRODUCED, ours, total, "so from model to model, and the intervals do not touch", slack)
    contrary = any(after.high <= before.low for before, after in steps)
    why = "not so from every model to the next" if contrary else "the intervals touch: this run does not settle it"
    return Outcome(NOT_REPRODUCED, ours, total, why, slack)
