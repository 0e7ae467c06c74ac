"""What one mean hides: cells that are one and the same prompt, and the haystack that a seed happened to draw."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from . import asked, tables


def by_seed(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Accuracy over several haystack seeds, with the spread between them beside the interval over prompts.

    The two answer different questions: the interval says how far the mean could move if other prompts of these
    haystacks were drawn, the spread how far it did move from haystack to haystack.

    Parameters
    ----------
    rows : rows of sweeps on grids of several haystack seeds.
    by : columns that make the groups.

    Returns
    -------
    DataFrame
        As `hybret.tables.accuracy`, all seeds together, and: seeds (how many), least and most (accuracy of the seed
        that gives the lowest and the highest, 0 to 1).

    Raises
    ------
    HybretError
        If there are no rows, or a column is missing.
    """
    asked.table(rows, ["haystack_seed"])
    by = list(by)
    table = tables.accuracy(rows, by)
    each = tables.accuracy(rows, [*by, "haystack_seed"], 1)
    spread = each.groupby(by, dropna=False, sort=False)["accuracy"].agg(["size", "min", "max"]).reset_index()
    return table.merge(spread.rename(columns={"size": "seeds", "min": "least", "max": "most"}), on=by, how="left")


def shortest_apart(rows: pd.DataFrame, by: Sequence[str] = ("model",)) -> pd.DataFrame:
    """Means with and without the shortest length of each model.

    A short context may have no sentence end before most depths, and the needle then goes to one and the same place:
    of the ten cells that the paper's grid has at its shortest length, most are one prompt (measured on its haystack:
    depths 0 to 67 at 250 tokens). The mean over cells counts that prompt many times; the intervals of this package
    count it once.

    Parameters
    ----------
    rows : rows of sweeps on whole grids; control rows are left out.
    by : columns that make the groups, "model" among them.

    Returns
    -------
    DataFrame
        `by`, shortest (the label, tokens), cells and distinct (how many cells it has and how many different prompts
        they are), column, everything and without (accuracy of that length alone, of all lengths, and of all others),
        and the share of full needles of each (column_exact, ...). Without other lengths `without` is missing.

    Raises
    ------
    HybretError
        If there are no rows, or a column is missing.
    """
    by = list(by)
    asked.table(rows, [*by, "model", "length", "prompt", "score", "exact"], ("length",))
    rows = rows[rows["needle"] != tables.CONTROL] if "needle" in rows else rows
    first = rows["length"] == rows.groupby("model")["length"].transform("min")
    table = rows[first].groupby(by, dropna=False, sort=False).agg(shortest=("length", "min"), cells=("prompt", "size"))
    table["distinct"] = rows[first].groupby(by, dropna=False, sort=False)["prompt"].nunique()
    table = table.reset_index()
    for name, part in (("column", rows[first]), ("everything", rows), ("without", rows[~first])):
        if part.empty:
            table[[name, f"{name}_exact"]] = float("nan")
            continue
        mean = tables.accuracy(part, by, 1)[[*by, "accuracy", "exact"]]
        table = table.merge(mean.rename(columns={"accuracy": name, "exact": f"{name}_exact"}), on=by, how="left")
    return table
