"""Metrics of rows: accuracy, the score of the controls, paired differences, all with 95 % intervals.

Accuracy is the mean score divided by the rubric's maximum (0 to 1), over comparable rows, each of them once. Control
rows, whose prompts leave the needle out, never enter an accuracy beside rows with a needle; their score is the floor of
the needle that they leave out, and of no other.

Intervals say how far a mean could move with other texts at the same places of the grid. All rows of a prompt are drawn
together, since cells with identical prompts are one observation. How many prompts lie inside and how many beyond the
attention window (`in_window`) is the design of a grid, no chance: each side is resampled apart, and their intervals are
joined by the squares of their halves (MOVER). Where all prompts of a side have one value nothing is resampled: its
interval is what the mean would be if the share of prompts that behave otherwise, of which none was seen in n, were at
its Wilson bound z^2 / (n + z^2) and they lay at the end of the scale: 0 of 100 gives 0 to 3.7 %. Where all prompts of
both sides have one value they are one side. Other needles and other trainings of a model are in no interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from hybret.errors import HybretError
from hybret.prompts import CONTROL, DIGITS
from hybret.rows import ALIKE, CELL, GROUND, PLACE, checked
from hybret.scoring import RUBRICS

NOTHING = 0.03  # accuracy above the control that counts as none left: the interval of 0 in 100 prompts reaches 0.037
_Z2 = 1.959964**2
_DRAWS_AT_ONCE = 100
_KEPT = 500  # prompts up to which the draws are kept in memory: 4 MB

By = str | Sequence[str]


def accuracy(rows: pd.DataFrame, by: By = (), n_boot: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Accuracy per group.

    Parameters
    ----------
    rows : result rows; control rows are left out, unless there are no others.
    by : columns that make the groups; none gives one row for everything.
    n_boot, seed : bootstrap draws and their seed. The same seed gives the same intervals.

    Returns
    -------
    DataFrame
        `by`, then accuracy, low, high (0 to 1), exact (share of full needles), n (rows), prompts (distinct prompts).
        Beside a nominal depth is the mean `place` of the needles, which follow the end of a sentence.
    """
    rows, by = scored(rows, by, "score", "exact", "prompt")
    rows = with_needle(rows)
    check_comparable(rows, by)
    check_unique(rows, by)
    beside = ["place"] if "depth" in by and "place" in rows else []
    table = grouped_means(rows.assign(_value=fraction(rows)), by, (0.0, 1.0), n_boot, seed, beside)
    return table.rename(columns={"mean": "accuracy"})


def floor(rows: pd.DataFrame, by: By = ()) -> pd.DataFrame:
    """`accuracy` of the control rows: what the same conditions earn on prompts without the needle.

    Columns of `by` that place the needle (depth, distance, ...) are dropped, as a control has none. Beside rows with a
    needle only their own control counts (`matching_controls`).
    """
    rows, by = scored(rows, by, "needle", "score", "exact", "prompt")
    control = rows["needle"] == CONTROL
    ground = rows if control.all() else matching_controls(rows[control], rows[~control])
    if ground.empty:
        raise HybretError(
            "no control rows beside these with the same needle, haystack, template and lengths; run "
            "grid(..., control=True) under the same conditions"
        )
    return accuracy(ground, [column for column in by if column not in PLACE])


def above_floor(rows: pd.DataFrame, by: By = ()) -> pd.DataFrame:
    """`accuracy` with the floor of each group beside it.

    Added columns: floor, floor_low, floor_high, and `above` = accuracy - floor, the credit that needs the
    needle. Groups without a control row of their own needle, haystack, template and lengths have NA there.
    """
    rows, by = scored(rows, by, "needle", "score", "exact", "prompt")
    table = accuracy(rows, by)
    # Within a group all that it shares with its control is equal, so the floor is looked up under that.
    ground = [column for column in GROUND if column in rows and column not in by]
    shared = [*(column for column in by if column not in PLACE), *ground]
    floors = floor(rows, shared)
    control = rows["needle"] == CONTROL
    if "rubric" in rows and set(rows.loc[control, "rubric"]) != set(rows.loc[~control, "rubric"]):
        raise HybretError("control rows and needle rows have different rubrics; score them alike with rescore()")
    names = {"accuracy": "floor", "low": "floor_low", "high": "floor_high"}
    table = _joined(table, with_needle(rows)[[*by, *ground]].drop_duplicates(), by)
    table = _joined(table, floors[[*shared, *names]].rename(columns=names), shared)
    return table.drop(columns=ground).assign(above=table["accuracy"] - table["floor"])


