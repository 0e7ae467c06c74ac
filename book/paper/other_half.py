"""The other half: what goes when attention is silenced, and what goes when the recurrence loses its memory.

Two measures of one model under one condition. Language: the loss on prose, in nats per token. Retrieval: what the
needle is worth, the loss on the right answer without the needle in the text minus that with it, in nats per token of
the answer. The second asks for no language: a model that cannot speak any more may still look things up.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

import hybret as hb
from book.paper.chapter import Chapter, with_interval
from hybret.errors import HybretError
from hybret.figures import style
from hybret.resolving import resolve

MEASURES = ("language", "same", "worth")
PHASES = {"both": "throughout", "generation": "while answering", "prefill": "while reading"}
UNMODIFIED, RANDOM = "unmodified", "random layers without memory"
TELLING = (UNMODIFIED, "no attention", "recurrence without memory")  # those that a reader needs first
PARTS: dict[str, Callable[..., hb.Intervention]] = {
    "no attention": lambda **options: hb.KeepHeads(0, **options),
    "recurrence without memory": hb.Memoryless,
    "no recurrent layers": hb.NoRecurrence,
    "no convolutions": hb.NoConvolution,
}
COLOURS = {
    UNMODIFIED: style.COLOURS[6], "no attention": style.COLOURS[1], "recurrence without memory": style.COLOURS[0],
    "no recurrent layers": style.COLOURS[4], "no convolutions": style.COLOURS[2],
}  # fmt: skip


def possible(hybrid: hb.Model, conditions: Mapping[str, hb.Intervention]) -> dict[str, hb.Intervention]:
    """The conditions that can act in this model: a family may lack a part, or hybret the way to it."""
    found = {}
    for label, condition in conditions.items():
        try:
            resolve(condition, hybrid, hb.CORRECTED)
        except HybretError:
            continue
        found[label] = condition
    return found


def whole_parts(hybrid: hb.Model) -> dict[str, hb.Intervention]:
    """The unmodified model, and each kind of part silenced in all layers and both phases."""
    return {UNMODIFIED: hb.Keep(), **possible(hybrid, {name: part() for name, part in PARTS.items()})}


def by_phase(hybrid: hb.Model) -> dict[str, hb.Intervention]:
    """Attention and memory, each gone in one phase alone."""
    names, phases = [*PARTS][:2], [*PHASES][1:]
    return possible(hybrid, {f"{name} {PHASES[p]}": PARTS[name](during=p) for name in names for p in phases})


def random_parts(hybrid: hb.Model, draws: int, seed: int = 0) -> dict[str, hb.Intervention]:
    """As many recurrent layers as there are attention layers lose their memory, drawn at random."""
    layers, n = hybrid.layers_with("recurrence"), len(hybrid.attention_layers)
    drawn = [random.Random(f"{seed} {i}").sample(layers, min(n, len(layers))) for i in range(draws)]
    return possible(hybrid, {f"{RANDOM}, {i + 1}": hb.Memoryless(layers=tuple(taken)) for i, taken in enumerate(drawn)})


def by_layer(hybrid: hb.Model) -> dict[str, hb.Intervention]:
    """One layer at a time: an attention layer without its heads, or a recurrent one without its memory."""
    single: dict[str, hb.Intervention] = {
        **{f"layer {layer}": hb.KeepHeads(0, layers=(layer,)) for layer in hybrid.attention_layers},
        **{f"layer {layer}": hb.Memoryless(layers=(layer,)) for layer in hybrid.layers_with("recurrence")},
    }
    return possible(hybrid, single)


def inside(chapter: Chapter, hybrid: hb.Model, n: int) -> list[hb.Prompt]:
    """Some prompts of the grid whose needle the last token still sees, drawn with the chapter's seed."""
    grid = chapter.prompts(hybrid, control=False)
    seen = {p.key: p for p in grid if not hybrid.window or len(p.ids) - 1 - p.needle_spans[0][0] < hybrid.window}
    return random.Random(chapter.seed).sample(list(seen.values()), min(n, len(seen)))


def measure(
    chapter: Chapter, hybrid: hb.Model, conditions: Mapping[str, hb.Intervention], prompts: int, passages: int
) -> pd.DataFrame:
    """Rows of `hybret.language.predict`: prose, the right answer, and the same answer without the needle."""
    asked = inside(chapter, hybrid, prompts)
    without = {p.length: p for p in chapter.controls(hybrid)}
    told = hb.language.answers(hybrid, asked)
    bare = [replace(p, kind="control") for p in hb.language.answers(hybrid, [without[p.length] for p in asked])]
    prose = hb.language.prose(hybrid, passages, 256, chapter.haystack, chapter.seed)
    rows = hb.language.predict(hybrid, [*prose, *told, *bare], conditions, chapter.decisions)
    return rows.assign(top=math.log(hybrid.net.config.get_text_config().vocab_size))


