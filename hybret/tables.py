"""Tables: queries over rows of results, with intervals.

Accuracy is the mean score divided by the rubric's maximum (0 to 1). Its 95 % interval is a percentile
bootstrap over prompts: cells whose prompts are identical (short contexts without a sentence end) are drawn
together, since they are one observation. Control rows, whose prompts leave the needle out, never enter an
accuracy beside rows with a needle; what they earn is the floor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from . import asked
from .errors import HybretError
from .intervals import grouped_means
from .paper import ModelSpec
from .prompts import CONTROL
from .scoring import RUBRICS

CELL = ("template", "haystack", "haystack_seed", "needle", "length", "depth")  # one cell of a grid, in any recipe
# Columns that say where the needle is, and so mean nothing in a control row.
PLACE = ("depth", "distance", "in_window", "needle_start", "needle_end", "needle", "tokens")


def accuracy(rows: pd.DataFrame, by: str | Sequence[str] = (), n_boot: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Accuracy per group.

    Parameters
    ----------
    rows : result rows; control rows are left out, unless there are no others.
    by : columns that make the groups; none gives one row for everything.
    n_boot, seed : bootstrap draws and their seed. The same seed gives the same intervals.

    Returns
    -------
    DataFrame
        `by`, then accuracy, low, high (0 to 1; see `hybret.intervals`), exact (share of full needles), n
        (rows), prompts (distinct prompts).

    Raises
    ------
    HybretError
        If there are no rows, or a column or a score is missing.
    """
    by = [by] if isinstance(by, str) else list(by)
    rows = _checked(rows, [*by, "score", "exact", "prompt"])
    if "needle" in rows and (rows["needle"] != CONTROL).any():
        rows = rows[rows["needle"] != CONTROL]
    table = grouped_means(rows.assign(_value=fraction(rows)), by, (0.0, 1.0), n_boot, seed)
    return table.rename(columns={"mean": "accuracy"})


def floor(rows: pd.DataFrame, by: str | Sequence[str] = ()) -> pd.DataFrame:
    """What the same conditions earn on prompts without the needle: `accuracy` of the control rows.

    Columns of `by` that place the needle (depth, distance, ...) are dropped, as a control has none.

    Raises
    ------
    HybretError
        If there are no control rows.
    """
    by = [by] if isinstance(by, str) else list(by)
    rows = _checked(rows, ["needle"])
    control = rows[rows["needle"] == CONTROL]
    if control.empty:
        raise HybretError("no control rows: run the conditions on grid(..., needle=None) as well")
    return accuracy(control, [column for column in by if column not in PLACE])


def above_floor(rows: pd.DataFrame, by: str | Sequence[str] = ()) -> pd.DataFrame:
    """`accuracy` with the floor of each group beside it.

    Added columns: floor, floor_low, floor_high, and `above` = accuracy - floor, the credit that needs the
    needle. Groups without a control row have NA there.

    Raises
    ------
    HybretError
        If there are no control rows, or they were scored by another rubric than the rest.
    """
    by = [by] if isinstance(by, str) else list(by)
    ground = floor(rows, by)
    control = rows["needle"] == CONTROL
    if "rubric" in rows and set(rows.loc[control, "rubric"]) != set(rows.loc[~control, "rubric"]):
        raise HybretError("control rows and needle rows have different rubrics; score them alike with rescore()")
    names = {"accuracy": "floor", "low": "floor_low", "high": "floor_high"}
    shared = [column for column in by if column not in PLACE]
    ground = ground[[*shared, *names]].rename(columns=names)
    table = accuracy(rows, by)
    table = table.merge(ground, on=shared, how="left") if shared else table.merge(ground, how="cross")
    return table.assign(above=table["accuracy"] - table["floor"])


def by_distance(
    rows: pd.DataFrame, window: int, edges: Sequence[float], by: str | Sequence[str] = "condition"
) -> pd.DataFrame:
    """Accuracy by the needle's distance from the end of the prompt, in attention windows (Section 5.2).

    Parameters
    ----------
    window : tokens.
    edges : of the bins, in windows. An edge at 1 keeps needles inside and outside the window apart.

    Returns
    -------
    DataFrame
        `by`, near and far (the bin's edges, in windows, near included), then as `accuracy`. Empty bins are
        absent.
    """
    by = [by] if isinstance(by, str) else list(by)
    rows = _checked(rows, ["distance"])
    rows = rows[rows["distance"] >= 0]
    if window < 1 or rows.empty:
        raise HybretError("a window analysis needs a window of at least 1 token and rows with a needle")
    if len(edges) < 2 or (np.diff(edges) <= 0).any():
        raise HybretError("bins need at least two rising edges, in windows")
    index = np.searchsorted(edges, rows["distance"].to_numpy() / window, side="right") - 1
    inside = (index >= 0) & (index < len(edges) - 1)
    rows, index = rows[inside], index[inside]
    return accuracy(rows.assign(near=np.take(edges, index), far=np.take(edges, index + 1)), [*by, "near", "far"])


