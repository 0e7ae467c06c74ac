"""The figure of the front page, what a reader moves there, and the map of the page on how to read one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hybret import metrics
from hybret.errors import HybretError, printable
from hybret.figures import style
from hybret.figures.curves import curve, heads_kept, line_keys, reach_all_heads
from hybret.figures.maps import draw_map, in_fives, notes, scores


@style.styled
def home(rows: pd.DataFrame) -> Figure:
    """Accuracy over the heads kept, beside the maps with all heads and with the fewest.

    `rows` are of the generation version for every k, standard prompt, with the no-needle control. Several models make
    one curve each, over the share of their heads; the maps are those of the first.
    """
    rows, floor = style.split(heads_kept(rows, "length", "depth", "in_window"))
    models = list(dict.fromkeys(rows["model"]))
    if part := [model for model in models if not reach_all_heads(rows[rows["model"] == model])]:
        raise HybretError(f"the rows of {part[0]} end below all its heads, which this figure shows; run that k as well")
    figure = style.canvas(3.6)
    axes = figure.subplot_mosaic([["curve", "all"], ["curve", "none"]], width_ratios=[1.7, 1])
    for i, model in enumerate(models):
        of_model, below = rows[rows["model"] == model], floor[floor["model"] == model]
        curve(axes["curve"], of_model, below, model, i, 1 if len(models) == 1 else max(1, of_model["k"].max()) / 100)
    style.percent_axis(axes["curve"])
    heads = f"attention heads kept per layer, of {rows['k'].max()}"
    axes["curve"].set_xlabel(heads if len(models) == 1 else "attention heads kept per layer (%)")
    legend = [line for line in axes["curve"].get_lines() if line.get_label() in models]
    figure.legend(handles=[*legend, *line_keys(floor)], loc="outside upper left", ncols=5)
    first, unit = in_fives(rows[rows["model"] == models[0]])
    for name, k in (("all", first["k"].max()), ("none", first["k"].min())):
        draw_map(axes[name], first[first["k"] == k])
        title = f"all {k} heads kept" if name == "all" else f"{k or 'no'} heads kept"
        axes[name].set_title(f"{models[0]}, {title}" if len(models) > 1 else title, pad=3)
    axes["none"].set_xlabel("prompt length (tokens)")
    figure.colorbar(scores(), ax=[axes["all"], axes["none"]], aspect=25).set_label(unit)
    n = style.counted(rows, ["model", "k", "during"])
    small = notes(first, "line on the maps")
    style.footnote(figure, style.provenance(rows, f"{n} prompts each", style.BANDS, *small))
    return figure


def moved(rows: pd.DataFrame) -> dict[str, Any]:
    """What a reader moves on the front page, of the rows of `home`, ready for JSON.

    `curves` has a name, the `share` of heads kept (%) and the `accuracy` (%) of every model. The rest is the first
    model's: `heads`, `k`, `lengths`, `depths`, and for each k and each square of the map (depth by depth) its `score`
    (%) and the number of its answer among `answers`; squares `inside` the attention window.
    """
    rows = metrics.normalised(style.split(heads_kept(rows, "length", "depth", "in_window", "answer"))[0])
    metrics.check_comparable(rows, ["model", "k"])
    metrics.check_unique(rows, ["model", "k"])
    rows = rows.assign(percent=100 * metrics.fraction(rows))
    curves = []
    for name, of_model in rows.groupby("model", sort=False):
        table = of_model.groupby("k")["percent"].mean().round(1)
        shares = [round(100 * k / table.index.max(), 1) for k in table.index]
        curves.append({"name": printable(name), "share": shares, "accuracy": table.tolist()})
    first = rows[rows["model"] == rows["model"].iloc[0]].sort_values(["k", "depth", "length"], kind="stable")
    answers = list(dict.fromkeys(first["answer"]))
    numbers = {answer: i for i, answer in enumerate(answers)}
    at = {int(k): part for k, part in first.groupby("k")}
    return {
        "curves": curves,
        "heads": int(max(at)),
        "k": list(at),
        "lengths": sorted(map(int, first["length"].unique())),
        "depths": sorted(map(float, first["depth"].unique())),
        "inside": at[max(at)]["in_window"].astype(bool).tolist(),
        "score": [part["percent"].round().astype(int).tolist() for part in at.values()],
        "answer": [[numbers[answer] for answer in part["answer"]] for part in at.values()],
        "answers": [*map(printable, answers)],
    }


@style.styled
def annotated_map(rows: pd.DataFrame) -> Figure:
    """One retrieval map with five numbered places, from rows of one condition of one model, one per cell.

    1: the axis of length; 2: of depth; 3 and 4: a cell of the best and of the worst score; 5: the window's edge, if
    the map has one.
    """
    rows = style.split(rows)[0]
    metrics.check_comparable(rows, [])
    metrics.check_unique(rows)
    rows, unit = in_fives(rows)
    figure = style.canvas(3.6, 5.2)
    axes = figure.subplots()
    draw_map(axes, rows)
    cells = rows.pivot_table(index="depth", columns="length", values="score", aggfunc="mean").to_numpy(dtype=float)
    height, width = cells.shape

    def inner(score: float) -> tuple[float, float]:
        """The middle of the cell of this score that lies farthest from cells of other scores."""
        same, others = np.argwhere(cells == score), np.argwhere(cells != score)
        gaps = np.abs(same[:, None] - others).sum(-1).min(1) if len(others) else np.zeros(len(same))
        y, x = same[int(gaps.argmax())]
        return x + 0.5, y + 0.5

    places = [(0.75 * width, height + 0.45), (-0.45, height / 2), inner(np.nanmax(cells)), inner(np.nanmin(cells))]
    if edges := next(line for line in axes.collections if line.get_gid() == "window").get_paths():
        x, y = np.asarray(edges[len(edges) // 2].vertices, dtype=float).mean(0)
        places.append((float(x), float(y)))
    disc = {"boxstyle": "circle,pad=0.25", "facecolor": "white", "edgecolor": style.INK}
    for number, (x, y) in enumerate(places, 1):
        axes.text(x, y, str(number), fontsize=10, fontweight="bold", ha="center", va="center", zorder=10, bbox=disc)
    axes.set_xlabel("prompt length (tokens)", labelpad=9)
    figure.colorbar(scores(), ax=axes, aspect=25).set_label(unit)
    axes.set_title(f"{20 * rows['score'].mean():.0f} % · full {100 * rows['exact'].mean():.0f} %", fontsize=9)
    conditions = map(str, dict.fromkeys(rows["condition"]))
    style.footnote(figure, style.provenance(rows, f"{style.counted(rows, ['model'])} prompts", *conditions))
    return figure
