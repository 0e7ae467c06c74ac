"""Figures of the chapter on the choice of heads: accuracy for every way of choosing, and maps of scores."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from book.paper.numbers import BENCHMARKS
from book.paper.which_heads import PER_TOKEN, RANDOM, STATIC
from hybret.figures import style
from hybret.rows import checked

FEW = BENCHMARKS["heads kept"].value


@style.styled
def ways(table: pd.DataFrame, note: str) -> Figure:
    """Exact answers over the share of heads kept, one column for each model; random choices are a band.

    Above are choices for each token, below static ones. `table` is from `book.paper.which_heads.table`.
    """
    checked(table, ["model", "way", "kept"], ("model", "way"), ("share", "exact", "low", "high"))
    models = list(dict.fromkeys(table["model"]))
    figure = style.canvas(6.2)
    halves: Any = figure.subfigures(2, 1, height_ratios=(1, 1.12))
    for part, name, chance, lines in zip(
        halves, ("chosen for each token", "chosen once"), RANDOM.values(),
        (PER_TOKEN.values(), STATIC.values()), strict=True,
    ):  # fmt: skip
        panels = part.subplots(1, len(models), sharey=True, squeeze=False)[0]
        for axes, model in zip(panels, models, strict=True):
            group = table[table["model"] == model].assign(x=lambda rows: 100 * rows["share"]).sort_values("kept")
            drawn = group[group["way"] == chance]
            axes.fill_between(drawn["x"], 100 * drawn["low"], 100 * drawn["high"], color=style.PALE, label=chance)
            axes.plot(drawn["x"], 100 * drawn["exact"], color=style.GREY, linewidth=1)
            for i, way in enumerate(lines):
                of_way = group[group["way"] == way]
                look = {"color": style.COLOURS[i], "marker": style.MARKERS[i], "markersize": 4}
                axes.plot(of_way["x"], 100 * of_way["exact"], label=way, clip_on=False, **look)
            axes.axvline(100 * FEW, color=style.GREY, linewidth=0.8, linestyle=":", label="the paper's 15 %")
            axes.set_title(model, loc="left")
            axes.set(xlim=(0, 100), ylim=(0, 100))
        panels[0].set_ylabel(f"{name}:\nexact answers (%)")
        part.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    style.footnote(figure, note, "heads kept in every attention layer while answering (%)")
    return figure


@style.styled
def head_maps(scores: pd.DataFrame, note: str) -> Figure:
    """Layer by head, one row of maps for each score and one column for each model, each from its least to its greatest.

    `scores` is from `hybret.head_scores`, with a column `model`.
    """
    models, names = (list(dict.fromkeys(scores[column])) for column in ("model", "score"))
    figure = style.canvas(0.9 + 0.85 * len(names))
    grid = figure.subplots(len(names), len(models), squeeze=False)
    for column, model in enumerate(models):
        for row, name in enumerate(names):
            axes, part = grid[row, column], scores[(scores["model"] == model) & (scores["score"] == name)]
            shown = part.pivot(index="layer", columns="head", values="value")
            axes.imshow(shown.to_numpy(float), cmap=style.SCORES, aspect="auto", interpolation="nearest")
            axes.set_yticks(range(len(shown)), [str(layer) for layer in shown.index])
            axes.set_xticks([])
            if row == 0:
                axes.set_title(model, loc="left")
            if column == 0:
                axes.set_ylabel(
                    STATIC.get(name, name).replace(", ", ",\n").replace(" the ", " the\n"),
                    rotation=0,
                    ha="right",
                    va="center",
                )
    style.footnote(figure, note, "head")
    return figure
