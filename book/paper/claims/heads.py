"""Claims about removing heads: Section 3 (H1), and the abstract's 15 % of heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from book.paper import claims
from book.paper import numbers as paper
from book.paper.claims.evidence import CannotTest, Estimate, Evidence, NotRun, Unjudged, difference, less, paired, words
from book.paper.tipping import HOLDS

T = {name: number.value for name, number in paper.THRESHOLDS.items()}
RECOVERS = 0.10  # accuracy that reading twice must not give back
FOLLOWS = 0.10  # greatest difference between versions that still follow each other
LARGER = 2.0  # a model is larger than another from this factor on; the paper's differ by 3.7 and 6.8


def unmodified(e: Evidence, jrt: bool = False) -> pd.DataFrame:
    """Cells of the unmodified model, which must retrieve."""
    return e.unmodified(e.kept(e.heads, jrt=jrt))


def nothing_left(e: Evidence, during: str = "generation", jrt: bool = False, column: str = "value") -> claims.Outcome:
    """Whether k = 0 earns what the control does not."""
    unmodified(e)
    if jrt:
        unmodified(e, jrt)
    return claims.nothing(e.kept(0, during, jrt), column=column)


def read_twice(e: Evidence) -> claims.Outcome:
    """Whether reading twice gives nothing back at k = 1 and 2, where something was lost."""
    full, outcomes = unmodified(e), []
    unmodified(e, jrt=True)  # if reading twice fails anyway, it recovers nothing for another reason
    for k in (1, 2):
        once = e.kept(k)
        if difference(once, full, HOLDS).high < 0:  # something was lost, so something could come back
            gained = difference(e.kept(k, jrt=True), once)
            outcomes.append(claims.at_most(gained, RECOVERS, f"{gained.points} at k = {k}"))
    if not outcomes:
        raise CannotTest("at k = 1 and 2 it has lost nothing for certain, so reading twice has nothing to recover")
    return claims.hardest(outcomes)


def turning(e: Evidence) -> tuple[Estimate, str]:
    """The tipping point while answering, as a number of heads and in words."""
    full = unmodified(e)
    value, low, high = e.collapse
    between = f" ({low if low >= 0 else 'none'} to {high})" if (low, high) != (value, value) else ""
    point = Estimate(value, low, high, len(full), full["prompt"].nunique(), "heads")
    return point, f"{f'k = {value}' if value >= 0 else 'no k'}{between} of {e.heads} heads"


def turns(e: Evidence) -> claims.Outcome:
    """Whether the tipping point, and every k that its interval allows, is in the paper's range."""
    first, last = T["first tipping point"], T["last tipping point"]
    point, ours = turning(e)
    slack = min(point.low - first, last - point.high)
    return claims.decided(point, ours, slack >= 0, point.high < first or point.low > last, slack)


def of_testable(models: Sequence[Evidence], number: Callable[[Evidence], Any]) -> Iterator[tuple[Evidence, Any]]:
    """A number of every model that has it."""
    for e in models:
        with suppress(Unjudged):
            yield e, number(e)


def turns_by_heads(models: Sequence[Evidence]) -> claims.Outcome:
    """Whether models with more heads have their tipping point at a larger k."""
    points = [(e.heads, f"{e.model}: {ours}", point) for e, (point, ours) in of_testable(models, turning)]
    return claims.rising(points, "with different numbers of heads")


def held(e: Evidence, k: int, share: float, during: str = "generation", test: Any = claims.keeps) -> claims.Outcome:
    """Whether k heads keep more than a share of the accuracy; with `test` `falls_below` the contrary."""
    full, cells = unmodified(e), e.kept(k, during)
    ours = f"k = {k} of {e.heads} ({100 * k / e.heads:.0f} % of the heads): {words(cells)}; all heads: {words(full)}"
    return test(cells, full, share, ours)


def few_hold(e: Evidence, during: str) -> claims.Outcome:
    """Whether 15 % of the heads, rounded up, keep retrieval near-perfect."""
    return held(e, paper.few_heads(e.heads), HOLDS, during)


def plateau(e: Evidence) -> claims.Outcome:
    """Whether accuracy holds at the largest k below all heads: where it does not, there is no threshold."""
    unmodified(e)
    if not (below := [k for k in e.ks if 0 < k < e.heads]):
        raise NotRun("a k between none and all heads")
    return held(e, max(below), HOLDS)


def prefill_version(e: Evidence) -> claims.Outcome:
    """Whether removing heads while reading, too, ruins RG-2B at once, and changes little in Jamba."""
    name = paper.model_of(e.model)
    if name not in ("RG-2B", "Jamba"):
        raise CannotTest("a sentence about RG-2B and Jamba, and about no other model")
    unmodified(e)
    below = [k for k in e.ks if k < e.heads]
    if name == "RG-2B":
        return held(e, max(below), 0.5, "both", claims.falls_below)
    outcomes = []
    for k in below:
        gap = difference(e.kept(k), e.kept(k, "both"))
        size = Estimate(abs(gap.value), max(0.0, gap.low, -gap.high), max(-gap.low, gap.high), gap.n, gap.prompts)
        outcomes.append(claims.at_most(size, FOLLOWS, f"at most {100 * size.value:.1f} points apart, at k = {k}"))
    return claims.hardest(outcomes)


def prefill_cost(e: Evidence) -> Estimate:
    """Accuracy that sparsifying the prefill too costs, on average over k from 1 to all heads but one.

    The cost at a k that was not run is interpolated between its neighbours.
    """
    unmodified(e)
    ks = [k for k in e.ks if 0 < k <= e.heads]
    if len(ks) < 2:
        raise NotRun("a k between none and all heads")
    parts = []
    for k in ks[:-1]:
        both = paired(e.kept(k), e.kept(k, "both"))
        weight = np.interp(range(1, e.heads), ks, [float(run == k) for run in ks]).sum()
        both[["value", "value_floor", "value_b", "value_floor_b"]] *= weight * (len(ks) - 1) / (e.heads - 1)
        parts.append(both)
    return less(pd.concat(parts))


def costs_by_size(models: Sequence[Evidence]) -> claims.Outcome:
    """Whether sparsifying the prefill costs larger models less."""
    costs = [
        (size, f"{e.model} ({size / 1e6:,.1f} million parameters): {cost.points}",
         cost._replace(value=-cost.value, low=-cost.high, high=-cost.low))
        for e, cost in of_testable(models, prefill_cost)
        if (size := getattr(e.known, "parameters", None)) is not None
    ]  # fmt: skip
    return claims.rising(costs, f"whose sizes differ more than {LARGER:g} times", LARGER)


JUDGES = {
    "no-attention-generation": nothing_left,
    "no-attention-prefill": partial(nothing_left, during="both"),
    "no-fuzzy-memory": partial(nothing_left, column="credit"),
    "jrt-no-attention": partial(nothing_left, jrt=True),
    "jrt-few-heads": read_twice,
    "tipping-point": turns,
    "tipping-point-order": turns_by_heads,
    "plateau": plateau,
    "prefill-version": prefill_version,
    "prefill-order": costs_by_size,
    "few-heads-generation": partial(few_hold, during="generation"),
    "few-heads-prefill": partial(few_hold, during="both"),
}
