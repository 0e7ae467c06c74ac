"""What each attention head looks at while a model answers one prompt, as sums over bins of the context.

The weights of one answer are heads x steps x keys numbers a layer, too many to keep for a long prompt. Here every
generation step is summed over bins of positions as it happens: a bin is one token in the needle, the question and the
answer, and a stretch of the context elsewhere. The prompt is read without forming its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from hybret.engine import decode
from hybret.engine.attach import Trace, implementation
from hybret.engine.scan import parallel_scans
from hybret.errors import HybretError, check_conditions, integer
from hybret.interventions import Intervention, Keep
from hybret.models import Model, check_prompts
from hybret.recipe import CORRECTED, Recipe
from hybret.recipe import recipe as find_recipe
from hybret.resolving import Resolved, resolve

if TYPE_CHECKING:
    from hybret.prompts import Prompt

PARTS = ("needle", "question", "first", "answer", "context")
"""What a position belongs to: the needle; the question; the prompt's first token (BOS); the template's ending and the
answer so far; everything else. A head's attention on them sums to 1."""

STRETCHES = 80  # about how many bins the positions share that are not one bin each
SINGLE = 160  # positions that may be one bin each, so that there are never more than 256 bins


@dataclass(frozen=True)
class Bin:
    """Neighbouring positions of one part: a half-open range."""

    start: int
    end: int
    part: str  # one of `PARTS`
    text: str  # of the prompt; empty in the answer, which depends on the run


@dataclass(frozen=True, eq=False)
class LookRun:
    """One answer, step by step."""

    condition: str
    answer: str
    reads: tuple[str, ...]  # the token that each step reads, its query
    gives: tuple[str, ...]  # the token that follows; "" is the end
    position: int  # absolute, of the first step's query
    mass: np.ndarray  # float32 (layers, heads, steps, bins): attention before any manipulation; sums to 1 over bins
    entropy: np.ndarray  # float32 (layers, heads, steps): bits
    kept: np.ndarray  # bool (layers, heads, steps): whether the head's output went on


@dataclass(frozen=True, eq=False)
class Look:
    """What the heads of one model looked at while it answered one prompt, under each condition."""

    model: str
    digest: str  # of the weights
    recipe: str
    prompt: str  # `Prompt.key`
    tokens: int  # of the prompt
    window: int | None  # keys that a query sees; None for global attention
    layers: tuple[int, ...]  # indices of the attention layers
    bins: tuple[Bin, ...]  # in order, from position 0 to the longest answer's last query
    runs: tuple[LookRun, ...]

    @property
    def rows(self) -> pd.DataFrame:
        """One row per condition, layer, head and step.

        Columns: condition, layer, head, step, reads, gives, `PARTS` (attention, 0 to 1, sum 1), entropy (bits), kept.
        """
        frames = []
        for run in self.runs:
            layers, heads, steps = run.entropy.shape
            levels = [[run.condition], self.layers, range(heads), range(steps)]
            index = pd.MultiIndex.from_product(levels, names=["condition", "layer", "head", "step"])
            texts = {"reads": [*run.reads] * (layers * heads), "gives": [*run.gives] * (layers * heads)}
            numbers = self.parts(run) | {"entropy": run.entropy, "kept": run.kept}
            values = texts | {name: value.ravel() for name, value in numbers.items()}
            frames.append(index.to_frame(index=False).assign(**values))
        return pd.concat(frames, ignore_index=True)

    def telling(self, run: LookRun) -> int:
        """The step that writes the first token which the needle holds and the question does not.

        Without one, the step at which some head gives the needle most.
        """
        words: dict[str, set[str]] = {part: set() for part in PARTS}
        for piece in self.bins:
            words[piece.part] |= {piece.text.strip().lower(), *piece.text.lower().split()}
        news = words["needle"] - words["question"]
        first = next((step for step, text in enumerate(run.gives) if text.strip().lower() in news - {""}), None)
        return int(self.parts(run)["needle"].max((0, 1)).argmax()) if first is None else first

    def parts(self, run: LookRun) -> dict[str, np.ndarray]:
        """Attention on each of `PARTS`, ``(layers, heads, steps)`` each."""
        labels = np.array([piece.part for piece in self.bins])
        return {part: run.mass[..., labels == part].sum(-1) for part in PARTS}


