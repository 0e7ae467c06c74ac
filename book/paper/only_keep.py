"""Only-Keep: variants that take `Only` apart, and where attention goes while an answer begins.

The best cell of the paper's Table 1 is Only-Keep, 85.7 %: attention to nothing but the needle during generation. For a
model that fails there, the variants tell what it misses: each differs from `Only` in one thing, or in a pair of things.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from book.paper.chapter import Chapter
from hybret import metrics
from hybret.errors import HybretError
from hybret.explorer.record import look
from hybret.figures import style
from hybret.interventions import Intervention, Keep, PerPhase
from hybret.interventions.weights import Binary, Mass, Null, Omit, Only
from hybret.models import Model
from hybret.prompts import DIGITS, Prompt
from hybret.recipe import Recipe
from hybret.rows import checked
from hybret.scoring import normalise

Variants = Mapping[str, Intervention]
PARTS = {
    "needle": ("the needle", style.NEEDLE),
    "question": ("the question", style.COLOURS[0]),
    "answer": ("template's ending, answer so far", style.COLOURS[4]),
    "first": ("first token", style.COLOURS[3]),
    "self": ("the token itself", style.COLOURS[6]),
    "context": ("the rest of the context", style.PALE),
}
"""Kinds of keys with their names and colours, each key counted once. The first token is that of the prompt, the token
itself the query's own position."""


def generation_variants(model: Model) -> dict[str, Intervention]:
    """Interventions during generation by row label, for an unmodified prefill.

    Two of them restrict `Only` to some attention layers, if there is more than one.
    """
    first, *others = model.attention_layers
    by_layer: Variants = {
        "Only, in the first attention layer alone": Only(layers=(first,)),
        "Only, in all attention layers but the first": Only(layers=tuple(others)),
    } if others else {}  # fmt: skip
    return {
        "Keep": Keep(),
        "Only": Only(),
        "Only + self": Only(also=("self",)),
        "Only + first token": Only(also=("first",)),
        "Only + self + first token": Only(also=("self", "first")),
        "Only + template's ending": Only(also=("answer",)),
        "Only + question": Only(also=("question",)),
        "Only + self + question": Only(also=("self", "question")),
        "Only, renormalised": Only(renormalise=True),
        "Only + self, renormalised": Only(renormalise=True, also=("self",)),
        "Only, total weight 2": Only() & Mass(2.0),
        "Only + question, at Only's total weight": Only(also=("question",)) & Mass("needle"),
        "Keep, at Only's total weight": Mass("needle"),
        **by_layer,
        "Binary": Binary(),
        "Binary, renormalised": Binary() & Mass(1.0),
        "Omit": Omit(),
    }


def prefill_variants() -> dict[str, Intervention]:
    """Interventions during prefill by row label, to be crossed with several during generation."""
    return {
        "Keep": Keep(),
        "Omit": Omit(),
        "Only": Only(),
        "Only + self": Only(also=("self",)),
        "Only + question": Only(also=("question",)),
        "Only + self + question": Only(also=("self", "question")),
        "Only, renormalised": Only(renormalise=True),
        "Null": Null(),
    }


def begun(model: Model, prompt: Prompt, words: int) -> Prompt:
    """The prompt with the first `words` of its needle, in the needle's tokens, as the beginning of the answer."""
    if words == 0:
        return prompt
    start, end = prompt.needle_spans[-1] if prompt.needle_spans else (0, 0)
    wanted = prompt.needle.sentence.split()[:words]
    for last in range(start + 1, end + 1):
        if str(model.tokenizer.decode(list(prompt.ids[start:last]))).split() == wanted and len(wanted) == words:
            ids = (*prompt.ids, *prompt.ids[start:last])
            text = " ".join(wanted)
            return replace(prompt, text=prompt.text + text, ids=ids, answer_prefix=text)
    raise HybretError(
        f"an answer cannot begin with {words} words of the needle here; give fewer than its "
        f"{len(prompt.needle.sentence.split())}, and a prompt that holds it"
    )


