"""Reading many prompts that begin alike: every shared beginning is read once.

The prompts of one grid share their haystack. Two of them are the same up to the place where the first needle stands,
whatever their lengths and depths, and what a hybrid knows after that prefix is a state that can be forked. So the
prompts form a tree, and reading it branch by branch costs about half of reading them one by one. What acts in prefill
is the same along a branch, because a shared prefix holds no token of the needle or of the question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from hybret.engine import generation
from hybret.engine.generation import Actions, State
from hybret.models import Model
from hybret.prompts import Prompt
from hybret.recipe import Recipe

GRAIN = {"cpu": 8, "cuda": 128}
"""Tokens by which branching points are rounded down: reading a few tokens twice is cheaper than a pass of its own."""


@dataclass(frozen=True)
class _Branch:
    """Prompts that are the same so far, and the state that they share."""

    prompts: Sequence[Prompt]
    state: State


def order(model: Model, prompts: Sequence[Prompt], recipe: Recipe) -> Iterator[Prompt]:
    """The prompts in the order in which `read` gives them; of several that have the same tokens one."""
    distinct = {p.ids: p for p in prompts}
    if model.family in generation.WHOLE:
        yield from distinct.values()
        return
    branches = [[distinct[ids] for ids in sorted(distinct)]]
    while branches:
        branch = branches.pop()
        if len(branch) == 1:
            yield branch[0]
        else:
            branches += _parts(model, branch, recipe)[1]


def read(
    model: Model,
    prompts: Sequence[Prompt],
    rows: Sequence[Actions],
    recipe: Recipe,
    tokens: int,
    chosen: Set[str] | None = None,
) -> Iterator[tuple[Prompt, State]]:
    """Read every prompt once for each of `rows`, shared beginnings once.

    Parameters
    ----------
    model : Model
    prompts : sequence of Prompt
        Of several that have the same tokens one is read.
    rows : sequence of tuple of Intervention
        What acts during prefill; it must not look ahead.
    recipe : Recipe
    tokens : int
        Tokens, over all rows, of one pass through the model: a longer stretch is read in several passes.
    chosen : set of str, optional
        Keys of the prompts that are read; default all. They are read in the passes in which all would be, and so with
        the same bits.

    Yields
    ------
    tuple of Prompt and State
        In the order in which the prompts leave the tree, not the given one; each state has ``len(rows)`` rows.
    """
    grain = GRAIN.get(model.device.type, 1)
    step = max(1, tokens // len(rows))

    def further(state: State, prompt: Prompt, until: int) -> State:
        spans, question = prompt.needle_spans, prompt.question_span
        return generation.extend(model, state, prompt.ids, until, rows, spans, recipe, question=question)

    def extend(branch: _Branch, until: int) -> State:
        state, prompt = branch.state, branch.prompts[0]
        while (at := int(state.position[0])) < until:
            part = min(at + step, until)
            state = further(state, prompt, part)
        return state

    distinct = {p.ids: p for p in prompts}
    chosen = {p.key for p in prompts} if chosen is None else chosen
    if model.family in generation.WHOLE:
        for prompt in (p for p in distinct.values() if p.key in chosen):
            until = generation.prompt_tokens(model, prompt.ids, recipe)
            yield prompt, further(generation.start(model, len(rows)), prompt, until)
        return
    branches = [_Branch([distinct[ids] for ids in sorted(distinct)], generation.start(model, len(rows)))]
    while branches:
        branch = branches.pop()
        if len(branch.prompts) == 1:
            prompt = branch.prompts[0]
            until = generation.prompt_tokens(model, prompt.ids, recipe)
            state = extend(branch, until)
            # A prompt of one token is not read at all, and yet its state must name that token.
            yield prompt, further(state, prompt, until)
            continue
        fork, parts = _parts(model, branch.prompts, recipe)
        state = extend(branch, max(int(branch.state.position[0]), fork - fork % grain))
        read_on = [part for part in parts if any(p.key in chosen for p in part)]
        branches += [_Branch(part, state.fork()) for part in read_on]


def _parts(model: Model, prompts: Sequence[Prompt], recipe: Recipe) -> tuple[int, list[list[Prompt]]]:
    """Where prompts that are sorted by their tokens part, and into what."""
    own = [_own(model, p, recipe) for p in prompts]
    fork = min(_shared(prompts[0].ids, prompts[-1].ids), *own)

    def after(pair: tuple[Prompt, int]) -> Any:
        """What a prompt goes on with; one that ends its sharing here goes on alone."""
        return pair[0].ids[fork] if pair[1] > fork else pair[0].key

    parts = [[p for p, _ in group] for _, group in groupby(zip(prompts, own, strict=True), after)]
    # The longest branch is read last, so that few states are alive at one time.
    return fork, sorted(parts, key=len, reverse=True)


def _own(model: Model, prompt: Prompt, recipe: Recipe) -> int:
    """Where a prompt stops being like another one at the latest: at its needle, its question or its prefill's end."""
    ends = [generation.prompt_tokens(model, prompt.ids, recipe)]
    shift = 1 if recipe.needle_span == "shifted" else 0
    asked = [prompt.question_span[0]] if prompt.question_span else []
    return max(0, min(ends + asked + [start - shift for start, _ in prompt.needle_spans]))


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two prompts begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