def departures(rows_a: pd.DataFrame, rows_b: pd.DataFrame, by: str | Sequence[str] = "condition") -> pd.DataFrame:
    """What changes from `rows_a` to `rows_b`, over the cells that both have: a paired comparison.

    Cells pair by template, haystack, needle, length and depth, not by prompt, since recipes may place a
    needle differently.

    Returns
    -------
    DataFrame
        `by`, a, b (accuracies), difference (b - a) with its paired bootstrap interval low, high (-1 to 1),
        changed (share of cells with another score), n (cells), prompts (distinct prompts of `rows_a`). Where
        every prompt differs by the same amount, the interval is as in `accuracy`.

    Raises
    ------
    HybretError
        If no cell is in both, or one has several rows for a cell.
    """
    by = [by] if isinstance(by, str) else list(by)
    for rows in (rows_a, rows_b):
        asked.table(rows, by)
    keys = [*by, *(c for c in CELL if c in rows_a and c in rows_b and c not in by)]
    sides = []
    for rows in (rows_a, rows_b):
        rows = _checked(rows, [*by, "score", "prompt"])
        if rows.duplicated(keys).any():
            raise HybretError("several rows for one cell; compare one recipe of one model with one other")
        sides.append(rows.assign(_fraction=fraction(rows))[[*keys, "prompt", "_fraction"]])
    pairs = sides[0].merge(sides[1], on=keys, suffixes=("", "_b"))
    if pairs.empty:
        raise HybretError("the two sets of rows share no cell and condition, so there is nothing to compare")
    pairs["_value"] = pairs["_fraction_b"] - pairs["_fraction"]
    pairs["exact"] = pairs["_value"] != 0
    table = grouped_means(pairs, by, (-1.0, 1.0))
    table = table.rename(columns={"mean": "difference", "exact": "changed"})
    means = pairs.assign(_all=0).groupby(by or ["_all"], dropna=False, sort=False)[["_fraction", "_fraction_b"]].mean()
    table.insert(len(by), "a", means["_fraction"].to_numpy())
    table.insert(len(by) + 1, "b", means["_fraction_b"].to_numpy())
    return table


def model_table(models: Iterable[Any]) -> pd.DataFrame:
    """Appendix A for any mixture of loaded models and of the paper's (`hybret.paper.ModelSpec`): one line per model.

    Parameters are counted without embeddings, as the paper does; a window of NA is global attention.
    """
    lines = []
    for model in models if isinstance(models, Iterable) else [models]:
        if not isinstance(model, ModelSpec) and not hasattr(model, "net"):
            raise HybretError(f"{model!r} is no model; give what hybret.load returns, or hybret.paper.MODELS")
        if isinstance(model, ModelSpec):
            parameters, layers, attention = model.parameters, model.layers, model.attention_layers
        else:
            embedding = model.net.get_input_embeddings().weight.numel()
            parameters = sum(p.numel() for p in model.net.parameters()) - embedding
            layers, attention = model.net.config.num_hidden_layers, len(model.attention_layers)
        lines.append(
            {
                "model": model.name,
                "parameters": int(parameters),
                "layers": layers,
                "attention layers": attention,
                "heads": model.heads,
                "window": model.window,
                "instruction-tuned": model.instruct,
            }
        )
    return pd.DataFrame(lines).astype({"window": "Int64"})


def _checked(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    asked.table(rows, columns, ("score", "exact", "distance"), ("prompt",))
    if rows.empty:
        raise HybretError("there are no rows to make a table of")
    if "score" in rows and rows["score"].isna().any():
        raise HybretError("some rows have no score; score them with rescore() first")
    if "score" in rows and "rubric" in rows and (unknown := set(rows["rubric"]) - set(RUBRICS)):
        raise HybretError(
            f"unknown rubric {sorted(map(str, unknown))[0]!r} in these rows; score them with rescore() first"
        )
    if "score" in rows and not ((rows["score"] >= 0) & (fraction(rows) <= 1)).all():
        raise HybretError("some scores are outside 0 and their rubric's maximum; score them with rescore() first")
    return rows


def fraction(rows: pd.DataFrame) -> pd.Series:
    """Scores as fractions of their rubric's maximum (5 where the rows name no rubric)."""
    if "rubric" not in rows:
        return rows["score"].astype(float) / 5
    return rows["score"].astype(float) / rows["rubric"].map({name: r.maximum for name, r in RUBRICS.items()})
