"""What differs between two runs: what made them, and which cells answer or score otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from . import tables
from .errors import HybretError
from .provenance import flat
from .store import read_rows

CELL = ["intervention", "prompt", *tables.CELL]
"""What two runs have in common when they answer the same: labels of conditions are free, and no part of it."""
SEEN = ["answer", "score", "exact"]
_MARKED = ["model", "weights", "recipe", "rubric", "device", "dtype"]


@dataclass(frozen=True, eq=False)
class Diff:
    """Two runs side by side.

    Attributes
    ----------
    provenance : dict of str to (list, list)
        Fields of what made the runs that differ, each with the values of either run.
    cells : pandas.DataFrame
        Cells that differ, one per row: ``condition``, ``prompt``, ``length``, ``depth``, ``change`` (``"score"``,
        ``"answer"`` with an equal score, ``"only in a"``, ``"only in b"``), and ``score_a``, ``score_b``, ``answer_a``,
        ``answer_b``.
    conditions : pandas.DataFrame
        One row per condition: ``cells`` that both have, how many differ in ``score``, in ``answer`` alone, how many
        are ``only in a`` and ``only in b``, and the mean scores (points, 0 to 5) of what both have, ``score_a`` and
        ``score_b``.
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

    Cells are the same when intervention and prompt are, and the recipe where both runs have one in common.

    Parameters
    ----------
    a, b : folder of a run, Parquet file of rows, or rows of `hybret.sweep`.

    Returns
    -------
    Diff

    Raises
    ------
    HybretError
        No finished rows there, a damaged file, several answers to one cell in `a` or in `b`, or no cell that both have.
    """
    one, other = _rows(a), _rows(b)
    common = set(one["recipe"]) & set(other["recipe"])
    cell = [*CELL, "recipe"] if common else CELL
    kept = [_single(rows, cell)[[*dict.fromkeys([*cell, "condition", *SEEN])]] for rows in (one, other)]
    both = kept[0].merge(kept[1], on=cell, how="outer", suffixes=("_a", "_b"), indicator="side")
    if not (both["side"] == "both").any():
        mine, theirs = tables.with_needle(one), tables.with_needle(other)  # all controls have one name
        apart = [column for column in cell if column != "prompt" and not set(mine[column]) & set(theirs[column])]
        values = [f"{column} {_shown(mine[column])} and {_shown(theirs[column])}" for column in apart]
        raise HybretError(
            "the two have no cell in common, the same intervention on the same prompt, so there is nothing to compare"
            + (f": they differ in {', '.join(values)}" if values else "")
        )
    both["condition"] = both["condition_a"].fillna(both["condition_b"])
    scored = (both["score_a"] != both["score_b"]) | (both["exact_a"] != both["exact_b"])
    both["change"] = ""
    both.loc[both["answer_a"] != both["answer_b"], "change"] = "answer"
    both.loc[scored, "change"] = "score"
    for side, name in (("left_only", "only in a"), ("right_only", "only in b")):
        both.loc[both["side"] == side, "change"] = name
    order = {label: i for i, label in enumerate(dict.fromkeys([*one["condition"], *other["condition"]]))}
    both = both.sort_values("condition", key=lambda c: c.map(order), kind="stable")
    columns = ["condition", "prompt", "length", "depth", "change", "score_a", "score_b", "answer_a", "answer_b"]
    return Diff(
        provenance=_provenance(one, other),
        cells=both.loc[both["change"] != "", columns].reset_index(drop=True),
        conditions=pd.DataFrame([_counts(label, part) for label, part in both.groupby("condition", sort=False)]),
    )


def _single(rows: pd.DataFrame, cell: list[str]) -> pd.DataFrame:
    """One row of each cell; what answers a cell in several ways holds several runs, and the first is not all of it."""
    answers = rows.drop_duplicates([*cell, *SEEN])
    several = answers[answers.duplicated(cell, keep=False)]
    if several.empty:
        return answers
    apart = [column for column in _MARKED if column in several and several[column].nunique() > 1]
    named = f" (they differ in {', '.join(apart)})" if apart else ""
    raise HybretError(
        f"one of the two holds several answers to one cell{named}: these are several runs; compare one with one other"
    )


def _shown(values: pd.Series) -> str:
    """A column's values in a few words."""
    several = list(dict.fromkeys(map(str, values)))
    return several[0][:60] if len(several) == 1 else f"({len(several)} values)"


def _counts(label: Any, part: pd.DataFrame) -> dict[str, Any]:
    shared = part[part["side"] == "both"]
    counts = {name: int((part["change"] == name).sum()) for name in ("score", "answer", "only in a", "only in b")}
    means = {name: float(shared[name].mean()) for name in ("score_a", "score_b")}
    return {"condition": label, "cells": len(shared), **counts, **means}


def _provenance(one: pd.DataFrame, other: pd.DataFrame) -> dict[str, tuple[list[Any], list[Any]]]:
    left, right = _made(one), _made(other)
    fields = [field for field in {**left, **right} if left.get(field, []) != right.get(field, [])]
    return {field: (left.get(field, []), right.get(field, [])) for field in fields}


def _made(rows: pd.DataFrame) -> dict[str, list[Any]]:
    """Every field of what made these rows, with its distinct values: parts of a run may be made by several."""
    notes: list[Mapping[str, Any]] = [
        {str(name): value for name, value in rows.attrs.items() if name not in ("run", "made")},
        rows.attrs.get("run", {}),
        *rows.attrs.get("made", {}).values(),
    ]
    found: dict[str, list[Any]] = {name: sorted(rows[name].unique()) for name in _MARKED if name in rows}
    for note in notes:
        for field, value in flat(note).items():
            values = found.setdefault(field, [])
            if value not in values:
                values.append(value)
    return found


def _rows(source: str | Path | pd.DataFrame) -> pd.DataFrame:
    if isinstance(source, pd.DataFrame):
        rows, name = source, "the table"
    else:
        path, name = Path(source), str(source)
        paths = [path] if path.is_file() else sorted(path.glob("rows-*.parquet"))
        if not paths:
            raise HybretError(
                f"{name} holds no finished rows; give the `out` folder of a sweep that ended, or a Parquet file of rows"
            )
        try:
            rows = read_rows(paths)
        except (OSError, KeyError) as problem:
            raise HybretError(f"cannot read rows of {name} ({problem})") from problem
    if missing := [column for column in (*CELL, "condition", "recipe", *SEEN) if column not in rows]:
        raise HybretError(f"{name} has no column {missing[0]!r}; give rows of hybret.sweep")
    if rows.empty:
        raise HybretError(f"{name} holds no rows; give those of a sweep that ended")
    return tables.settled(rows)
