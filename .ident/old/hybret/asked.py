"""What is asked of an argument, whatever its type: each function returns the value, or says what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import HybretError

if TYPE_CHECKING:
    import pandas as pd

SEEDS = 2**32 - 1


def whole(name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """A whole number in a range, ends included; numpy's count, True and 2.0 do not."""
    bound = f"of at least {least}" if most is None else f"from {least} to {most}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise HybretError(f"{name} is {value!r}; give a whole number {bound}")
    value = int(value)
    if value < least or (most is not None and value > most):
        raise HybretError(
            f"{name} is {value}; {name} must be at least {least}{'' if most is None else f', at most {most}'}"
        )
    return value


def seed(value: Any) -> int:
    """A seed: a whole number that every generator takes."""
    return whole("seed", value, 0, SEEDS)


def number(name: str, value: Any) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise HybretError(f"{name} is {value!r}; give a finite number")
    return float(value)


def one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    """One of some words."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        raise HybretError(f"unknown {name} {value!r}; choose one of {', '.join(choices)}")
    return value


def text(name: str, value: Any) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise HybretError(f"{name} is {value!r}; give a text that is not empty")
    return value


def conditions(value: Any) -> Mapping[str, Any]:
    """Interventions by label, at least one; whether they are interventions is asked where the model is known."""
    wanted = 'give a mapping of labels to interventions such as {"k=0": KeepHeads(0)}'
    if not isinstance(value, Mapping):
        raise HybretError(f"conditions are {_kind(value)}; {wanted}: the labels name the rows")
    if not value:
        raise HybretError(f"there are no conditions; {wanted}")
    for label in value:
        text("the label of a condition", label)
    return value


def _kind(value: Any) -> str:
    """A value's type in words."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def folder(name: str, value: Any) -> Path:
    """A path, there or not."""
    if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
        raise HybretError(f"{name} is {value!r}; give a folder as a text or a pathlib.Path")
    return Path(value)


def table(
    rows: Any, columns: Sequence[str], numeric: Sequence[str] = (), complete: Sequence[str] = (), what: str = "a sweep"
) -> pd.DataFrame:
    """A DataFrame with these columns, each once, `numeric` ones of numbers, `complete` ones without a gap."""
    import pandas as pd

    if not isinstance(rows, pd.DataFrame):
        raise HybretError(f"rows are a pandas.DataFrame, not {type(rows).__name__}; pass the rows of {what}")
    if missing := [column for column in columns if column not in rows]:
        raise HybretError(f"these rows have no column {missing[0]!r}; pass the rows of {what}")
    if not rows.columns.is_unique:
        raise HybretError(f"these rows have the column {rows.columns[rows.columns.duplicated()][0]!r} twice; drop one")
    for column in numeric:
        if column in rows and len(rows) and not _numbers(rows[column]):
            raise HybretError(f"the column {column!r} of these rows holds no numbers; pass the rows of {what}")
    for column in complete:
        if column in rows and rows[column].isna().any():
            raise HybretError(f"the column {column!r} of these rows has gaps; leave those rows out")
    return rows


def _numbers(column: pd.Series) -> bool:
    """Whether all values are real numbers, or missing; an empty result of NA only is of the dtype object."""
    import pandas as pd

    kind = pd.api.types
    if kind.is_complex_dtype(column):
        return False
    return bool(kind.is_numeric_dtype(column) or kind.is_bool_dtype(column) or column.isna().all())
