"""The paper's figures as functions of result rows (Figures 2-7 and 10, Table 1) or of a recording (Figure 1); speed.

Each returns a `matplotlib.figure.Figure` that names its model, recipe and n in small print; `save` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MultipleLocator

from hybret import tables
from hybret.errors import HybretError
from hybret.figures_forest import arms, departures
from hybret.figures_maps import draw_map, retrieval_maps, scores
from hybret.figures_puzzle import attention_parts, doses
from hybret.figures_speed import duration, measured, scaling, speed
from hybret.figures_style import (
    COLOURS,
    GREY,
    INK,
    MARKERS,
    PALE,
    between,
    canvas,
    colormap,
    footnote,
    percent_axis,
    provenance,
    save,
    split,
    styled,
    words,
)
from hybret.figures_trace import head_selection, weights
from hybret.figures_verdicts import verdicts

__all__ = [
    "accuracy_by_k",
    "arms",
    "attention_parts",
    "by_distance",
    "departures",
    "doses",
    "duration",
    "head_selection",
    "home",
    "jrt_by_k",
    "measured",
    "retrieval_maps",
    "save",
    "scaling",
    "speed",
    "table1",
    "verdicts",
    "weights",
    "words",
]

MANIPULATIONS = ("Keep", "Omit", "Only", "Binary", "Null")


def _by_k(axes: Axes, rows: pd.DataFrame, floor: pd.DataFrame, by: str) -> None:
    """Draw accuracy over k, one line per value of `by` with its band, over the floor of the control."""
    for i, value in enumerate(dict.fromkeys(rows[by])):
        table = tables.accuracy(rows[rows[by] == value], by=["k"]).sort_values("k")
        k = table["k"].to_numpy(dtype=float)
        colour, marker, name = COLOURS[i % 7], MARKERS[i % 7], words(by, value)
        axes.fill_between(k, 100 * table["low"], 100 * table["high"], color=colour, alpha=0.2, linewidth=0)
        axes.plot(k, 100 * table["accuracy"], color=colour, marker=marker, label=name, zorder=3)
        below = floor[floor[by] == value]
        if len(below):
            ground = tables.accuracy(below, by=["k"]).sort_values("k")
            x, y = ground["k"].to_numpy(dtype=float), 100 * ground["accuracy"]
            axes.fill_between(x, 0, y, color=PALE, zorder=1, linewidth=0)
            axes.plot(x, y, color=colour, linestyle=":", zorder=2, label=f"{name}, floor (no needle)")
    heads = int(rows["k"].max())
    axes.set_xlabel(f"heads kept per layer, k, of {heads} (read from right to left: fewer and fewer heads)")
    axes.set_xticks(range(0, heads + 1, 1 if heads <= 16 else 2))
    axes.set_xlim(-0.4, heads + 0.4)
    percent_axis(axes)


@styled
def accuracy_by_k(rows: pd.DataFrame, floor_rows: pd.DataFrame | None = None) -> Figure:
    """Accuracy over the number of heads kept, generation and prefill versions (the paper's Figure 2).

    Parameters
    ----------
    rows
        Rows of `KeepHeads` conditions (k not NA); rows without a needle among them are taken as the control.
    floor_rows
        No-needle rows of the same conditions, where they are kept apart. Their accuracy is the floor: what a
        model earns without any needle to retrieve. The paper has no such control.

    Returns
    -------
    Figure
        Lines with 95 % bootstrap bands over prompts, in per cent of the maximum score; dotted floor beneath.
    """
    rows, floor = split(rows[rows["k"].notna()], floor_rows)
    figure = canvas(3.9)
    axes = figure.subplots()
    _by_k(axes, rows, floor, "during")
    figure.legend(loc="outside upper center", ncols=2)
    _small_print(figure, rows, ["k", "during"], "bands: 95 %, bootstrap over prompts")
    return figure


@styled
def jrt_by_k(rows: pd.DataFrame, floor_rows: pd.DataFrame | None = None) -> Figure:
    """Accuracy over k with and without Just Read Twice prompting (the paper's Figure 3, left).

    Parameters
    ----------
    rows
        Rows of one `KeepHeads` version with template "jrt" and another template.
    floor_rows
        As in `accuracy_by_k`.
    """
    rows, floor = split(rows[rows["k"].notna()], floor_rows)
    figure = canvas(3.9)
    axes = figure.subplots()
    _by_k(axes, rows, floor, "template")
    figure.legend(loc="outside upper center", ncols=2)
    _small_print(figure, rows, ["k", "template"], "bands: 95 %, bootstrap over prompts")
    return figure


def _small_print(figure: Figure, rows: pd.DataFrame, by: list[str], *more: str) -> None:
    counts = rows.groupby(by, dropna=False).size()
    footnote(figure, provenance(rows, f"{between(counts)} prompts each", *more))


@styled
def table1(rows: pd.DataFrame, paper: Mapping[tuple[str, str], float] | None = None) -> Figure:
    """Table 1 in colour: accuracy of every pair of manipulations, its interval, and the paper's number.

    Parameters
    ----------
    rows
        Rows whose `generation` and `prefill` are names of manipulations, in any case.
    paper
        (prefill, generation), in title case, to the paper's accuracy from 0 to 1; written beside ours.
    """
    rows, _ = split(rows)
    pair = ["prefill", "generation"]
    rows = rows.assign(**{column: rows[column].str.capitalize() for column in pair})
    down, across = ([name for name in MANIPULATIONS if name in set(rows[column])] for column in pair)
    if not down or not across:
        raise HybretError(f"no manipulations to draw; `prefill` must hold some of {', '.join(MANIPULATIONS)}")
    figure = canvas(0.95 + 0.58 * len(down))
    axes = figure.subplots()
    for cell in tables.accuracy(rows, by=pair).to_dict("records"):
        prefill, generation, share = cell["prefill"], cell["generation"], float(cell["accuracy"])
        if prefill not in down or generation not in across:
            continue
        i, j = down.index(prefill), across.index(generation)
        colour = colormap()(share)
        axes.add_patch(Rectangle((j, i), 1, 1, facecolor=colour, edgecolor="white", linewidth=2))
        ink = "white" if share < 0.5 else INK
        axes.text(j + 0.5, i + 0.36, f"{100 * share:.1f} %", fontsize=11, ha="center", va="center", color=ink)
        beside = f"{100 * cell['low']:.0f} to {100 * cell['high']:.0f}"
        if paper and (prefill, generation) in paper:
            beside += f" · paper {100 * paper[prefill, generation]:.1f}"
        axes.text(j + 0.5, i + 0.75, beside, fontsize=8, ha="center", va="center", color=ink)
    axes.set(xlim=(0, len(across)), ylim=(len(down), 0), xlabel="during generation", ylabel="during prefill")
    axes.set_xticks(np.arange(len(across)) + 0.5, across)
    axes.set_yticks(np.arange(len(down)) + 0.5, down)
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0, labeltop=True, labelbottom=False, labelsize=9)
    axes.spines[:].set_visible(False)
    _small_print(figure, rows, pair, "small: 95 % interval in %", *(["paper: its RG-2B"] if paper else []))
    return figure


@styled
def by_distance(rows: pd.DataFrame, window: int | None, by: str = "condition", bins_per_window: int = 5) -> Figure:
    """Accuracy over the distance of the needle from the end of the prompt (the paper's Section 5.2).

    Parameters
    ----------
    rows
        Rows with a needle.
    window
        Attention window in tokens: the unit of x; None (global attention) gives x in tokens.
    by
        Column that makes the lines.
    bins_per_window
        Width of a bin; without a window ten bins span the data.
    """
    rows, _ = split(rows)
    unit = window or 1
    step = 1 / bins_per_window if window else (rows["distance"].max() + 1) / 10
    edges = step * np.arange(int(rows["distance"].max() / unit / step) + 2)
    table = tables.by_distance(rows, unit, edges.tolist(), by).sort_values("near")
    figure = canvas(3.7)
    axes = figure.subplots()
    if window:
        axes.axvline(1, color=GREY, linewidth=1.2, linestyle="--", label="edge of the attention window")
    for i, value in enumerate(dict.fromkeys(rows[by])):
        line = table[table[by] == value]
        # Thinner and thinner, so that lines on top of one another can all be seen.
        x, colour, width = (line["near"] + line["far"]) / 2, COLOURS[i % 7], max(1.0, 3.4 - 0.7 * i)
        axes.fill_between(x, 100 * line["low"], 100 * line["high"], color=colour, alpha=0.08, linewidth=0)
        label, marker = words(by, value), MARKERS[i % 7]
        axes.plot(x, 100 * line["accuracy"], color=colour, marker=marker, linewidth=width, label=label)
    units = f"windows of {window} tokens" if window else "tokens"
    axes.set_xlabel(f"distance of the needle from the last prompt token ({units})")
    axes.set_xlim(left=0)
    if window:
        axes.xaxis.set_major_locator(MultipleLocator(0.5))
    percent_axis(axes)
    figure.legend(loc="outside upper center", ncols=3)
    _small_print(figure, rows, [by], "bands: 95 %, bootstrap over prompts")
    return figure


@styled
def home(rows: pd.DataFrame, palette: str = "cividis") -> Figure:
    """Draw the answer in one figure: accuracy over k, beside the map with all heads and the map with none.

    Parameters
    ----------
    rows
        Rows of the generation version for every k, standard prompt, with the no-needle control.
    palette
        As in `retrieval_maps`.
    """
    rows, floor = split(rows[rows["k"].notna()])
    figure = canvas(3.5)
    axes = figure.subplot_mosaic([["curve", "all"], ["curve", "none"]], width_ratios=[1.7, 1])
    _by_k(axes["curve"], rows, floor, "during")
    axes["curve"].set_xlabel(f"attention heads kept per layer, of {rows['k'].max()}")
    axes["curve"].legend(loc="upper left")
    for name, k in (("all", rows["k"].max()), ("none", rows["k"].min())):
        draw_map(axes[name], rows[rows["k"] == k], palette)
        axes[name].set_title(f"all {k} heads kept" if name == "all" else f"{k or 'no'} heads kept", pad=3)
    axes["none"].set_xlabel("prompt length (tokens)")
    bar = figure.colorbar(scores(palette), ax=[axes["all"], axes["none"]], aspect=25)
    bar.set_label("mean score (0 to 5)")
    _small_print(figure, rows, ["k", "during"], "line: edge of the attention window")
    return figure
