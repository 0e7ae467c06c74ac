"""Claims about general abilities: GLUE and MMLU under sparsification (Section 4, H2)."""

from __future__ import annotations

from functools import partial

import pandas as pd

from . import paper
from .claims import Claim, Outcome, at_least, at_most, hardest
from .evidence import Estimate, Evidence, NotTestable, item_means, percent

B = {name: one.value for name, one in paper.BENCHMARKS.items()}
LITTLE = 0.10  # a loss on GLUE that is still little: the paper's larger one, 9.1 points, rounded up
KEPT = B["MMLU kept"] - 0.05  # share of base, with a tolerance of 5 points below the paper's
HALF = B["MMLU ablated"] / 200  # half of the paper's loss of 42 points, as a fraction
GLUE = "glue"
# The embedded models' own tasks come in two parts: questions on facts in the weights, as MMLU's are, and look-ups of
# one of many items far back in the context.
LOOKUP, KNOWLEDGE = "mmlu-lookup", "mmlu"


def items(e: Evidence, side: str) -> pd.DataFrame:
    """Items of a side, one line each: task, cluster, chance, and whether base, sparse and ablated are right."""
    group = e.benchmarks["group"].astype(str)
    of_side = group.str.startswith(KNOWLEDGE) & (group != LOOKUP) if side == KNOWLEDGE else group == side
    if not of_side.any():
        raise NotTestable(f"not run: no benchmark of the {side} side")
    rows = e.benchmarks[of_side]
    rows = rows.assign(correct=rows["correct"].astype(float), chance=1 / rows["choices"].astype(float))
    table = rows.pivot_table(index=["task", "doc_id", "cluster", "chance"], columns="condition", values="correct")
    for condition in ("base", "sparse", "ablated"):
        if condition not in table or table[condition].isna().any():
            raise NotTestable(f"not run: the {condition} configuration on every item of the {side} side")
    return table.reset_index()


def able(table: pd.DataFrame, more: float = 0.0) -> Estimate:
    """Accuracy of the base configuration, which must be above chance by more than `more`."""
    base = item_means(table.assign(value=table["base"]))
    above = item_means(table.assign(value=table["base"] - table["chance"]))
    if above.low <= more:
        chance = percent(base.value - above.value)
        raise NotTestable(f"the base configuration gets {base}, and chance is {chance} %: too little to lose")
    return base


def lost(table: pd.DataFrame, condition: str, share: float = 1.0) -> Estimate:
    """`share` of base, less a configuration: what it lost."""
    return item_means(table.assign(value=share * table["base"] - table[condition]))


def scores(table: pd.DataFrame, *conditions: str) -> str:
    """Accuracies in words."""
    return ", ".join(f"{name} {percent(item_means(table.assign(value=table[name])).value)} %" for name in conditions)


def glue_kept(e: Evidence) -> Outcome:
    """Whether neither configuration loses much on sentence tasks."""
    table = items(e, GLUE)
    able(table)
    losses = {condition: lost(table, condition) for condition in ("ablated", "sparse")}
    said = scores(table, "base", "sparse", "ablated")
    return hardest(at_most(x, LITTLE, f"{said}; {name} loses {x.points}") for name, x in losses.items())


def glue_order(e: Evidence) -> Outcome:
    """Whether no attention is better than a little on sentence tasks."""
    table = items(e, GLUE)
    able(table)
    gain = item_means(table.assign(value=table["ablated"] - table["sparse"]))
    return at_least(gain, 0.0, f"{scores(table, 'ablated', 'sparse')}: {gain.points}")


def mmlu_sparse(e: Evidence, side: str) -> Outcome:
    """Whether the sparse configuration keeps most of base."""
    table = items(e, side)
    base = able(table)
    sparse = item_means(table.assign(value=table["sparse"]))
    missing = lost(table, "sparse", KEPT)
    ours = f"{scores(table, 'base', 'sparse')}: {100 * sparse.value / base.value:.0f} % of base"
    return at_most(missing, 0.0, ours, best=KEPT - 1)


def mmlu_ablated(e: Evidence, side: str) -> Outcome:
    """Whether the ablated configuration loses much."""
    table = items(e, side)
    able(table, HALF)
    loss = lost(table, "ablated")
    return at_least(loss, HALF, f"{scores(table, 'base', 'ablated')}: loses {loss.points}")


