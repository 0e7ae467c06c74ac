"""What one model did under one recipe, as numbers with intervals: what the claims of the paper are judged by.

A cell's accuracy *above the floor* is its accuracy less what the same condition earns on the control prompt of the same
length, which holds no needle. Comparisons are of accuracies above the floor, and paired: they are taken cell by cell,
and resampled prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from hybret import paper, tables
from hybret.intervals import mean_interval, unseen
from hybret.recipe import RECIPES
from hybret.tipping import NOTHING, RETRIEVES, heads_kept

KEY = [column for column in tables.CELL if column != "template"]  # JRT cells pair with those read once
GROUND = ["haystack", "haystack_seed", "asked", "length"]  # what a cell shares with its control prompt


class NotTestable(Exception):  # noqa: N818 (not an error: an answer)
    """A claim cannot be tested on these rows: `why`, and `ours`, what was measured all the same."""

    def __init__(self, why: str, ours: str = "", estimate: Estimate | None = None) -> None:
        super().__init__(why)
        self.why, self.ours, self.estimate = why, ours, estimate


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes
    ----------
    value, low, high : fractions, not per cent.
    n : rows, or items of a benchmark.
    prompts : distinct prompts among them, or lists, facts and single items of a benchmark: what is resampled.
    scale : least and greatest possible value.
    unit : ``"share"`` (of the maximum score, or of items) or ``"heads"``.
    """

    value: float
    low: float
    high: float
    n: int
    prompts: int
    scale: tuple[float, float] = (0.0, 1.0)
    unit: str = "share"

    def __str__(self) -> str:
        return f"{percent(self.value)} % ({percent(self.low)} to {percent(self.high)})"

    @property
    def points(self) -> str:
        """A difference, in percentage points."""
        return f"{percent(self.value, '+')} points ({percent(self.low, '+')} to {percent(self.high, '+')})"

    def best_bound(self, best: float, side: int) -> float:
        """The upper (`side` 1) or lower (-1) end of the interval if all these prompts gave the value `best`."""
        end = self.scale[1] if side > 0 else self.scale[0]
        return best + unseen(self.prompts) * (end - best)


def percent(value: float, sign: str = "") -> str:
    """A fraction as per cent with one decimal, never "-0.0"."""
    return f"{round(100 * value, 1) + 0.0:{sign}.1f}"


