"""Curves of accuracy over heads: tipping points, sparse k, spread over seeds, means without the shortest length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from book.paper import numbers as paper
from hybret import metrics
from hybret.errors import HybretError
from hybret.metrics import NOTHING
from hybret.rows import checked

BY = ["model", "recipe", "template", "during"]
RETRIEVES = 0.25  # accuracy above the floor, with all heads, from which on a model has retrieval that it can lose
HOLDS = 0.9  # share of the full model's accuracy above the floor that counts as kept
NEAR_PERFECT = 0.95  # and the share that the sparse configuration keeps


def tipping_points(rows: pd.DataFrame) -> pd.DataFrame:
    """The k at which retrieval begins to suffer, and the k at which it is gone, of each curve of accuracy over k.

    `rows` are of `KeepHeads` conditions from a few heads up to all of them (a curve's largest k), with their control;
    other rows are left out. To `BY`, which makes the curves, come the columns

    - heads, full: the largest k, and the accuracy there;
    - retrieves: whether full is more than `RETRIEVES` above the floor. Other curves have no tipping point;
    - least: fewest heads from which on accuracy above the floor stays at `HOLDS` times that with all heads or more
      (where the paper speaks of a threshold, or of 15 % of heads);
    - collapse: most heads at which, as with any fewer, accuracy is at most `NOTHING` above the floor (the paper's
      "tipping point"); NA if something is left even with the fewest heads.
    """
    lines = []
    for key, curve in _curves(rows, BY).groupby(BY, dropna=False, sort=False):
        curve = curve.sort_values("k")
        full = curve.iloc[-1]
        retrieves = bool(full["above"] > RETRIEVES)
        held = curve.loc[(curve["above"] >= HOLDS * full["above"])[::-1].cummin()[::-1], "k"]
        gone = curve.loc[(curve["above"] <= NOTHING).cummin(), "k"]
        least = int(held.min()) if retrieves else pd.NA
        collapse = int(gone.max()) if retrieves and len(gone) else pd.NA
        lines.append((*key, int(full["k"]), full["accuracy"], retrieves, least, collapse))
    table = pd.DataFrame(lines, columns=[*BY, "heads", "full", "retrieves", "least", "collapse"])
    return table.astype({"least": "Int64", "collapse": "Int64"})


def three_points(rows: pd.DataFrame, heads: int) -> list[int]:
    """All heads, the fewest that keep `HOLDS` of the accuracy (half of them without retrieval), and none."""
    tip = tipping_points(rows[rows["during"] == "generation"]).iloc[0]
    return sorted({heads, int(tip["least"]) if tip["retrieves"] else heads // 2, 0}, reverse=True)


def sparse_configuration(rows: pd.DataFrame, heads: int) -> tuple[int, str]:
    """Heads of the sparse configuration of Section 4, and why.

    It is the smallest k of the prefill version (``during="both"``) with near-perfect retrieval. The paper takes k = 5
    of Jamba's 32 heads in this way, and does not define near-perfect. We ask for `NEAR_PERFECT` of the accuracy with
    all heads, both above the floor, so that a model that misses some needles unmodified can be sparsified too. One that
    hardly retrieves with all its heads keeps the paper's share of `heads`. `rows` are as in `tipping_points`, of one
    model, recipe and template.
    """
    if "during" in checked(rows):
        rows = rows[rows["during"] == "both"]
    curve = _curves(rows, []).sort_values("k")
    full = curve["above"].iloc[-1]
    if full > RETRIEVES:
        k = curve.loc[curve["above"] >= NEAR_PERFECT * full, "k"].min()
        return int(k), "the smallest k of its prefill version with near-perfect retrieval"
    why = "the paper's share of the heads, because this model hardly retrieves with all of them"
    return paper.few_heads(heads), why


def heads_kept(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose condition keeps heads by entropy: by another measure it is another rule than the paper's."""
    rows = rows[rows["k"].notna()]
    if "intervention" not in rows:
        return rows
    return rows[~rows["intervention"].astype(str).str.contains("metric='(?!entropy')")]


def _curves(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Accuracy above the floor, by `by` and k; every point must have a control."""
    if "k" not in checked(rows) or (kept := heads_kept(rows)).empty:
        raise HybretError("no rows that keep heads; run KeepHeads conditions, some with during='both'")
    table = metrics.above_floor(kept, [*by, "k"])
    if (bare := table[table["above"].isna()]).empty:
        return table
    where = ", ".join(f"{column} {bare.iloc[0][column]}" for column in (*by, "k"))
    raise HybretError(
        f"these rows have no control for {where}, so how much of its accuracy is luck is not known; run the same "
        "conditions on grid(..., control=True) as well, or leave those rows out"
    )


def by_seed(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Accuracy over several haystack seeds, and how far it moved from haystack to haystack.

    To `hybret.metrics.accuracy`, all seeds together, come the columns seeds (how many), least and most (the lowest and
    the highest accuracy of a seed, 0 to 1).
    """
    by = list(by)
    table = metrics.accuracy(rows, by)
    seeds = metrics.accuracy(rows, [*by, "haystack_seed"], 1)
    spread = seeds.groupby(by, dropna=False, sort=False)["accuracy"].agg(seeds="size", least="min", most="max")
    return table.merge(spread.reset_index(), on=by, how="left")


def read_twice(rows: pd.DataFrame) -> pd.DataFrame:
    """Exact answers with the prompt read once and twice, where they differ: model, k, once, twice, prompts.

    `rows` are of one version; both templates of a model have the same prompts but for the second reading.
    """
    cells = metrics.with_needle(heads_kept(rows))
    cells = cells.assign(read=cells["template"].eq("jrt").map({True: "twice", False: "once"}))
    counts: Any = cells.groupby(["model", "k", "read"], sort=False)["exact"].agg(["sum", "size"]).unstack("read")
    table = counts["sum"][["once", "twice"]].assign(prompts=counts["size"]["once"]).dropna().astype(int)
    return table[table["once"] != table["twice"]].rename_axis(columns=None).reset_index()


def without_needle(rows: pd.DataFrame) -> pd.DataFrame:
    """How many answers to prompts without the needle earned any points: columns model, answers, scored."""
    control = rows[rows["needle"] == metrics.CONTROL].assign(scored=lambda t: t["score"] > 0)
    return control.groupby("model", sort=False)["scored"].agg(answers="size", scored="sum").reset_index()


def shortest_apart(rows: pd.DataFrame, by: Sequence[str] = ("model",)) -> pd.DataFrame:
    """Means with and without the shortest length of each model, from rows of full grids.

    A short context may have no sentence end before most depths, and then the needle always goes to the same place: most
    of the ten cells that the paper's grid has at its shortest length are one prompt (depths 0 to 67 at 250 tokens). The
    mean over cells counts that prompt many times; the intervals of this package count it once.

    To `by` come the columns shortest (the label, tokens), cells and distinct (its cells, and the different prompts
    among them), column, everything and without (accuracy of that length, of all lengths, and of the others), and the
    share of full needles in each (column_exact, ...). Without other lengths `without` is missing.
    """
    by = list(by)
    rows = metrics.with_needle(checked(rows, [*by, "model", "length", "prompt"]))
    first = rows["length"] == rows.groupby("model")["length"].transform("min")
    groups = rows[first].groupby(by, dropna=False, sort=False)
    table = groups.agg(shortest=("length", "min"), cells=("prompt", "size"), distinct=("prompt", "nunique"))
    table = table.reset_index()
    for name, part in (("column", rows[first]), ("everything", rows), ("without", rows[~first])):
        if part.empty:
            table[[name, f"{name}_exact"]] = float("nan")
            continue
        mean = metrics.accuracy(part, by, 1)[[*by, "accuracy", "exact"]]
        table = table.merge(mean.rename(columns={"accuracy": name, "exact": f"{name}_exact"}), on=by, how="left")
    return table
