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

from . import asked, niah
from .engine import generation
from .engine.scan import parallel_scans
from .engine.tracing import Trace, implementation
from .errors import HybretError
from .fitting import needs_question, no_question, validate
from .interventions import Intervention, Keep, elementary
from .presets import RANDOM, RANDOM_MODELS
from .recipe import CORRECTED, Recipe
from .recipe import recipe as find_recipe
from .soundness import require_tokens

if TYPE_CHECKING:
    from .models import Model
    from .prompts import Prompt

PARTS = ("needle", "question", "first", "answer", "context")
"""What a position belongs to: the needle; the question; the prompt's first token (BOS); the template's ending and the
answer so far; everything else. A head's attention on them sums to 1."""

STRETCHES = 80
"""About how many bins the positions share that are not one bin each."""

SINGLE = 160
"""Positions that may be one bin each, so that there are never more than 256 bins."""


@dataclass(frozen=True)
class Bin:
    """Neighbouring positions of one part.

    Attributes
    ----------
    start, end : int
        Half-open range of absolute positions.
    part : str
        One of `PARTS`.
    text : str
        What stands there in the prompt; empty in the answer, which depends on the run.
    """

    start: int
    end: int
    part: str
    text: str


@dataclass(frozen=True, eq=False)
class LookRun:
    """One answer.

    Attributes
    ----------
    condition : str
    answer : str
    reads, gives : tuple of str
        For each generation step, the token that it reads (the query) and the one that follows; ``""`` is the end.
    position : int
        Absolute position of the first step's query.
    mass : ndarray
        Attention on each bin before any manipulation, float32, ``(layers, heads, steps, bins)``; sums to 1 over bins.
    entropy : ndarray
        Bits, float32, ``(layers, heads, steps)``.
    kept : ndarray
        bool ``(layers, heads, steps)``: whether the head's output went on.
    """

    condition: str
    answer: str
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    position: int
    mass: np.ndarray
    entropy: np.ndarray
    kept: np.ndarray


@dataclass(frozen=True, eq=False)
class Look:
    """What the heads of one model looked at while it answered one prompt, under each condition.

    Attributes
    ----------
    model, digest, recipe, prompt : str
        Whose record this is; `prompt` is `Prompt.key`.
    tokens : int
        Length of the prompt.
    window : int or None
        Keys that a query sees; None for global attention.
    layers : tuple of int
        Indices of the attention layers.
    bins : tuple of Bin
        In order, from position 0 to the longest answer's last query.
    runs : tuple of LookRun
    """

    model: str
    digest: str
    recipe: str
    prompt: str
    tokens: int
    window: int | None
    layers: tuple[int, ...]
    bins: tuple[Bin, ...]
    runs: tuple[LookRun, ...]

    @property
    def made_up(self) -> bool:
        """Whether the weights are random, so that nothing here is a result."""
        return self.model in RANDOM_MODELS or self.digest.startswith(RANDOM[:-1])

    @property
    def rows(self) -> pd.DataFrame:
        """One row per condition, layer, head and step.

        Columns: condition, layer, head, step, reads, gives, `PARTS` (attention, 0 to 1, sum 1), entropy (bits), kept.
        """
        frames = []
        for run in self.runs:
            layers, heads, steps = run.entropy.shape
            index = pd.MultiIndex.from_product(
                [self.layers, range(heads), range(steps)], names=["layer", "head", "step"]
            )
            rows = index.to_frame(index=False)
            rows.insert(0, "condition", run.condition)
            rows["reads"], rows["gives"] = list(run.reads) * (layers * heads), list(run.gives) * (layers * heads)
            for part, mass in self.parts(run).items():
                rows[part] = mass.ravel()
            frames.append(rows.assign(entropy=run.entropy.ravel(), kept=run.kept.ravel()))
        return pd.concat(frames, ignore_index=True)

    def telling(self, run: LookRun) -> int:
        """The step that writes the first token which the needle holds and the question does not.

        Without one, the step at which some head gives the needle most.
        """
        said: dict[str, set[str]] = {part: set() for part in PARTS}
        for each in self.bins:
            said[each.part] |= {each.text.strip().lower(), *each.text.lower().split()}
        news = said["needle"] - said["question"]
        first = next((step for step, text in enumerate(run.gives) if text.strip().lower() in news - {""}), None)
        return int(self.parts(run)["needle"].max((0, 1)).argmax()) if first is None else first

    def parts(self, run: LookRun) -> dict[str, np.ndarray]:
        """Attention on each of `PARTS`, ``(layers, heads, steps)`` each."""
        of = np.array([each.part for each in self.bins])
        return {part: run.mass[..., of == part].sum(-1) for part in PARTS}


