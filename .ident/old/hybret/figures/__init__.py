"""The paper's figures as functions of result rows (Figures 2-10, Table 1) or of a recording (Figure 1); speed.

Each returns a `matplotlib.figure.Figure` that names its model, recipe and n in small print; `save` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MultipleLocator

from hybret import asked, tables
from hybret.errors import HybretError
from hybret.figures.by_k import accuracy_by_k, home, jrt_by_k
from hybret.figures.forest import arms, departures
from hybret.figures.judged import verdicts
from hybret.figures.maps import annotated_map, retrieval_maps
from hybret.figures.puzzle import attention_parts, doses
from hybret.figures.section4 import benchmarks, subtasks
from hybret.figures.style import (
    COLOURS,
    GREY,
    INK,
    MARKERS,
    canvas,
    colormap,
    counted,
    footnote,
    glue,
    percent_axis,
    provenance,
    save,
    split,
    styled,
    words,
)
from hybret.figures.timings import duration, measured, scaling, speed
from hybret.figures.trace import head_selection, weights

__all__ = [
    "accuracy_by_k",
    "annotated_map",
    "arms",
    "attention_parts",
    "benchmarks",
    "by_distance",
    "departures",
    "doses",
    "duration",
    "glue",
    "head_selection",
    "home",
    "jrt_by_k",
    "measured",
    "retrieval_maps",
    "save",
    "scaling",
    "speed",
    "subtasks",
    "table1",
    "verdicts",
    "weights",
    "words",
]

MANIPULATIONS = ("Keep", "Omit", "Only", "Binary", "Null")


def _small_print(figure: Figure, rows: pd.DataFrame, by: list[str], *more: str) -> None:
    footnote(figure, provenance(rows, f"{counted(rows, by)} prompts each", *more))


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
    asked.table(rows, pair)
    rows = rows.assign(**{column: rows[column].astype(str).str.capitalize() for column in pair})
    down, across = ([name for name in MANIPULATIONS if name in set(rows[column])] for column in pair)
    if not down or not across:
        raise HybretError(f"no manipulations to draw; `prefill` must hold some of {', '.join(MANIPULATIONS)}")
    rows = rows[rows["prefill"].isin(down) & rows["generation"].isin(across)]
    figure = canvas(0.95 + 0.7 * len(down))
    axes = figure.subplots()
    for cell in tables.accuracy(rows, by=pair).to_dict("records"):
        prefill, generation, share = cell["prefill"], cell["generation"], float(cell["accuracy"])
        i, j = down.index(prefill), across.index(generation)
        colour = colormap()(share)
        axes.add_patch(Rectangle((j, i), 1, 1, facecolor=colour, edgecolor="white", linewidth=2))
        ink = "white" if share < 0.5 else INK
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
    asked.table(rows, ["distance", by], ("distance",), ("distance", by))
    if window is not None:
        asked.whole("window", window, 1)
    asked.whole("bins_per_window", bins_per_window, 1)
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
