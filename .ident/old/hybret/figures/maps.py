"""Retrieval maps: mean score by prompt length and needle depth, with the attention window's edge."""

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

from hybret import asked, tables
from hybret.figures.style import (  # fmt: skip
    EDGE,
    GREY,
    INK,
    NUMBERS,
    PALE,
    WIDTH,
    canvas,
    colormap,
    counted,
    footnote,
    provenance,
    split,
    styled,
    words,
)

CONTEXT_ENDS = ("start of context", "end of context")
FIVE = 5.0
SCORES = Normalize(0, FIVE)
BESIDE = 5  # maps in one line, as in Table 1
WRAPPED = 4  # maps in each of several lines
CHARACTERS = 12.5  # of a map's title in an inch


def scores(palette: str) -> ScalarMappable:
    """Colours of a score from 0 to 5, for cells and colour bars."""
    return ScalarMappable(SCORES, colormap(palette))


def in_fives(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows with scores from 0 to 5, whatever their rubric's maximum, and what a colour bar calls them."""
    if (tables.maximum(rows) == FIVE).all():
        return rows, "mean score (0 to 5)"
    return rows.assign(score=FIVE * tables.fraction(rows)), "mean score (scaled to 0 to 5)"


def draw_map(axes: Axes, rows: pd.DataFrame, palette: str) -> None:
    """Draw one map: x prompt length, y needle depth with the start of the context on top, colour mean score.

    Cells of one colour are one path: a page of twenty maps stays small as SVG, and sharp at any size.
    """
    cells = rows.pivot_table(index="depth", columns="length", values="score", aggfunc="mean")
    values, (height, width) = cells.to_numpy(dtype=float), cells.shape
    axes.add_patch(PathPatch(_squares(np.argwhere(np.isnan(values))), facecolor=PALE, edgecolor="white"))
    for value in np.unique(values[~np.isnan(values)]):
        path = _squares(np.argwhere(values == value))
        patch = PathPatch(path, facecolor=colormap(palette)(SCORES(value)), edgecolor="white", linewidth=0.4)
        patch.set_gid(f"score-{value:g}")
        axes.add_patch(patch)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=2)
    shown = sorted({0, (width - 1) // 2, width - 1})
    axes.set_xticks([i + 0.5 for i in shown], [str(cells.columns[i]) for i in shown])
    if height > 1:
        axes.set_yticks([0.5, height - 0.5], CONTEXT_ENDS)
    else:
        axes.set_yticks([0.5], [f"depth {cells.index[0]:g} %"])
    inside = rows.assign(inside=rows["in_window"].astype(float))
    visible = inside.pivot_table(index="depth", columns="length", values="inside", aggfunc="mean")
    seen = visible.to_numpy() > 0.5
    edges = [[(x + 1, y), (x + 1, y + 1)] for y, x in np.argwhere(seen[:, 1:] != seen[:, :-1])]
    edges += [[(x, y + 1), (x + 1, y + 1)] for y, x in np.argwhere(seen[1:] != seen[:-1])]
    colour = EDGE if palette == "cividis" else INK
    line = LineCollection(edges, colors=colour, linewidths=2, capstyle="projecting")
    line.set_gid("window")
    axes.add_collection(line)


def _squares(cells: Any) -> Path:
    """Return one compound path of unit squares at (row, column) pairs `cells`, shape (n, 2)."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]])
    vertices = (np.asarray(cells)[:, None, ::-1] + corners).reshape(-1, 2)
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(cells)
    return Path(vertices, codes) if len(cells) else Path(np.empty((0, 2)))


@styled
def retrieval_maps(
    rows: pd.DataFrame, row_by: str | None = None, col_by: str | None = "k", palette: str = "cividis"
) -> Figure:
    """Retrieval maps as small multiples (the paper's Figures 4-7 and 10).

    Parameters
    ----------
    rows
        Rows of one model, or of several with "model" as `row_by` or `col_by`; repeated prompts of a cell (haystack
        seeds) are averaged.
    row_by, col_by
        Columns whose values make the rows and columns of maps, in order of first appearance; None for one. Values that
        a reader calls alike (the base and the instruct template) share one. More than five columns go on in further
        rows.
        A pair ("prefill", "generation") is laid out as Table 1.
    palette
        "cividis" or "authors".

    Returns
    -------
    Figure
        x: prompt length label (tokens); y: needle depth, start of the context on top; colour: mean score.
        Titles give the accuracy and the share of full needles. A line parts the cells whose needle the last prompt
        token can attend to from those where it has left the attention window.

    Raises
    ------
    HybretError
        If a map would be a mean over several needles, haystacks, models, ... (`hybret.tables.alike`).
    """
    rows = split(rows)[0].reset_index(drop=True)
    known = ["length", "depth", "score"]
    asked.table(rows, [*known, "in_window", *(by for by in (row_by, col_by) if by)], NUMBERS, known)
    rows, unit = in_fives(rows)
    bar = scores(palette)
    said = {by: rows[by].map(lambda value, by=by: words(by, value)) for by in (row_by, col_by) if by}
    named = rows.assign(_down=said[row_by] if row_by else "", _across=said[col_by] if col_by else "")
    tables.alike(named, ["_down", "_across"])
    tables.once(named, ["_down", "_across"])
    down, across = (list(dict.fromkeys(named[column])) for column in ("_down", "_across"))
    lines, columns = _lines(len(across))
    width = WIDTH if columns > 1 else 4.6
    size = (width - 2) / columns  # of a map, inches
    heads = {name: "\n".join(textwrap.wrap(name, int(CHARACTERS * (size + 0.25)))) for name in across}
    head_lines = max(head.count("\n") for head in heads.values()) + 1
    # Every line of several has its own heads and lengths.
    more = 0.15 * (head_lines - 1 if lines == 1 else len(down) * lines * (head_lines + 1))
    figure = canvas(0.95 + len(down) * lines * min(2.4, 0.4 + 0.74 * size) + more, width)
    shared: Any = {"sharex": "col" if lines == 1 else False, "sharey": True}
    grid = figure.subplots(len(down) * lines, columns, squeeze=False, **shared)
    for i, first in enumerate(down):
        places = grid[i * lines : (i + 1) * lines].ravel()
        for axes in places[len(across) :]:
            axes.set_visible(False)
        for axes, second in zip(places, across, strict=False):
            cell = rows[(named["_down"] == first) & (named["_across"] == second)]
            head = f"{heads[second]}\n" if col_by and (i == 0 or lines > 1) else ""
            if cell.empty:
                axes.set_title(f"{head}not run", fontsize=9, color=GREY)
                continue
            draw_map(axes, cell, palette)
            mean, exact = 20 * cell["score"].mean(), 100 * cell["exact"].mean()
            axes.set_title(f"{head}{mean:.0f} % · full {exact:.0f} %", fontsize=9, pad=3)
        if row_by:
            places[0].set_ylabel(first)
    colours = figure.colorbar(bar, ax=grid, shrink=min(1.0, 1.6 / len(grid) + 0.2), aspect=22, pad=0.015)
    colours.set_label(unit)
    edge = ["line: edge of the attention window"] if rows["in_window"].nunique() > 1 else []
    n = counted(named, ["_down", "_across"])
    note = provenance(rows, f"{n} prompts a map", "titles: accuracy · share of full needles", *edge)
    footnote(figure, note, xlabel="prompt length (tokens)")
    return figure


def _lines(maps: int) -> tuple[int, int]:
    """In how many lines, of how many, maps beside one another are laid out."""
    lines = 1 if maps <= BESIDE else -(-maps // WRAPPED)
    return lines, -(-maps // lines)


@styled
def annotated_map(rows: pd.DataFrame, palette: str = "cividis") -> Figure:
    """One retrieval map with five numbered places, for the page that explains how to read one.

    Parameters
    ----------
    rows
        Rows of one condition of one model, one per cell.
    palette
        As in `retrieval_maps`.

    Returns
    -------
    Figure
        1: the axis of length; 2: of depth; 3 and 4: a cell of the best and of the worst score; 5: the window's edge,
        where the map has one.
    """
    rows = split(rows)[0]
    tables.alike(rows, [])
    tables.once(rows)
    rows, unit = in_fives(rows)
    figure = canvas(3.6, 5.2)
    axes = figure.subplots()
    draw_map(axes, rows, palette)
    cells = rows.pivot_table(index="depth", columns="length", values="score", aggfunc="mean").to_numpy(dtype=float)
    height, width = cells.shape

    def inner(score: float) -> tuple[float, float]:
        """The middle of that cell of a score which lies farthest from cells of another."""
        same, other = np.argwhere(cells == score), np.argwhere(cells != score)
        gaps = np.abs(same[:, None] - other).sum(-1).min(1) if len(other) else np.zeros(len(same))
        y, x = same[int(gaps.argmax())]
        return x + 0.5, y + 0.5

    places = [(0.75 * width, height + 0.45), (-0.45, height / 2), inner(np.nanmax(cells)), inner(np.nanmin(cells))]
    edges = next(c for c in axes.collections if c.get_gid() == "window").get_paths()
    if edges:
        x, y = np.asarray(edges[len(edges) // 2].vertices, dtype=float).mean(0)
        places.append((float(x), float(y)))
    disc = {"boxstyle": "circle,pad=0.25", "facecolor": "white", "edgecolor": INK}
    for number, (x, y) in enumerate(places, 1):
        axes.text(x, y, str(number), fontsize=10, fontweight="bold", ha="center", va="center", zorder=10, bbox=disc)
    axes.set_xlabel("prompt length (tokens)", labelpad=9)
    figure.colorbar(scores(palette), ax=axes, aspect=25).set_label(unit)
    axes.set_title(f"{20 * rows['score'].mean():.0f} % · full {100 * rows['exact'].mean():.0f} %", fontsize=9)
    footnote(
        figure, provenance(rows, f"{counted(rows, ['model'])} prompts", *map(str, dict.fromkeys(rows["condition"])))
    )
    return figure
