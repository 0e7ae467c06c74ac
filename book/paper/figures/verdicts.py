"""The verdicts in one figure: claims x models."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from book.paper.claims import AGREES, CANNOT, CONTRADICTS, HYPOTHESES, NOT_RUN, UNDECIDED
from hybret.errors import HybretError
from hybret.figures.style import COLOURS, GREY, PALE, canvas, footnote, styled
from hybret.rows import checked

# Told apart by shape and fill as well as by colour.
SYMBOLS: dict[str, dict[str, Any]] = {
    AGREES: {"marker": "o", "color": COLOURS[0], "markersize": 9},
    CONTRADICTS: {"marker": "X", "color": COLOURS[1], "markersize": 9},
    UNDECIDED: {
        "marker": "o",
        "color": COLOURS[0],
        "markersize": 9,
        "fillstyle": "left",
        "markerfacecoloralt": "white",
    },
    NOT_RUN: {"marker": "o", "color": GREY, "markersize": 4, "fillstyle": "none"},
    CANNOT: {"marker": "_", "color": GREY, "markersize": 8},
}


@styled
def verdicts(table: pd.DataFrame, note: str = "") -> Figure:
    """Every verdict as a symbol, one line per claim, one column per model and recipe, from `book.paper.verdicts.of`.

    A small second symbol is the verdict by exact answers, where it is another one.
    """
    needs = ["claim", "hypothesis", "label", "across", "model", "recipe", "verdict", "exactly"]
    checked(table, needs, source="verdicts.of")
    if table.empty:
        raise HybretError("no verdicts to draw; the rows of no model were judged")
    columns = list(dict.fromkeys(zip(table["model"], table["recipe"], strict=True)))
    across = set(table.loc[table["across"].astype(bool), "model"])
    models = list(dict.fromkeys(table["model"]))
    columns.sort(key=lambda column: (column[0] in across, models.index(column[0])))  # comparisons of models come last
    places, y = {}, 0.0
    for hypothesis, claims in table.groupby("hypothesis", sort=False)["claim"].unique().items():
        places[hypothesis] = y
        for i, claim in enumerate(claims):
            places[claim] = y + 1 + i
        y += len(claims) + 1.4
    figure = canvas(1.9 + 0.215 * y)
    axes = figure.subplots()
    for hypothesis in dict.fromkeys(table["hypothesis"]):
        title = f"{hypothesis}: {HYPOTHESES[hypothesis]}" if hypothesis.startswith("H") else HYPOTHESES[hypothesis]
        axes.text(-0.02, places[hypothesis], title, transform=axes.get_yaxis_transform(), ha="right", va="center",
                  fontsize=8.5, fontweight="bold")  # fmt: skip
    for line in table.itertuples():
        x = columns.index((line.model, line.recipe))
        axes.plot([x], [places[line.claim]], linestyle="none", **SYMBOLS[str(line.verdict)])
        if line.exactly:
            small = SYMBOLS[str(line.exactly)] | {"markersize": 4}
            axes.plot([x + 0.3], [places[line.claim]], linestyle="none", gid="exactly", **small)
    for claim in dict.fromkeys(table["claim"]):
        axes.axhline(places[claim], color=PALE, linewidth=0.6, zorder=0)
    names = dict(zip(table["claim"], table["label"], strict=True))
    axes.set_yticks([places[claim] for claim in names], list(names.values()))
    axes.set_ylim(y - 0.8, -0.8)
    axes.set_xlim(-0.6, len(columns) - 0.4)
    axes.xaxis.tick_top()
    recipes = [recipe for _, recipe in columns]
    axes.set_xticks(range(len(columns)), recipes, rotation=40, ha="left", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for model in dict.fromkeys(model for model, _ in columns):
        at = [i for i, column in enumerate(columns) if column[0] == model]
        axes.annotate(model, (sum(at) / len(at), 1), (0, 52), xycoords=("data", "axes fraction"),
                      textcoords="offset points", ha="center", fontweight="bold", fontsize=8.5)  # fmt: skip
    handles = [Line2D([], [], linestyle="none", label=verdict, **symbol) for verdict, symbol in SYMBOLS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    footnote(figure, note)
    return figure
