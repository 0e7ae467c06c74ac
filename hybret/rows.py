"""The columns of a row, once, as data; every list of columns elsewhere is derived from them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from hybret.errors import HybretError

if TYPE_CHECKING:
    import pandas as pd


class Column(NamedTuple):
    """A column of the table that `hybret.sweep` returns.

    Attributes
    ----------
    roles : any of acts (what the condition does), cell (tells the cells of a grid apart, in any recipe), alike (no mean
        is over two values of it), place (says where the needle is, so it means nothing in a control), made (what made
        the row), measure (the outcome), number (enters arithmetic).
    """

    name: str
    dtype: str
    roles: str
    meaning: str


HEX = "first 12 hex digits of a SHA-256 over"
COLUMNS = tuple(
    Column(*line)
    for line in (
        ("model", "str", "alike made", "name of the model"),
        ("weights", "str", "alike made", f"{HEX} the model's weights; ``random`` and the seed for random ones"),
        ("recipe", "str", "alike made", "which side the run takes where the paper's text and the authors' code differ"),
        ("condition", "str", "", "the label given to the intervention"),
        ("intervention", "str", "alike acts", "the intervention itself, as a Python value"),
        ("prefill", "str", "acts", "what acts while the prompt is read"),
        ("generation", "str", "acts", "what acts from the last prompt token on"),
        ("k", "Int64", "acts number", "heads kept per layer, when the condition keeps heads"),
        ("during", "str", "alike acts", "in which phase it keeps heads"),
        ("acted_prefill", "int64", "", "prompt tokens on which the condition acted in every attention layer it names"),
        ("acted_generation", "int64", "", "steps of the answer on which it acted; 0 where it does nothing"),
        ("template", "str", "cell alike", "`base`, `instruct` or `jrt` (read twice)"),
        ("haystack", "str", "cell alike", "`embedded`, `paul-graham`, or a folder's name with 8 hex digits"),
        ("haystack_seed", "int64", "cell", "the seed of the embedded haystack"),
        ("needle", "str", "cell alike place", "`paper`, another needle's name, or `none` in the control"),
        ("asked", "str", "cell alike", f"{HEX} the needle that the prompt asks for, also in a control"),
        ("length", "int64", "cell number", "label of the grid: tokens"),
        ("depth", "float64", "cell place number", "label of the grid: per cent from the start of the context"),
        ("tokens", "int64", "place", "real length of the prompt, BOS included"),
        ("needle_start", "int64", "place", "first token of the needle (its last copy); -1 without a needle"),
        ("needle_end", "int64", "place", "the token after the needle; -1 without a needle"),
        ("distance", "int64", "place number", "tokens from the needle's first to the prompt's last; -1 without one"),
        ("in_window", "bool", "place number", "whether the last prompt token can see the whole needle"),
        ("answer", "str", "measure", "the words that the prompt gave, if any, and what the model wrote"),
        ("score", "float64", "measure number", "points of the rubric"),
        ("exact", "bool", "measure number", "whether the full needle stands in the answer"),
        ("rubric", "str", "alike made", "the rubric that scored the answer"),
        ("prompt", "str", "", f"{HEX} the prompt's tokens; cells with the same prompt share it"),
        ("device", "str", "alike made", "kind of the device"),
        ("dtype", "str", "alike made", "dtype of the model"),
        ("max_new_tokens", "int64", "alike", "tokens that an answer could have at most"),
        ("run", "str", "", "12 hex digits of what all rows of one folder share; they end the folder's name"),
        ("batch", "str", "", "the batch of the answer: a file below `answers/`, with its budget and maker"),
    )
)  # fmt: skip


def names(role: str) -> tuple[str, ...]:
    """The columns with this role, in their order."""
    return tuple(column.name for column in COLUMNS if role in column.roles.split())


ROLES = ("acts", "cell", "alike", "place", "made", "measure", "number")
ACTS, CELL, ALIKE, PLACE, MADE, MEASURE, NUMBERS = map(names, ROLES)
GROUND = tuple(column for column in ALIKE if column not in ("rubric", "needle"))
"""What rows share with the control that is their floor, beside the haystack's seed and the length."""


def check_columns(
    rows: Any,
    needs: Iterable[str] = (),
    *,
    numbers: Iterable[str] = (),
    complete: Iterable[str] = (),
    source: str = "a sweep",
) -> pd.DataFrame:
    """A table with the columns `needs`, none twice, numbers in `NUMBERS` and `numbers`, and no gap in `complete`."""
    import pandas as pd

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
