"""The retrieval-map explorer: every cell of a sweep, with the prompt, the answer and the score behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hybret.errors import HybretError
from hybret.explorer import heads as heads_view
from hybret.explorer.record import Look
from hybret.explorer.state import checked, contexts_of, state_of
from hybret.explorer.widget import ENTRY, Widget, source
from hybret.prompts import Needle, Prompt

LISTED = 200  # lines of the fallback table: one per condition


def explore(
    rows: pd.DataFrame, prompts: Iterable[Prompt] = (), needles: Iterable[Needle] = (), heads: Iterable[Look] = ()
) -> Widget:
    """Retrieval maps to move through: two conditions, their difference, and every answer behind a cell.

    Parameters
    ----------
    rows : rows of `hybret.sweep` or `hybret.load_rows`, of any number of models, recipes, templates, needles, texts,
        runs and conditions: each has curves and maps of its own. The curves show the control, too.
    prompts : the prompts of these rows, for the text around the needle, which is left out without them.
    needles : those other than the paper's that occur, for the items of the score.
    heads : records of `hybret.look` of some of the prompts: their squares have a dot, and open the map of the heads.

    The view is live in a notebook; ``.save("maps.html")`` writes a page that works without a kernel or a network, and
    ``.selected`` lists the rows of the cell that the reader picked, each with ``"map"``: ``"A"`` or ``"B"``. A notebook
    that is opened again shows the live view if JupyterLab saved it (Settings, Save Widget State Automatically) or once
    the cell has run.
    """
    rows = checked(rows)
    state, order = state_of(rows, contexts_of(prompts), needles)
    state["heads"] = _records(rows, order, state["rows"]["place"], heads)

    def picked(value: dict[str, list[int]]) -> list[dict[str, Any]]:
        numbers = [(side, number) for side in ("a", "b") for number in value.get(side, ())]
        return [{"map": side.upper(), **rows.loc[order[number]].to_dict()} for side, number in numbers]

    names = ", ".join(dict.fromkeys(rows["model"].astype(str)))
    # The map of the heads is a view of its own: here it is a name that the maps use.
    esm = f"const heads = (() => {{\n{source('heads.js').replace(ENTRY, 'return', 1)}}})();\n{source('maps.js')}"
    return Widget(
        esm, source("heads.css") + source("maps.css"), state, _table(state), f"Retrieval maps of {names}", picked
    )


def _records(
    rows: pd.DataFrame, order: np.ndarray, places: Sequence[int], records: Iterable[Look]
) -> list[dict[str, Any]]:
    """The state of each record, with the place of its prompt; a record of a prompt without rows is refused."""
    place_of = dict(zip(rows["prompt"].loc[order], places, strict=True))
    known = set(zip(rows["prompt"], rows["weights"], rows["recipe"], strict=True))
    found = []
    for record in records:
        if (record.prompt, record.digest, record.recipe) not in known:
            raise HybretError(
                f"no row belongs to the heads of {record.model} on prompt {record.prompt}; give its rows too"
            )
        facts = {"weights": record.digest, "recipe": record.recipe}
        found.append({"place": place_of[record.prompt], **facts, "view": heads_view.state_of(record)})
    return found


def _table(state: dict[str, Any]) -> str:
    """Accuracy of each condition: what is left of the maps where scripts do not run."""
    lines = []
    for step in state["steps"][:LISTED]:
        series = state["series"][step["series"]]
        line = {name: series[name] for name in ("model", "recipe", "prompt", "setting")} | {"condition": step["label"]}
        low, mean, high = (f"{100 * step[name]:.1f}" for name in ("low", "accuracy", "high"))
        lines.append(line | {"accuracy": f"{mean} %", "95 % interval": f"{low} to {high}", "n": step["n"]})
    rest = len(state["steps"]) - LISTED
    more = f"<p>{rest} more conditions are in the rows.</p>" if rest > 0 else ""
    with pd.option_context("display.max_colwidth", None):
        table = pd.DataFrame(lines).to_html(index=False, border=0)
    return f"<p>The maps need JavaScript. Accuracy of each condition:</p>{table}{more}"
