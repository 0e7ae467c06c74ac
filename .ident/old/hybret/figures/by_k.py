"""Accuracy over the number of heads kept, a panel per model (the paper's Figures 2 and 3 left); the home figure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hybret import asked, paper, tables
from hybret.errors import HybretError
from hybret.figures.maps import draw_map, in_fives, scores
from hybret.figures.style import (  # fmt: skip
    COLOURS,
    GREY,
    INK,
    MARKERS,
    PALE,
    canvas,
    counted,
    footnote,
    percent_axis,
    provenance,
    split,
    styled,
    words,
)

FLOOR: Any = {"linestyle": ":"}
EXACT: Any = {"linestyle": (0, (4, 2)), "linewidth": 1.0}
TIPS: Any = {"linestyle": "none", "marker": "^", "color": INK, "markerfacecolor": "white", "markersize": 6}
_BANDS = "bands: 95 %, bootstrap over prompts"


def _curve(axes: Axes, rows: pd.DataFrame, floor: pd.DataFrame, name: str, i: int, unit: float = 1) -> None:
    """Draw one curve over k, in units of `unit` heads: mean with its band, share of full needles, floor of the control.

    `i` chooses colour and marker.
    """
    table = tables.accuracy(rows, by=["k"]).sort_values("k")
    k = table["k"].to_numpy(dtype=float) / unit
    colour, marker = COLOURS[i % 7], MARKERS[i % 7]
    # Thinner and smaller, so that curves on top of one another can all be seen.
    width, size = max(1.0, 2.4 - 0.9 * i), (7 if len(k) <= 17 else 5) - 2 * min(i, 1)
    axes.fill_between(k, 100 * table["low"], 100 * table["high"], color=colour, alpha=0.2, linewidth=0)
    look: Any = {"color": colour, "marker": marker, "markersize": size, "linewidth": width}
    axes.plot(k, 100 * table["accuracy"], label=name, zorder=3, **look)
    axes.plot(k, 100 * table["exact"], color=colour, label=f"{name}, full needle", zorder=2, **EXACT)
    if len(floor):
        ground = tables.accuracy(floor, by=["k"]).sort_values("k")
        x, y = ground["k"].to_numpy(dtype=float) / unit, 100 * ground["accuracy"]
        axes.fill_between(x, 0, y, color=PALE, zorder=1, linewidth=0)
        axes.plot(x, y, color=colour, zorder=2, label=f"{name}, floor (no needle)", **FLOOR)


def _panel(axes: Axes, rows: pd.DataFrame, floor: pd.DataFrame, by: str, many: bool) -> None:
    """Draw one model: a curve per value of `by`, the values in the words of a reader."""
    named, below = rows[by].map(lambda v: words(by, v)), floor[by].map(lambda v: words(by, v))
    for i, name in enumerate(dict.fromkeys(named)):
        _curve(axes, rows[named == name], floor[below == name], name, i)
    heads = int(rows["k"].max())
    axes.set_xlabel("heads kept per layer, k" + (f", of {heads}" if _whole(rows) else ""))
    axes.set_xticks(range(0, heads + 1, (1 if heads < 8 else 2 if heads <= 16 else 4) if many else 1 + (heads > 16)))
    axes.set_xlim(-0.04 * max(heads, 10), heads + 0.04 * max(heads, 10))
    percent_axis(axes)


def _sparse(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Rows of `KeepHeads` conditions, with these columns."""
    asked.table(rows, ["k", "needle", *columns], ("k",))
    if not (kept := rows["k"].notna()).any():
        raise HybretError("no rows that keep heads; run KeepHeads conditions")
    return rows[kept]


def _whole(rows: pd.DataFrame) -> bool:
    """Whether the largest k of one model's rows is all its heads: only then does keeping them do nothing."""
    acted = [column for column in ("acted_prefill", "acted_generation") if column in rows]
    return not rows.loc[rows["k"] == rows["k"].max(), acted].to_numpy(dtype=float).any()


def _tipping(axes: Axes, heads: int) -> bool:
    """Mark where the paper's model with as many heads tips; say whether there is one."""
    like = paper.counterpart(heads)
    if like:
        k = paper.THRESHOLDS[f"{like} tipping point"].value
        axes.plot([k], [0], clip_on=False, zorder=4, label=f"tipping point of {like}", **TIPS)
    return like is not None


