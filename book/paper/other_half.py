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

import numpy as np
import pandas as pd

import hybret as hb
from book.paper.chapter import Chapter
from hybret.errors import HybretError
from hybret.metrics import mean_interval
from hybret.resolving import resolve

MEASURES = ("language", "same", "worth")
PHASES = {"both": "throughout", "generation": "while answering", "prefill": "while reading"}
UNTOUCHED, RANDOM = "untouched", "random layers without memory"
PARTS: dict[str, Callable[..., hb.Intervention]] = {
    "no attention": lambda **options: hb.KeepHeads(0, **options),
    "recurrence without memory": hb.Memoryless,
    "no recurrent layers": hb.NoRecurrence,
    "no convolutions": hb.NoConvolution,
}


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
    """The untouched model, and each kind of part silenced in all layers and both phases."""
    return {UNTOUCHED: hb.Keep(), **possible(hybrid, {name: part() for name, part in PARTS.items()})}


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
    for model, condition in dict.fromkeys(zip(rows["model"], rows["condition"], strict=True)):
        group = rows[(rows["model"] == model) & (rows["condition"] == condition)]
        parts = {kind: part.sort_values("passage") for kind, part in group.groupby("kind")}
        top = float(group["top"].iloc[0])
        worth = parts["control"]["nats"].to_numpy() - parts["answer"]["nats"].to_numpy()
        prose = parts["prose"]
        told: dict[str, float] = {}
        for name, values, scale in (
            ("language", prose["nats"].to_numpy(), (0.0, top)),
            ("same", prose["same"].to_numpy(), (0.0, 1.0)),
            ("worth", worth, (-top, top)),
        ):
            mean, low, high, _ = mean_interval(values, np.arange(len(values)), scale)
            told |= {name: mean, f"{name}_low": low, f"{name}_high": high}
        counts = {"passages": len(prose), "prompts": len(worth)}
        lines.append({"model": model, "condition": condition, **told, **counts})
    return pd.DataFrame(lines)


def drawn_together(table: pd.DataFrame) -> pd.DataFrame:
    """The random draws of `losses` as one line for each model: their mean, and from the least to the greatest draw."""
    parts = []
    for model in dict.fromkeys(table["model"]):
        group = table[table["model"] == model]
        drawn = group["condition"].str.startswith(RANDOM)
        parts.append(group[~drawn])
        if drawn.any():
            draws = group[drawn]
            names = {
                f"{name}{end}": f for name in MEASURES for end, f in (("", "mean"), ("_low", "min"), ("_high", "max"))
            }
            line = {name: draws[name.split("_")[0]].agg(f) for name, f in names.items()}
            counts = {name: draws[name].iloc[0] for name in ("passages", "prompts")}
            parts.append(
                pd.DataFrame([{"model": model, "condition": f"{RANDOM} ({len(draws)} draws)", **line, **counts}])
            )
    return pd.concat(parts, ignore_index=True)


def layers(table: pd.DataFrame, attention: Mapping[str, Collection[int]]) -> pd.DataFrame:
    """What each layer is for, from `losses` under `by_layer` and untouched; `attention`: such layers of every model.

    Columns: model, layer, kind, language (nats more than untouched), worth (nats less).
    """
    parts = []
    for model in dict.fromkeys(table["model"]):
        group = table[table["model"] == model]
        whole = group[group["condition"] == UNTOUCHED].iloc[0]
        single = group[group["condition"].str.startswith("layer ")]
        numbers = single["condition"].str.split().str[1].astype(int)
        kinds = ["attention" if number in attention[model] else "recurrence" for number in numbers]
        lost = {"language": single["language"] - whole["language"], "worth": whole["worth"] - single["worth"]}
        parts.append(pd.DataFrame({"model": model, "layer": numbers, "kind": kinds, **lost}))
    return pd.concat(parts, ignore_index=True)
