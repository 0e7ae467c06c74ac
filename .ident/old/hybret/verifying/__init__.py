"""Whether what hybret rests on holds for a model: measured on the model itself, one number per check.

The checks are in `checks`. Those whose name begins with "transformers" measure transformers' own code, without
hybret's fixes: what is wrong there is a known defect, and said as such. Prompts are random tokens, longer than the
model's window.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import transformers
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from hybret import asked
from hybret.errors import printable
from hybret.families import KNOWN_DEFECTS
from hybret.models import Model, load
from hybret.progress import bar as progress_bar
from hybret.verifying import checks
from hybret.verifying.subjects import Bench

MOST_TOKENS = 100_000
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}
"""Of an error. In fp32 every defect that was met is far above it; half precision tells gross ones only."""
PASS, FAIL, DEFECT = "pass", "fail", "known defect of transformers"

CHECKS: dict[str, Callable[[Bench], float]] = {
    "every attention layer is reached": checks.every_layer,
    "all heads kept = plain attention": checks.all_heads,
    "no head kept = attention silent": checks.silence,
    "no silent no-op: k = 0 and k = 1 act": checks.no_op,
    "causal": checks.causal,
    "window": checks.window,
    "one-token steps = one pass": checks.steps,
    "reading on = one pass": checks.reading_on,
    "fork of a prefill = rerun": checks.fork,
    "ragged batch = single": checks.batch,
    "shared prefill = each alone": checks.shared_prefill,
    "phases as declared": checks.phases,
    "generation leaves prefill untouched": checks.prefill_untouched,
    "transformers: one-token steps": checks.own_steps,
    "transformers: steps without position ids": checks.own_positions,
    "transformers: several tokens after a cache": checks.own_continuation,
    "transformers: left padding": checks.own_padding,
}
COUNTS = (checks.every_layer, checks.window, checks.phases)
EFFECTS = [name for name, check in CHECKS.items() if check is checks.no_op]
"""Checks that ask for an effect, where all others ask for none."""


def verify(
    model: Model | str,
    tokens: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    progress: bool = True,
) -> pd.DataFrame:
    """Check on a model what hybret rests on.

    Parameters
    ----------
    model : Model or str
        Loaded, or anything that `hybret.load` takes; the name of a family gives a tiny one with random weights.
    tokens : int, optional
        Length of the prompt, at least 12; default 16 more than the window, or 48 for global attention. A prompt within
        the window does not test the window.
    device, dtype : of `hybret.load`, for a name.
        float32 by default: half precision tells gross errors only.
    progress : bool
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        One row per check: model, family, check, error, tolerance, verdict (``"pass"``, ``"fail"`` or ``"known defect of
        transformers"``), note (what a defect means, or why a check failed), transformers (its version). The error of a
        check that could not run is missing.

    Raises
    ------
    HybretError
        If the model cannot be loaded, or the prompt is too short.
    """
    if tokens is not None:
        asked.whole("tokens", tokens, 12, MOST_TOKENS)
    bench = Bench(model if isinstance(model, Model) else load(model, device=device, dtype=dtype), tokens)
    lines = []
    with progress_bar(desc=bench.model.name, unit="check", total=len(CHECKS), disable=not progress) as bar:
        for name in CHECKS:
            bar.set_postfix_str(name)
            lines.append({"model": bench.model.name, "family": bench.model.family, "check": name, **_line(bench, name)})
            bar.update()
    return pd.DataFrame(lines).assign(transformers=transformers.__version__)


def _line(bench: Bench, name: str) -> dict[str, Any]:
    check = CHECKS[name]
    tolerance = 0.0 if check in COUNTS else TOLERANCE[bench.model.dtype]
    known = KNOWN_DEFECTS.get((bench.model.family, check.__name__), "")
    try:
        error = float(check(bench))
        holds = error > tolerance if name in EFFECTS else error <= tolerance
        note = known
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as problem:
        error, holds = float("nan"), False
        note = known or f"{type(problem).__name__}: {(str(problem).splitlines() or [''])[0]}"
    if known and holds:
        note = "does not show here; a defect of other versions, or too small in this model"
    verdict = PASS if holds else DEFECT if known else FAIL
    return {"error": error, "tolerance": tolerance, "verdict": verdict, "note": note}


def shown(found: pd.DataFrame) -> Group:
    """The checks as the command line prints them: a table, what is behind its verdicts, and how many failed."""
    colour = {PASS: "green", DEFECT: "yellow", FAIL: "bold red"}
    first, failed = found.iloc[0], int((found["verdict"] == FAIL).sum())
    table = Table("check", "error", "tolerance", "verdict", box=None)
    for row in found.to_dict("records"):
        error = "-" if math.isnan(row["error"]) else f"{row['error']:.2g}"
        asked = f"{'over ' if row['check'] in EFFECTS else ''}{row['tolerance']:g}"
        table.add_row(row["check"], error, asked, f"[{colour[row['verdict']]}]{row['verdict']}[/]")
    notes = [
        f"{row['check']}: {escape(printable(row['note']))}" for row in found[found["note"] != ""].to_dict("records")
    ]
    head = f"{escape(printable(first['model']))} ({first['family']}), transformers {first['transformers']}"
    return Group(head, table, *notes, f"{failed or 'no'} check{'' if failed == 1 else 's'} failed")
