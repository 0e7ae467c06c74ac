"""The figure of the chapter on a pretrained model: retrieval over language, as heads are removed."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from hybret.families import known_as
from hybret.figures import style
from hybret.rows import checked


@style.styled
def paths(table: pd.DataFrame, note: str) -> Figure:
    """Accuracy over what the loss on prose has grown by: one path a model, from all heads to none.

    `table` is from `book.paper.pretrained.by_k`, of several models; the first one's points are numbered by k.
    """
    checked(table, ["model", "k"], ("model", "k"), ("accuracy", "lost"))
    figure = style.canvas(4.0)
    axes = figure.subplots()
    models = list(dict.fromkeys(table["model"]))
    for i, model in enumerate(models):
        path = table[table["model"] == model].sort_values("k", ascending=False)
        style.band(axes, path["lost"], path, i, 0.15, label=known_as(model), clip_on=False, zorder=4)
        for line in path.itertuples() if i == 0 else ():
            axes.annotate(f"{line.k}", (line.lost, 100 * line.accuracy), (4, 4), textcoords="offset points", fontsize=8)
    style.percent_axis(axes)
    axes.set_ylabel("retrieval (% of the maximum score)")
    axes.axvline(0, color=style.PALE, linewidth=0.8, zorder=1)
    figure.legend(loc="outside upper center", ncols=2)
    style.footnote(figure, note, "language lost: loss on prose, more than with all heads (nats per token)")
    return figure
