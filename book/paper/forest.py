"""Forest plots: estimates with their intervals, one below the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hybret.errors import HybretError
from hybret.figures.style import COLOURS, GREY, INK, MARKERS, PALE, canvas, footnote, styled
from hybret.rows import checked


def _list(axes: Axes, names: Sequence[str], xlabel: str) -> None:
    """Make y a list of names, read from top to bottom."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel)


def _estimate(axes: Axes, y: float, values: Sequence[float], colour: str, marker: str, label: str = "") -> None:
    """Draw one estimate: `values` are it and the ends of its interval."""
    middle, low, high = values
    axes.plot([low, high], [y, y], color=colour, linewidth=2.2)
    axes.plot([middle], [y], marker, color=colour, markersize=6, label=label or None, zorder=3)


def _checked(table: pd.DataFrame, names: Sequence[str], number: str, what: str) -> pd.DataFrame:
    if checked(table).empty:
        raise HybretError(f"no {what} to draw; the table is empty")
    numbers = [number, "low", "high"]
    return checked(table, [*names, *numbers], (), numbers, "hybret.metrics")


@styled
def departures(table: pd.DataFrame, note: str) -> Figure:
    """What each decision of the recipe changes; `note` is small print.

    `table` has `field`, `condition`, and `difference`, `low`, `high` of `hybret.metrics.departures` (-1 to 1). A
    missing difference is written as "cannot show on this model".
    """
    table = _checked(table, ["field", "condition"], "difference", "departures")
    figure = canvas(1.0 + 0.3 * len(table))
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=1)
    drawn = 100 * table[["difference", "low", "high"]].to_numpy(dtype=float)
    for i, (difference, low, high) in enumerate(drawn):
        if np.isnan(difference):
            axes.text(0, i, " cannot show on this model", va="center", color=GREY, fontsize=8)
            continue
        colour, marker = (COLOURS[0], "o") if low <= 0 <= high else (COLOURS[1], "D")
        _estimate(axes, i, (difference, low, high), colour, marker)
    reach = float(np.nanmax(np.abs(drawn), initial=5))
    axes.set_xlim(-1.08 * reach, 1.08 * reach)
    names = [f"{row.field}: {row.condition}" for row in table.itertuples()]
    _list(axes, names, "change of accuracy (percentage points)")
    footnote(figure, f"{note} · orange diamonds: the interval leaves out 0")
    return figure


@styled
def variants(
    table: pd.DataFrame,
    note: str,
    ylabel: str,
    series: str | None = None,
    paper: Mapping[tuple[str, str], float] | None = None,
    lines: Mapping[str, float] | None = None,
) -> Figure:
    """Accuracies of the variants of an experiment, in the order of the table.

    Parameters
    ----------
    table : columns `variant`, and `accuracy`, `low`, `high` (0 to 1) of `hybret.metrics.accuracy`.
    note, ylabel : small print, and what the variants are.
    series : column whose values are told apart by colour and marker within each variant; None: one series.
    paper : (variant, value of `series`, "" for one series) to the paper's accuracy, 0 to 1: an open diamond.
    lines : name to accuracy, drawn as a dashed vertical line.
    """
    table = _checked(table, ["variant", *([series] if series else [])], "accuracy", "variants")
    names = list(dict.fromkeys(table["variant"]))
    kinds = list(dict.fromkeys(table[series])) if series else [""]
    figure = canvas(1.35 + len(names) * (0.14 + 0.13 * len(kinds)))
    axes = figure.subplots()
    for i, (name, value) in enumerate((lines or {}).items()):
        axes.axvline(100 * value, color=INK, linewidth=1.1, linestyle=("--", ":")[i % 2], label=name)
    for i, kind in enumerate(kinds):
        offset = 0.26 * (i - (len(kinds) - 1) / 2)
        part = table if series is None else table[table[series] == kind]
        for n, (name, *numbers) in enumerate(part[["variant", "accuracy", "low", "high"]].itertuples(index=False)):
            y, values = names.index(name) + offset, [100 * value for value in numbers]
            _estimate(axes, y, values, COLOURS[i % 7], MARKERS[i % 7], "" if n else str(kind))
            if len(kinds) == 1:
                axes.text(104, y, f"{values[0]:.0f}", va="center", fontsize=8)
        theirs = [(100 * value, names.index(name) + offset) for (name, k), value in (paper or {}).items() if k == kind]
        if theirs:
            edge = COLOURS[i % 7] if len(kinds) > 1 else INK
            x, y_paper = zip(*theirs, strict=True)
            axes.plot(x, y_paper, "D", markersize=5, markerfacecolor="white", markeredgecolor=edge, zorder=4)
    _list(axes, names, "accuracy (% of the maximum score)")
    axes.set_xlim(-3, 111 if len(kinds) == 1 else 103)
    axes.set_xticks(range(0, 101, 20))
    axes.set_ylabel(ylabel)
    if lines or series:
        figure.legend(loc="outside upper center", ncols=3 if series else 2, title=series)
    footnote(figure, note + (" · open diamonds: the paper's RG-2B, whole grid" if paper else ""))
    return figure
