"""Accuracy of every pair of manipulations (Table 1), and over the distance of the needle (Section 5.2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MultipleLocator

from hybret import metrics
from hybret.errors import HybretError, integer
from hybret.figures import style
from hybret.rows import checked

BINS = 5  # in a window
MANIPULATIONS = ("Keep", "Omit", "Only", "Binary", "Null")


@style.styled
def table1(rows: pd.DataFrame, paper: Mapping[tuple[str, str], float] | None = None) -> Figure:
    """Table 1 in colour: accuracy of every pair of manipulations, its interval, and the paper's number.

    Parameters
    ----------
    rows : rows whose `generation` and `prefill` are names of manipulations, in any case.
    paper : (prefill, generation), in title case, to the paper's accuracy from 0 to 1; written beside ours.
    """
    pair = ["prefill", "generation"]
    rows = checked(style.split(rows)[0], pair)
    rows = rows.assign(**{column: rows[column].astype(str).str.capitalize() for column in pair})
    down, across = ([name for name in MANIPULATIONS if name in set(rows[column])] for column in pair)
    if not down or not across:
        raise HybretError(f"no manipulations to draw; `prefill` must hold some of {', '.join(MANIPULATIONS)}")
    rows = rows[rows["prefill"].isin(down) & rows["generation"].isin(across)]
    figure = style.canvas(0.95 + 0.7 * len(down))
    axes = figure.subplots()
    for cell in metrics.accuracy(rows, by=pair).to_dict("records"):
        prefill, generation, share = cell["prefill"], cell["generation"], float(cell["accuracy"])
        i, j = down.index(prefill), across.index(generation)
        axes.add_patch(Rectangle((j, i), 1, 1, facecolor=style.SCORES(share), edgecolor="white", linewidth=2))
        ink = "white" if share < 0.5 else "black"
        axes.text(j + 0.5, i + 0.27, f"{100 * share:.1f} %", fontsize=11, ha="center", va="center", color=ink)
        beside = f"{100 * cell['low']:.0f} to {100 * cell['high']:.0f}"
        if paper and (prefill, generation) in paper:
            beside += f" · paper {100 * paper[prefill, generation]:.1f}"
        beside += f"\nfull needle {100 * cell['exact']:.0f}"
        axes.text(j + 0.5, i + 0.69, beside, fontsize=8, ha="center", va="center", color=ink, linespacing=1.15)
    axes.set(xlim=(0, len(across)), ylim=(len(down), 0), xlabel="during generation", ylabel="during prefill")
    axes.set_xticks(np.arange(len(across)) + 0.5, across)
    axes.set_yticks(np.arange(len(down)) + 0.5, down)
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0, labeltop=True, labelbottom=False, labelsize=9)
    axes.spines[:].set_visible(False)
    more = ["small: 95 % interval in %", *(["paper: its RG-2B"] if paper else [])]
    style.footnote(figure, style.provenance(rows, f"{style.counted(rows, pair)} prompts each", *more))
    return figure


@style.styled
def by_distance(rows: pd.DataFrame, window: int | None, by: str = "condition") -> Figure:
    """Accuracy over the distance of the needle from the end of the prompt, a line for each value of `by`.

    Parameters
    ----------
    rows : rows with a needle.
    window : attention window in tokens: the unit of x; None (global attention) gives x in tokens, in ten bins.
    by : column that makes the lines.
    """
    rows = checked(style.split(rows)[0], ["distance", by], ["distance", by])
    unit = 1 if window is None else integer("window", window, 1)
    step = 1 / BINS if window else (rows["distance"].max() + 1) / 10
    edges = step * np.arange(int(rows["distance"].max() / unit / step) + 2)
    table = metrics.by_distance(rows, unit, edges.tolist(), by).sort_values("near")
    figure = style.canvas(3.7)
    axes = figure.subplots()
    if window:
        axes.axvline(1, color=style.GREY, linewidth=1.2, linestyle="--", label="edge of the attention window")
    for i, value in enumerate(dict.fromkeys(rows[by])):
        line = table[table[by] == value]
        # Thinner and thinner, so that lines on top of one another can all be seen.
        width = max(1.0, 3.4 - 0.7 * i)
        style.band(axes, (line["near"] + line["far"]) / 2, line, i, 0.08, linewidth=width, label=style.words(by, value))
    units = f"windows of {window} tokens" if window else "tokens"
    axes.set_xlabel(f"distance of the needle from the last prompt token ({units})")
    axes.set_xlim(left=0)
    if window:
        axes.xaxis.set_major_locator(MultipleLocator(0.5))
    style.percent_axis(axes)
    figure.legend(loc="outside upper center", ncols=3)
    style.footnote(figure, style.provenance(rows, f"{style.counted(rows, [by])} prompts each", style.BANDS))
    return figure
