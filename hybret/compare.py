"""What differs between two runs: what made them, and which cells answer or score otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hybret import metrics
from hybret.errors import HybretError
from hybret.rows import CELL, MADE, MEASURE
from hybret.store import flat, rows_of

SAME = ["intervention", "prompt", *CELL]
"""Columns that are equal in one cell of two runs; the labels of conditions are free."""
CHANGES = {"left_only": "only in a", "right_only": "only in b", "both": ""}


@dataclass(frozen=True, eq=False)
class Diff:
    """Two runs side by side.

    Attributes
    ----------
    provenance : fields of what made the runs that differ, each with the values of either run.
    cells : those that differ, one per row: condition, prompt, length, depth, change (``"score"``, ``"answer"`` with an
        equal score, ``"only in a"``, ``"only in b"``), score_a, score_b, answer_a, answer_b.
    conditions : one row per condition: how many cells both have (cells), differ in score, in answer alone, are only in
        a and only in b, and the mean scores (points) of what both have, score_a and score_b.
    """

    provenance: dict[str, tuple[list[Any], list[Any]]]
    cells: pd.DataFrame
    conditions: pd.DataFrame

    @property
    def same(self) -> bool:
        """Whether every cell is in both and has the same answer and score, whatever made it."""
        return self.cells.empty


def diff(a: str | Path | pd.DataFrame, b: str | Path | pd.DataFrame) -> Diff:
    """Compare the rows of two runs cell by cell, and what made them.

    Cells are the same when intervention and prompt are, and the recipe where both runs have one in common. A run that
    answers one cell in several ways is refused, and so are two runs without a common cell.

    Parameters
    ----------
    a, b : folder of a run, Parquet file of rows, or rows of `hybret.sweep`.
    """
    sides = rows_a, rows_b = _rows(a), _rows(b)
    cell = [*SAME, "recipe"] if set(rows_a["recipe"]) & set(rows_b["recipe"]) else SAME
    kept = [_one_run(rows, cell)[[*dict.fromkeys([*cell, "condition", *MEASURE])]] for rows in sides]
    both = kept[0].merge(kept[1], on=cell, how="outer", suffixes=("_a", "_b"), indicator="side")
    if not (both["side"] == "both").any():
        left, right = metrics.with_needle(rows_a), metrics.with_needle(rows_b)  # all controls have one name
        apart = [column for column in cell if column != "prompt" and not set(left[column]) & set(right[column])]
        raise HybretError(f"the two have no cell in common (they differ in {', '.join(apart) or 'their prompts'})")
    both["condition"] = both["condition_a"].fillna(both["condition_b"])
    scored = (both["score_a"] != both["score_b"]) | (both["exact_a"] != both["exact_b"])
    both["change"] = ""
    both.loc[both["answer_a"] != both["answer_b"], "change"] = "answer"
    both.loc[scored, "change"] = "score"
    both.loc[both["side"] != "both", "change"] = both["side"].astype(str).map(CHANGES)
    order = {label: i for i, label in enumerate(dict.fromkeys([*rows_a["condition"], *rows_b["condition"]]))}
    both = both.sort_values("condition", key=lambda c: c.map(order), kind="stable")
    columns = ["condition", "prompt", "length", "depth", "change", "score_a", "score_b", "answer_a", "answer_b"]
    made_a, made_b = _made(rows_a), _made(rows_b)
    made = {field: (made_a.get(field, []), made_b.get(field, [])) for field in {**made_a, **made_b}}
    return Diff(
        provenance={field: values for field, values in made.items() if values[0] != values[1]},
        cells=both.loc[both["change"] != "", columns].reset_index(drop=True),
        conditions=pd.DataFrame([_counts(label, part) for label, part in both.groupby("condition", sort=False)]),
    )


def _rows(source: str | Path | pd.DataFrame) -> pd.DataFrame:
    rows, name = (source, "the table") if isinstance(source, pd.DataFrame) else (rows_of(source), source)
    if missing := [column for column in (*SAME, "condition", "recipe", *MEASURE) if column not in rows]:
        raise HybretError(f"{name} has no column {missing[0]!r}; give rows of hybret.sweep")
    if rows.empty:
        raise HybretError(f"{name} holds no rows; give those of a finished sweep")
    return metrics.normalised(rows)


def _one_run(rows: pd.DataFrame, cell: list[str]) -> pd.DataFrame:
    """One row of each cell; several answers to one cell are several runs, and the first would hide the others."""
    answers = rows.drop_duplicates([*cell, *MEASURE])
    several = answers[answers.duplicated(cell, keep=False)]
    if several.empty:
        return answers
    apart = [column for column in MADE if column in several and several[column].nunique() > 1]
    named = f" (they differ in {', '.join(apart)})" if apart else ""
    raise HybretError(f"one of the two holds several answers to one cell{named}; compare its runs one by one")


def _counts(label: Any, part: pd.DataFrame) -> dict[str, Any]:
    shared = part[part["side"] == "both"]
    counts = {name: int((part["change"] == name).sum()) for name in ("score", "answer", "only in a", "only in b")}
    means = {name: float(shared[name].mean()) for name in ("score_a", "score_b")}
    return {"condition": label, "cells": len(shared), **counts, **means}


def _made(rows: pd.DataFrame) -> dict[str, list[Any]]:
    """Every field of what made these rows, with its distinct values: parts of a run may have several makers."""
    values: dict[str, list[Any]] = {name: sorted(rows[name].unique()) for name in MADE if name in rows}
    beside = {str(name): value for name, value in rows.attrs.items() if name not in ("run", "made")}
    for note in (beside, rows.attrs.get("run", {}), *rows.attrs.get("made", {}).values()):
        for field, value in flat(note).items():
            if value not in values.setdefault(field, []):
                values[field].append(value)
    return values
