"""Figures of Section 4 and Appendix D: benchmarks in the base, sparse and ablated configuration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hybret import averages
from hybret.errors import HybretError
from hybret.figures_style import COLOURS, GREY, INK, MARKERS, PALE, between, canvas, footnote, provenance, styled

GROUPS = {
    "glue": "GLUE side:\nsentences",
    "mmlu-knowledge": "MMLU side:\nfacts in the weights",
    "mmlu-lookup": "MMLU side:\nlook-ups far back",
}
"""The groups of the organisms' tasks; others are called by their benchmark's name."""
LINE = 0.185  # inches of a task in a figure of subtasks


def name_of(benchmark: str, group: str) -> str:
    """A group of tasks in words."""
    if benchmark == "organism":
        return GROUPS.get(group, group)
    return benchmark.upper() if group in ("all", benchmark) else f"{benchmark.upper()}: {group.split('-', 1)[1]}"


def _conditions(rows: pd.DataFrame) -> dict[str, str]:
    """Conditions in their order, with the number of heads that each keeps."""
    pairs = rows.drop_duplicates("condition")[["condition", "k"]].itertuples(index=False)
    return {name: f"{name} (k = {k})" if pd.notna(k) else str(name) for name, k in pairs}


@styled
def benchmarks(rows: pd.DataFrame, seed: int = 0) -> Figure:
    """Average scores per side and configuration (the paper's Figure 3, right).

    Parameters
    ----------
    rows
        From `hybret.harness.evaluate`, of one model and recipe; one or more benchmarks.
    seed
        Of the bootstrap.

    Returns
    -------
    Figure
        Bars in per cent with 95 % intervals, beside the score of guessing.
    """
    table = _averages(rows, seed)
    names = _conditions(rows)
    sides = list(dict.fromkeys(zip(table["benchmark"], table["group"], strict=True)))
    figure = canvas(3.9)
    axes = figure.subplots()
    width = 0.8 / len(names)
    for i, (condition, label) in enumerate(names.items()):
        part = table[table["condition"] == condition].set_index(["benchmark", "group"]).loc[sides]
        x = np.arange(len(sides)) + (i - (len(names) - 1) / 2) * width
        value = 100 * part["value"].to_numpy()
        axes.bar(x, value, 0.92 * width, color=COLOURS[i % 7], label=label, zorder=2)
        low, high = (100 * part[c].to_numpy() for c in ("low", "high"))
        axes.vlines(x, low, high, color=INK, linewidth=1.1, zorder=3)
        for at, top, number in zip(x, np.maximum(high, value), value, strict=True):
            axes.annotate(f"{number:.1f}", (at, top), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    chance = table.drop_duplicates(["benchmark", "group"]).set_index(["benchmark", "group"])["chance"].loc[sides]
    middle = np.arange(len(sides))
    axes.hlines(100 * chance, middle - 0.45, middle + 0.45, color=GREY, linestyle="--", linewidth=1.2, zorder=4,
                label="guessing")  # fmt: skip
    axes.set_xticks(middle, [name_of(*side) for side in sides])
    axes.tick_params(axis="x", length=0)
    _percent(axes, table["value"].min())
    axes.set_ylabel("mean score of the tasks (%)")
    figure.legend(loc="outside upper center", ncols=4)
    _small_print(figure, rows, "lines: 95 %, bootstrap over documents, lists and facts")
    return figure


@styled
def subtasks(rows: pd.DataFrame, groups: Sequence[str], seed: int = 0) -> Figure:
    """Scores per task and configuration (the paper's Figures 8 and 9).

    Parameters
    ----------
    rows
        As in `benchmarks`.
    groups
        Which groups, e.g. ``["glue"]`` or every one that begins with ``"mmlu"``; drawn one below the other.
    seed
        Of the bootstrap.

    Raises
    ------
    HybretError
        If there is no task of these groups.
    """
    rows = rows[rows["group"].isin(list(groups))]
    if rows.empty:
        raise HybretError(f"no tasks of the groups {', '.join(groups)} to draw; these rows hold others")
    table = averages.per_task(rows, seed=seed)
    correlated = (table["benchmark"] == "glue") & table["task"].isin(averages.CORRELATION)
    for end in ("", "_low", "_high"):
        table[f"score{end}"] = table[f"acc{end}"].where(~correlated, table[f"mcc{end}"])
    table["chance"] = table["chance"].where(~correlated, 0.0)
    names = _conditions(rows)
    places, titles, y = {}, {}, 0.0
    for group in groups:
        part = table[table["group"] == group]
        if part.empty:
            continue
        titles[group] = y
        for task in dict.fromkeys(part["task"]):
            y += 1
            places[task] = y
        y += 1.6
    figure = canvas(1.35 + LINE * (1.6 if len(places) < 15 else 1) * y)
    axes = figure.subplots()
    for i, (condition, label) in enumerate(names.items()):
        part = table[table["condition"] == condition].set_index("task").loc[list(places)]
        at = np.array(list(places.values())) + (i - (len(names) - 1) / 2) * 0.24
        axes.hlines(at, 100 * part["score_low"], 100 * part["score_high"], color=COLOURS[i % 7], linewidth=1.2)
        axes.plot(100 * part["score"], at, MARKERS[i % 7], color=COLOURS[i % 7], markersize=4.5, label=label)
    first = table.drop_duplicates("task").set_index("task").loc[list(places)]
    middle = np.array(list(places.values()))
    axes.vlines(100 * first["chance"], middle - 0.5, middle + 0.5, color=GREY, linestyle="--", linewidth=1.2)
    for line in places.values():
        axes.axhline(line + 0.5, color=PALE, linewidth=0.5, zorder=0)
    for group, height in titles.items():
        title = name_of(str(table["benchmark"].iloc[0]), group).replace("\n", " ")
        axes.text(0, height, title, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, fontweight="bold")
    axes.set_yticks(middle, [f"{x.label} (mcc)" if c else x.label for x, c in _labels(first)])
    axes.set_ylim(y - 0.9, -0.7)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(min(-3.0, 100 * float(table["score_low"].min()) - 3), 103)
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    handles, _ = axes.get_legend_handles_labels()
    guessing = Line2D([], [], color=GREY, linestyle="--", linewidth=1.2, label="guessing")
    figure.legend(handles=[*handles, guessing], loc="outside upper center", ncols=4)
    _small_print(figure, rows, "lines: 95 %, bootstrap over documents, lists and facts", xlabel="score (%)")
    return figure


def _labels(first: pd.DataFrame) -> list[tuple[pd.Series, bool]]:
    """Tasks, and whether they are measured by a correlation."""
    lines = [line for _, line in first.iterrows()]
    return [(line, line["benchmark"] == "glue" and line.name in averages.CORRELATION) for line in lines]


def _averages(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The default averages: the organisms' groups, and GLUE and MMLU as a whole."""
    table = averages.averages(rows, seed=seed)
    whole = table["group"].isin(["all"]) | (table["benchmark"] == "organism")
    return table[table["default"] & whole]


def _percent(axes: Axes, least: float) -> None:
    axes.set(ylim=(min(0.0, 100 * least - 4), 106), yticks=range(0, 101, 20))
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)


def _small_print(figure: Figure, rows: pd.DataFrame, *more: str, xlabel: str = "") -> None:
    sizes = rows.groupby(["task", "condition"]).size()
    footnote(figure, provenance(rows, f"{between(sizes)} documents per task and configuration", *more), xlabel)
