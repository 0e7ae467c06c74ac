"""Figures of the chapter on the other half: what each part is for, and each layer."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from book.paper.other_half import RANDOM, UNTOUCHED
from hybret.figures import style
from hybret.rows import checked

COLOURS = {
    UNTOUCHED: style.COLOURS[6], "no attention": style.COLOURS[1], "recurrence without memory": style.COLOURS[0],
    "no recurrent layers": style.COLOURS[4], "no convolutions": style.COLOURS[2],
}  # fmt: skip


@style.styled
def dissociation(table: pd.DataFrame, note: str) -> Figure:
    """What the needle is worth over the loss on prose, one panel for each model, one point for each part silenced.

    `table` is from `book.paper.other_half.losses`, after `drawn_together`.
    """
    checked(table, ["model", "condition"], ("model", "condition"), ("language", "worth"))
    models = list(dict.fromkeys(table["model"]))
    figure = style.canvas(3.7)
    panels = figure.subplots(1, len(models), sharex=True, sharey=True, squeeze=False)[0]
    for axes, model in zip(panels, models, strict=True):
        for line in table[table["model"] == model].itertuples():
            drawn = line.condition.startswith(RANDOM)
            colour = style.GREY if drawn else COLOURS.get(line.condition)
            if colour is None:
                continue
            marker = style.MARKERS[5 if drawn else [*COLOURS].index(line.condition)]
            reach = {
                f"{axis}err": [[max(0.0, mean - low)], [max(0.0, high - mean)]]
                for axis, mean, low, high in (
                    ("x", line.language, line.language_low, line.language_high),
                    ("y", line.worth, line.worth_low, line.worth_high),
                )
            }
            axes.errorbar(
                line.language, line.worth, **reach, color=colour, marker=marker, linestyle="none", elinewidth=1,
                label=line.condition, clip_on=False,
            )  # fmt: skip
        axes.axhline(0, color=style.GREY, linewidth=0.8, linestyle=":")
        axes.set_title(model, loc="left")
    panels[0].set_ylabel("retrieval: what the needle is worth\n(nats per token of the answer)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    style.footnote(figure, note, "language: loss on prose (nats per token)")
    return figure


@style.styled
def layers(table: pd.DataFrame, note: str) -> Figure:
    """What is lost when one layer loses its heads or its memory: language above, retrieval below, one column a model.

    `table` is from `book.paper.other_half.layers`.
    """
    checked(table, ["model", "layer"], ("model", "layer"), ("language", "worth"))
    models = list(dict.fromkeys(table["model"]))
    figure = style.canvas(4.2)
    grid = figure.subplots(2, len(models), sharex="col", sharey="row", squeeze=False)
    names = {"language": "language lost\n(nats per token)", "worth": "retrieval lost\n(nats per token)"}
    colours = {"attention": COLOURS["no attention"], "recurrence": COLOURS["recurrence without memory"]}
    for column, model in enumerate(models):
        for row, (measure, label) in enumerate(names.items()):
            axes = grid[row, column]
            for kind, part in table[table["model"] == model].groupby("kind", sort=False):
                axes.bar(part["layer"], part[measure], 0.8, color=colours[kind], label=f"{kind} layer")
            axes.axhline(0, color=style.GREY, linewidth=0.8)
            axes.xaxis.get_major_locator().set_params(integer=True)
            if column == 0:
                axes.set_ylabel(label)
        grid[0, column].set_title(model, loc="left")
    handles = {
        label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2)
    style.footnote(figure, note, "layer, from the first")
    return figure