def contrast(e: Evidence) -> Outcome:
    """Whether ablation costs more on the MMLU side than on the GLUE side."""
    group = e.benchmarks["group"].astype(str)
    lookup = [LOOKUP] if (group == LOOKUP).any() else []
    glue, *mmlu = (items(e, side) for side in (GLUE, KNOWLEDGE, *lookup))
    for table in (glue, *mmlu):
        able(table)
    few = lost(glue, "ablated")
    much = [lost(table, "ablated") for table in mmlu]
    mean = sum(x.value for x in much) / len(much)
    # Independent items: the variances of the parts add up.
    spread = [(few.high - few.low) / 2, *((x.high - x.low) / 2 / len(much) for x in much)]
    half = sum(s * s for s in spread) ** 0.5
    n, prompts = few.n + sum(x.n for x in much), few.prompts + sum(x.prompts for x in much)
    more = Estimate(mean - few.value, mean - few.value - half, mean - few.value + half, n, prompts, (-1.0, 1.0))
    ours = f"loses {percent(mean)} points on the MMLU side, {percent(few.value)} on the GLUE side: {more.points} more"
    return at_least(more, 0.0, ours)


NEEDS = "benchmark items in the configurations base, sparse and ablated"

claim = partial(Claim, notebook="benchmarks", figure="fig-benchmarks", needs=NEEDS)

CLAIMS = (
    claim(
        name="glue-kept",
        label="GLUE falls little",
        hypothesis="H2",
        says="On GLUE neither sparsification nor ablation costs much.",
        where="Section 4.1, Figure 3",
        paper=f"ablated {B['GLUE ablated']:g}, sparse {B['GLUE sparse']:g} points below base",
        test=f"loss of either: interval at most {100 * LITTLE:g} points",
        judge=glue_kept,
    ),
    claim(
        name="glue-order",
        label="GLUE: ablated above sparse",
        hypothesis="H2",
        says="On GLUE the ablated model is better than the sparse one.",
        where="Section 4.1, Figure 3",
        paper=f"{B['GLUE ablated over sparse']:g} points ({B['GLUE sparse'] - B['GLUE ablated']:.1f} by its losses)",
        test="ablated less sparse: interval above 0",
        judge=glue_order,
    ),
    *(
        claim(
            name=f"mmlu-sparse-{part}",
            label=f"MMLU, {part}: sparse keeps it",
            hypothesis="H2" if part == "lookup" else "abstract",
            says=f"The sparse model keeps most of its MMLU score ({what}).",
            where="Abstract, Section 4.1",
            paper=f"{100 * B['MMLU kept']:g} % of base; {B['MMLU sparse']:g} points below",
            test=f"more than {100 * KEPT:g} % of base (tolerance 5): interval",
            judge=partial(mmlu_sparse, side=side),
        )
        for part, what, side in (
            ("knowledge", "facts in the weights", KNOWLEDGE),
            ("lookup", "look-ups far back", LOOKUP),
        )
    ),
    *(
        claim(
            name=f"mmlu-ablated-{part}",
            label=f"MMLU, {part}: ablated loses it",
            hypothesis="H2",
            says=f"The ablated model loses much of its MMLU score ({what}).",
            where="Section 4.1, Figure 3",
            paper=f"around {B['MMLU ablated']:g} points below base",
            test=f"loss: interval above {100 * HALF:g} points, half of the paper's",
            judge=partial(mmlu_ablated, side=side),
        )
        for part, what, side in (
            ("knowledge", "facts in the weights", KNOWLEDGE),
            ("lookup", "look-ups far back", LOOKUP),
        )
    ),
    claim(
        name="contrast",
        label="MMLU falls more than GLUE",
        hypothesis="H2",
        says="Ablation costs more on MMLU than on GLUE.",
        where="Sections 4.1, 4.2",
        paper=f"about {B['MMLU ablated']:g} against {B['GLUE ablated']:g} points",
        test="loss on the MMLU side (mean of its parts) less that on the GLUE side: interval above 0",
        judge=contrast,
    ),
)
