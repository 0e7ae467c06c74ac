"""Figures of the chapter on Only-Keep: where attention goes step by step, and accuracy over a dose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hybret import metrics
from hybret.errors import HybretError
from hybret.figures import style
from hybret.prompts import DIGITS
from hybret.rows import checked

PART_NAMES = {
    "needle": ("the needle", style.NEEDLE),
    "question": ("the question", style.COLOURS[0]),
    "answer": ("template's ending, answer so far", style.COLOURS[4]),
    "first": ("first token", style.COLOURS[3]),
    "self": ("the token itself", style.COLOURS[6]),
    "context": ("the rest of the context", style.PALE),
}


@style.styled
def attention_parts(table: pd.DataFrame, tokens: Sequence[str], note: str) -> Figure:
    """Where attention goes at each generation step, one panel for each attention layer.

    `table` is from `book.paper.only_keep.attention_parts`; `tokens` has the answer token of each step.
    """
    layers, steps = list(dict.fromkeys(table["layer"])), int(table["step"].max()) + 1
    if steps > len(tokens):
        raise HybretError(f"the table has {steps} steps and {len(tokens)} tokens; give one token for each step")
    figure = style.canvas(1.45 + 1.25 * len(layers))
    stack = figure.subplots(len(layers), sharex=True, squeeze=False)[:, 0]
    for axes, layer in zip(stack, layers, strict=True):
        mass = table[table["layer"] == layer].pivot(index="step", columns="part", values="mass")
        bottom = np.zeros(len(mass))
        for part, (label, colour) in PART_NAMES.items():
            height = 100 * mass[part].to_numpy()
            axes.bar(mass.index, height, 0.86, bottom, color=colour, edgecolor=style.GREY, linewidth=0.3, label=label)
            bottom += height
        axes.set(ylim=(0, 100), yticks=(0, 50, 100), ylabel="attention (%)")
        axes.set_title(layer, loc="left", pad=3)
    stack[-1].set_xticks(range(steps), [token.strip() or "␣" for token in tokens[:steps]], rotation=90)
    stack[-1].tick_params(axis="x", length=0)
    stack[-1].set_xlabel("answer token that the step gives")
    figure.legend(*stack[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    style.footnote(figure, f"{note} · mean over heads and prompts")
    return figure


@style.styled
def doses(rows: pd.DataFrame, dose: str, xlabel: str, by: str = "variant") -> Figure:
    """Accuracy over a dose (a total attention weight, a number of given words), one line for each value of `by`.

    `dose` is the column of x, numbers; `xlabel` says it in words, with its unit.
    """
    rows, _ = style.split(rows)
    checked(rows, [dose, by], (dose, by), (dose,))
    rows = rows.assign(**{dose: rows[dose].astype(float).round(DIGITS)})
    figure = style.canvas(3.5)
    axes = figure.subplots()
    for i, value in enumerate(dict.fromkeys(rows[by])):
        line = metrics.accuracy(rows[rows[by] == value], by=dose).sort_values(dose)
        # Thinner and thinner, so that lines on top of one another can all be seen.
        width = max(1.0, 4.2 - 0.8 * i)
        look = {"markersize": 4 + width, "linewidth": width, "label": str(value)}
        style.band(axes, line[dose].to_numpy(dtype=float), line, i, 0.1, **look)
    axes.set_xlabel(xlabel)
    style.percent_axis(axes)
    figure.legend(loc="outside upper center", ncols=2)
    style.footnote(figure, style.provenance(rows, f"{style.counted(rows, [by, dose])} prompts each", style.BANDS))
    return figure
