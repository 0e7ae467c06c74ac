"""Reading many prompts that begin alike: every shared beginning is read once.

The prompts of one grid share their haystack. Two of them are the same up to the place where the first needle is,
whatever their lengths and depths, and what a hybrid knows after that prefix is a state that can be forked. So the
prompts form a tree, and reading it branch by branch costs about half of reading them one by one. What acts in prefill
is the same along a branch, because a shared prefix holds no token of the needle or of the question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from itertools import groupby

from hybret.engine import decode
from hybret.engine.keys import needle_of
from hybret.engine.state import State, empty_state
from hybret.hybrid import Hybrid
from hybret.interventions import Actions
from hybret.prompts import Prompt
from hybret.recipe import Recipe

GRANULARITY = {"cpu": 8, "cuda": 128}
"""Tokens by which branching points are rounded down: reading a few tokens twice is cheaper than a pass of its own."""


def order(model: Hybrid, prompts: Sequence[Prompt], recipe: Recipe) -> Iterator[Prompt]:
    """The prompts in the order in which `prefill` gives them; of several with one key one."""
    stems = _roots(model, prompts)
    while stems:
        stem = stems.pop()
        if len(stem) == 1:
            yield stem[0]
        else:
            stems += _branches(model, stem, recipe)[1]


def prefill(
    model: Hybrid,
    prompts: Sequence[Prompt],
    rows: Sequence[Actions],
    recipe: Recipe,
    max_tokens: int,
    chosen: Set[str] | None = None,
) -> Iterator[tuple[Prompt, State]]:
    """Read every prompt under each of `rows`, which must not look ahead, shared beginnings once.

    Prompts come in the order in which they leave the tree, each with a state of ``len(rows)`` rows. A pass has at most
    `max_tokens` over all rows. The prompts of the keys `chosen` are read in the passes in which all would be, and so
    with the same bits.
    """
    granularity = GRANULARITY.get(model.device.type, 1)
    chunk = max(1, max_tokens // len(rows)) if model.traits.chunked_prefill else max(len(p.ids) for p in prompts)

    def read(state: State, prompt: Prompt, until: int) -> State:
        while True:
            end = min(int(state.position[0]) + chunk, until)
            state = decode.prefill_chunk(
                model, state, prompt.ids, end, rows, prompt.needle_spans, recipe, question=prompt.question_span
            )
            if end == until:
                return state

    def wanted(stems: Sequence[list[Prompt]]) -> Iterator[list[Prompt]]:
        return (stem for stem in stems if chosen is None or any(p.key in chosen for p in stem))

    stems = [(stem, empty_state(model, len(rows))) for stem in wanted(_roots(model, prompts))]
    while stems:
        stem, state = stems.pop()
        if len(stem) == 1:
            yield stem[0], read(state, stem[0], decode.prompt_tokens(model, stem[0].ids, recipe))
            continue
        fork, branches = _branches(model, stem, recipe)
        if (until := fork - fork % granularity) > int(state.position[0]):
            state = read(state, stem[0], until)
        stems += [(branch, state.fork()) for branch in wanted(branches)]


def _roots(model: Hybrid, prompts: Sequence[Prompt]) -> list[list[Prompt]]:
    """Prompts that may share their beginnings, sorted by their tokens; the last of the list is read first."""
    distinct = {(p.ids, p.key): p for p in prompts}
    if not model.traits.chunked_prefill:
        return [[p] for p in reversed(distinct.values())]
    return [[distinct[key] for key in sorted(distinct)]]


def _branches(model: Hybrid, prompts: Sequence[Prompt], recipe: Recipe) -> tuple[int, list[list[Prompt]]]:
    """Where prompts that are sorted by their tokens part, and into what."""
    limits = [_max_shared_prefix(model, p, recipe) for p in prompts]
    fork = min(shared_tokens(prompts[0].ids, prompts[-1].ids), *limits)

    def following(pair: tuple[Prompt, int]) -> int | str:
        """What a prompt goes on with; one that ends its sharing at the fork goes on alone."""
        prompt, limit = pair
        return prompt.ids[fork] if limit > fork else prompt.key

    groups = [[p for p, _ in group] for _, group in groupby(zip(prompts, limits, strict=True), following)]
    # The longest branch is read last, so that few states are alive at one time.
    return fork, sorted(groups, key=len, reverse=True)


def _max_shared_prefix(model: Hybrid, prompt: Prompt, recipe: Recipe) -> int:
    """Tokens before a prompt's needle, its question and its prefill's end: more of them are no other prompt's."""
    question = [prompt.question_span[0]] if prompt.question_span else []
    starts = [start for start, _ in needle_of(prompt.needle_spans, recipe)]
    return min([decode.prompt_tokens(model, prompt.ids, recipe), *question, *starts])


def shared_tokens(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