def _panels(rows: pd.DataFrame, floor_rows: pd.DataFrame | None, by: str, mark: Callable[[Axes, int], bool]) -> Figure:
    rows, floor = split(_sparse(rows, by), floor_rows)
    models = list(dict.fromkeys(rows["model"]))
    figure = canvas(3.9 if len(models) == 1 else 3.6)
    grid = figure.subplots(1, len(models), squeeze=False, sharey=True)[0]
    marked = False
    for axes, model in zip(grid, models, strict=True):
        own = rows[rows["model"] == model]
        _panel(axes, own, floor[floor["model"] == model], by, len(models) > 1)
        marked |= _whole(own) and mark(axes, int(own["k"].max()))
        if len(models) > 1:
            axes.set_title(model)
            axes.label_outer()
            axes.xaxis.label.set_visible(True)
    names = dict.fromkeys(words(by, v) for v in rows[by])
    legend = [Line2D([], [], color=COLOURS[i % 7], marker=MARKERS[i % 7], label=n) for i, n in enumerate(names)]
    legend.append(Line2D([], [], color=GREY, label="full needle", **EXACT))
    if len(floor):
        legend.append(Line2D([], [], color=GREY, label="floor (no needle)", **FLOOR))
    if marked:
        legend.append(Line2D([], [], label="the paper's tipping point", **TIPS))
    figure.legend(handles=legend, loc="outside upper center", ncols=3 if marked else 4)
    n = counted(rows, ["model", "k", by])
    hint = "read from right to left: fewer and fewer heads"
    footnote(figure, provenance(rows, f"{n} prompts each", _BANDS, hint))
    return figure


@styled
def accuracy_by_k(rows: pd.DataFrame, floor_rows: pd.DataFrame | None = None) -> Figure:
    """Accuracy over the number of heads kept, generation and prefill versions (the paper's Figure 2).

    Parameters
    ----------
    rows
        Rows of `KeepHeads` conditions (k not NA) of one model or several; rows without a needle among them are taken
        as the control of the rows that ask for the same in the same haystack, template and lengths.
    floor_rows
        No-needle rows of the same conditions, where they are kept apart. Their accuracy is the floor: what a
        model earns without the needle to retrieve. The paper has no such control.

    Returns
    -------
    Figure
        One panel per model. Lines: mean score with 95 % bootstrap bands over prompts, in per cent of the maximum;
        dashed: share of answers with the full needle; dotted: floor. A triangle marks the tipping point that the paper
        gives for its model with as many heads, where the rows go up to all of them.

    Raises
    ------
    HybretError
        If a point would be a mean over several needles, haystacks, measures of heads, ... (`hybret.tables.alike`).
    """
    return _panels(rows, floor_rows, "during", _tipping)


@styled
def jrt_by_k(rows: pd.DataFrame, floor_rows: pd.DataFrame | None = None) -> Figure:
    """Accuracy over k with and without Just Read Twice prompting (the paper's Figure 3, left).

    Parameters
    ----------
    rows
        Rows of one `KeepHeads` version with template "jrt" and another template, of one model or several.
    floor_rows
        As in `accuracy_by_k`.
    """
    return _panels(rows, floor_rows, "template", lambda *_: False)


@styled
def home(rows: pd.DataFrame, palette: str = "cividis") -> Figure:
    """Draw the answer in one figure: accuracy over the heads kept, beside the maps with all heads and with none.

    Parameters
    ----------
    rows
        Rows of the generation version for every k, standard prompt, with the no-needle control. Several models make
        one curve each, over the share of their heads; the maps are those of the first.
    palette
        As in `retrieval_maps`.

    Raises
    ------
    HybretError
        If the rows of a model end below all its heads.
    """
    rows, floor = split(_sparse(rows, "length", "depth", "in_window"))
    models = list(dict.fromkeys(rows["model"]))
    if part := [model for model in models if not _whole(rows[rows["model"] == model])]:
        raise HybretError(f"the rows of {part[0]} end below all its heads, which this figure shows; run that k as well")
    figure = canvas(3.6)
    axes = figure.subplot_mosaic([["curve", "all"], ["curve", "none"]], width_ratios=[1.7, 1])
    for i, model in enumerate(models):
        own, below = rows[rows["model"] == model], floor[floor["model"] == model]
        _curve(axes["curve"], own, below, model, i, 1 if len(models) == 1 else max(1, own["k"].max()) / 100)
    percent_axis(axes["curve"])
    heads = f"attention heads kept per layer, of {rows['k'].max()}"
    axes["curve"].set_xlabel(heads if len(models) == 1 else "attention heads kept per layer (%)")
    legend = [handle for handle in axes["curve"].get_lines() if handle.get_label() in models]
    legend += [Line2D([], [], color=GREY, label="full needle", **EXACT)]
    legend += [Line2D([], [], color=GREY, label="floor (no needle)", **FLOOR)] if len(floor) else []
    figure.legend(handles=legend, loc="outside upper left", ncols=5)
    first, unit = in_fives(rows[rows["model"] == models[0]])
    for name, k in (("all", first["k"].max()), ("none", first["k"].min())):
        draw_map(axes[name], first[first["k"] == k], palette)
        title = f"all {k} heads kept" if name == "all" else f"{k or 'no'} heads kept"
        axes[name].set_title(f"{models[0]}, {title}" if len(models) > 1 else title, pad=3)
    axes["none"].set_xlabel("prompt length (tokens)")
    bar = figure.colorbar(scores(palette), ax=[axes["all"], axes["none"]], aspect=25)
    bar.set_label(unit)
    n = counted(rows, ["model", "k", "during"])
    edge = ["line on the maps: edge of the attention window"] if first["in_window"].nunique() > 1 else []
    footnote(figure, provenance(rows, f"{n} prompts each", _BANDS, *edge))
    return figure
