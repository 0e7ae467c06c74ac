"""The retrieval-map explorer: every cell of a sweep, with the prompt, the answer and the score behind it."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from hybret.errors import HybretError
from hybret.explorer.state import checked, contexts_of, state_of
from hybret.explorer.widget import Widget
from hybret.prompts import Needle, Prompt
from hybret.store import read_rows

LISTED = 200  # lines of the fallback table: one per condition


def explore(rows: pd.DataFrame, prompts: Iterable[Prompt] = (), needles: Iterable[Needle] = ()) -> Widget:
    """Retrieval maps to move through: two conditions, their difference, and every answer behind a cell.

    Parameters
    ----------
    rows : rows of `hybret.sweep` or `hybret.load_rows`, of any number of models, recipes, templates, needles, texts,
        runs and conditions: each has curves and maps of its own. The control is shown as the floor of the curves.
    prompts : the prompts of these rows, for the text around the needle, which is left out without them.
    needles : those other than the paper's that occur, for the items of the score.

    The view is live in a notebook; ``.save("maps.html")`` writes a page that works without a kernel or a network, and
    ``.selected`` lists the rows of the cell that the reader picked, each with ``"map"``: ``"A"`` or ``"B"``. A notebook
    that is opened again shows the live view if JupyterLab saved it (Settings, Save Widget State Automatically) or once
    the cell has run.
    """
    rows = checked(rows)
    state, order = state_of(rows, contexts_of(prompts), needles)

    def picked(value: dict[str, list[int]]) -> list[dict[str, Any]]:
        numbers = [(side, number) for side in ("a", "b") for number in value.get(side, ())]
        return [{"map": side.upper(), **rows.loc[order[number]].to_dict()} for side, number in numbers]

    names = ", ".join(dict.fromkeys(rows["model"].astype(str)))
    return Widget("maps.js", "maps.css", state, _table(state), f"Retrieval maps of {names}", picked)


def rows_of(run: str | Path) -> pd.DataFrame:
    """All rows that a folder holds: of one run, or of all the runs in it."""
    run = Path(run)
    if not run.is_dir():
        raise HybretError(f"there is no run folder {run}; give a folder that `hybret sweep --out` wrote")
    paths = sorted(run.glob("rows-*.parquet")) or sorted(run.glob("*/rows-*.parquet"))
    if not paths:
        raise HybretError(f"{run} holds no rows (rows-*.parquet): the run has not finished, or it is another folder")
    try:
        return read_rows(paths)
    except OSError as problem:
        raise HybretError(f"cannot read rows of {run} ({problem})") from problem


def _table(state: dict[str, Any]) -> str:
    """Accuracy of each condition: what is left of the maps where scripts do not run."""
    head = ("model", "recipe", "prompt", "setting", "condition", "accuracy", "95 % interval", "n")
    top = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = ""
    for step in state["steps"][:LISTED]:
        low, mean, high = (f"{100 * step[name]:.1f}" for name in ("low", "accuracy", "high"))
        series = [state["series"][step["series"]][name] for name in head[:4]]
        cells = [*series, step["label"], f"{mean} %", f"{low} to {high}", step["n"]]
        body += "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>"
    rest = len(state["steps"]) - LISTED
    more = f"<p>{rest} more conditions are in the rows.</p>" if rest > 0 else ""
    return (
        "<p>The maps need JavaScript. Accuracy of each condition:</p>"
        f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>{more}"
    )
