"""The chapter on benchmarks (Section 4, Appendix D): rows and figures of the base, sparse and ablated configuration.

`book.paper.benchmark_scores` makes tables of the rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import hybret as hb
from book.paper import benchmark_scores as scores
from book.paper import tipping
from book.paper.chapter import Chapter, keep_heads
from hybret.errors import HybretError
from hybret.figures.style import COLOURS, GREY, INK, MARKERS, PALE, between, canvas, footnote, provenance, styled
from hybret.harness.tasks import organism

DOCUMENTS, FEW = 150, 20  # first documents of each task of our own: where questions were learnt, and of other models
TEXTS = 40  # of each task with options in full
LONG = 200  # characters of a question that begins with a list
GROUPS = {
    "glue": "GLUE side:\nsentences",
    "mmlu-knowledge": "MMLU side:\nfacts in the weights",
    "mmlu-lookup": "MMLU side:\nlook-ups far back",
}
"""Groups of the small models' tasks in words; the other groups have their benchmark's name."""
LINE = 0.185  # inches of a task in a figure of subtasks


def items(
    chapter: Chapter, hybrid: hb.Model, tasks: str, k: int, recipe: hb.Recipe, compute: bool = True
) -> pd.DataFrame:
    """Items of benchmarks in the three configurations: of our own tasks the first documents, of others all."""
    limit = (DOCUMENTS if hybrid.instruct else FEW) if tasks == "organism" else None
    options: Any = {"limit": chapter.limit or limit, "out": chapter.out, "seed": chapter.seed}
    configurations = hb.harness.conditions(hybrid, k)
    return hb.harness.evaluate(hybrid, tasks, configurations, recipe, **options, progress=compute, compute=compute)


def as_texts(chapter: Chapter, hybrid: hb.Model) -> pd.DataFrame:
    """Items of our tasks with four options, in base and ablated: the options are answers in full, no letters."""
    asked = {"doc_to_text": "question", "doc_to_choice": "choices"}
    tasks = [replace(t, name=f"{t.name}_texts", options=asked) for t in organism() if not t.group.startswith("glue")]
    configurations = {"base": hb.KeepHeads(hybrid.heads), "ablated": hb.KeepHeads(0)}
    options: Any = {"limit": chapter.limit or TEXTS, "out": chapter.out, "seed": chapter.seed}
    return hb.harness.evaluate(hybrid, tasks, configurations, chapter.decisions, **options)


def example(task: str) -> str:
    """A question of one of our tasks and its answer, of its list the entry alone; empty for other tasks."""
    found = [t for t in organism() if t.name == task]
    if not found:
        return ""
    with found[0].data["test"].open(encoding="utf-8") as lines:
        item = json.loads(next(lines))
    *before, question = item["question"].split("\n")
    answer = item["choices"][item["answer"]]
    listed = [f"... {answer} ..."] if len(item["question"]) > LONG else before
    return " ".join([*filter(None, listed), question, "→", answer])


def sparse(chapter: Chapter, hybrid: hb.Model) -> tuple[int, str]:
    """The number of heads of the sparse configuration, under this run's recipe, and why."""
    swept = chapter.sweep(hybrid, chapter.prompts(hybrid), keep_heads(hybrid, "both"))
    return tipping.sparse_configuration(swept, hybrid.heads)


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
def sides(rows: pd.DataFrame, seed: int = 0) -> Figure:
    """Average scores per side and configuration, with 95 % intervals (the paper's Figure 3, right).

    `rows` are from `items`, of one model and recipe; `seed` is that of the bootstrap.
    """
    table = scores.headline(rows, seed)
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
    ends = middle - 0.45, middle + 0.45
    axes.hlines(100 * chance, *ends, color=GREY, linestyle="--", linewidth=1.2, zorder=4, label="guessing")
    axes.set_xticks(middle, [name_of(*side) for side in sides])
    axes.tick_params(axis="x", length=0)
    least = min(0.0, 100 * table["value"].min() - 4)
    axes.set(ylim=(least, 106), yticks=range(0, 101, 20), ylabel="mean score of the tasks (%)")
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=4)
    _small_print(figure, rows)
    return figure


