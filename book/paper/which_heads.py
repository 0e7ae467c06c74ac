"""Which heads: accuracy by the share of heads kept, for every way of choosing them, with chance as the baseline.

Heads are silenced while the answer is written. Some ways choose anew for every token; static ones name the heads once,
from scores on other prompts (another needle, another haystack), or by lot.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import hybret as hb
from book.paper import numbers, other_half
from book.paper.chapter import Chapter
from book.paper.tipping import HOLDS
from hybret import metrics
from hybret.errors import HybretError
from hybret.figures import style

SCORED_ON = hb.Needle(
    "scored on",
    "The quickest way to open the old gate of the mill is to lift the latch and push twice with one shoulder.",
    "What is the quickest way to open the old gate of the mill?",
)
PER_TOKEN = {"entropy": "entropy", "highest entropy": "highest entropy", "needle": "weight on the needle (oracle)"}
STATIC = {
    "focus": "mean entropy", "copied": "looks at the next token", "write": "writes the next token",
    "ablation": "is missed when silenced", "copies": "copies, by its weights",
}  # fmt: skip
RESAMPLES = 1000
RANDOM = {"token": "random, anew for each token", "static": "random, one set"}


def counts(heads: int) -> list[int]:
    """Numbers of heads to keep in every layer, none of them all or none: every one of few, eight steps of many."""
    steps = [max(1, round(heads * share)) for share in (0.06, 0.12, 0.25, 0.375, 0.5, 0.625, 0.75)]
    return [*range(1, heads)] if heads <= 10 else sorted({*steps, numbers.few_heads(heads)})


def scoring_prompts(chapter: Chapter, hybrid: hb.Model, asked: Sequence[hb.Prompt]) -> list[hb.Prompt]:
    """Prompts to score heads on: another needle in another haystack, inside the window."""
    length = max(p.length for p in asked)
    template = "instruct" if hybrid.instruct else "base"
    prompts = hb.niah.grid(
        hybrid, [length], [0, 25, 50, 75, 100], template, chapter.haystack, chapter.seed + 1000, needle=SCORED_ON
    )
    if {p.key for p in prompts} & {p.key for p in asked}:
        raise HybretError("heads would be scored on prompts that judge them; give another seed")
    return [p for p in prompts if not hybrid.window or len(p.ids) - 1 - p.needle_spans[0][0] < hybrid.window]


def conditions(hybrid: hb.Model, scores: pd.DataFrame, draws: int) -> dict[tuple[str, int, int], hb.Intervention]:
    """Every way of choosing and number of heads; by way, heads kept in each layer, and draw (0: nothing is drawn)."""
    found: dict[tuple[str, int, int], hb.Intervention] = {}
    for k in counts(hybrid.heads):
        for metric, name in PER_TOKEN.items():
            found[name, k, 0] = hb.KeepHeads(k, metric, during="generation")  # type: ignore[arg-type]
        for score, name in STATIC.items():
            named = hb.top_heads(scores[scores["score"] == score], k, per_layer=True)
            found[name, k, 0] = hb.OnlyHeads(named, during="generation")
        for draw in range(1, draws + 1):
            if draw <= max(1, draws // 5):  # what is drawn anew for each token differs little from draw to draw
                found[RANDOM["token"], k, draw] = hb.KeepHeads(k, "random", during="generation", seed=draw)
            lots = random.Random(f"{k} {draw}")
            taken = [(layer, h) for layer in hybrid.attention_layers for h in lots.sample(range(hybrid.heads), k)]
            found[RANDOM["static"], k, draw] = hb.OnlyHeads(tuple(taken), during="generation")
    return found


def measure(chapter: Chapter, hybrid: hb.Model, prompts: int, draws: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of a sweep with columns `way`, `k` and `draw`, and the table of scores."""
    asked = other_half.inside(chapter, hybrid, prompts)
    scores = hb.head_scores(hybrid, scoring_prompts(chapter, hybrid, asked), [*STATIC], chapter.decisions)
    ways = conditions(hybrid, scores, draws)
    named = {f"{way}, k={k}, {draw}": condition for (way, k, draw), condition in ways.items()}
    rows = chapter.apart("which-heads").sweep(hybrid, asked, {"all heads": hb.Keep(), **named})
    keys = dict(zip(named, ways, strict=True)) | {"all heads": ("all heads", hybrid.heads, 0)}
    parts = pd.DataFrame(
        [keys[label] for label in rows["condition"]], index=rows.index, columns=["way", "kept", "draw"]
    )
    return pd.concat([rows, parts], axis=1).assign(share=parts["kept"] / hybrid.heads), scores.assign(model=hybrid.name)


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Exact answers by model, way and number of heads kept: mean, with the 95 % interval over prompts.

    Of random choices: mean over draws, and in place of the interval the least and the greatest draw.
    """
    lines = []
    for (model, way, kept), group in rows.groupby(["model", "way", "kept"], sort=False):
        scored = group.assign(_value=group["exact"].astype(float))
        if way in RANDOM.values():
            each = scored.groupby("draw")["_value"].mean()
            mean, low, high = each.mean(), each.min(), each.max()
        else:
            mean, low, high = metrics.grouped_means(scored, [], (0.0, 1.0))[["mean", "low", "high"]].iloc[0]
        counts = group["draw"].nunique(), group["prompt"].nunique()
        lines.append((model, way, kept, group["share"].iloc[0], *counts, mean, low, high))
    return pd.DataFrame(lines, columns=["model", "way", "kept", "share", "draws", "prompts", "exact", "low", "high"])


def _fewest(ks: Sequence[int], means: np.ndarray, limit: float) -> int:
    """The least of rising ks from which on the means stay at the limit; the last, all heads, needs no mean."""
    below = np.flatnonzero(means < limit)
    return ks[below[-1] + 1 if len(below) else 0]


def enough(rows: pd.DataFrame) -> pd.DataFrame:
    """The fewest heads per layer from which on exact answers stay at `HOLDS` of those with all heads.

    Columns: model, way, heads, low, high: the 95 % interval over prompts, and over draws where heads are drawn. All
    heads stand for no tried number that is enough.
    """
    lines = []
    for model, group in rows.groupby("model", sort=False):
        kept = group[group["way"] == "all heads"]
        whole, heads = kept.sort_values("prompt")["exact"].to_numpy(float), int(kept["kept"].iloc[0])
        lots = np.random.default_rng(0)
        taken = lots.integers(len(whole), size=(RESAMPLES, len(whole)))
        for way, tried in group[group["way"] != "all heads"].groupby("way", sort=False):
            ordered = tried.sort_values(["kept", "draw", "prompt"])
            ks, draws = [*map(int, ordered["kept"].unique()), heads], ordered["draw"].nunique()
            right = ordered["exact"].to_numpy(float).reshape(len(ks) - 1, draws, len(whole))
            drawn = lots.integers(draws, size=(RESAMPLES, draws))
            resampled = [
                _fewest(ks, right[:, d][:, :, p].mean((1, 2)), HOLDS * whole[p].mean())
                for d, p in zip(drawn, taken, strict=True)
            ]
            low, high = np.percentile(resampled, [2.5, 97.5], method="nearest")
            found = _fewest(ks, right.mean((1, 2)), HOLDS * whole.mean())
            lines.append((model, way, found, int(low), int(high)))
    return pd.DataFrame(lines, columns=["model", "way", "heads", "low", "high"])


def side_by_side(found: pd.DataFrame, value: str, scale: float = 1.0) -> pd.DataFrame:
    """One line for each way and one column for each model: the value, and its interval where it has a width."""
    shown = [f"{scale * v:.0f}" + (f" ({scale * a:.0f} to {scale * b:.0f})" if a < b else "")
             for v, a, b in zip(found[value], found["low"], found["high"], strict=True)]  # fmt: skip
    wide = found.assign(shown=shown).pivot(index="way", columns="model", values="shown")
    return wide.loc[[*dict.fromkeys(found["way"])], [*dict.fromkeys(found["model"])]].reset_index()


def few(found: pd.DataFrame) -> pd.DataFrame:
    """The lines of `table` at the paper's 15 % of heads, rounded up."""
    heads = (found["kept"] / found["share"]).round().astype(int)
    return found[found["kept"] == heads.map(numbers.few_heads)]


