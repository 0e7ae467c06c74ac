"""Tables: queries over rows of results, with intervals.

Accuracy is the mean score divided by the rubric's maximum (0 to 1). Its 95 % interval is a percentile
bootstrap over prompts: cells whose prompts are identical (short contexts without a sentence end) are drawn
together, since they are one observation. A mean is taken over rows that are `alike`, each of them `once`. Control
rows, whose prompts leave the needle out, never enter an accuracy beside rows with a needle; what they earn is the
floor of the needle that they leave out, and of no other.
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
from .prompts import CONTROL, DIGITS
from .scoring import RUBRICS

# One cell of a grid, in any recipe.
CELL = ("template", "haystack", "haystack_seed", "needle", "asked", "length", "depth")
# Two values of any of these are two things, and no mean is over both. Haystack seeds are draws of one thing.
ALIKE = ("model", "weights", "recipe", "rubric", "during", "intervention", "template", "haystack", "needle", "asked",
         "device", "dtype", "max_new_tokens")  # fmt: skip
# What rows share with the control that is their floor; and the haystack's seed, and the length.
GROUND = tuple(column for column in ALIKE if column not in ("rubric", "needle"))
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
        If there are no rows, or a column or a score is missing; if a group holds several values of a column of `ALIKE`,
        or a row twice.
    """
    by = [by] if isinstance(by, str) else list(by)
    rows = with_needle(_checked(rows, [*by, "score", "exact", "prompt"]))
    alike(rows, by)
    once(rows, by)
    table = grouped_means(rows.assign(_value=fraction(rows)), by, (0.0, 1.0), n_boot, seed)
    return table.rename(columns={"mean": "accuracy"})


def floor(rows: pd.DataFrame, by: str | Sequence[str] = ()) -> pd.DataFrame:
    """What the same conditions earn on prompts without the needle: `accuracy` of the control rows.

    Columns of `by` that place the needle (depth, distance, ...) are dropped, as a control has none. Beside rows with a
    needle only their own control counts (`belonging`).

    Raises
    ------
    HybretError
        If there are no control rows.
    """
    by = [by] if isinstance(by, str) else list(by)
    rows = _checked(rows, ["needle"])
    control = rows["needle"] == CONTROL
    ground = rows[control] if control.all() else belonging(rows[control], rows[~control])
    if ground.empty:
        raise HybretError(
            "no control rows of what these rows ask for: run the same conditions on grid(..., control=True) as well, "
            "with the same needle, haystack, template and lengths"
        )
    return accuracy(ground, [column for column in by if column not in PLACE])


def above_floor(rows: pd.DataFrame, by: str | Sequence[str] = ()) -> pd.DataFrame:
    """`accuracy` with the floor of each group beside it.

    Added columns: floor, floor_low, floor_high, and `above` = accuracy - floor, the credit that needs the
    needle. Groups without a control row of their own needle, haystack, template and lengths have NA there.

    Raises
    ------
    HybretError
        If there are no control rows, or they were scored by another rubric than the rest.
    """
    by = [by] if isinstance(by, str) else list(by)
    rows = _checked(rows, [*by, "needle"])
    needle, table = with_needle(rows), accuracy(rows, by)
    # A group is alike in all that its control shares with it, so the floor is looked up under that.
    own = [column for column in GROUND if column in rows and column not in by]
    shared = [*(column for column in by if column not in PLACE), *own]
    ground = floor(rows, shared)
    control = rows["needle"] == CONTROL
    if "rubric" in rows and set(rows.loc[control, "rubric"]) != set(rows.loc[~control, "rubric"]):
        raise HybretError("control rows and needle rows have different rubrics; score them alike with rescore()")
    names = {"accuracy": "floor", "low": "floor_low", "high": "floor_high"}
    table = _joined(table, needle[[*by, *own]].drop_duplicates(), by)
    table = _joined(table, ground[[*shared, *names]].rename(columns=names), shared)
    return table.drop(columns=own).assign(above=table["accuracy"] - table["floor"])


def _joined(table: pd.DataFrame, more: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The table with what `more` says of each group; of everything, without groups."""
    return table.merge(more, on=by, how="left") if by else table.merge(more, how="cross")


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
        rows = with_needle(_checked(rows, [*by, "score", "prompt"]))
        if rows.duplicated(keys).any():
            raise HybretError("several rows for one cell; compare one recipe of one model with one other")
        alike(rows, by)
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
    return settled(rows)


def settled(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows, in which depths and numbers of heads differ by more than rounding: 33.3 is 33.300000000000004."""
    if "depth" in rows:
        rows = rows.assign(depth=rows["depth"].astype(float).round(DIGITS))
    if "k" in rows and pd.api.types.is_float_dtype(rows["k"]):
        whole = rows["k"].round()
        if not ((rows["k"] - whole).abs() > 10**-DIGITS).any():
            rows = rows.assign(k=whole.astype("Int64"))
    return rows


def alike(rows: pd.DataFrame, by: Sequence[str]) -> None:
    """Refuse groups whose mean would be over several models, needles, haystacks, ... without a word.

    Parameters
    ----------
    rows : result rows; columns of `ALIKE` that are absent are passed over.
    by : columns that make the groups.

    Raises
    ------
    HybretError
        With the column, its values, and what to do.
    """
    for column in ALIKE:
        if column not in rows or column in by or rows[column].nunique(dropna=False) < 2:
            continue
        number = rows.assign(_all=0).groupby([*by] or ["_all"], dropna=False, observed=True, sort=False).ngroup()
        pairs = pd.DataFrame({"group": number, "value": rows[column]}).drop_duplicates()
        if (mixed := pairs[pairs["group"].duplicated(keep=False)]).empty:
            continue
        values = mixed.loc[mixed["group"] == mixed["group"].iloc[0], "value"].tolist()
        shown = ", ".join(str(value)[:60] for value in values[:3]) + (", ..." if len(values) > 3 else "")
        chosen = f"{column!r}] == {values[0]!r}" if column != "intervention" else "'condition'].isin([...])"
        raise HybretError(
            f"these rows mix several values of {column!r} in one mean ({shown}); keep those of one, as in "
            f"rows[rows[{chosen}], or in a table give {column!r} in `by`"
        )


def once(rows: pd.DataFrame, by: Sequence[str] = ()) -> None:
    """Refuse rows that are there twice, as after joining tables that overlap: they are one observation.

    Parameters
    ----------
    rows : result rows.
    by : columns that tell rows apart beside what was run, on which prompt.
    """
    cell = [column for column in dict.fromkeys((*by, *ALIKE, *CELL, "prompt")) if column in rows]
    if twice := int(rows.duplicated(cell).sum()):
        raise HybretError(
            f"{twice} of these rows are there twice, the same condition on the same prompt, and would count twice; "
            "give each once"
        )


def belonging(control: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The control rows that are a floor of these: of the same needle, haystack, template, length, condition, model.

    Parameters
    ----------
    control, rows : rows without a needle, and rows with one.
    """
    shared = [column for column in (*GROUND, "haystack_seed", "length") if column in control and column in rows]
    if not shared:
        return control
    there, here = (pd.MultiIndex.from_frame(part[shared].astype(str)) for part in (rows, control))
    return control[here.isin(there)]


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
