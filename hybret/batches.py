"""The work of a sweep, batch by batch: what runs together, within which budget, and how long each stage takes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from . import generation, prefixes
from .errors import HybretError
from .generation import Actions, State
from .interventions import Binary, Intervention, Phase, effective
from .models import Model
from .niah import Prompt
from .recipe import Recipe
from .sizing import cache_bytes

MOST_ROWS = {"cpu": 640, "cuda": 1024}
# On the CPU a few rows stay in the caches; a GPU wants large passes.
MOST_TOKENS = {"cpu": 2400, "cuda": 32768}
STATE_SHARE = 0.15
"""Share of a GPU's memory for the keys and values of the rows that decode together; merging them takes it twice."""

Pair = tuple[Prompt, Intervention]


@dataclass(frozen=True)
class Budget:
    """How much runs at one time. In fp32 it does not change an answer; in bf16 it may, so it is part of a run.

    Parameters
    ----------
    rows : int
        Rows (prompt x condition) that decode together.
    tokens : int
        Tokens, over all rows, of one pass through the model in prefill.
    """

    rows: int
    tokens: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.tokens < 1:
            raise HybretError(f"a budget needs at least 1 row and 1 token, not {self.rows} and {self.tokens}")

    def half(self) -> Budget:
        return Budget(max(1, self.rows // 2), max(1, self.tokens // 2))


@dataclass
class Stages:
    """What a sweep did, for those who measure it; on a GPU taking the times waits for the GPU after each stage.

    Attributes
    ----------
    seconds : dict of str to float
        By stage: prefill, fork, decode, scoring.
    tokens : dict of tuple to list of int
        Answer tokens of what was computed, by prompt key and `repr` of what acts in prefill and generation.
    """

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    tokens: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[name] += time.perf_counter() - began


def budget_of(model: Model, longest: int) -> Budget:
    """What fits on the model's device, from its memory, for prompts of up to `longest` tokens."""
    kind = model.device.type
    rows = MOST_ROWS.get(kind, 1)
    if kind == "cuda":
        size = cache_bytes(model.net.config, len(model.attention_layers), longest, model.net.dtype.itemsize)
        memory = torch.cuda.get_device_properties(model.device).total_memory
        rows = max(1, min(rows, int(STATE_SHARE * memory / size)))
    return Budget(rows, MOST_TOKENS.get(kind, 1))


def longest_prompt(model: Model) -> int:
    """Tokens of the longest prompt of the model's default grid, read twice: what a default budget is made for."""
    return 2 * max(model.lengths)


def _acts(model: Model, recipe: Recipe, condition: Intervention, phase: Phase) -> Actions:
    return effective([condition.at(phase)], model.family, model.heads, recipe)[0]


def does(model: Model, recipe: Recipe, condition: Intervention) -> str:
    """What a condition does to this model, whatever it is called: two that do the same share their answers."""
    return f"{_acts(model, recipe, condition, 'prefill')!r} | {_acts(model, recipe, condition, 'generation')!r}"


def _looks_ahead(action: Intervention, recipe: Recipe) -> bool:
    """Whether what it does to a token of the prompt depends on later ones: the authors' mean over the whole prefill."""
    return isinstance(action, Binary) and recipe.binary == "scalar"


def answers(
    model: Model,
    missing: Mapping[tuple[str, str], Pair],
    recipe: Recipe,
    max_new_tokens: int,
    budget: Budget,
    stages: Stages,
) -> Iterator[tuple[list[tuple[str, str]], list[list[int]]]]:
    """Finished batches: the keys of `missing` and the tokens of their answers."""
    wanted: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for key in missing:
        wanted[key[0]].append(key)
    reading: dict[tuple[Actions, ...], list[Prompt]] = defaultdict(list)
    for keys in wanted.values():
        reading[tuple(dict.fromkeys(_acts(model, recipe, missing[key][1], "prefill") for key in keys))].append(
            missing[keys[0]][0]
        )
    batch: list[tuple[str, str]] = []
    states: list[State] = []
    for rows, prompts in reading.items():
        for prompt, state in _read(model, prompts, rows, recipe, budget, stages):
            keys = wanted[prompt.key]
            if batch and len(batch) + len(keys) > budget.rows:
                yield batch, _decode(model, [missing[key] for key in batch], states, recipe, max_new_tokens, stages)
                batch, states = [], []
            with stages("fork"):
                of = [rows.index(_acts(model, recipe, missing[key][1], "prefill")) for key in keys]
                states.append(state.select(torch.tensor(of, device=model.device)))
            batch += keys
            if len(batch) >= budget.rows:
                yield batch, _decode(model, [missing[key] for key in batch], states, recipe, max_new_tokens, stages)
                batch, states = [], []
    if batch:
        yield batch, _decode(model, [missing[key] for key in batch], states, recipe, max_new_tokens, stages)


def _read(
    model: Model, prompts: Sequence[Prompt], rows: Sequence[Actions], recipe: Recipe, budget: Budget, stages: Stages
) -> Iterator[tuple[Prompt, State]]:
    """The state of every prompt after each of the prefills `rows`, in their order."""
    alone = [row for row in rows if any(_looks_ahead(action, recipe) for action in row)]
    together = [row for row in rows if row not in alone]
    order = torch.tensor([[*together, *alone].index(row) for row in rows], device=model.device)
    source = (
        prefixes.read(model, prompts, together, recipe, budget.tokens) if together else ((p, None) for p in prompts)
    )
    while True:
        with stages("prefill"):
            found = next(source, None)
            if found is None:
                return
            prompt, state = found
            states = [state] if state else []
            if alone:
                spans, question = prompt.needle_spans, prompt.question_span
                states.append(generation.prefill(model, prompt.ids, alone, spans, recipe, None, True, question))
        if not alone:
            yield prompt, states[0]
            continue
        with stages("fork"):
            state = generation.merge(states).select(order)
        yield prompt, state


def _decode(
    model: Model,
    pairs: Sequence[Pair],
    states: list[State],
    recipe: Recipe,
    max_new_tokens: int,
    stages: Stages,
) -> list[list[int]]:
    """Answer tokens of one batch; `states` is emptied, so that its memory can go once the batch is merged."""
    with stages("fork"):
        state = generation.merge(states)
        states.clear()
    with stages("decode"):
        return generation.decode(
            model,
            state,
            [condition.at("generation") for _, condition in pairs],
            [prompt.needle_spans for prompt, _ in pairs],
            recipe,
            max_new_tokens,
            questions=[prompt.question_span for prompt, _ in pairs],
        )