def _joined(table: pd.DataFrame, more: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    return table.merge(more, on=by, how="left") if by else table.merge(more, how="cross")


def by_distance(rows: pd.DataFrame, window: int, edges: Sequence[float], by: By = "condition") -> pd.DataFrame:
    """Accuracy by the needle's distance from the end of the prompt, in attention windows (Section 5.2).

    `window` is in tokens, the `edges` of the bins in windows: an edge at 1 keeps needles inside and outside the window
    apart. Columns: `by`, near and far (the bin's edges, near included), then as `accuracy`. Empty bins are absent.
    """
    rows, by = scored(rows, by, "distance", "score", "exact", "prompt")
    rows = rows[rows["distance"] >= 0]
    if window < 1 or rows.empty:
        raise HybretError("a window analysis needs a window of at least 1 token and rows with a needle")
    if len(edges) < 2 or (np.diff(edges) <= 0).any():
        raise HybretError("bins need at least two rising edges, in windows")
    index = np.searchsorted(edges, rows["distance"].to_numpy() / window, side="right") - 1
    inside = (index >= 0) & (index < len(edges) - 1)
    rows, index = rows[inside], index[inside]
    rows = rows.assign(near=np.take(edges, index), far=np.take(edges, index + 1))
    return accuracy(rows, [*by, "near", "far"])


def departures(rows_a: pd.DataFrame, rows_b: pd.DataFrame, by: By = "condition") -> pd.DataFrame:
    """What changes from `rows_a` to `rows_b`, over the cells that both have: a paired comparison.

    Cells pair by template, haystack, needle, length and depth, not by prompt, since recipes may place a
    needle differently. Columns: `by`, a, b (accuracies), difference (b - a) with its paired bootstrap interval low,
    high (-1 to 1), changed (share of cells with another score), n (cells), prompts (distinct prompts of `rows_a`).
    """
    (rows_a, by), (rows_b, _) = (scored(rows, by, "score", "prompt") for rows in (rows_a, rows_b))
    keys = [*by, *(column for column in CELL if column in rows_a and column in rows_b and column not in by)]
    sides = []
    for rows in (with_needle(rows_a), with_needle(rows_b)):
        if rows.duplicated(keys).any():
            raise HybretError("several rows for one cell; compare one recipe of one model with one other")
        check_comparable(rows, by)
        sides.append(rows.assign(a=fraction(rows))[[*keys, "prompt", "a"]])
    pairs = sides[0].merge(sides[1].rename(columns={"a": "b"}), on=keys, suffixes=("", "_b"))
    if pairs.empty:
        raise HybretError("the two sets of rows share no cell and condition, so there is nothing to compare")
    pairs["_value"] = pairs["b"] - pairs["a"]
    table = grouped_means(pairs.assign(exact=pairs["_value"] != 0), by, (-1.0, 1.0), beside=("a", "b"))
    return table.rename(columns={"mean": "difference", "exact": "changed"})


def model_table(models: Iterable[Any]) -> pd.DataFrame:
    """Appendix A for loaded models and values like `book.paper.numbers.MODELS`: one line per model.

    Parameters are counted without embeddings, as the paper does; a window of NA is global attention.
    """
    lines = []
    for model in models:
        if hasattr(model, "net"):
            net = model.net
            parameters = sum(p.numel() for p in net.parameters()) - net.get_input_embeddings().weight.numel()
            layers, attention = net.config.num_hidden_layers, len(model.attention_layers)
        elif hasattr(model, "parameters"):
            parameters, layers, attention = model.parameters, model.layers, model.attention_layers
        else:
            raise HybretError(f"{model!r} is no model; give what hybret.load returns, or book.paper.numbers.MODELS")
        lines.append((model.name, int(parameters), layers, attention, model.heads, model.window, model.instruct))
    columns = ["model", "parameters", "layers", "attention layers", "heads", "window", "instruction-tuned"]
    return pd.DataFrame(lines, columns=columns).astype({"window": "Int64"})


def scored(rows: pd.DataFrame, by: By, *needs: str) -> tuple[pd.DataFrame, list[str]]:
    """Rows with these columns, whose scores are on the scale of a known rubric; and `by` as a list."""
    by = [by] if isinstance(by, str) else list(by)
    rows = checked(rows, [*by, *needs], complete=["prompt"])
    if rows.empty:
        raise HybretError("there are no rows to make a table of")
    if rows["score"].isna().any():
        raise HybretError("some rows have no score; score them with rescore() first")
    if "rubric" in rows and (unknown := set(rows["rubric"]) - set(RUBRICS)):
        raise HybretError(f"unknown rubric {min(map(str, unknown))!r} in these rows; score them with rescore() first")
    if not ((rows["score"] >= 0) & (fraction(rows) <= 1)).all():
        raise HybretError("some scores are outside 0 and their rubric's maximum; score them with rescore() first")
    return normalised(rows), by


def normalised(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows without rounding errors in depths and numbers of heads: 33.3 is 33.300000000000004."""
    if "depth" in rows:
        rows = rows.assign(depth=rows["depth"].astype(float).round(DIGITS))
    if "k" in rows and pd.api.types.is_float_dtype(rows["k"]):
        rounded = rows["k"].round()
        if not ((rows["k"] - rounded).abs() > 10**-DIGITS).any():
            rows = rows.assign(k=rounded.astype("Int64"))
    return rows


def check_comparable(rows: pd.DataFrame, by: Sequence[str]) -> None:
    """Refuse groups whose mean would be over several models, needles, haystacks, ... (`hybret.rows.ALIKE`).

    Haystack seeds are draws of one thing, so a mean may be over several. Columns that are absent are passed over.
    """
    for column in ALIKE:
        if column not in rows or column in by or rows[column].nunique(dropna=False) < 2:
            continue
        pairs = pd.DataFrame({"group": _groups(rows, by).ngroup(), "value": rows[column]}).drop_duplicates()
        if (mixed := pairs[pairs["group"].duplicated(keep=False)]).empty:
            continue
        values = mixed.loc[mixed["group"] == mixed["group"].iloc[0], "value"].tolist()
        shown = ", ".join(str(value)[:60] for value in values[:3]) + (", ..." if len(values) > 3 else "")
        chosen = f"{column!r}] == {values[0]!r}" if column != "intervention" else "'condition'].isin([...])"
        raise HybretError(
            f"these rows mix several values of {column!r} in one mean ({shown}); keep those of one, as in "
            f"rows[rows[{chosen}], or in a table give {column!r} in `by`"
        )


def check_unique(rows: pd.DataFrame, by: Sequence[str] = ()) -> None:
    """Refuse rows that occur twice, as after joining tables that overlap: they are one observation."""
    cell = [column for column in dict.fromkeys((*by, *ALIKE, *CELL, "prompt")) if column in rows]
    if twice := int(rows.duplicated(cell).sum()):
        raise HybretError(f"{twice} of these rows are there twice, of one condition and prompt; give each once")


def matching_controls(control: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The control rows that are a floor of `rows`: of the same needle, haystack, template, length, condition, model."""
    shared = [column for column in (*GROUND, "haystack_seed", "length") if column in control and column in rows]
    if not shared:
        return control
    wanted, present = (pd.MultiIndex.from_frame(part[shared].astype(str)) for part in (rows, control))
    return control[present.isin(wanted)]


def with_needle(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with a needle; control rows where there are no others."""
    if "needle" not in rows or (rows["needle"] == CONTROL).all():
        return rows
    return rows[rows["needle"] != CONTROL]


def fraction(rows: pd.DataFrame) -> pd.Series:
    """Scores as fractions of their rubric's `maximum`."""
    return rows["score"].astype(float) / maximum(rows)


def maximum(rows: pd.DataFrame) -> pd.Series:
    """The points of the full needle in the rubric of each row; 5 where the rows name no rubric."""
    if "rubric" not in rows:
        return pd.Series(5.0, rows.index)
    return rows["rubric"].astype(object).map({name: r.maximum for name, r in RUBRICS.items()})


def unseen(n: int) -> float:
    """Greatest share of prompts that may behave otherwise when none of `n` did (Wilson, 95 %): 0.037 for 100."""
    return _Z2 / (n + _Z2)


def _groups(rows: pd.DataFrame, by: Sequence[str]) -> Any:
    return rows.assign(_all=0).groupby([*by] or ["_all"], dropna=False, sort=False, observed=True)


def grouped_means(
    rows: pd.DataFrame,
    by: list[str],
    scale: tuple[float, float],
    n_boot: int = 1000,
    seed: int = 0,
    beside: Sequence[str] = (),
) -> pd.DataFrame:
    """Mean of the column `_value` per group, with its interval; rows also have `exact` and `prompt`.

    `scale` is the least and the greatest possible `_value`. Columns: `by`, the means of the columns `beside`, mean,
    low, high, exact (mean of `exact`), n (rows), prompts (distinct prompts).
    """
    rows = rows.assign(exact=rows["exact"].astype(float))
    groups = _groups(rows, by)
    means = {"mean": ("_value", "mean"), "exact": ("exact", "mean"), "n": ("_value", "size")}
    table = groups.agg(**means, **{column: (column, "mean") for column in beside}).reset_index()
    group = groups.ngroup().to_numpy()  # in the order of `table`
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    values, prompts = rows["_value"].to_numpy(float), pd.factorize(rows["prompt"])[0]
    sides = rows["in_window"].to_numpy(bool) if "in_window" in rows else None
    bounds = [
        mean_interval(values[take], prompts[take], scale, None if sides is None else sides[take], n_boot, seed)[1:]
        for take in members
    ]
    table[["low", "high", "prompts"]] = pd.DataFrame(bounds, index=table.index)
    return table[[*by, *beside, "mean", "low", "high", "exact", "n", "prompts"]]


def mean_interval(
    values: np.ndarray,
    prompts: np.ndarray,
    scale: tuple[float, float],
    sides: np.ndarray | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float, int]:
    """Mean, low, high and the number of distinct prompts of one group; `sides`: whether each is inside the window."""
    _, first, unit = np.unique(prompts, return_index=True, return_inverse=True)
    sums, sizes = np.bincount(unit, values), np.bincount(unit).astype(float)
    each, mean = sums / sizes, float(values.mean())
    side = np.zeros(len(first)) if sides is None or np.ptp(each) < 1e-12 else np.asarray(sides)[first]
    # By value, so that no draw depends on how prompts are named or in which order they come.
    order = np.lexsort((sizes, each))
    below = above = 0.0
    for one in np.unique(side):
        take = order[side[order] == one]
        share, middle = sizes[take].sum() / len(values), sums[take].sum() / sizes[take].sum()
        low, high = _interval(sums[take], sizes[take], scale, n_boot, seed)
        below, above = below + (share * (middle - low)) ** 2, above + (share * (high - middle)) ** 2
    return mean, mean - below**0.5, mean + above**0.5, len(first)


def _interval(
    sums: np.ndarray, sizes: np.ndarray, scale: tuple[float, float], n_boot: int, seed: int
) -> tuple[float, float]:
    """95 % interval of sum(sums) / sum(sizes), both by prompt, of one side."""
    n = len(sums)
    if np.ptp(sums / sizes) < 1e-12:
        mean = sums[0] / sizes[0]
        return mean - unseen(n) * (mean - scale[0]), mean + unseen(n) * (scale[1] - mean)
    weights = [_drawn(n, n_boot, seed)] if n <= _KEPT else _draws(n, n_boot, seed)
    low, high = np.percentile(np.concatenate([(w @ sums) / (w @ sizes) for w in weights]), [2.5, 97.5])
    return float(low), float(high)


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
