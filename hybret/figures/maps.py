"""Retrieval maps: mean score by prompt length and needle depth, with the edge of the attention window."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from hybret import metrics
from hybret.figures import style
from hybret.rows import checked

FIVE = 5.0
BESIDE = 5  # maps in one line, as in Table 1
WRAPPED = 4  # maps in each of several lines
MOST_OFF = 5  # points between a needle and its depth that need no note
CHARACTERS = 12.5  # of a map's title in an inch


def scores() -> ScalarMappable:
    """Colours of a score from 0 to 5, for cells and colour bars."""
    return ScalarMappable(Normalize(0, FIVE), style.SCORES)


def in_fives(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows with scores scaled to 0 to 5, whatever their rubric's maximum, and the label of a colour bar."""
    if (metrics.maximum(rows) == FIVE).all():
        return rows, "mean score (0 to 5)"
    return rows.assign(score=FIVE * metrics.fraction(rows)), "mean score (scaled to 0 to 5)"


def draw_map(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw one map: x prompt length, y needle depth with the start of the context on top, colour mean score.

    Cells of one colour are one path, so that a page of twenty maps is a small SVG.
    """
    cells = rows.pivot_table(index="depth", columns="length", values="score", aggfunc="mean")
    values, (height, width) = cells.to_numpy(dtype=float), cells.shape
    axes.add_patch(PathPatch(_squares(np.argwhere(np.isnan(values))), facecolor=style.PALE, edgecolor="white"))
    for value in np.unique(values[~np.isnan(values)]):
        path = _squares(np.argwhere(values == value))
        patch = PathPatch(path, facecolor=scores().to_rgba(value), edgecolor="white", linewidth=0.4)
        patch.set_gid(f"score-{value:g}")
        axes.add_patch(patch)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=2)
    shown = sorted({0, (width - 1) // 2, width - 1})
    axes.set_xticks([i + 0.5 for i in shown], [str(cells.columns[i]) for i in shown])
    ends = [f"depth {cells.index[0]:g} %"] if height == 1 else ["start of context", "end of context"]
    axes.set_yticks([0.5, height - 0.5][: len(ends)], ends)
    inside = rows.assign(inside=rows["in_window"].astype(float))
    visible = inside.pivot_table(index="depth", columns="length", values="inside", aggfunc="mean").to_numpy() > 0.5
    edges = [[(x + 1, y), (x + 1, y + 1)] for y, x in np.argwhere(visible[:, 1:] != visible[:, :-1])]
    edges += [[(x, y + 1), (x + 1, y + 1)] for y, x in np.argwhere(visible[1:] != visible[:-1])]
    line = LineCollection(edges, colors=style.EDGE, linewidths=2, capstyle="projecting")
    line.set_gid("window")
    axes.add_collection(line)


def notes(rows: pd.DataFrame, line: str = "line") -> list[str]:
    """Small print of maps: what the line is, and how far needles are from the depths that label their cells."""
    edge = [f"{line}: edge of the attention window"] if rows["in_window"].nunique() > 1 else []
    off = (rows["depth"] - rows["place"]).max() if "place" in rows else 0
    return edge + ([f"needles up to {off:.0f} points before their depth"] if off > MOST_OFF else [])


def _squares(cells: Any) -> Path:
    """One path of unit squares at (row, column) pairs `cells`, shape (n, 2)."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]])
    vertices = (np.asarray(cells)[:, None, ::-1] + corners).reshape(-1, 2)
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(cells)
    return Path(vertices, codes) if len(cells) else Path(np.empty((0, 2)))


@style.styled
def retrieval_maps(rows: pd.DataFrame, row_by: str | None = None, col_by: str | None = "k") -> Figure:
    """Retrieval maps as small multiples (the paper's Figures 4-7 and 10).

    x: prompt length label (tokens); y: needle depth, start of the context on top; colour: mean score. Titles give the
    accuracy and the share of full needles. A line parts the cells whose needle the last prompt token can attend to from
    those whose needle has left the attention window.

    Parameters
    ----------
    rows : rows of one model, or of several with "model" as `row_by` or `col_by`. Repeated prompts of a cell (haystack
        seeds) are averaged.
    row_by, col_by : columns whose values make the rows and columns of maps, in order of first appearance; None for one.
        Values with the same words (the base and the instruct template) share a map. More than five columns go on in
        further rows. The pair ("prefill", "generation") is laid out as Table 1.
    """
    rows = style.split(rows)[0].reset_index(drop=True)
    known = ["length", "depth", "score"]
    checked(rows, [*known, "in_window", *filter(None, (row_by, col_by))], known)
    rows, unit = in_fives(rows)
    named = rows
    for column, by in (("_down", row_by), ("_across", col_by)):
        named = named.assign(**{column: rows[by].map(lambda value, by=by: style.words(by, value)) if by else ""})
    metrics.check_comparable(named, ["_down", "_across"])
    metrics.check_unique(named, ["_down", "_across"])
    down, across = (list(dict.fromkeys(named[column])) for column in ("_down", "_across"))
    lines = 1 if len(across) <= BESIDE else -(-len(across) // WRAPPED)
    columns = -(-len(across) // lines)
    width = style.WIDTH if columns > 1 else 4.6
    size = (width - 2) / columns  # of a map, inches
    titles = {name: "\n".join(textwrap.wrap(name, int(CHARACTERS * (size + 0.25)))) for name in across}
    title_lines = max(title.count("\n") for title in titles.values()) + 1
    # Each of several lines has titles and lengths.
    more = 0.15 * (title_lines - 1 if lines == 1 else len(down) * lines * (title_lines + 1))
    figure = style.canvas(0.95 + len(down) * lines * min(2.4, 0.4 + 0.74 * size) + more, width)
    shared: Any = {"sharex": "col" if lines == 1 else False, "sharey": True}
    grid = figure.subplots(len(down) * lines, columns, squeeze=False, **shared)
    for i, first in enumerate(down):
        places = grid[i * lines : (i + 1) * lines].ravel()
        for axes in places[len(across) :]:
            axes.set_visible(False)
        for axes, second in zip(places, across, strict=False):
            cell = rows[(named["_down"] == first) & (named["_across"] == second)]
            title = f"{titles[second]}\n" if col_by and (i == 0 or lines > 1) else ""
            if cell.empty:
                axes.set_title(f"{title}not run", fontsize=9, color=style.GREY)
                continue
            draw_map(axes, cell)
            mean, exact = 20 * cell["score"].mean(), 100 * cell["exact"].mean()
            axes.set_title(f"{title}{mean:.0f} % · full {exact:.0f} %", fontsize=9, pad=3)
        if row_by:
            places[0].set_ylabel(first)
    colours = figure.colorbar(scores(), ax=grid, shrink=min(1.0, 1.6 / len(grid) + 0.2), aspect=22, pad=0.015)
    colours.set_label(unit)
    n = style.counted(named, ["_down", "_across"])
    note = style.provenance(rows, f"{n} prompts a map", "titles: accuracy · share of full needles", *notes(rows))
    style.footnote(figure, note, xlabel="prompt length (tokens)")
    return figure
