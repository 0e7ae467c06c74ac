"""The retrieval-map explorer: every cell of a sweep, with the prompt, the answer and the score behind it."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import HybretError
from ..prompts import Needle, Prompt
from ..store import read_rows
from . import contexts
from .state import checked, state_of
from .widget import Widget

LISTED = 200  # lines of the fallback table: one per condition


class Explorer(Widget):
    """What `explore` returns. As the last value of a notebook cell it shows itself.

    Attributes
    ----------
    selected : list of dict, or None
        The rows of the cell that the reader picked in the live view, each with ``"map"``: ``"A"`` or ``"B"``.
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        prompts: Iterable[Prompt] | None = None,
        needles: Iterable[Needle] = (),
        haystack: str | Path | None = None,
    ):
        rows, needles = checked(rows), list(needles)
        texts = contexts.rebuilt(rows, needles, haystack) if prompts is None else contexts.given(prompts)
        state, self._order = state_of(rows, texts, needles)
        self._rows = rows
        names = ", ".join(dict.fromkeys(rows["model"].astype(str)))
        super().__init__("maps.js", "maps.css", state, _table(state), f"Retrieval maps of {names}", self._picked)

    def _picked(self, value: Any) -> list[dict[str, Any]]:
        """Rows behind the numbers that the view sends."""
        columns = [column for column in self._rows if column not in ("setting", "series", "step")]
        return [
            {"map": side.upper()} | {str(name): value for name, value in at.to_dict().items()}
            for side in ("a", "b")
            for number in value.get(side, ())
            if 0 <= int(number) < len(self._order)
            for at in [self._rows.loc[self._order[int(number)], columns]]
        ]


def explore(
    rows: pd.DataFrame,
    prompts: Iterable[Prompt] | None = None,
    needles: Iterable[Needle] = (),
    haystack: str | Path | None = None,
) -> Explorer:
    """Retrieval maps to move through: two conditions, their difference, and every answer behind a cell.

    Parameters
    ----------
    rows : rows of `hybret.sweep` or `hybret.stored`, of any number of models, recipes, templates, needles, haystacks,
        runs and conditions: each has curves and maps of its own. The control is shown as the floor of the curves.
    prompts : the prompts of these rows, for the text around the needle. Without them it is rebuilt for organisms on
        the embedded haystack and on `haystack`, and left out for others.
    needles : those other than the paper's that occur, for the items of the score and the text around them.
    haystack : the own text or folder that these rows hid the needle in.

    Returns
    -------
    Explorer
        Live in a notebook, where ``.selected`` gives the picked cell's rows; `Explorer.save` writes a page that works
        without a kernel or a network. A notebook that is opened again shows the live view if JupyterLab saved it
        (Settings, Save Widget State Automatically) or once the cell has run.

    Raises
    ------
    HybretError
        If the rows have no map: a column is missing, there are none, or none has a needle, a length and a depth.
    """
    return Explorer(rows, prompts, needles, haystack)


def rows_of(run: str | Path) -> pd.DataFrame:
    """All rows that a folder holds: of one run, or of all the runs in it.

    Raises
    ------
    HybretError
        If there are none, or a file cannot be read.
    """
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
    lines = []
    for step in state["steps"][:LISTED]:
        series = state["series"][step["series"]]
        cells = [
            series["model"], series["recipe"], series["prompt"], series["setting"], step["label"],
            f"{100 * step['accuracy']:.1f} %", f"{100 * step['low']:.1f} to {100 * step['high']:.1f}", step["n"],
        ]  # fmt: skip
        lines.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>")
    head = ("model", "recipe", "prompt", "setting", "condition", "accuracy", "95 % interval", "n")
    rest = len(state["steps"]) - len(lines)
    more = f"<p>{rest} more conditions are in the rows.</p>" if rest else ""
    top = "".join(f'<th scope="col">{name}</th>' for name in head)
    return (
        "<p>The maps need JavaScript. Accuracy of each condition:</p>"
        f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>{more}"
    )
