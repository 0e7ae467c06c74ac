"""Claims about general abilities: GLUE and MMLU under sparsification (Section 4, H2)."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from hybret import averages, claims, paper
from hybret.averages import Average
from hybret.claims import Claim, Outcome, at_least, at_most, hardest
from hybret.claims.evidence import Estimate, Evidence, NotTestable, percent

B = {name: one.value for name, one in paper.BENCHMARKS.items()}
LITTLE = 0.10  # a loss on GLUE that is still little: the paper's larger one, 9.1 points, rounded up
KEPT = B["MMLU kept"] - 0.05  # share of base, with a tolerance of 5 points below the paper's
HALF = B["MMLU ablated"] / 200  # half of the paper's loss of 42 points, as a fraction
GLUE = "glue"
# The embedded models' own tasks come in two parts: questions on facts in the weights, as MMLU's are, and look-ups of
# one of many items far back in the context.
LOOKUP, KNOWLEDGE = "mmlu-lookup", "mmlu"

claim = partial(claims.claim, hypothesis="H2", notebook="benchmarks", figure="fig-benchmarks")
CONFIGURATIONS = ("base", "sparse", "ablated")


def items(e: Evidence) -> pd.DataFrame:
    """Items of the three configurations: of GLUE and MMLU where these were run, else of the organisms' tasks."""
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


def said(side: Average, *conditions: str) -> str:
    """Scores in words."""
    return ", ".join(f"{name} {percent(side.scores[name][0])} %" for name in conditions)


def loss(side: Average, condition: str) -> Estimate:
    """How far a configuration lies below base."""
    return measured(side.scores["base"] - side.scores[condition], side)


@claim(
    "GLUE falls little",
    "Section 4.1, Figure 3",
    f"ablated {B['GLUE ablated']:g}, sparse {B['GLUE sparse']:g} points below base",
    f"loss of either: interval at most {100 * LITTLE:g} points",
)
def glue_kept(e: Evidence) -> Outcome:
    """On GLUE neither sparsification nor ablation costs much."""
    glue = able(side(e, GLUE), LITTLE)
    scores = said(glue, *CONFIGURATIONS)
    losses = {name: loss(glue, name) for name in ("ablated", "sparse")}
    return hardest(at_most(x, LITTLE, f"{scores}; {name} loses {x.points}") for name, x in losses.items())


@claim(
    "GLUE: ablated above sparse",
    "Section 4.1, Figure 3",
    f"{B['GLUE ablated over sparse']:g} points ({B['GLUE sparse'] - B['GLUE ablated']:.1f} by its losses)",
    "ablated less sparse: interval above 0",
)
def glue_order(e: Evidence) -> Outcome:
    """On GLUE the ablated model is better than the sparse one."""
    glue = able(side(e, GLUE))
    gain = measured(glue.scores["ablated"] - glue.scores["sparse"], glue)
    return at_least(gain, 0.0, f"{said(glue, 'ablated', 'sparse')}: {gain.points}")


def sparse_keeps(e: Evidence, name: str) -> Outcome:
    """Whether the sparse configuration keeps most of base."""
    mmlu = side(e, name)
    base, sparse = mmlu.scores["base"], mmlu.scores["sparse"]
    able(mmlu, (1 - KEPT) * base[0])
    ours = f"{said(mmlu, 'base', 'sparse')}: {100 * sparse[0] / base[0]:.0f} % of base"
    return at_most(measured(KEPT * base - sparse, mmlu), 0.0, ours, best=KEPT - 1)


sparse_claim = partial(
    claim,
    where="Abstract, Section 4.1",
    paper=f"{100 * B['MMLU kept']:g} % of base; {B['MMLU sparse']:g} points below",
    test=f"more than {100 * KEPT:g} % of base (tolerance 5): interval",
)


@sparse_claim("MMLU, knowledge: sparse keeps it", hypothesis="abstract")
def mmlu_sparse_knowledge(e: Evidence) -> Outcome:
    """The sparse model keeps most of its MMLU score (facts in the weights)."""
    return sparse_keeps(e, KNOWLEDGE)


@sparse_claim("MMLU, lookup: sparse keeps it")
def mmlu_sparse_lookup(e: Evidence) -> Outcome:
    """The sparse model keeps most of its MMLU score (look-ups far back)."""
    return sparse_keeps(e, LOOKUP)


def ablated_loses(e: Evidence, name: str) -> Outcome:
    """Whether the ablated configuration loses much."""
    mmlu = able(side(e, name), HALF)
    lost = loss(mmlu, "ablated")
    return at_least(lost, HALF, f"{said(mmlu, 'base', 'ablated')}: loses {lost.points}")


ablated_claim = partial(
    claim,
    where="Section 4.1, Figure 3",
    paper=f"around {B['MMLU ablated']:g} points below base",
    test=f"loss: interval above {100 * HALF:g} points, half of the paper's",
)


@ablated_claim("MMLU, knowledge: ablated loses it")
def mmlu_ablated_knowledge(e: Evidence) -> Outcome:
    """The ablated model loses much of its MMLU score (facts in the weights)."""
    return ablated_loses(e, KNOWLEDGE)


@ablated_claim("MMLU, lookup: ablated loses it")
def mmlu_ablated_lookup(e: Evidence) -> Outcome:
    """The ablated model loses much of its MMLU score (look-ups far back)."""
    return ablated_loses(e, LOOKUP)


@claim(
    "MMLU falls more than GLUE",
    "Sections 4.1, 4.2",
    f"about {B['MMLU ablated']:g} against {B['GLUE ablated']:g} points",
    "loss on the MMLU side (mean of its parts) less that on the GLUE side: interval above 0",
)
def contrast(e: Evidence) -> Outcome:
    """Ablation costs more on MMLU than on GLUE."""
    lookup = [LOOKUP] if (items(e)["group"] == LOOKUP).any() else []
    sides = [able(side(e, name), LITTLE) for name in (GLUE, KNOWLEDGE, *lookup)]
    glue, *parts = [one.scores["base"] - one.scores["ablated"] for one in sides]
    mmlu = np.mean(parts, axis=0)
    more = measured(mmlu - glue, *sides)
    ours = f"loses {percent(mmlu[0])} points on the MMLU side, {percent(glue[0])} on the GLUE side"
    return at_least(more, 0.0, f"{ours}: {more.points} more")


CLAIMS = [one for one in vars().values() if isinstance(one, Claim)]
