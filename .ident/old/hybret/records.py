"""Measured runs of large models on GPUs, as their JSON files tell them, and the tables that the GPU guide shows.

A file ``full-size-*.json`` is one record, a list of records, or ``{"runs": [...], "long_context": [...]}``, where what
stands beside the lists holds for every record in them. A record has the fields `NEEDED`, and those of `MORE` that
were measured; in ``long_context`` (or with the notebook ``"long-context"``) `tokens` is the length of the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from .errors import HybretError

NEEDED = ("model", "weights", "gpu", "dtype", "seconds", "peak_gib", "date")
MORE = ("notebook", "grid", "tokens", "tokens_per_s", "parameters", "commit", "gpus")
LONG = "long-context"
GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def records(folder: str | Path) -> pd.DataFrame:
    """Read every ``full-size-*.json`` of a folder.

    Returns
    -------
    pandas.DataFrame
        One row per record with the columns of `NEEDED` and `MORE` (None where not measured; `gpus` is 1 then), and
        gpu_hours: seconds times GPUs, in hours.

    Raises
    ------
    HybretError
        A file that is no JSON, or a record without a needed field; it names the file.
    """
    rows: list[dict[str, Any]] = []
    for path in sorted(Path(folder).glob("full-size-*.json")):
        try:
            found = json.loads(path.read_text())
        except ValueError as problem:
            raise HybretError(f"{path.name} is not valid JSON ({problem}); correct it or take it away") from problem
        for row in _flat(found):
            if lacking := [name for name in NEEDED if row.get(name) is None]:
                raise HybretError(f"{path.name}: a record lacks {lacking[0]!r}; every one has {', '.join(NEEDED)}")
            rows.append({name: row.get(name) for name in (*NEEDED, *MORE)} | {"gpus": int(row.get("gpus") or 1)})
    table = pd.DataFrame(rows, columns=[*NEEDED, *MORE], dtype=object)
    table["gpu_hours"] = [row["seconds"] * row["gpus"] / 3600 for row in rows]
    return table


def _flat(found: Any) -> list[dict[str, Any]]:
    if isinstance(found, list):
        return found
    shared = {name: value for name, value in found.items() if not isinstance(value, list)}
    lists = {"runs": {}, "long_context": {"notebook": LONG}}
    if not lists.keys() & found.keys():
        return [found]
    return [{**more, **shared, **row} for name, more in lists.items() for row in found.get(name, ())]


def number(value: Any, digits: int = 3) -> str:
    """A number with so many digits, thousands apart; a dash where there is none."""
    if value is None or value != value:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def _lines(table: pd.DataFrame, columns: dict[str, Callable[[dict[str, Any]], str]]) -> list[list[str]]:
    """Head and one line per record."""
    rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    return [[*columns], *([write(row) for write in columns.values()] for row in rows)]


def _text(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: str(row[name] or "–")


def _number(name: str, digits: int = 3) -> Callable[[dict[str, Any]], str]:
    return lambda row: number(row[name], digits)


def _model(row: dict[str, Any]) -> str:
    return str(row["model"]).rpartition("/")[2]


def _weights(row: dict[str, Any]) -> str:
    return f"{row['weights']}, {row['dtype']}"


def _gpu(row: dict[str, Any]) -> str:
    """``NVIDIA H100 80GB HBM3`` is an H100 in a table."""
    name = str(row["gpu"]).removeprefix("NVIDIA ").split()[0]
    return f"{row['gpus']} × {name}" if row["gpus"] > 1 else name


def _size(row: dict[str, Any]) -> str:
    if row["parameters"] is None:
        return "–"
    return f"{number(row['parameters'] * BYTES.get(row['dtype'], 4) / GIB)} GiB in {row['dtype']}"


def runs_table(table: pd.DataFrame) -> list[list[str]]:
    """Head and lines: what each notebook took."""
    found = table[table["notebook"] != LONG].sort_values(["model", "notebook", "gpu_hours"])
    columns = {
        "model": lambda row: f"{_model(row)}, {_weights(row)}",
        **{"run": lambda row: f"{row['notebook']}: {row['grid']}", "on": _gpu},
        "tokens (a second)": lambda row: f"{number(row['tokens'])} ({number(row['tokens_per_s'])})",
        "seconds (GPU hours)": lambda row: f"{number(row['seconds'])} ({number(row['gpu_hours'], 2)})",
        **{"peak GiB": _number("peak_gib")},
        **{"code, day": lambda row: f"{str(row['commit'] or '–')[:7]}, {row['date']}"},
    }
    return _lines(found, columns)


def models_table(table: pd.DataFrame) -> list[list[str]]:
    """Head and lines: for each model the size of its weights, and the GPUs on which it ran, with the most it took."""
    most = table.sort_values("peak_gib", ascending=False).drop_duplicates(["model", "dtype", "gpu", "gpus"])
    columns = {
        **{"model": _model, "parameters": _number("parameters"), "weights": _size, "ran on": _gpu},
        **{"most memory on one GPU": lambda row: f"{number(row['peak_gib'])} GiB"},
    }
    return _lines(most.sort_values(["model", "dtype", "gpu", "gpus"]), columns)


def long_table(table: pd.DataFrame) -> list[list[str]]:
    """Head and lines: what one long prompt took."""
    columns = {
        **{"model": _model, "weights": _weights, "on": _gpu},
        **{"tokens": _number("tokens"), "seconds": _number("seconds"), "tokens/s": _number("tokens_per_s")},
        **{"peak GiB": _number("peak_gib")},
    }
    return _lines(table[table["notebook"] == LONG].sort_values(["model", "tokens"]), columns)


def checks_table(folder: str | Path) -> list[list[str]]:
    """Head and lines: what `hybret verify` found at full size, from the ``checks`` of the same files."""
    lines = [["model", "layers", "dtype", "on", "checks of hybret passed", "largest error of those", "failed"]]
    for path in sorted(Path(folder).glob("full-size-*.json")):
        found = json.loads(path.read_text())
        for run in found.get("checks", ()) if isinstance(found, dict) else ():
            own = [row for row in run["rows"] if not row["check"].startswith("transformers")]
            passed = [row for row in own if row["verdict"] == "pass" and "no silent no-op" not in row["check"]]
            failed = [f"{row['check']} ({number(row['error'])})" for row in run["rows"] if row["verdict"] == "fail"]
            worst = number(max(row["error"] for row in passed))
            good = f"{sum(row['verdict'] == 'pass' for row in own)} of {len(own)}"
            gpu = _gpu({"gpus": 1} | run)
            lines.append([_model(run), run["layers"], run["dtype"], gpu, good, worst, ", ".join(failed) or "none"])
    return lines


def exact_table(folder: str | Path) -> list[list[str]]:
    """Head and lines: two ways to the same answers, from ``exact`` of the same files, and how many were equal."""
    lines = [["model", "dtype", "on", "one way", "another", "answers equal, token for token"]]
    for path in sorted(Path(folder).glob("full-size-*.json")):
        found = json.loads(path.read_text())
        for pair in found.get("exact", ()) if isinstance(found, dict) else ():
            one, *others = (way.strip() for way in pair["compared"].split("|"))
            equal = f"{number(pair['equal'], 4)} of {number(pair['answers'], 4)}"
            lines.append([_model(pair), pair["dtype"], _gpu(pair), one, "; ".join(others), equal])
    return lines


TABLES: dict[str, Callable[[pd.DataFrame], list[list[str]]]] = {
    "runs": runs_table,
    "models": models_table,
    "long-context": long_table,
}