def attention_parts(model: Model, prompts: Sequence[Prompt], steps: int) -> pd.DataFrame:
    """Where the attention of the unmodified model goes at its first generation steps, or fewer if an answer ends.

    The first step reads the last prompt token (the split of `CORRECTED`). One row per layer, step and part of `PARTS`:
    mass (0 to 1, mean over heads and prompts; the parts of a step sum to 1), n (prompts).
    """
    if not prompts or not all(p.needle_spans and p.question_span for p in prompts):
        raise HybretError("attention is measured on prompts with a needle and a question; build some with niah.grid")
    masses: dict[tuple[str, int, str], list[np.ndarray]] = defaultdict(list)
    for prompt in prompts:
        record = look(model, prompt, max_new_tokens=steps)
        (run,), labels = record.runs, np.array([piece.part for piece in record.bins])
        starts = np.array([piece.start for piece in record.bins])
        for layer, by_step in zip(record.layers, run.mass.swapaxes(1, 2), strict=True):
            for step, mass in enumerate(by_step):  # (heads, bins)
                itself = starts == run.position + step
                assert itself.any(), "the query's own position is a bin of its own"
                for part in PARTS:
                    chosen = itself if part == "self" else (labels == part) & ~itself
                    masses[f"layer {layer}", step, part].append(mass[:, chosen].sum(-1))
    lines = [(*key, float(np.mean(heads)), len(heads)) for key, heads in masses.items()]
    return pd.DataFrame(lines, columns=["layer", "step", "part", "mass", "n"])


def words_asked(prompt: Prompt) -> int:
    """How many words of the needle, from its first on, are in the question too."""
    asked = set(normalise(prompt.needle.question).split())
    words = normalise(prompt.needle.sentence).split()
    return next((i for i, word in enumerate(words) if word not in asked), len(words))


def wording(rows: pd.DataFrame, prompt: Prompt) -> pd.DataFrame:
    """What answers hold, by model: columns model, answers, accuracy (0 to 1), right and content (how many).

    Content: the words of the needle from the first one on that its question lacks; `prompt` has both.
    """
    news = " ".join(normalise(prompt.needle.sentence).split()[words_asked(prompt) :])
    rows = metrics.with_needle(rows).assign(accuracy=metrics.fraction)
    rows = rows.assign(content=[news in normalise(answer) for answer in rows["answer"]])
    counts = {"answers": ("accuracy", "size"), "accuracy": ("accuracy", "mean"), "right": ("exact", "sum")}
    return rows.groupby("model", sort=False).agg(**counts, content=("content", "sum")).reset_index()


def predictions(table: pd.DataFrame, parts: pd.DataFrame, reading: pd.DataFrame, outside: float | None) -> pd.DataFrame:
    """What the explanation predicts for a model like RG-2B, and what this run finds.

    `table` has accuracies of the variants inside the window, by variant; `parts` is `attention_parts` while the words
    that needle and question share are written; `reading` has accuracies of answers that were begun, by variant and
    words; `outside` is the accuracy of Only-Keep beyond the window under the text's reading, None without such prompts.
    """
    plain: Any = reading.loc["Only", "accuracy"]
    accuracy: Any = table["accuracy"]
    gain, begun_gain = accuracy["Only, renormalised"] - accuracy["Only"], plain.max() - plain[0]
    means = parts.groupby(["layer", "part"])["mass"].mean().unstack("part")
    layer: Any = means.loc[str(means["needle"].idxmax())]
    lines = [
        ("while shared words are written, the layer with most attention on the needle gives the question less",
         f"{100 * layer['needle']:.0f} against {100 * layer['question']:.0f} %", layer["needle"] > layer["question"]),
        ("renormalising gains less than 10 points inside the window", f"{100 * gain:+.1f} points", gain < 0.1),
        ("words that are already written help Only by less than 10 points", f"{100 * begun_gain:+.1f} points",
         begun_gain < 0.1),
        ("beyond the window the text's Only retrieves less than 5 %",
         "none" if outside is None else f"{100 * outside:.1f} %", None if outside is None else outside < 0.05),
    ]  # fmt: skip
    answers = ["cannot be tried" if fits is None else "yes" if fits else "no" for *_, fits in lines]
    table = pd.DataFrame([line[:2] for line in lines], columns=["prediction for RG-2B", "here"])
    return table.assign(**{"holds here": answers})


def sweep(
    chapter: Chapter,
    model: Model,
    variants: Variants,
    prompts: Sequence[Prompt],
    prefills: Variants | None = None,
    recipe: Recipe | None = None,
) -> pd.DataFrame:
    """Rows of generation variants after some prefills (default: Keep); columns `variant` and `before` name the two."""
    prefills = prefills or {"Keep": Keep()}
    conditions = {f"{a}-{b}": PerPhase(generation=variants[a], prefill=prefills[b]) for b in prefills for a in variants}
    rows = chapter.sweep(model, prompts, conditions, recipe)
    rows[["variant", "before"]] = rows["condition"].str.rsplit("-", n=1, expand=True)
    return rows


