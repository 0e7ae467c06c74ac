"""Figures of the chapter on when retrieval forms."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from book.paper.emergence import HOLDS, RUN, needed
from hybret.figures.style import COLOURS, GREY, MARKERS, canvas, footnote, styled


@styled
def emergence(probes: pd.DataFrame, heads: pd.DataFrame) -> Figure:
    """Exact answers over training tokens, and heads needed; a column for each model, a line for each training.

    `probes` and `heads` are of `book.paper.emergence.trainings`.
    """
    models = list(dict.fromkeys(probes["model"]))
    figure = canvas(4.6)
    panels = figure.subplots(2, len(models), sharex="col", sharey="row", squeeze=False, height_ratios=(3, 2))
    for (above, below), model in zip(panels.T, models, strict=True):
        runs = probes[probes["model"] == model].groupby(RUN[1:], sort=False)
        for i, ((variant, seed), run) in enumerate(runs):
            look = {"color": COLOURS[i % 7], "marker": MARKERS[i % 7], "markersize": 3, "linewidth": 1.2}
            name = f"seed {seed}{f', {variant}' if variant else ''}"
            above.plot(run["tokens"] / 1e6, 100 * run["inside"], label=name, **look)
            off = run[["answering", "reading"]].max(axis=1)
            above.plot(run["tokens"] / 1e6, 100 * off, color=GREY, linestyle=":", zorder=1)
            part = heads[(heads["model"] == model) & (heads["variant"] == variant) & (heads["seed"] == seed)]
            if len(part):
                few = needed(part).sort_values("tokens")
                below.plot(few["tokens"] / 1e6, few["needed"], drawstyle="steps-post", **look)
        above.set_title(model)
        above.legend(loc="center right", fontsize=7)
        below.set(xscale="log", xlabel="training tokens (millions)")
        below.set_xticks([10, 20, 50, 100, 200, 500], ["10", "20", "50", "100", "200", "500"])
        below.minorticks_off()
    panels[0, 0].set(ylabel="exact answers (%)", ylim=(-4, 104))
    panels[1, 0].set(ylabel=f"heads for {100 * HOLDS:.0f}%", ylim=(0, None))
    footnote(
        figure,
        "dotted: without attention, while answering or also while reading, whichever is more · inside the window",
    )
    return figure
