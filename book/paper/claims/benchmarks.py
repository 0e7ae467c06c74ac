"""Claims about general abilities: GLUE and MMLU under sparsification (Section 4, H2)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from book.paper import benchmark_scores as averages
from book.paper import claims
from book.paper import numbers as paper
from book.paper.benchmark_scores import Average
from book.paper.claims.evidence import CannotTest, Estimate, Evidence, NotRun, percent

LITTLE = 0.10  # a loss on GLUE that is still little: the paper's larger one, 9.1 points, rounded up
KEPT = paper.BENCHMARKS["MMLU kept"].value - 0.05  # share of base, with a tolerance of 5 points below the paper's
HALF = paper.BENCHMARKS["MMLU ablated"].value / 200  # half of the paper's loss of 42 points, as a fraction
GLUE = "glue"
# Our stand-in for MMLU has two halves: questions on facts in the weights, and look-ups of one of many items far back in
# the context. MMLU mixes both demands and nobody knows how, so every claim is about the mean of the halves, each with
# the same weight; both are told beside it.
LOOKUP, KNOWLEDGE = "mmlu-lookup", "mmlu"
CONFIGURATIONS = ("base", "sparse", "ablated")


def items(e: Evidence) -> pd.DataFrame:
    """Items of the three configurations: of GLUE and MMLU where these were run, else of the small models' tasks."""
    rows = e.benchmarks[e.benchmarks["condition"].isin(CONFIGURATIONS)]
    real = rows["benchmark"] != "organism"
    return rows[real] if real.any() else rows


def side(e: Evidence, name: str) -> Average:
    """Scores of a side in the three configurations, averaged as the chapter on benchmarks shows them."""
    if name in e.sides:
        return e.sides[name]
    rows = items(e)
    group = rows["group"].astype(str)
    rows = rows[group.str.startswith(KNOWLEDGE) & (group != LOOKUP) if name == KNOWLEDGE else group == name]
    if rows.empty:
        raise NotRun(f"a benchmark of the group {name}")
    answered = rows["condition"].value_counts()
    for configuration in CONFIGURATIONS:
        if answered.get(configuration, 0) < len(rows.drop_duplicates(["task", "doc_id"])):
            raise NotRun(f"the {configuration} configuration on every item of the group {name}")
    return e.sides.setdefault(name, averages.default(rows))


def measured(score: np.ndarray, *sides: Average) -> Estimate:
    """A score on some groups of tasks, or a difference of scores, with its interval."""
    n, clusters = sum(side.n for side in sides), sum(side.clusters for side in sides)
    return Estimate(*averages.interval(score, clusters, -1.0), n, clusters)


def able(side: Average, more: float = 0.0) -> Average:
    """The side, whose base configuration must be above chance by more than `more`: by what the claim lets it lose."""
    base = side.scores["base"]
    if measured(base - side.chance, side).low <= more:
        chance = percent(side.chance)
        raise CannotTest(
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


def mmlu(e: Evidence, more: float = 0.0) -> tuple[Average, str]:
    """MMLU, or the mean of the two halves of its stand-in, and the halves in words."""
    names = [name for name in (KNOWLEDGE, LOOKUP) if name == KNOWLEDGE or (items(e)["group"] == LOOKUP).any()]
    halves = [side(e, name) for name in names]
    mean = able(Average(
        {name: np.mean([half.scores[name] for half in halves], axis=0) for name in CONFIGURATIONS},
        sum(half.n for half in halves), sum(half.clusters for half in halves), sum(half.tasks for half in halves),
        float(np.mean([half.chance for half in halves])),
    ), more)  # fmt: skip
    parts = zip(("facts", "look-ups"), halves, strict=False)
    told = "; ".join(f"{name}: {in_words(half, *CONFIGURATIONS)}" for name, half in parts) if halves[1:] else ""
    return mean, f" ({told})" if told else ""


def sparse_keeps(e: Evidence) -> claims.Outcome:
    """Whether the sparse configuration keeps most of base."""
    mean, halves = mmlu(e)
    base, sparse = mean.scores["base"], mean.scores["sparse"]
    able(mean, (1 - KEPT) * base[0])
    ours = f"{in_words(mean, 'base', 'sparse')}: {100 * sparse[0] / base[0]:.0f} % of base{halves}"
    return claims.at_most(measured(KEPT * base - sparse, mean), 0.0, ours)


def ablated_loses(e: Evidence) -> claims.Outcome:
    """Whether the ablated configuration loses much."""
    mean, halves = mmlu(e, HALF)
    lost = loss(mean, "ablated")
    return claims.at_least(lost, HALF, f"{in_words(mean, 'base', 'ablated')}: loses {lost.points}{halves}")


def contrast(e: Evidence) -> claims.Outcome:
    """Whether the ablated configuration loses more on MMLU than on GLUE."""
    glue, (mean, halves) = able(side(e, GLUE), LITTLE), mmlu(e, LITTLE)
    losses = [part.scores["base"] - part.scores["ablated"] for part in (mean, glue)]
    more = measured(losses[0] - losses[1], mean, glue)
    ours = f"loses {percent(losses[0][0])} points on MMLU, {percent(losses[1][0])} on GLUE: {more.points} more{halves}"
    return claims.at_least(more, 0.0, ours)


JUDGES = {
    "glue-kept": glue_kept,
    "glue-order": glue_order,
    "mmlu-sparse": sparse_keeps,
    "mmlu-ablated": ablated_loses,
    "contrast": contrast,
}