def losses(rows: pd.DataFrame) -> pd.DataFrame:
    """Both measures by model and condition, with 95 % intervals over passages and prompts.

    Columns: model, condition, `language` (nats per token) and `same` (share of next tokens that stay, 0 to 1) on prose,
    `worth` (nats per token of the answer), each with `_low` and `_high`; passages, prompts.
    """
    lines = []
    for (model, condition), group in rows.groupby(["model", "condition"], sort=False):
        prose, told, bare = (
            group[group["kind"] == kind].sort_values("passage") for kind in ("prose", "answer", "control")
        )
        worth = bare["nats"].to_numpy() - told["nats"].to_numpy()
        top = float(group["top"].iloc[0])
        line = {"model": model, "condition": condition}
        line |= with_interval("language", prose["nats"].to_numpy(), (0.0, top))
        line |= with_interval("same", prose["same"].to_numpy(), (0.0, 1.0))
        line |= with_interval("worth", worth, (-top, top))
        lines.append(line | {"passages": len(prose), "prompts": len(worth)})
    return pd.DataFrame(lines)


def drawn_together(table: pd.DataFrame) -> pd.DataFrame:
    """The random draws of `losses` as one line for each model: their mean, and from the least to the greatest draw."""
    ends = {"": "mean", "_low": "min", "_high": "max"}
    parts = []
    for model, group in table.groupby("model", sort=False):
        drawn = group["condition"].str.startswith(RANDOM)
        parts.append(group[~drawn])
        if drawn.any():
            draws = group[drawn]
            line = {f"{name}{end}": draws[name].agg(f) for name in MEASURES for end, f in ends.items()}
            line |= {"model": model, "condition": f"{RANDOM} ({len(draws)} draws)"}
            parts.append(pd.DataFrame([line | draws.iloc[0][["passages", "prompts"]].to_dict()]))
    return pd.concat(parts, ignore_index=True)


def lost_by_layer(table: pd.DataFrame, attention: Mapping[Any, Collection[int]]) -> pd.DataFrame:
    """What each layer is for, from `losses` under `by_layer` and unmodified; `attention`: such layers of every model.

    Columns: model, layer, kind, language (nats more than unmodified), worth (nats less).
    """
    parts = []
    for model, group in table.groupby("model", sort=False):
        whole = group[group["condition"] == UNMODIFIED].iloc[0]
        single = group[group["condition"].str.startswith("layer ")]
        numbers = single["condition"].str.split().str[1].astype(int)
        kinds = ["attention" if number in attention[model] else "recurrence" for number in numbers]
        lost = {"language": single["language"] - whole["language"], "worth": whole["worth"] - single["worth"]}
        parts.append(pd.DataFrame({"model": model, "layer": numbers, "kind": kinds, **lost}))
    return pd.concat(parts, ignore_index=True)


@style.styled
def dissociation(table: pd.DataFrame, note: str) -> Figure:
    """What the needle is worth over the loss on prose, one panel for each model, one point for each part silenced.

    `table` is from `losses`, after `drawn_together`.
    """
    models = list(dict.fromkeys(table["model"]))
    figure = style.canvas(3.7)
    panels = figure.subplots(1, len(models), sharex=True, sharey=True, squeeze=False)[0]
    for axes, model in zip(panels, models, strict=True):
        for line in table[table["model"] == model].itertuples():
            drawn = line.condition.startswith(RANDOM)
            colour = style.GREY if drawn else COLOURS.get(line.condition)
            if colour is None:
                continue
            marker = style.MARKERS[5 if drawn else [*COLOURS].index(line.condition)]
            reach = {
                f"{axis}err": [[max(0.0, mean - low)], [max(0.0, high - mean)]]
                for axis, mean, low, high in (
                    ("x", line.language, line.language_low, line.language_high),
                    ("y", line.worth, line.worth_low, line.worth_high),
                )
            }
            axes.errorbar(
                line.language, line.worth, **reach, color=colour, marker=marker, linestyle="none", elinewidth=1,
                label=line.condition, clip_on=False,
            )  # fmt: skip
        axes.axhline(0, color=style.GREY, linewidth=0.8, linestyle=":")
        axes.set_title(model, loc="left")
    panels[0].set_ylabel("retrieval: what the needle is worth\n(nats per token of the answer)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    style.footnote(figure, note, "language: loss on prose (nats per token)")
    return figure


@style.styled
def layers(table: pd.DataFrame, note: str) -> Figure:
    """What is lost when one layer loses its heads or its memory: language above, retrieval below, one column a model.

    `table` is from `lost_by_layer`.
    """
    models = list(dict.fromkeys(table["model"]))
    figure = style.canvas(4.2)
    grid = figure.subplots(2, len(models), sharex="col", sharey="row", squeeze=False)
    names = {"language": "language lost\n(nats per token)", "worth": "retrieval lost\n(nats per token)"}
    colours = {"attention": COLOURS["no attention"], "recurrence": COLOURS["recurrence without memory"]}
    for column, model in enumerate(models):
        for row, (measure, label) in enumerate(names.items()):
            axes = grid[row, column]
            for kind, part in table[table["model"] == model].groupby("kind", sort=False):
                axes.bar(part["layer"], part[measure], 0.8, color=colours[kind], label=f"{kind} layer")
            axes.axhline(0, color=style.GREY, linewidth=0.8)
            axes.xaxis.get_major_locator().set_params(integer=True)
            if column == 0:
                axes.set_ylabel(label)
        grid[0, column].set_title(model, loc="left")
    handles = {
        label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2)
    style.footnote(figure, note, "layer, from the first")
    return figure
