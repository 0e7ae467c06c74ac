"""Claims about general abilities: GLUE and MMLU under sparsification (Section 4, H2)."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from book.paper import benchmark_scores as averages
from book.paper import claims
from book.paper import numbers as paper
from book.paper.benchmark_scores import Average
from book.paper.claims.evidence import Estimate, Evidence, NotTestable, percent

LITTLE = 0.10  # a loss on GLUE that is still little: the paper's larger one, 9.1 points, rounded up
KEPT = paper.BENCHMARKS["MMLU kept"].value - 0.05  # share of base, with a tolerance of 5 points below the paper's
HALF = paper.BENCHMARKS["MMLU ablated"].value / 200  # half of the paper's loss of 42 points, as a fraction
GLUE = "glue"
# The small models' tasks of the MMLU side have two parts: questions on facts in the weights, as MMLU's are, and
# look-ups of one of many items far back in the context.
LOOKUP, KNOWLEDGE = "mmlu-lookup", "mmlu"
CONFIGURATIONS = ("base", "sparse", "ablated")


def items(e: Evidence) -> pd.DataFrame:
    """Items of the three configurations: of GLUE and MMLU where these were run, else of the small models' tasks."""
    rows = e.benchmarks[e.benchmarks["condition"].isin(CONFIGURATIONS)]
    real = rows["benchmark"] != "organism"
    return rows[real] if real.any() else rows


def side(e: Evidence, name: str) -> Average:
    """Scores of a side in the three configurations, averaged as the chapter on benchmarks shows them."""
    rows = items(e)
    group = rows["group"].astype(str)
    rows = rows[group.str.startswith(KNOWLEDGE) & (group != LOOKUP) if name == KNOWLEDGE else group == name]
    if rows.empty:
        raise NotTestable(f"not run: no benchmark of the {name} side")
    answered = rows["condition"].value_counts()
    for configuration in CONFIGURATIONS:
        if answered.get(configuration, 0) < len(rows.drop_duplicates(["task", "doc_id"])):
            raise NotTestable(f"not run: the {configuration} configuration on every item of the {name} side")
    return averages.default(rows)


def measured(score: np.ndarray, *sides: Average) -> Estimate:
    """A score on some sides, or a difference of scores, with its interval."""
    n, clusters = sum(side.n for side in sides), sum(side.clusters for side in sides)
    return Estimate(*averages.interval(score, clusters, -1.0), n, clusters, (-1.0, 1.0))


def able(side: Average, more: float = 0.0) -> Average:
    """The side, whose base configuration must be above chance by more than `more`: by what the claim lets it lose."""
    base = side.scores["base"]
    if measured(base - side.chance, side).low <= more:
        chance = percent(side.chance)
        raise NotTestable(
            f"the base configuration gets {measured(base, side)}, and chance is {chance} %: too little to lose"
        )
    return side


def in_words(side: Average, *conditions: str) -> str:
    """Scores in words."""
    return ", ".join(f"{name} {percent(side.scores[name][0])} %" for name in conditions)


def loss(side: Average, condition: str) -> Estimate:
    """How far a configuration lies below base."""
    return measured(side.scores["base"] - side.scores[condition], side)


def glue_kept(e: Evidence) -> claims.Outcome:
    """Whether neither configuration loses much on GLUE."""
    glue = able(side(e, GLUE), LITTLE)
    scores = in_words(glue, *CONFIGURATIONS)
    losses = {name: loss(glue, name) for name in ("ablated", "sparse")}
    return claims.hardest(claims.at_most(x, LITTLE, f"{scores}; {name} loses {x.points}") for name, x in losses.items())


def glue_order(e: Evidence) -> claims.Outcome:
    """Whether the ablated configuration is better than the sparse one on GLUE."""
    glue = able(side(e, GLUE))
    gain = measured(glue.scores["ablated"] - glue.scores["sparse"], glue)
    return claims.at_least(gain, 0.0, f"{in_words(glue, 'ablated', 'sparse')}: {gain.points}")


def sparse_keeps(e: Evidence, name: str) -> claims.Outcome:
    """Whether the sparse configuration keeps most of base."""
    mmlu = side(e, name)
    base, sparse = mmlu.scores["base"], mmlu.scores["sparse"]
    able(mmlu, (1 - KEPT) * base[0])
    ours = f"{in_words(mmlu, 'base', 'sparse')}: {100 * sparse[0] / base[0]:.0f} % of base"
    return claims.at_most(measured(KEPT * base - sparse, mmlu), 0.0, ours, best=KEPT - 1)


def ablated_loses(e: Evidence, name: str) -> claims.Outcome:
    """Whether the ablated configuration loses much."""
    mmlu = able(side(e, name), HALF)
    lost = loss(mmlu, "ablated")
    return claims.at_least(lost, HALF, f"{in_words(mmlu, 'base', 'ablated')}: loses {lost.points}")


def contrast(e: Evidence) -> claims.Outcome:
    """Whether the ablated configuration loses more on the MMLU side (mean of its parts) than on the GLUE side."""
    lookup = [LOOKUP] if (items(e)["group"] == LOOKUP).any() else []
    sides = [able(side(e, name), LITTLE) for name in (GLUE, KNOWLEDGE, *lookup)]
    glue, *parts = [side.scores["base"] - side.scores["ablated"] for side in sides]
    mmlu = np.mean(parts, axis=0)
    more = measured(mmlu - glue, *sides)
    ours = f"loses {percent(mmlu[0])} points on the MMLU side, {percent(glue[0])} on the GLUE side"
    return claims.at_least(more, 0.0, f"{ours}: {more.points} more")


JUDGES = {
    "glue-kept": glue_kept,
    "glue-order": glue_order,
    "mmlu-sparse-knowledge": partial(sparse_keeps, name=KNOWLEDGE),
    "mmlu-sparse-lookup": partial(sparse_keeps, name=LOOKUP),
    "mmlu-ablated-knowledge": partial(ablated_loses, name=KNOWLEDGE),
    "mmlu-ablated-lookup": partial(ablated_loses, name=LOOKUP),
    "contrast": contrast,
}
