"""Rows made by hand, and what several test files ask of a figure."""

from __future__ import annotations

import itertools
import re

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from hybret import HybretError

LENGTHS, DEPTHS = (80, 300, 512), (0.0, 50.0, 100.0)


def rows_of(scores, **columns) -> pd.DataFrame:
    """Rows of one condition with these scores, each on another prompt."""
    n = len(scores)
    frame = pd.DataFrame({"score": np.asarray(scores, float), "prompt": [f"p{i}" for i in range(n)]})
    frame = frame.assign(exact=frame["score"] == 5, needle="paper", condition="base", rubric="table2")
    frame = frame.assign(template="base", haystack="h", haystack_seed=0, length=range(n), depth=50.0)
    return frame.assign(**columns)


def cells(**columns) -> pd.DataFrame:
    """One row per cell of a 3 x 3 grid; the score is 5 unless the needle is out of the window."""
    rows = []
    for length, depth in itertools.product(LENGTHS, DEPTHS):
        distance = int(length * (1 - depth / 100)) + 10
        inside = distance < 256
        rows.append({
            "model": "griffin-tiny", "weights": "0123456789ab", "recipe": "CORRECTED", "template": "base",
            "condition": "keep", "needle": "paper", "length": length, "depth": depth, "distance": distance,
            "in_window": inside, "score": 5.0 * inside, "exact": inside, "prompt": f"{length}-{depth}",
            "rubric": "table2", "generation": "keep", "prefill": "keep", "k": 10, "during": "generation",
        })  # fmt: skip
    return pd.DataFrame(rows).assign(**columns).astype({"k": "Int64"})


def control(rows: pd.DataFrame, score: float) -> pd.DataFrame:
    """The no-needle prompts of `rows`: one for each length."""
    kept = rows[rows["depth"] == 0]
    return kept.assign(needle="none", depth=np.nan, distance=-1, in_window=False, score=score, exact=False)


def curves() -> pd.DataFrame:
    """Three numbers of heads kept, in both versions, with the control."""
    parts = [cells(k=k, during=d) for k in (1, 10) for d in ("generation", "both")]
    silent = [cells(k=0, during=d, score=0.0, exact=False) for d in ("generation", "both")]
    rows = pd.concat([*parts, *silent], ignore_index=True)
    return pd.concat([rows, control(rows, score=0.5)], ignore_index=True)


def pairs() -> pd.DataFrame:
    """Four pairs of manipulations; Omit during generation scores nothing."""
    table = [cells(prefill=p, generation=g, condition=f"{g}-{p}") for p in ("keep", "null") for g in ("keep", "omit")]
    rows = pd.concat(table, ignore_index=True)
    omit = rows["generation"] == "omit"
    return rows.assign(score=rows["score"].mask(omit, 0.0), exact=rows["exact"] & ~omit)


def three_models(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as those of three models with different heads; the last one is instruction-tuned."""
    named = {"griffin-tiny": 10, "griffin-small": 16, "jamba-tiny": 32}
    parts = [rows.assign(model=m, k=rows["k"].replace(10, heads)) for m, heads in named.items()]
    parts[2] = parts[2].assign(template=parts[2]["template"].replace("base", "instruct"), in_window=True)
    return pd.concat(parts, ignore_index=True)


def text(figure: Figure) -> str:
    return "\n".join(t.get_text() for t in figure.findobj(matplotlib.text.Text))


def check_readable(figure: Figure, name: str) -> None:
    """A figure names its model, labels its axes, and has no type below 8 points."""
    assert "griffin-tiny" in text(figure), name
    labelled = [axes for axes in figure.axes if axes.get_xlabel() or axes.get_ylabel()]
    assert labelled or "prompt length (tokens)" in text(figure), name
    assert min(t.get_fontsize() for t in figure.findobj(matplotlib.text.Text) if t.get_text().strip()) >= 8, name


def squares(axes) -> dict[tuple[float, float], float]:
    """(column, row) of every square of a map, to its score."""
    found = {}
    for patch in axes.patches:
        if (patch.get_gid() or "").startswith("score-"):
            corners = patch.get_path().vertices.reshape(-1, 5, 2)[:, 0]
            found |= {tuple(corner): float(patch.get_gid().removeprefix("score-")) for corner in corners.tolist()}
    return found


def check_no_mixed_means(draw, rows: pd.DataFrame) -> None:
    """A figure draws rows that are alike, and refuses rows of two kinds, and rows twice."""
    draw(rows)
    for column, value in MIXED.items():
        with pytest.raises(HybretError, match=f"'{column}' in one mean .*{re.escape(value)}"):
            draw(pd.concat([rows, rows.assign(**{column: value})]))
    with pytest.raises(HybretError, match="twice, the same condition on the same prompt"):
        draw(pd.concat([rows, rows]))


MIXED = {"needle": "lamp", "haystack": "hills", "weights": "other", "dtype": "bfloat16", "template": "jrt",
         "recipe": "PAPER", "intervention": "KeepHeads(k=10, metric='l2')"}  # fmt: skip
ALIKE = cells(haystack="h", dtype="float32", intervention="KeepHeads(k=10, metric='entropy')", dose=1)