@styled
def subtasks(rows: pd.DataFrame, groups: Sequence[str], seed: int = 0) -> Figure:
    """Scores per task and configuration (the paper's Figures 8 and 9), from the rows of `items`.

    `groups`, such as ``["glue"]`` or all that begin with ``"mmlu"``, are drawn one below the other.
    """
    rows = rows[rows["group"].isin(list(groups))]
    if rows.empty:
        raise HybretError(f"no tasks of the groups {', '.join(groups)} to draw; these rows hold others")
    table = scores.per_task(rows, seed=seed)
    correlated = (table["benchmark"] == "glue") & table["task"].isin(scores.CORRELATION)
    for end in ("", "_low", "_high"):
        table[f"score{end}"] = 100 * table[f"acc{end}"].where(~correlated, table[f"mcc{end}"])
    table["chance"] = 100 * table["chance"].where(~correlated, 0.0)
    table["label"] = table["label"].where(~correlated, table["label"] + " (mcc)")
    names = _conditions(rows)
    tasks = pd.concat([table[table["group"] == group].drop_duplicates("task") for group in groups]).set_index("task")
    y = np.arange(1, len(tasks) + 1) + 1.6 * pd.factorize(tasks["group"])[0]
    figure = canvas(1.35 + LINE * (1.6 if len(tasks) < 15 else 1) * (y[-1] + 1.6))
    axes = figure.subplots()
    for i, (condition, label) in enumerate(names.items()):
        part = table[table["condition"] == condition].set_index("task").loc[tasks.index]
        at = y + (i - (len(names) - 1) / 2) * 0.24
        axes.hlines(at, part["score_low"], part["score_high"], color=COLOURS[i % 7], linewidth=1.2)
        axes.plot(part["score"], at, MARKERS[i % 7], color=COLOURS[i % 7], markersize=4.5, label=label)
    axes.vlines(tasks["chance"], y - 0.5, y + 0.5, color=GREY, linestyle="--", linewidth=1.2)
    for line in y:
        axes.axhline(line + 0.5, color=PALE, linewidth=0.5, zorder=0)
    for group, height in pd.Series(y).groupby(tasks["group"].to_numpy(), sort=False).min().items():
        title = name_of(str(tasks["benchmark"].iloc[0]), str(group)).replace("\n", " ")
        place: Any = {"transform": axes.get_yaxis_transform(), "va": "center"}
        axes.text(0, height - 1, title, fontsize=8.5, fontweight="bold", **place)
    axes.set_yticks(y, tasks["label"])
    axes.set_ylim(y[-1] + 0.7, -0.7)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(min(-3.0, float(table["score_low"].min()) - 3), 103)
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    handles, _ = axes.get_legend_handles_labels()
    guessing = Line2D([], [], color=GREY, linestyle="--", linewidth=1.2, label="guessing")
    figure.legend(handles=[*handles, guessing], loc="outside upper center", ncols=4)
    _small_print(figure, rows, xlabel="score (%)")
    return figure


@styled
def by_task(rows: pd.DataFrame, examples: Mapping[str, str], seed: int = 0) -> Figure:
    """What each task loses without attention, the most at the top, beside an example of it, by task in `examples`.

    `rows` are those of `items`; drawn are the configurations base and ablated.
    """
    table = scores.per_task(rows, seed=seed)
    table = table[table["task"].isin(examples)]
    base, ablated = (table[table["condition"] == name].set_index("task") for name in ("base", "ablated"))
    tasks = (base["acc"] - ablated["acc"]).sort_values(ascending=False, kind="stable").index
    y = np.arange(len(tasks))
    figure = canvas(1.1 + 0.42 * len(tasks))
    axes, told = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.7))
    columns = ["acc", "acc_low", "acc_high"]
    points = {"all heads": 100 * base.loc[tasks, columns], "no heads": 100 * ablated.loc[tasks, columns]}
    axes.hlines(y, points["no heads"]["acc"], points["all heads"]["acc"], color=PALE, linewidth=4)
    for i, (name, part) in enumerate(points.items()):
        colour, marker = COLOURS[i], MARKERS[i]
        axes.hlines(y, part["acc_low"], part["acc_high"], color=colour, linewidth=1.2)
        axes.plot(part["acc"], y, marker, color=colour, label=name)
    guessing: Any = {"color": GREY, "linestyle": "--", "linewidth": 1.2, "label": "guessing"}
    axes.vlines(100 * base.loc[tasks, "chance"], y - 0.4, y + 0.4, **guessing)
    axes.set_yticks(y, base.loc[tasks, "label"])
    axes.set(xlim=(-3, 103), ylim=(len(tasks) - 0.4, -0.6))
    axes.tick_params(axis="y", length=0)
    for at, task in zip(y, tasks, strict=True):
        told.text(0, at, fill(examples[task], 62), fontsize=8, va="center", transform=told.get_yaxis_transform())
    told.axis("off")
    figure.legend(loc="outside upper left", ncols=3)
    axes.set_xlabel("score (%)")
    _small_print(figure, rows)
    return figure


def _small_print(figure: Figure, rows: pd.DataFrame, xlabel: str = "") -> None:
    n = between(rows.groupby(["task", "condition"]).size())
    more = (f"{n} documents per task and configuration", "lines: 95 %, bootstrap over documents, lists and facts")
    footnote(figure, provenance(rows, *more), xlabel)