@dataclass(frozen=True)
class Evidence:
    """Everything that is known of one model under one recipe.

    Parameters
    ----------
    model, recipe : names, as in the rows.
    rows : rows of sweeps; may be empty.
    benchmarks : one row per benchmark item and configuration (base, sparse, ablated); may be empty.
    heads_known : query heads per attention layer; None takes the largest k of the rows.
    parameters : size of the model, None if unknown.
    texts : text of each prompt by `Prompt.key`.
    family : transformers' model type, empty if unknown.
    questions : what the prompts of `texts` ask.
    """

    model: str
    recipe: str
    rows: pd.DataFrame
    benchmarks: pd.DataFrame
    heads_known: int | None = None
    parameters: int | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    family: str = ""
    questions: Collection[str] = ()
    _known: dict[Any, pd.DataFrame] = field(default_factory=dict, init=False, repr=False)

    # ------------------------------------------------------------ what was run

    @cached_property
    def heads(self) -> int:
        """Heads of a layer."""
        if self.heads_known is not None:
            return self.heads_known
        if self.rows.empty or self.rows["k"].isna().all():
            raise NotTestable("not run: no sweep over the number of heads")
        return int(self.rows["k"].max())

    @property
    def counterpart(self) -> str:
        """The paper's model with as many heads, to which its sentences about single models are put."""
        if (name := paper.counterpart(self.heads)) is None:
            raise NotTestable(f"the paper says this of models with 10, 16 and 32 heads, and this one has {self.heads}")
        return name

    def kept(self, k: int, during: str = "generation", jrt: bool = False) -> pd.DataFrame:
        """Cells at k heads (`during` "generation" or "both"), prompts read once or twice."""
        version = {"generation": "generation version", "both": "prefill version"}[during]
        return self._cells((k, during, jrt), f"k = {k}, {version}{', read twice' if jrt else ''}")

    def pair(self, name: str) -> pd.DataFrame:
        """Cells of a pair of manipulations, named as in the paper: "Generation-Prefill"."""
        if self.family == "jamba" and self.recipe in RECIPES and RECIPES[self.recipe].jamba_manipulation == "no-op":
            raise NotTestable("under this recipe manipulations do not act on Jamba, as in the authors' code")
        return self._cells((*name.lower().split("-"), False), name)

    @cached_property
    def _conditions(self) -> dict[Any, pd.DataFrame]:
        """Rows by (k, during, whether read twice) and by (generation, prefill, whether read twice)."""
        if self.rows.empty:
            return {}
        rows = self.rows.assign(_twice=self.rows["template"] == "jrt")
        kept, pairs = heads_kept(rows), rows[rows["k"].isna()]
        keys = ((kept, ["k", "during", "_twice"]), (pairs, ["generation", "prefill", "_twice"]))
        return {key: part for own, by in keys for key, part in own.groupby(by, sort=False)}

    def _cells(self, key: Any, name: str) -> pd.DataFrame:
        """One line per cell: KEY, prompt, in_window, value (accuracy), floor, credit (any points) and its floor."""
        if key in self._known:
            return self._known[key]
        if key not in self._conditions:
            raise NotTestable(f"not run: {name}")
        rows = self._conditions[key]
        rows = rows.assign(value=tables.fraction(rows), credit=(rows["score"] > 0).astype(float))
        control = rows["needle"] == tables.CONTROL
        ground = rows[control].groupby(GROUND)[["value", "credit"]].mean()
        cells = rows.loc[~control, [*KEY, "prompt", "in_window", "value", "credit"]].drop_duplicates(KEY)
        if cells.empty:
            raise NotTestable(f"not run: {name}")
        cells = cells.join(ground.add_suffix("_floor"), on=GROUND, how="inner")
        if cells.empty:
            raise NotTestable(f"not run: the control of {name}")
        self._known[key] = cells
        return cells

    # ------------------------------------------------------------ estimates

    def untouched(self, cells: pd.DataFrame) -> Estimate:
        """Accuracy of the untouched model.

        Raises
        ------
        NotTestable
            If it hardly retrieves, so that there is nothing to lose.
        """
        if (above := over_floor(cells)).value <= RETRIEVES:
            raise NotTestable(
                f"untouched, the model scores {percent(above.value)} points above the floor, too little to lose"
            )
        return accuracy(cells)

    @cached_property
    def ks(self) -> list[int]:
        """Numbers of heads that were kept, in rising order, in the generation version read once."""
        return sorted(int(key[0]) for key in self._conditions if key[1:] == ("generation", False))

    @cached_property
    def collapse(self) -> tuple[int, int, int]:
        """The largest k at which, as at every smaller one, nothing is left above the floor: value, low, high.

        Low and high are the least and the greatest k that the intervals of the single accuracies allow; where the next
        larger k was not run, it may be the one before the next that was. -1 means that something is left at k = 0.
        """
        self.kept(0)
        ks = [k for k in self.ks if k < self.heads]
        limits = [over_floor(self.kept(k)) for k in ks]
        value, low, high = (
            int(np.logical_and.accumulate([getattr(e, name) <= limit for e in limits]).sum())
            for name, limit in (("value", NOTHING), ("high", NO_MORE), ("low", NOTHING))
        )
        gone = [-1, *ks]  # by how many of the leading accuracies are nothing
        return gone[value], gone[min(low, value)], [*ks, self.heads][max(high, value)] - 1


NO_MORE = 0.05  # upper end of an interval that counts as zero: 0 of 100 prompts, the paper's number, reaches 0.037


def accuracy(cells: pd.DataFrame) -> Estimate:
    """Mean accuracy of cells."""
    return estimate(cells, cells["value"], (0.0, 1.0))


def over_floor(cells: pd.DataFrame, column: str = "value") -> Estimate:
    """Mean accuracy above the floor; with ``column="credit"`` the share of answers with any points above it."""
    ground = cells[f"{column}_floor"]
    return estimate(cells, cells[column] - ground, (-float(ground.max()), 1 - float(ground.min())), [ground])


def paired(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """The cells that both have, columns of `b` with the suffix ``_b``.

    Raises
    ------
    NotTestable
        If they share none.
    """
    both = a.merge(b, on=KEY, suffixes=("", "_b"))
    if both.empty:
        raise NotTestable("the conditions were not run on the same prompts")
    return both


def difference(a: pd.DataFrame, b: pd.DataFrame, share: float = 1.0) -> Estimate:
    """Accuracy of `a` less `share` times that of `b`, both above the floor, cell by cell."""
    return less(paired(a, b), share)


def less(both: pd.DataFrame, share: float = 1.0) -> Estimate:
    """`difference` of cells that are `paired` already."""
    floor, floor_b = both["value_floor"], both["value_floor_b"]
    values = both["value"] - floor - share * (both["value_b"] - floor_b)
    return estimate(both, values, (-share - float(floor.max()), 1 + share * float(floor_b.max())), [floor, floor_b])


def estimate(
    cells: pd.DataFrame, values: pd.Series, scale: tuple[float, float], floors: Sequence[pd.Series] = ()
) -> Estimate:
    """Mean of one value per cell, resampled by prompt.

    Where the `floors` in the values differ between the controls, those are part of the chance: then all cells of a
    length are resampled together, since they share one control prompt.
    """
    units = cells["prompt"]
    if any(floor.nunique() > 1 for floor in floors):
        units = cells[GROUND].astype(str).agg("/".join, axis=1)
    mean, low, high, _ = mean_interval(values.to_numpy(float), units.to_numpy(), scale)
    return Estimate(mean, low, high, len(values), cells["prompt"].nunique(), scale)
