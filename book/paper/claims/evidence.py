"""The results of one model under one recipe as numbers with intervals, by which the claims of the paper are judged.

Accuracies are compared above the score without the needle: a prompt's accuracy less that of the same condition on the
control prompt of the same length. Comparisons are paired, prompt by prompt. Every claim about accuracy is judged twice:
by the paper's points (`measure` "points"), and by exact answers alone ("exact").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd

from book.paper.tipping import RETRIEVES, heads_kept
from hybret import metrics
from hybret.figures.style import VERSIONS
from hybret.metrics import NOTHING, mean_interval
from hybret.recipe import RECIPES
from hybret.rows import CELL

NO_MORE = 0.05  # upper end of an interval that counts as zero: 0 of 100 prompts, the paper's number, reaches 0.037
# What makes a cell (JRT cells pair with those read once), and what it shares with its control prompt.
NUMBERED = {
    "cell": [column for column in CELL if column != "template"],
    "ground": ["haystack", "haystack_seed", "asked", "length"],
}


class Estimate(NamedTuple):
    """A number with its 95 % interval, as a fraction (unit "share" of the maximum score, or of items) or in "heads"."""

    value: float
    low: float
    high: float
    n: int  # rows, or items of a benchmark
    prompts: int  # what is resampled: distinct prompts, or lists, facts and single items of a benchmark
    unit: str = "share"

    def __str__(self) -> str:
        return f"{percent(self.value)} % ({percent(self.low)} to {percent(self.high)})"

    @property
    def points(self) -> str:
        """A difference, in percentage points."""
        return f"{percent(self.value, '+')} points ({percent(self.low, '+')} to {percent(self.high, '+')})"


class Unjudged(Exception):  # noqa: N818 (not an error: an answer)
    """Nothing was decided: `why`, and `ours`, which was measured all the same."""

    state = "not run"

    def __init__(self, why: str, ours: str = "") -> None:
        super().__init__(why)
        self.why, self.ours = why, ours


class NotRun(Unjudged):
    """The rows that would decide are not there."""


class CannotTest(Unjudged):
    """The unmodified model lacks what the claim rests on, or the claim is about other models or recipes."""

    state = "cannot be tested on this model"


def percent(value: float, sign: str = "") -> str:
    """A fraction as per cent with one decimal, never "-0.0"."""
    return f"{round(100 * value, 1) + 0.0:{sign}.1f}"


@dataclass(frozen=True)
class Evidence:
    """Rows and benchmark items of one model under one recipe; either may be empty."""

    model: str
    recipe: str
    rows: pd.DataFrame  # of sweeps
    benchmarks: pd.DataFrame  # one row per benchmark item and configuration (base, sparse, ablated)
    known: Any  # the loaded model, or anything with heads, parameters and family; without heads the largest k counts
    prompts: Sequence[Any]  # of the rows
    measure: str = "points"  # or "exact": 1 for an exact answer, 0 for any other
    sides: dict[str, Any] = field(default_factory=dict, init=False)  # averages of benchmarks, made once for all claims

    @cached_property
    def exactly(self) -> Evidence:
        """The same rows, judged by exact answers."""
        return replace(self, measure="exact")

    @cached_property
    def heads(self) -> int:
        """Heads of a layer."""
        if (heads := getattr(self.known, "heads", None)) is not None:
            return heads
        if self.rows.empty or self.rows["k"].isna().all():
            raise NotRun("no sweep over the number of heads")
        return int(self.rows["k"].max())

    def kept(self, k: int, during: str = "generation", jrt: bool = False) -> pd.DataFrame:
        """Cells at k heads (`during` "generation" or "both"), prompts read once or twice."""
        return self.cells((k, during, jrt), f"k = {k}, {VERSIONS[during]}{', read twice' if jrt else ''}")

    def pair(self, name: str) -> pd.DataFrame:
        """Cells of a pair of manipulations, named as in the paper: "Generation-Prefill".

        Keep-Keep is the unmodified model, which a sweep over heads with all of them has, too.
        """
        idle = self.recipe in RECIPES and RECIPES[self.recipe].jamba_manipulation == "no-op"
        if idle and getattr(self.known, "family", None) == "jamba":
            raise CannotTest("under this recipe manipulations do not act on Jamba, as in the authors' code")
        key = (*name.lower().split("-"), False)
        return self.kept(self.heads) if name == "Keep-Keep" and key not in self.conditions else self.cells(key, name)

    @cached_property
    def conditions(self) -> dict[Any, pd.DataFrame]:
        """Cells by (k, during, whether read twice) and by (generation, prefill, whether read twice); see `cells`."""
        if self.rows.empty:
            return {}
        found: dict[Any, pd.DataFrame] = {}
        rows = self.rows.assign(_twice=self.rows["template"] == "jrt", prompt=pd.factorize(self.rows["prompt"])[0])
        rows = rows.assign(**{name: rows.groupby(of, dropna=False).ngroup() for name, of in NUMBERED.items()})
        value = rows["exact"].astype(float) if self.measure == "exact" else metrics.fraction(rows)
        rows = rows.assign(value=value, credit=(rows["score"] > 0).astype(float))
        for table, by in ((heads_kept(rows), ["k", "during"]), (rows[rows["k"].isna()], ["generation", "prefill"])):
            by, control = [*by, "_twice"], table["needle"] == metrics.CONTROL
            floors = table[control].groupby([*by, "ground"])[["value", "credit"]].mean().add_suffix("_floor")
            cells = table.loc[~control, [*by, "cell", "ground", "prompt", "in_window", "value", "credit"]]
            cells = cells.drop_duplicates([*by, "cell"]).join(floors, on=[*by, "ground"])
            parts = cells.drop(columns=by).set_index("cell").groupby([cells[name].array for name in by], sort=False)
            found |= {key: part[part["value_floor"].notna()] for key, part in parts}
        return found

    def cells(self, key: Any, name: str) -> pd.DataFrame:
        """One line per cell: ground and prompt as numbers, in_window, value (accuracy), credit (any points), floors."""
        if key not in self.conditions:
            raise NotRun(name)
        if self.conditions[key].empty:
            raise NotRun(f"the control of {name}")
        return self.conditions[key]

    def unmodified(self, cells: pd.DataFrame) -> pd.DataFrame:
        """The cells of the unmodified model, which must retrieve: otherwise there is nothing to lose."""
        if over_floor(cells).value <= RETRIEVES:
            raise CannotTest(f"unmodified, the model scores {words(cells)}: too little to lose")
        return cells

    @cached_property
    def ks(self) -> list[int]:
        """Numbers of heads that were kept, in rising order, in the generation version read once."""
        return sorted(int(key[0]) for key in self.conditions if key[1:] == ("generation", False))

    @cached_property
    def collapse(self) -> tuple[int, int, int]:
        """The largest k at which, as at every smaller one, nothing is left above the floor: value, low, high.

        Low and high are the least and the greatest k that the intervals of the single accuracies allow. If the next
        larger k was not run, high is the one before the next that was. -1 means that something is left at k = 0.
        """
        self.kept(0)
        ks = [k for k in self.ks if k < self.heads]
        estimates = [over_floor(self.kept(k)) for k in ks]

        def leading(holds: Callable[[Estimate], bool]) -> int:
            """How many estimates hold before the first that does not."""
            return next((n for n, e in enumerate(estimates) if not holds(e)), len(estimates))

        value, low = leading(lambda e: e.value <= NOTHING), leading(lambda e: e.high <= NO_MORE)
        high = leading(lambda e: e.low <= NOTHING)
        gone = [-1, *ks]  # the largest of the first n ks
        return gone[value], gone[min(low, value)], [*ks, self.heads][max(high, value)] - 1


def words(cells: pd.DataFrame) -> str:
    """Accuracy in words: inside and beyond the window apart, and as a count where all answers are right or wrong."""
    sides = {"": cells}
    if cells["in_window"].nunique() > 1:
        sides = {" inside the window": cells[cells["in_window"]], " beyond it": cells[~cells["in_window"]]}
    parts = []
    for side, part in sides.items():
        values = part["value"]
        counted = f"{values.sum():.0f} of {len(values)}" if values.isin([0.0, 1.0]).all() else ""
        parts.append((counted or str(estimate(part, values, (0.0, 1.0)))) + side)
    return ", ".join(parts)


def over_floor(cells: pd.DataFrame, column: str = "value") -> Estimate:
    """Mean accuracy above the floor; with ``column="credit"`` the share of answers with any points above it."""
    ground = cells[f"{column}_floor"]
    return estimate(cells, cells[column] - ground, (-float(ground.max()), 1 - float(ground.min())), [ground])


def paired(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """The cells that both have, columns of `b` with the suffix ``_b``."""
    both = a.join(b.add_suffix("_b"), how="inner")
    if both.empty:
        raise NotRun("the conditions on the same prompts")
    return both


def difference(a: pd.DataFrame, b: pd.DataFrame, share: float = 1.0, least: float | None = None) -> Estimate:
    """Accuracy of `a` less `share` times that of `b`, above the control's, cell by cell; `least` can it be."""
    return less(paired(a, b), share, least)


def less(both: pd.DataFrame, share: float = 1.0, least: float | None = None) -> Estimate:
    """`difference` of cells that are `paired` already."""
    floor, floor_b = both["value_floor"], both["value_floor_b"]
    values = both["value"] - floor - share * (both["value_b"] - floor_b)
    low = -share - float(floor.max()) if least is None else least
    return estimate(both, values, (low, 1 + share * float(floor_b.max())), [floor, floor_b])


def estimate(
    cells: pd.DataFrame, values: pd.Series, scale: tuple[float, float], floors: Sequence[pd.Series] = ()
) -> Estimate:
    """Mean of one value per cell, resampled by prompt.

    If the `floors` in the values differ between the controls, those are part of the chance: then all cells of a length
    are resampled together, since they share one control prompt.
    """
    units, sides = cells["prompt"], cells["in_window"].to_numpy(bool) if "in_window" in cells else None
    if any(floor.nunique() > 1 for floor in floors):
        units, sides = cells["ground"], None
    mean, low, high, _ = mean_interval(values.to_numpy(float), pd.factorize(units)[0], scale, sides)
    return Estimate(mean, low, high, len(values), cells["prompt"].nunique())
