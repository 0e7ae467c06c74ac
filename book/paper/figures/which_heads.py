"""Figures of the chapter on the choice of heads: accuracy for every way of choosing, and maps of scores."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from book.paper.which_heads import PER_TOKEN, RANDOM, STATIC
from hybret.figures import style
from hybret.rows import checked


@style.styled
def ways(table: pd.DataFrame, note: str) -> Figure:
    """Exact answers over the share of heads kept, one panel for each model; random choices are a band.

    `table` is from `book.paper.which_heads.table`.
    """
    checked(table, ["model", "way", "kept"], ("model", "way"), ("share", "exact", "low", "high"))
    models = list(dict.fromkeys(table["model"]))
    figure = style.canvas(3.9)
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    lines = [*PER_TOKEN.values(), *STATIC.values()]
    for axes, model in zip(panels, models, strict=True):
        group = table[table["model"] == model]
        for name, pattern in zip(RANDOM.values(), ("", "////"), strict=True):
            part = group[group["way"] == name].sort_values("kept")
            axes.fill_between(
                100 * part["share"], 100 * part["low"], 100 * part["high"], facecolor=style.PALE, alpha=0.7, hatch=pattern,
                edgecolor=style.GREY, linewidth=0, label=name,
            )  # fmt: skip
        for i, name in enumerate(lines):
            part = group[group["way"] == name].sort_values("kept")
            dashes = "-" if name in PER_TOKEN.values() else "--"
            look = {"color": style.COLOURS[i % 7], "marker": style.MARKERS[i % 7], "markersize": 4}
            axes.plot(100 * part["share"], 100 * part["exact"], dashes, label=name, clip_on=False, **look)
        axes.set_title(model, loc="left")
        axes.set_ylim(0, 100)
    panels[0].set_ylabel("exact answers (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
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
