"""What a head looks at: a record of `hybret.looking.look` as an interactive view."""

from __future__ import annotations

import base64
import html
from typing import Any

import numpy as np

from ..errors import printable
from ..figures.style import MADE_UP
from ..looking import PARTS, Look
from .widget import Widget

FAINT = 0.005
"""Attention on a bin below this is not drawn; the shares of the parts count all of it."""

ROWS = 10  # of the table that stands in for the view


def explore_heads(record: Look) -> Widget:
    """An interactive view of what each head looks at, in a notebook and on a page without a kernel.

    Parameters
    ----------
    record : Look
        Of `hybret.look`. The view begins with its first run, at the step of `Look.telling`.

    Returns
    -------
    Widget
        Shows itself as the last value of a cell; ``.save("heads.html")`` writes a page. Bins with less than 0.5 % of a
        head's attention are not drawn.
    """
    label = f"What each attention head of {record.model} looks at"
    return Widget("heads.js", "heads.css", _state(record), _table(record), label)


def _state(record: Look) -> dict[str, Any]:
    width = max(each.end - each.start for each in record.bins)
    said = [
        f"model {record.model} ({record.digest[:8]})",
        f"recipe {record.recipe}",
        f"1 prompt of {record.tokens} tokens",
        f"window {record.window} tokens" if record.window else "global attention",
        f"bars: one token in needle, question and answer, up to {width} tokens elsewhere",
        "heights in the list are square roots; below 0.5 % nothing is drawn",
        *[MADE_UP] * record.made_up,
    ]
    return {
        "note": printable(" · ".join(said)),
        "layers": list(record.layers),
        "heads": record.runs[0].entropy.shape[1],
        "tokens": record.tokens,
        "end": record.bins[-1].end,
        "bins": {
            "start": [each.start for each in record.bins],
            "part": [PARTS.index(each.part) for each in record.bins],
            "text": [each.text for each in record.bins],
        },
        "runs": [
            {
                "condition": printable(run.condition),
                "position": run.position,
                "step": record.telling(run),
                "reads": run.reads,
                "gives": run.gives,
                "mass": _packed(run.mass),
                "entropy": _whole(100 * run.entropy),
                "kept": None if run.kept.all() else "".join(map(str, run.kept.astype(int).ravel())),
                "parts": {part: _whole(1000 * mass) for part, mass in record.parts(run).items() if part != PARTS[-1]},
            }
            for run in record.runs
        ],
    }


def _whole(values: np.ndarray) -> list[int]:
    return np.rint(values).astype(int).ravel().tolist()


def _packed(mass: np.ndarray) -> str:
    """Base64 of how many bins each (layer, head, step) has, then of each bin its number and its share in 1/255.

    At most 200 bins can have 0.5 % each, and there are at most 256, so that every number is one byte.
    """
    rows = mass.reshape(-1, mass.shape[-1])
    drawn = rows >= FAINT
    pairs = np.stack([np.nonzero(drawn)[1], np.rint(255 * rows[drawn])], -1)
    return base64.b64encode(drawn.sum(-1).astype(np.uint8).tobytes() + pairs.astype(np.uint8).tobytes()).decode()


def _table(record: Look) -> str:
    """The heads with most attention on the needle, at the step where the view begins."""
    run = record.runs[0]
    step = record.telling(run)
    heads = run.entropy.shape[1]
    needle = record.parts(run)["needle"][..., step].ravel()
    body = ""
    for i in np.argsort(-needle, kind="stable")[:ROWS]:
        layer, head = divmod(int(i), heads)
        kept = "yes" if run.kept[layer, head, step] else "no"
        body += (
            f"<tr><td>{record.layers[layer]}</td><td>{head}</td><td>{100 * needle[i]:.0f} %</td>"
            f"<td>{run.entropy[layer, head, step]:.1f}</td><td>{kept}</td></tr>"
        )
    return (
        f"<table><caption>{html.escape(printable(record.model))} about to write {html.escape(repr(run.gives[step]))}: "
        "the heads with most attention on the needle</caption><thead><tr><th>layer</th><th>head</th>"
        f"<th>on the needle</th><th>entropy (bits)</th><th>kept</th></tr></thead><tbody>{body}</tbody></table>"
    )
