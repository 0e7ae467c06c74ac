"""What a head looks at: a record of `hybret.explorer.record.look` as an interactive view."""

from __future__ import annotations

import base64
import html
from typing import Any

import numpy as np

from hybret.errors import printable
from hybret.explorer.record import PARTS, Look
from hybret.explorer.widget import Widget
from hybret.families import has_random_weights, known_as
from hybret.figures.style import MADE_UP

FAINT = 0.005  # attention on a bin below this is not drawn; the shares of the parts count all of it
ROWS = 10  # of the table that replaces the view


def explore_heads(record: Look) -> Widget:
    """An interactive view of what each head looks at, in a notebook and on a page without a kernel.

    The view of a record of `hybret.look` begins with its first run, at the step of `Look.telling`. It shows itself as
    the last value of a cell; ``.save("heads.html")`` writes a page. Bins with less than 0.5 % of a head's attention are
    not drawn.
    """
    label = f"What each attention head of {record.model} looks at"
    return Widget("heads.js", "heads.css", state_of(record), _table(record), label)


def state_of(record: Look) -> dict[str, Any]:
    """A record as the view's state: what JSON can hold."""
    width = max(piece.end - piece.start for piece in record.bins)
    facts = [
        f"model {known_as(record.model, record.digest)} · recipe {record.recipe} · 1 prompt of {record.tokens} tokens",
        f"window {record.window} tokens" if record.window else "global attention",
        f"bars: one token in needle, question and answer, up to {width} tokens elsewhere",
        "heights in the list are square roots; below 0.5 % nothing is drawn",
        *[MADE_UP] * has_random_weights(record.model, record.digest),
    ]
    return {
        "note": printable(" · ".join(facts)),
        "layers": list(record.layers),
        "heads": record.runs[0].entropy.shape[1],
        "tokens": record.tokens,
        "end": record.bins[-1].end,
        "bins": {
            "start": [piece.start for piece in record.bins],
            "part": [PARTS.index(piece.part) for piece in record.bins],
            "text": [piece.text for piece in record.bins],
        },
        "runs": [
            {
                "condition": printable(run.condition),
                "position": run.position,
                "step": record.telling(run),
                "reads": run.reads,
                "gives": run.gives,
                "mass": _packed(run.mass),
                "entropy": _rounded(100 * run.entropy),
                "kept": None if run.kept.all() else "".join(map(str, run.kept.astype(int).ravel())),
                "parts": {part: _rounded(1000 * mass) for part, mass in record.parts(run).items() if part != PARTS[-1]},
            }
            for run in record.runs
        ],
    }


def _rounded(values: np.ndarray) -> list[int]:
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
    run, rows = record.runs[0], record.rows
    step = record.telling(run)
    rows = rows[(rows["condition"] == run.condition) & (rows["step"] == step)].nlargest(ROWS, "needle")
    table = rows[["layer", "head"]].assign(
        **{"on the needle": (100 * rows["needle"]).map("{:.0f} %".format)},
        **{"entropy (bits)": rows["entropy"].map("{:.1f}".format)},
        kept=rows["kept"].map({True: "yes", False: "no"}),
    )
    title = f"{printable(record.model)} about to write {run.gives[step]!r}: the heads with most attention on the needle"
    return f"<p>{html.escape(title)}</p>{table.to_html(index=False, border=0)}"
