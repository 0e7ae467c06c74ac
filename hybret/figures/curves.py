"""Accuracy over the number of heads kept, a panel for each model (the paper's Figure 2, and Figure 3 left)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hybret import metrics
from hybret.errors import HybretError
from hybret.families import known_as
from hybret.figures import style
from hybret.rows import checked

FLOOR: Any = {"linestyle": ":"}
EXACT: Any = {"linestyle": (0, (4, 2)), "linewidth": 1.0}
TIPS: Any = {"linestyle": "none", "marker": "^", "color": style.INK, "markerfacecolor": "white", "markersize": 6,
             "label": "the paper's tipping point"}  # fmt: skip


def curve(axes: Axes, rows: pd.DataFrame, floor: pd.DataFrame, name: str, i: int, unit: float = 1) -> None:
    """Draw the i-th curve over k, in units of `unit` heads: mean score, exact answers, and the score of the control."""
    table = metrics.accuracy(rows, by=["k"]).sort_values("k")
    k = table["k"].to_numpy(dtype=float) / unit
    # Thinner and smaller, so that curves on top of one another can all be seen.
    look: Any = {"linewidth": max(1.0, 2.4 - 0.9 * i), "markersize": (7 if len(k) <= 17 else 5) - 2 * min(i, 1)}
    style.band(axes, k, table, i, 0.2, label=name, zorder=3, **look)
    colour = style.COLOURS[i % 7]
    axes.plot(k, 100 * table["exact"], color=colour, label=f"{name}, full needle", zorder=2, **EXACT)
    if len(floor):
        ground = metrics.accuracy(floor, by=["k"]).sort_values("k")
        x, y = ground["k"].to_numpy(dtype=float) / unit, 100 * ground["accuracy"]
        axes.fill_between(x, 0, y, color=style.PALE, zorder=1, linewidth=0)
        axes.plot(x, y, color=colour, zorder=2, label=f"{name}, without the needle", **FLOOR)


def line_keys(floor: pd.DataFrame) -> list[Line2D]:
    """Entries of a legend for the kinds of line that `curve` draws beside the mean."""
    keys = [Line2D([], [], color=style.GREY, label="full needle", **EXACT)]
    return [*keys, Line2D([], [], color=style.GREY, label="without the needle", **FLOOR)] if len(floor) else keys


def heads_kept(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Rows of `KeepHeads` conditions, which must have these columns."""
    if not (kept := checked(rows, ["k", "needle", *columns])["k"].notna()).any():
        raise HybretError("no rows that keep heads; run KeepHeads conditions")
    return rows[kept]


def reach_all_heads(rows: pd.DataFrame) -> bool:
    """Whether the largest k of one model's rows is all its heads: only then does keeping them do nothing."""
    acted = [column for column in ("acted_prefill", "acted_generation") if column in rows]
    return not rows.loc[rows["k"] == rows["k"].max(), acted].to_numpy(dtype=float).any()


def _panels(rows: pd.DataFrame, by: str, reference: Mapping[int, float]) -> Figure:
    rows, floor = style.split(heads_kept(rows, by))
    names, floor_names = (table[by].map(lambda value: style.words(by, value)) for table in (rows, floor))
    models = list(dict.fromkeys(rows["model"]))
    narrow = len(models) > 1
    figure = style.canvas(3.6 if narrow else 3.9)
    grid = figure.subplots(1, len(models), squeeze=False, sharey=True)[0]
    marked = False
    for axes, model in zip(grid, models, strict=True):
        of_model, floor_of_model = rows["model"] == model, floor["model"] == model
        for i, name in enumerate(dict.fromkeys(names[of_model])):
            curve(axes, rows[of_model & (names == name)], floor[floor_of_model & (floor_names == name)], name, i)
        heads, every = int(rows["k"][of_model].max()), reach_all_heads(rows[of_model])
        axes.set_xlabel("heads kept per layer, k" + (f", of {heads}" if every else ""))
        axes.set_xticks(range(0, heads + 1, 2 ** sum(heads > most for most in ((7, 16) if narrow else (16,)))))
        axes.set_xlim(-0.04 * max(heads, 10), heads + 0.04 * max(heads, 10))
        style.percent_axis(axes)
        if heads in reference and every:
            axes.plot([reference[heads]], [0], clip_on=False, zorder=4, **TIPS)
            marked = True
        if narrow:
            axes.set_title(known_as(model))
            axes.label_outer()
            axes.xaxis.label.set_visible(True)
    legend = [
        Line2D([], [], color=style.COLOURS[i % 7], marker=style.MARKERS[i % 7], label=name)
        for i, name in enumerate(dict.fromkeys(names))
    ]
    legend += [*line_keys(floor), *([Line2D([], [], **TIPS)] if marked else [])]
    figure.legend(handles=legend, loc="outside upper center", ncols=3 if marked else 4)
    n = style.counted(rows, ["model", "k", by])
    hint = "read from right to left: fewer and fewer heads"
    style.footnote(figure, style.provenance(rows, f"{n} prompts each", style.BANDS, hint))
    return figure


@style.styled
def accuracy_by_k(rows: pd.DataFrame, reference: Mapping[int, float] | None = None) -> Figure:
    """Accuracy over the number of heads kept, generation and prefill versions (the paper's Figure 2).

    A panel for each model. Lines: mean score, in per cent of the maximum, with 95 % bands;
    dashed: share of answers with the full needle; dotted: score without the needle.

    Parameters
    ----------
    rows : rows of `KeepHeads` conditions (k not NA) of one model or several. Rows without a needle among them are taken
        as the control of the rows with the same question, haystack, template and lengths.
    reference : number of heads to the k at which the paper's model with as many heads tips. A triangle marks it for a
        model whose rows go up to all heads. `book.paper.numbers.TIPPING_POINTS` has the paper's.
    """
    return _panels(rows, "during", reference or {})


@style.styled
def jrt_by_k(rows: pd.DataFrame) -> Figure:
    """Accuracy over k with and without Just Read Twice prompting (the paper's Figure 3, left).

    As `accuracy_by_k`, of rows of one `KeepHeads` version with template "jrt" and another template.
    """
    return _panels(rows, "template", {})