def inside(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose needle is inside the window at the first generation step; all of a model that has none there."""
    needle = metrics.with_needle(rows)
    return needle[needle["in_window"]] if needle["in_window"].any() else needle


def begun_sweep(
    chapter: Chapter, model: Model, variants: Variants, prompts: Sequence[Prompt], words: Sequence[int]
) -> pd.DataFrame:
    """Rows of five variants on prompts that end with the first words of the answer; column `words`: how many."""
    names = ("Keep", "Only", "Keep, at Only's total weight", "Binary", "Omit")
    started = {p.key: (p, count) for count in words for p in (begun(model, prompt, count) for prompt in prompts)}
    rows = sweep(chapter, model, {f"{name}, begun": variants[name] for name in names}, [p for p, _ in started.values()])
    rows["words"] = rows["prompt"].map({key: count for key, (_, count) in started.items()})
    return rows.assign(variant=rows["variant"].str.removesuffix(", begun"))


def by_recipe(chapter: Chapter, model: Model, variants: Variants) -> pd.DataFrame:
    """Rows of Only-Keep under both recipes and the two fields that concern it; of Keep-Keep under both recipes."""
    start, end = chapter.decisions, chapter.other
    fields = ("needle_span", "out_of_window")
    parts = []
    for recipe in (start, *(start.replace(**{f: getattr(end, f)}) for f in fields), end):
        names = ("Keep", "Only") if recipe in (start, end) else ("Only",)
        cells = chapter.prompts(model, control=False, recipe=recipe)
        rows = sweep(chapter, model, {name: variants[name] for name in names}, cells, recipe=recipe)
        side = rows["in_window"].map({True: "inside", False: "outside"})
        parts.append(rows.assign(recipe=recipe.name, side=side))
    return pd.concat(parts, ignore_index=True)


@style.styled
def attention_by_step(table: pd.DataFrame, tokens: Sequence[str], note: str) -> Figure:
    """Where attention goes at each generation step, one panel for each attention layer.

    `table` is from `attention_parts`; `tokens` has the answer token of each step.
    """
    layers, steps = list(dict.fromkeys(table["layer"])), int(table["step"].max()) + 1
    if steps > len(tokens):
        raise HybretError(f"the table has {steps} steps and {len(tokens)} tokens; give one token for each step")
    figure = style.canvas(1.45 + 1.25 * len(layers))
    stack = figure.subplots(len(layers), sharex=True, squeeze=False)[:, 0]
    for axes, layer in zip(stack, layers, strict=True):
        mass = table[table["layer"] == layer].pivot(index="step", columns="part", values="mass")
        bottom = np.zeros(len(mass))
        for part, (label, colour) in PARTS.items():
            height = 100 * mass[part].to_numpy()
            axes.bar(mass.index, height, 0.86, bottom, color=colour, edgecolor=style.GREY, linewidth=0.3, label=label)
            bottom += height
        axes.set(ylim=(0, 100), yticks=(0, 50, 100), ylabel="attention (%)")
        axes.set_title(layer, loc="left", pad=3)
    stack[-1].set_xticks(range(steps), [token.strip() or "␣" for token in tokens[:steps]], rotation=90)
    stack[-1].tick_params(axis="x", length=0)
    stack[-1].set_xlabel("answer token that the step gives")
    figure.legend(*stack[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    style.footnote(figure, f"{note} · mean over heads and prompts")
    return figure


@style.styled
def doses(rows: pd.DataFrame, dose: str, xlabel: str, by: str = "variant") -> Figure:
    """Accuracy over a dose (a total attention weight, a number of given words), one line for each value of `by`.

    `dose` is the column of x, numbers; `xlabel` says it in words, with its unit.
    """
    rows, _ = style.split(rows)
    checked(rows, [dose, by], (dose, by), (dose,))
    rows = rows.assign(**{dose: rows[dose].astype(float).round(DIGITS)})
    figure = style.canvas(3.5)
    axes = figure.subplots()
    for i, value in enumerate(dict.fromkeys(rows[by])):
        line = metrics.accuracy(rows[rows[by] == value], by=dose).sort_values(dose)
        # Thinner and thinner, so that lines on top of one another can all be seen.
        width = max(1.0, 4.2 - 0.8 * i)
        look = {"markersize": 4 + width, "linewidth": width, "label": str(value)}
        style.band(axes, line[dose].to_numpy(dtype=float), line, i, 0.1, **look)
    axes.set_xlabel(xlabel)
    style.percent_axis(axes)
    figure.legend(loc="outside upper center", ncols=2)
    style.footnote(figure, style.provenance(rows, f"{style.counted(rows, [by, dose])} prompts each", style.BANDS))
    return figure
