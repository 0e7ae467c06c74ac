"""The columns of a row and what each is for, once; every list of columns elsewhere is derived from them.

The book's chapter "Rows" says what the columns mean. Their roles: acts (what the condition does), cell (tells the cells
of a grid apart, in any recipe), alike (no mean is over two values of it), place (says where the needle is, so it means
nothing in a control), made (what made the row), measure (the outcome), number (enters arithmetic).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from hybret.errors import HybretError

COLUMNS = {
    "model": "alike made", "weights": "alike made", "recipe": "alike made", "condition": "",
    "intervention": "alike acts", "prefill": "acts", "generation": "acts", "k": "acts number", "during": "alike acts",
    "acted_prefill": "", "acted_generation": "",
    "template": "cell alike", "haystack": "cell alike", "haystack_seed": "cell", "needle": "cell alike place",
    "asked": "cell alike", "length": "cell number", "depth": "cell place number", "place": "place number",
    "tokens": "place", "needle_start": "place", "needle_end": "place", "distance": "place number",
    "in_window": "place number",
    "answer": "measure", "score": "measure number", "exact": "measure number", "rubric": "alike made", "prompt": "",
    "device": "alike made", "dtype": "alike made", "max_new_tokens": "alike", "run": "", "batch": "",
}  # fmt: skip
ACTS, CELL, ALIKE, PLACE, MADE, MEASURE, NUMBERS = (
    tuple(column for column, roles in COLUMNS.items() if role in roles.split())
    for role in ("acts", "cell", "alike", "place", "made", "measure", "number")
)
GROUND = tuple(column for column in ALIKE if column not in ("rubric", "needle"))
"""What rows share with the control that is their floor, beside the haystack's seed and the length."""


def checked(
    rows: Any,
    needs: Iterable[str] = (),
    complete: Iterable[str] = (),
    numbers: Iterable[str] = (),
    source: str = "a sweep",
) -> pd.DataFrame:
    """A table with the columns `needs`, none twice, numbers in `NUMBERS` and `numbers`, and no gap in `complete`."""
    if not isinstance(rows, pd.DataFrame):
        raise HybretError(f"rows are a pandas.DataFrame, not {type(rows).__name__}; pass the rows of {source}")
    if missing := [column for column in needs if column not in rows]:
        raise HybretError(f"these rows have no column {missing[0]!r}; pass the rows of {source}")
    if not rows.columns.is_unique:
        raise HybretError(f"these rows have the column {rows.columns[rows.columns.duplicated()][0]!r} twice; drop one")
    for column in rows.columns.intersection([*NUMBERS, *numbers]):
        kind = rows[column].dtype
        numeric = pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_complex_dtype(kind)
        if len(rows) and not numeric and not rows[column].isna().all():
            raise HybretError(f"the column {column!r} of these rows holds no numbers; pass the rows of {source}")
    for column in complete:
        if column in rows and rows[column].isna().any():
            raise HybretError(f"the column {column!r} of these rows has gaps; leave those rows out")
    return rows
