"""Former names of the checks in `hybret.errors` and `hybret.rows`, until their callers use those."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybret.errors import SEEDS, conditions, conform, integer, number, one_of, text
from hybret.rows import checked

__all__ = ["conditions", "folder", "integer", "number", "one_of", "seed", "table", "text"]


def seed(value: Any) -> int:
    return integer("seed", value, 0, SEEDS)


def folder(name: str, value: Any) -> Path:
    return Path(conform(name, value, str | Path))


def table(
    rows: Any, columns: Sequence[str], numeric: Sequence[str] = (), complete: Sequence[str] = (), what: str = "a sweep"
) -> Any:
    return checked(rows, columns, complete, numeric, what)
