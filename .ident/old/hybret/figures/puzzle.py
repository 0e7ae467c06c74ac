"""Figures of the chapter on Only-Keep: where attention goes step by step, and accuracy over a dose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hybret import asked, tables
from hybret.errors import HybretError
from hybret.figures.style import (
    COLOURS,
    GREY,
    MARKERS,
    NEEDLE,
    PALE,
    canvas,
    counted,
    footnote,
    percent_axis,
    provenance,
    split,
    styled,
)
from hybret.prompts import DIGITS

PART_NAMES = {
    "needle": ("the needle", NEEDLE),
    "question": ("the question", COLOURS[0]),
    "answer": ("template's ending, answer so far", COLOURS[4]),
    "first": ("first token", COLOURS[3]),
    "self": ("the token itself", COLOURS[6]),
    "context": ("the rest of the context", PALE),
}


@styled
def attention_parts(table: pd.DataFrame, tokens: Sequence[str], note: str) -> Figure:
    """Where attention goes at each generation step, one panel for each attention layer.

    Parameters
    ----------
    table
        As `hybret.puzzle.attention_parts` gives it.
    tokens
        The answer token that each step gives.
    note
        Small print.

    Raises
    ------
    HybretError
        When a step has no token.
    """
    layers, steps = list(dict.fromkeys(table["layer"])), int(table["step"].max()) + 1
    if steps > len(tokens):
        raise HybretError(f"the table has {steps} steps and {len(tokens)} tokens; give one token for each step")
    figure = canvas(1.45 + 1.25 * len(layers))
    stack = figure.subplots(len(layers), sharex=True, squeeze=False)[:, 0]
    for axes, layer in zip(stack, layers, strict=True):
        mass = table[table["layer"] == layer].pivot(index="step", columns="part", values="mass")
        bottom = np.zeros(len(mass))
        for part, (label, colour) in PART_NAMES.items():
            height = 100 * mass[part].to_numpy()
            axes.bar(mass.index, height, 0.86, bottom, color=colour, edgecolor=GREY, linewidth=0.3, label=label)
            bottom += height
        axes.set(ylim=(0, 100), yticks=(0, 50, 100), ylabel="attention (%)")
        axes.set_title(layer, loc="left", pad=3)
    stack[-1].set_xticks(range(steps), [token.strip() or "␣" for token in tokens[:steps]], rotation=90)
    stack[-1].tick_params(axis="x", length=0)
    stack[-1].set_xlabel("answer token that the step gives")
    figure.legend(*stack[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    footnote(figure, f"{note} · mean over heads and prompts")
    return figure


@styled
def doses(rows: pd.DataFrame, dose: str, xlabel: str, by: str = "arm") -> Figure:
    """Accuracy over how much of something is given, one line for each arm.

    Parameters
    ----------
    rows
        Rows with a needle.
    dose
        Column of x, numbers.
    xlabel
        What x is, with its unit.
    by
        Column that makes the lines.
    """
    rows, _ = split(rows)
    asked.table(rows, [dose, by], (dose,), (dose, by))
    rows = rows.assign(**{dose: rows[dose].astype(float).round(DIGITS)})
    figure = canvas(3.5)
    axes = figure.subplots()
    for i, value in enumerate(dict.fromkeys(rows[by])):
        line = tables.accuracy(rows[rows[by] == value], by=dose).sort_values(dose)
        # Thinner and thinner, so that lines on top of one another can all be seen.
        x, colour, width = line[dose].to_numpy(dtype=float), COLOURS[i % 7], max(1.0, 4.2 - 0.8 * i)
        axes.fill_between(x, 100 * line["low"], 100 * line["high"], color=colour, alpha=0.1, linewidth=0)
        y, marker = 100 * line["accuracy"], MARKERS[i % 7]
        axes.plot(x, y, color=colour, marker=marker, markersize=4 + width, linewidth=width, label=str(value))
    axes.set_xlabel(xlabel)
    percent_axis(axes)
    figure.legend(loc="outside upper center", ncols=2)
    footnote(
        figure, provenance(rows, f"{counted(rows, [by, dose])} prompts each", "bands: 95 %, bootstrap over prompts")
    )
    return figure
