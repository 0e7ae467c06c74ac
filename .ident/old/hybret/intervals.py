"""Means with 95 % intervals, by a bootstrap over prompts.

The interval is the percentile interval of resampled prompts, all rows of a prompt together. Where all prompts
of a group have the same value, resampling says nothing; then the interval is what the mean would be if the
share of prompts that behave otherwise, of which none was seen in n, stood at its Wilson bound z^2 / (n + z^2)
and they lay at the end of the scale: 0 of 100 gives 0 to 3.7 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pandas as pd

_Z2 = 1.959964**2
_DRAWS_AT_ONCE = 100
_KEPT = 500  # prompts up to which the draws are kept in memory: 4 MB


def unseen(n: int) -> float:
    """Greatest share of prompts that may behave otherwise when none of `n` did (Wilson, 95 %): 0.037 for 100."""
    return _Z2 / (n + _Z2)


def grouped_means(
    rows: pd.DataFrame, by: list[str], scale: tuple[float, float], n_boot: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Mean of the column `_value` per group, with its interval.

    Parameters
    ----------
    rows : has `_value`, `exact` and `prompt`.
    by : columns that make the groups; none makes one group.
    scale : least and greatest possible `_value`.
    n_boot, seed : bootstrap draws and their seed.

    Returns
    -------
    DataFrame
        `by`, mean, low, high, exact (mean of `exact`), n (rows), prompts (distinct prompts).
    """
    rows = rows.assign(_all=0, exact=rows["exact"].astype(float))
    groups = rows.groupby(by or ["_all"], dropna=False, sort=False, observed=True)
    table = groups.agg(mean=("_value", "mean"), exact=("exact", "mean"), n=("_value", "size")).reset_index()
    # Sum and count of every prompt in every group; groups are numbered in the order of `table`.
    units = rows.assign(_group=groups.ngroup()).groupby(["_group", "prompt"], sort=True)["_value"].agg(["sum", "size"])
    members = units.groupby(level="_group").indices
    sums, sizes = units["sum"].to_numpy(float), units["size"].to_numpy(float)
    table["prompts"] = [len(members[g]) for g in range(len(table))]
    bounds = np.empty((2, len(table)))
    # Groups with as many prompts share their draws, so that one product serves them all.
    for n in sorted(set(table["prompts"])):
        same = np.flatnonzero(table["prompts"] == n)
        take = np.stack([members[g] for g in same], axis=1)  # [prompts, groups]
        bounds[:, same] = _interval(sums[take], sizes[take], n, scale, n_boot, seed)
    table["low"], table["high"] = bounds
    return table[[*by, "mean", "low", "high", "exact", "n", "prompts"]]


def mean_interval(
    values: np.ndarray, prompts: np.ndarray, scale: tuple[float, float]
) -> tuple[float, float, float, int]:
    """`grouped_means` for one group, without a table: mean, low, high, and the number of distinct prompts."""
    names, unit = np.unique(prompts.astype(str), return_inverse=True)
    sums, sizes = np.bincount(unit, values), np.bincount(unit).astype(float)
    low, high = _interval(sums[:, None], sizes[:, None], len(names), scale)
    return float(values.mean()), float(low[0]), float(high[0]), len(names)


def _interval(
    sums: np.ndarray, sizes: np.ndarray, n: int, scale: tuple[float, float], n_boot: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of sum(sums) / sum(sizes), both [prompts, groups], prompts resampled together."""
    weights = [_drawn(n, n_boot, seed)] if n <= _KEPT else _draws(n, n_boot, seed)
    means = [(w @ sums) / (w @ sizes) for w in weights]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5], axis=0)
    each = sums / sizes
    mean = sums.sum(axis=0) / sizes.sum(axis=0)
    constant = np.ptp(each, axis=0) < 1e-12
    low = np.where(constant, mean - unseen(n) * (mean - scale[0]), low)
    high = np.where(constant, mean + unseen(n) * (scale[1] - mean), high)
    return low, high


def _draws(n: int, n_boot: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of `n` prompts is drawn, [draws, prompts], a few draws at a time."""
    generator = np.random.default_rng([seed, n])
    for start in range(0, n_boot, _DRAWS_AT_ONCE):
        draws = min(_DRAWS_AT_ONCE, n_boot - start)
        yield generator.multinomial(n, np.full(n, 1 / n), size=draws).astype(float)


@lru_cache(maxsize=8)
def _drawn(n: int, n_boot: int, seed: int) -> np.ndarray:
    """All draws at once: a page asks for hundreds of intervals over as many prompts, and drawing takes the time."""
    return np.concatenate([*_draws(n, n_boot, seed)])
