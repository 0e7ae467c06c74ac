"""What one model did under one recipe, as numbers with intervals: what the claims of the paper are judged by.

A cell's accuracy *above the floor* is its accuracy less what the same condition earns on the control prompt of the same
length, which holds no needle. Comparisons are paired: they are taken cell by cell, and resampled prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from . import paper, tables
from .intervals import mean_interval, unseen
from .recipe import RECIPES
from .tipping import NOTHING, RETRIEVES

KEY = [column for column in tables.CELL if column != "template"]  # JRT cells pair with those read once
GROUND = ["haystack", "haystack_seed", "length"]  # what a cell shares with its control prompt


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
    heads : query heads per attention layer; None takes the largest k of the rows.
    parameters : size of the model, None if unknown.
    texts : text of each prompt by `Prompt.key`.
    family : transformers' model type, empty if unknown.
    """

    model: str
    recipe: str
    rows: pd.DataFrame
    benchmarks: pd.DataFrame
    heads_known: int | None = None
    parameters: int | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    family: str = ""

    # ------------------------------------------------------------ what was run

    @cached_property
    def heads(self) -> int:
        """Heads of a layer."""
        if self.heads_known is not None:
            return self.heads_known
        if self.rows.empty or self.rows["k"].isna().all():
            raise NotTestable("not run: no sweep over the number of heads")
        return int(self.rows["k"].max())

    @cached_property
    def counterpart(self) -> str | None:
        """The paper's model with as many heads, to which its sentences about single models are put."""
        return paper.counterpart(self.heads)

    @cached_property
    def windowed(self) -> bool:
        """Whether some needle has left the attention window when the answer begins."""
        needle = self.rows[self.rows["needle"] != tables.CONTROL] if len(self.rows) else self.rows
        return bool(len(needle)) and not needle["in_window"].all()

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
        # Heads kept by another measure than entropy are another rule than the paper's.
        heads = rows[rows["k"].notna() & ~rows["intervention"].str.contains("l2", regex=False)]
        pairs = rows[rows["k"].isna()]
        return {
            **dict(iter(heads.groupby(["k", "during", "_twice"], sort=False))),
            **dict(iter(pairs.groupby(["generation", "prefill", "_twice"], sort=False))),
        }

    @cached_property
    def _known(self) -> dict[Any, pd.DataFrame]:
        return {}

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
    def collapse(self) -> tuple[int, int, int]:
        """The largest k at which, as at every smaller one, nothing is left above the floor: value, low, high.

        Low and high are the least and the greatest k that the intervals of the single accuracies allow; -1 means that
        something is left at k = 0.
        """
        limits = [over_floor(self.kept(k)) for k in range(self.heads)]
        value, low, high = (
            np.array([getattr(e, name) for e in limits]) <= limit
            for name, limit in (("value", NOTHING), ("high", NO_MORE), ("low", NOTHING))
        )
        return _run(value), min(_run(low), _run(value)), max(_run(high), _run(value))


NO_MORE = 0.05  # upper end of an interval that counts as zero: 0 of 100 prompts, the paper's number, reaches 0.037


def _run(holds: np.ndarray) -> int:
    """Index of the last of the leading true values; -1 without any."""
    return int(np.logical_and.accumulate(holds).sum()) - 1


def accuracy(cells: pd.DataFrame) -> Estimate:
    """Mean accuracy of cells."""
    return estimate(cells, cells["value"], (0.0, 1.0))


def over_floor(cells: pd.DataFrame, column: str = "value") -> Estimate:
    """Mean accuracy above the floor; with ``column="credit"`` the share of answers with any points above it."""
    ground = cells[f"{column}_floor"]
    return estimate(cells, cells[column] - ground, (-float(ground.max()), 1 - float(ground.min())))


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


def difference(a: pd.DataFrame, b: pd.DataFrame, share: float = 1.0, floors: bool = False) -> Estimate:
    """Accuracy of `a` less `share` times that of `b`, cell by cell; with `floors` both are taken above theirs."""
    both = paired(a, b)
    first = both["value"] - both["value_floor"] * floors
    second = both["value_b"] - both["value_floor_b"] * floors
    return estimate(both, first - share * second, (-share, 1.0))


def estimate(cells: pd.DataFrame, values: pd.Series, scale: tuple[float, float]) -> Estimate:
    """Mean of one value per cell, resampled by prompt."""
    mean, low, high, prompts = mean_interval(values.to_numpy(float), cells["prompt"].to_numpy(), scale)
    return Estimate(mean, low, high, len(values), prompts, scale)


def item_means(values: pd.DataFrame, seed: int = 0) -> Estimate:
    """Mean over tasks of the mean over items; resampled within their task, items of one cluster together.

    Parameters
    ----------
    values : columns task, cluster (items about one list or fact), and value of each item (from -1 to 1).
    """
    tasks = [part.groupby("cluster")["value"].agg(["sum", "size"]) for _, part in values.groupby("task")]
    mean = float(np.mean([task["sum"].sum() / task["size"].sum() for task in tasks]))
    n, clusters, scale = len(values), sum(map(len, tasks)), (-1.0, 1.0)
    if np.ptp(values["value"].to_numpy(float)) < 1e-12:
        off = unseen(clusters)
        return Estimate(mean, mean - off * (mean + 1), mean + off * (1 - mean), n, clusters, scale)
    generator = np.random.default_rng([seed, clusters])
    draws = np.zeros(1000)
    for task in tasks:
        chosen = task.to_numpy(float)[generator.integers(len(task), size=(1000, len(task)))].sum(axis=1)
        draws += chosen[:, 0] / chosen[:, 1] / len(tasks)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Estimate(mean, float(low), float(high), n, clusters, scale)
