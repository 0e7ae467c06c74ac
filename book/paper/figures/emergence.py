"""Figures of the chapter on when retrieval forms."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from book.paper.emergence import HOLDS, RUN, kind, needed
from hybret.figures.style import COLOURS, MARKERS, canvas, footnote, styled

KINDS = ("the recipe", "windows drawn at random", "without attention layers")


@styled
def emergence(probes: pd.DataFrame, heads: pd.DataFrame) -> Figure:
    """Exact answers over training tokens, and heads needed; a column for each model, a line for each training.

    `probes` and `heads` are of `book.paper.emergence.trainings`.
    """
    models = list(dict.fromkeys(probes["model"]))
    figure = canvas(4.6)
    panels = figure.subplots(2, len(models), sharex="col", sharey="row", squeeze=False, height_ratios=(3, 2))
    drawn = {}
    for (above, below), model in zip(panels.T, models, strict=True):
        for (variant, seed), run in probes[probes["model"] == model].groupby(RUN[1:], sort=False):
            i = kind(variant)
            look = {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 3, "linewidth": 1, "alpha": 0.8}
            (drawn[i],) = above.plot(run["tokens"] / 1e6, 100 * run["inside"], **look)
            part = heads[(heads["model"] == model) & (heads["variant"] == variant) & (heads["seed"] == seed)]
            if len(part):
                few = needed(part).sort_values("tokens")
                below.plot(few["tokens"] / 1e6, few["needed"], drawstyle="steps-post", **look)
        above.set_title(model)
        below.set(xscale="log", xlabel="training tokens (millions)")
        below.set_xticks([10, 30, 100, 300], ["10", "30", "100", "300"])
        below.minorticks_off()
    panels[0, 0].set(ylabel="exact answers (%)", ylim=(-4, 104))
    panels[1, 0].set(ylabel=f"heads for {100 * HOLDS:.0f}%", ylim=(0, None))
    shown = sorted(drawn)
    figure.legend([drawn[i] for i in shown], [KINDS[i] for i in shown], loc="outside upper center", ncols=len(shown))
    footnote(figure, "one line for each training · needle inside the window, all heads")
    return figure