def look(
    model: Model,
    prompt: Prompt,
    conditions: Mapping[str, Intervention] | None = None,
    recipe: Recipe | str = CORRECTED,
    max_new_tokens: int = generation.MAX_NEW_TOKENS,
) -> Look:
    """Record what every attention head looks at, at every generation step of an answer.

    Memory and result grow with heads x steps x bins (256 at most), not with the length of the prompt.

    Parameters
    ----------
    model : Model
    prompt : Prompt
    conditions : mapping of str to Intervention, optional
        Label to what acts during a run of its own; default the untouched model. Weights and entropies are those before
        the intervention acts on them, under whatever it did to earlier layers and tokens.
    recipe : Recipe or str
        Where it leaves the first answer token to prefill (`Recipe.prompt_split`), the steps begin after that token.
    max_new_tokens : int

    Returns
    -------
    Look

    Raises
    ------
    HybretError
        No condition, one that does not fit the model, a prompt of another one, or no token to write; before the model
        runs.
    """
    recipe = find_recipe(recipe)
    conditions = asked.conditions({"untouched": Keep()} if conditions is None else conditions)
    if max_new_tokens < 1:
        raise HybretError("max_new_tokens must be at least 1")
    for condition in conditions.values():
        validate(condition, model.heads, model.attention_layers)
        if needs_question(elementary(condition)) and not prompt.question_span:
            raise no_question()
    niah.require_reader(model, [prompt])
    require_tokens(model, [prompt.ids], max_new_tokens)
    bins = cut(prompt, max_new_tokens)
    which = torch.tensor([i for i, each in enumerate(bins) for _ in range(each.start, each.end)])
    runs = [_run(model, prompt, label, each, recipe, max_new_tokens, which) for label, each in conditions.items()]
    seen = max(run.position + len(run.reads) for run in runs)
    bins = [each for each in bins if each.start < seen]
    decode = model.tokenizer.decode
    return Look(
        model.name,
        model.digest,
        recipe.name,
        prompt.key,
        len(prompt.ids),
        model.window,
        model.attention_layers,
        tuple(replace(each, text=str(decode(list(prompt.ids[each.start : each.end])))) for each in bins),
        tuple(replace(run, mass=run.mass[..., : len(bins)]) for run in runs),
    )


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
    found = []
    for start, end, part in pieces:
        step = 1 if start in single else width
        found += [Bin(first, min(first + step, end), part, "") for first in range(start, end, step)]
    return found


def _run(
    model: Model,
    prompt: Prompt,
    label: str,
    condition: Intervention,
    recipe: Recipe,
    max_new_tokens: int,
    bins: torch.Tensor,
) -> LookRun:
    """One answer under one condition, with every bin's attention; the last bins may stay empty."""
    trace = Trace(bins=bins)
    spans, question = prompt.needle_spans, prompt.question_span
    with parallel_scans(), implementation(model.net):
        state = generation.prefill(
            model, prompt.ids, [condition.at("prefill")], spans, recipe, streaming=True, question=question
        )
        position = int(state.position[0])
        acting = [condition.at("generation")]
        (answer,) = generation.decode(model, state, acting, [spans], recipe, max_new_tokens, trace, [question])
    if not trace.mass:
        raise HybretError(
            f"{model.name} ended its answer before its first generation step; there is nothing to look at"
        )
    said = [str(model.tokenizer.decode([i])) for i in (*prompt.ids, *answer)]
    steps = next(iter(trace.entropy.values())).shape[-1]
    names = [f"layer {layer}" for layer in model.attention_layers]
    return LookRun(
        label,
        str(model.tokenizer.decode(answer, skip_special_tokens=True)),
        tuple(said[position : position + steps]),
        tuple([*said, ""][position + 1 : position + 1 + steps]),
        position,
        np.stack([trace.mass[name].numpy().transpose(0, 2, 1) for name in names]),
        np.stack([trace.entropy[name].numpy() for name in names]),
        np.stack([trace.kept[name].numpy() for name in names]),
    )
