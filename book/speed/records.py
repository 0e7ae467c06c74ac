"""Measurements of full-size models on GPUs (``book/published/full-size-*.json``) as tables to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from hybret.errors import HybretError

NEEDED = ("model", "gpu", "dtype", "date")
MEASURED = {"runs": ("seconds", "peak_gib"), "long_context": ("seconds", "peak_gib"), "checks": ("rows",), "exact": ()}


def tables(folder: str | Path) -> dict[str, pd.DataFrame]:
    """Return a table of each kind of record: runs, long_context, checks (of `hybret verify`) and exact."""
    lines: dict[str, list[dict[str, object]]] = {kind: [] for kind in MEASURED}
    for path in sorted(Path(folder).glob("full-size-*.json")):
        try:
            parts = json.loads(path.read_text())
        except ValueError as problem:
            raise HybretError(f"{path.name} is not valid JSON ({problem}); correct it or remove it") from problem
        if not isinstance(parts, dict):
            raise HybretError(f'{path.name} holds no lists of records by their kind; write {{"runs": [...]}}')
        for kind, more in MEASURED.items():
            for row in parts.get(kind, ()):
                if lacking := [name for name in (*NEEDED, *more) if row.get(name) is None]:
                    raise HybretError(f"{path.name}: a record of {kind} lacks {lacking[0]!r}; add it")
                lines[kind].append(_line(kind, {"gpus": 1, **row}))
    return {kind: pd.DataFrame(rows).fillna("–") for kind, rows in lines.items()}


def _line(kind: str, row: dict[str, Any]) -> dict[str, object]:
    gpu = row["gpu"].removeprefix("NVIDIA ").split()[0]
    weights = ", ".join(filter(None, [row.get("weights"), row["dtype"]]))
    line = {"model": row["model"].rpartition("/")[2], "weights": weights, "on": f"{row['gpus']} × {gpu}"}
    if kind == "checks":
        ours = [check for check in row["rows"] if not check["check"].startswith("transformers")]
        errors = [c["error"] for c in ours if c["verdict"] == "pass" and "no silent no-op" not in c["check"]]
        failed = [f"{check['check']} ({check['error']:.3g})" for check in row["rows"] if check["verdict"] == "fail"]
        passed = f"{sum(check['verdict'] == 'pass' for check in ours)} of {len(ours)}"
        more = {"layers": row["layers"], "passed": passed, "largest error of those": f"{max(errors):.3g}"}
        return line | more | {"failed": ", ".join(failed) or "none"}
    if kind == "exact":
        return line | {"compared": row["compared"], "equal answers": f"{row['equal']:,} of {row['answers']:,}"}
    line |= {"run": f"{row['notebook']}: {row['grid']}"} if kind == "runs" else {}
    hours = row["seconds"] * row["gpus"] / 3600
    speed = {name: f"{row[name]:,}" for name in ("parameters", "tokens", "tokens_per_s") if row.get(name) is not None}
    cost = {"seconds": f"{row['seconds']:,.0f}", "GPU hours": f"{hours:.2g}", "peak GiB": f"{row['peak_gib']:.1f}"}
    return line | speed | cost | {"commit": str(row.get("commit") or "–")[:7], "date": row["date"]}