def look(
    model: Model,
    prompt: Prompt,
    conditions: Mapping[str, Intervention] | None = None,
    recipe: Recipe | str = CORRECTED,
    max_new_tokens: int = decode.MAX_NEW_TOKENS,
) -> Look:
    """Record what every attention head looks at, at every generation step of an answer.

    Memory and result grow with heads x steps x bins (256 at most), not with the length of the prompt.

    Parameters
    ----------
    conditions : label to what acts during a run of its own; default the unmodified model. Weights and entropies are
        those before the intervention acts on them, under whatever it did to earlier layers and tokens.
    recipe : where it leaves the first answer token to prefill (`Recipe.prompt_split`), the steps begin after it.
    """
    recipe = find_recipe(recipe)
    conditions = check_conditions({"unmodified": Keep()} if conditions is None else conditions)
    integer("max_new_tokens", max_new_tokens, 1)
    acting = [resolve(condition, model, recipe) for condition in conditions.values()]
    check_prompts(model, [prompt], acting, recipe, max_new_tokens)
    model.check_state()
    bins = cut(prompt, max_new_tokens)
    which = torch.tensor([i for i, piece in enumerate(bins) for _ in range(piece.start, piece.end)])
    labelled = zip(conditions, acting, strict=True)
    runs = [_run(model, prompt, label, acts, recipe, max_new_tokens, which) for label, acts in labelled]
    end = max(run.position + len(run.reads) for run in runs)
    decode_text, ids = model.tokenizer.decode, list(prompt.ids)
    bins = [replace(b, text=str(decode_text(ids[b.start : b.end]))) for b in bins if b.start < end]
    runs = [replace(run, mass=run.mass[..., : len(bins)]) for run in runs]
    return Look(model.name, model.digest, recipe.name, prompt.key, len(prompt.ids), model.window,
                model.attention_layers, tuple(bins), tuple(runs))  # fmt: skip


def cut(prompt: Prompt, new_tokens: int) -> list[Bin]:
    """Bins of a prompt and `new_tokens` tokens after it, without text; no bin holds tokens of two parts."""
    n = len(prompt.ids)
    question, ended = prompt.question_span or (n - 1, n - 1)
    parts = ["context"] * ended + ["answer"] * (n - ended) + ["answer"] * new_tokens
    parts[question:ended] = ["question"] * (ended - question)
    for start, end in prompt.needle_spans:
        parts[start:end] = ["needle"] * (end - start)
    parts[0] = "first"
    edges = [i for i in range(len(parts)) if i in (0, n) or parts[i] != parts[i - 1]]
    pieces = [(start, end, parts[start]) for start, end in zip(edges, [*edges[1:], len(parts)], strict=True)]
    # The last prompt token is a query too: with the answer and the needle it comes first where not all can be single.
    wanted = sorted((p for p in pieces if p[2] != "context"), key=lambda p: (p[0] < n, p[2] != "needle", -p[0]))
    single: set[int] = set()
    for start, end, _ in wanted:
        if len(single) + end - start <= SINGLE:
            single.update(range(start, end))
    width = max(1, -(-(len(parts) - len(single)) // STRETCHES))
    return [
        Bin(first, min(first + step, end), part, "")
        for start, end, part in pieces
        for step in (1 if start in single else width,)
        for first in range(start, end, step)
    ]


def _run(
    model: Model, prompt: Prompt, label: str, acts: Resolved, recipe: Recipe, most: int, bins: torch.Tensor
) -> LookRun:
    """One answer under one condition, with every bin's attention; the last bins may stay empty."""
    trace = Trace(bins=bins)
    spans, question = prompt.needle_spans, prompt.question_span
    with parallel_scans(), implementation(model.net):
        state = decode.prefill(model, prompt.ids, [acts.prefill], spans, recipe, streaming=True, question=question)
        position = int(state.position[0])
        (answer,) = decode.decode(model, state, [acts.generation], [spans], recipe, most, trace, [question])
    if not trace.mass:
        raise HybretError(f"{model.name} ended its answer before its first generation step; nothing to look at")
    tokens = [str(model.tokenizer.decode([i])) for i in (*prompt.ids, *answer)]
    steps = next(iter(trace.entropy.values())).shape[-1]
    names = [f"layer {layer}" for layer in model.attention_layers]
    return LookRun(
        label,
        str(model.tokenizer.decode(answer, skip_special_tokens=True)),
        tuple(tokens[position : position + steps]),
        tuple([*tokens, ""][position + 1 : position + 1 + steps]),
        position,
        np.stack([trace.mass[name].numpy().transpose(0, 2, 1) for name in names]),
        *(np.stack([values[name].numpy() for name in names]) for values in (trace.entropy, trace.kept)),
    )