def overlap(scores: pd.DataFrame) -> pd.DataFrame:
    """How many heads two scores choose alike, at a quarter of each layer's heads: 0 to 1, one column a model."""
    parts = {}
    for model, group in scores.groupby("model", sort=False):
        k = max(1, round(group["head"].nunique() / 4))
        sets = {
            STATIC[str(s)]: set(hb.top_heads(part, k, per_layer=True)) for s, part in group.groupby("score", sort=False)
        }
        parts[model] = {(a, b): len(sets[a] & sets[b]) / len(sets[a]) for a, b in combinations(sets, 2)}
    return pd.DataFrame(parts).rename_axis(["one", "other"]).reset_index()


@style.styled
def ways(table: pd.DataFrame, note: str) -> Figure:
    """Exact answers over the share of heads kept, one column for each model; random choices are a band.

    Above are choices for each token, below static ones. `table` is from the function `table`.
    """
    models = list(dict.fromkeys(table["model"]))
    figure = style.canvas(6.2)
    halves: Any = figure.subfigures(2, 1, height_ratios=(1, 1.12))
    few_heads = 100 * numbers.BENCHMARKS["heads kept"].value
    for part, name, chance, lines in zip(
        halves, ("chosen for each token", "chosen once"), RANDOM.values(),
        (PER_TOKEN.values(), STATIC.values()), strict=True,
    ):  # fmt: skip
        panels = part.subplots(1, len(models), sharey=True, squeeze=False)[0]
        for axes, model in zip(panels, models, strict=True):
            group = table[table["model"] == model].assign(x=lambda rows: 100 * rows["share"]).sort_values("kept")
            drawn = group[group["way"] == chance]
            axes.fill_between(drawn["x"], 100 * drawn["low"], 100 * drawn["high"], color=style.PALE, label=chance)
            axes.plot(drawn["x"], 100 * drawn["exact"], color=style.GREY, linewidth=1)
            for i, way in enumerate(lines):
                of_way = group[group["way"] == way]
                look = {"color": style.COLOURS[i], "marker": style.MARKERS[i], "markersize": 4}
                axes.plot(of_way["x"], 100 * of_way["exact"], label=way, clip_on=False, **look)
            axes.axvline(few_heads, color=style.GREY, linewidth=0.8, linestyle=":", label="the paper's 15 %")
            axes.set_title(model, loc="left")
            axes.set(xlim=(0, 100), ylim=(0, 100))
        panels[0].set_ylabel(f"{name}:\nexact answers (%)")
        part.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    style.footnote(figure, note, "heads kept in every attention layer while answering (%)")
    return figure


@style.styled
def head_maps(scores: pd.DataFrame, note: str) -> Figure:
    """Layer by head, one row of maps for each score and one column for each model, each from its least to its greatest.

    `scores` is from `hybret.head_scores`, with a column `model`.
    """
    models, names = (list(dict.fromkeys(scores[column])) for column in ("model", "score"))
    figure = style.canvas(0.9 + 0.85 * len(names))
    grid = figure.subplots(len(names), len(models), squeeze=False)
    for column, model in enumerate(models):
        for row, name in enumerate(names):
            axes, part = grid[row, column], scores[(scores["model"] == model) & (scores["score"] == name)]
            shown = part.pivot(index="layer", columns="head", values="value")
            axes.imshow(shown.to_numpy(float), cmap=style.SCORES, aspect="auto", interpolation="nearest")
            axes.set_yticks(range(len(shown)), [str(layer) for layer in shown.index])
            axes.set_xticks([])
            if row == 0:
                axes.set_title(model, loc="left")
            if column == 0:
                axes.set_ylabel(
                    STATIC.get(name, name).replace(", ", ",\n").replace(" the ", " the\n"),
                    rotation=0,
                    ha="right",
                    va="center",
                )
    style.footnote(figure, note, "head")
    return figure
