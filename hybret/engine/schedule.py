"""The work of a sweep, batch by batch: what runs together, within which budget, and how long each stage takes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Annotated

import torch

from hybret.engine import decode, prefix_tree
from hybret.engine.attach import implementation
from hybret.engine.placing import Elsewhere
from hybret.engine.scan import parallel_scans
from hybret.engine.sizing import cache_bytes
from hybret.engine.state import State, merge
from hybret.errors import AtLeast, HybretError, checked
from hybret.hybrid import Hybrid
from hybret.interventions import Actions, Binary, Resolved
from hybret.prompts import Prompt
from hybret.recipe import Recipe

MOST_SEQUENCES = {"cpu": 640, "cuda": 1024}
# On the CPU a few rows stay in the caches; a GPU wants large passes.
MOST_TOKENS = {"cpu": 2400, "cuda": 32768}
STATE_SHARE = 0.15
"""Share of a GPU's memory for the keys and values of the rows that decode together; merging them takes it twice."""
ROOM_SHARE = 0.25
"""The same of what the weights leave, where that is less: of 139 GiB the 96 of Jamba-Mini leave 43."""

Key = tuple[str, str]
"""Of an answer: its prompt's key and its condition's (`Resolved.key`)."""


@checked
class Budget:
    """How much runs at one time. In fp32 it does not change an answer; in bf16 it may, so it is part of a run.

    Parameters
    ----------
    max_sequences : int
        Rows (prompt x condition) that decode together.
    max_tokens : int
        Tokens, over all rows, of one pass through the model in prefill.
    """

    max_sequences: Annotated[int, AtLeast(1)]
    max_tokens: Annotated[int, AtLeast(1)]

    def half(self) -> Budget:
        return Budget(max(1, self.max_sequences // 2), max(1, self.max_tokens // 2))


@dataclass
class Timings:
    """What a sweep did, for those who measure it; on a GPU taking the times waits for the GPU after each stage.

    Attributes
    ----------
    seconds : dict of str to float
        By stage: prefill, fork, decode, scoring.
    tokens : dict of Key to list of int
        Tokens of the answers that were computed.
    """

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    tokens: dict[Key, list[int]] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[name] += time.perf_counter() - began


def budget_of(model: Hybrid, longest: int) -> Budget:
    """What fits on the model's device, from its memory, for prompts of up to `longest` tokens."""
    kind = model.device.type
    sequences = MOST_SEQUENCES.get(kind, 1)
    if kind == "cuda":
        size = cache_bytes(model.net.config, len(model.attention_layers), longest, model.net.dtype.itemsize)
        sequences = max(1, min(sequences, state_room(model) // size))
    return Budget(sequences, MOST_TOKENS.get(kind, 1))


def state_room(model: Hybrid) -> int:
    """Bytes of a GPU for the keys and values of the rows that decode together; 0 for a CPU, which is not asked."""
    if isinstance(model.net, Elsewhere):
        return model.net.room
    if model.device.type != "cuda":
        return 0
    memory = torch.cuda.get_device_properties(model.device).total_memory
    weights = sum(p.numel() * p.element_size() for p in model.net.parameters() if p.device == model.device)
    return room_of(memory, weights)


def room_of(memory: int, weights: int) -> int:
    """The same from the bytes of a GPU's memory and of the weights in it."""
    return int(min(STATE_SHARE * memory, ROOM_SHARE * max(0, memory - weights)))


def longest_prompt(model: Hybrid) -> int:
    """Tokens of the longest prompt of the model's default grid, read twice: what a default budget is made for."""
    return 2 * max(model.lengths)


@dataclass(frozen=True)
class PromptJob:
    """A prompt and the conditions to answer it under."""

    prompt: Prompt
    conditions: tuple[Resolved, ...]

    @cached_property
    def prefills(self) -> tuple[Actions, ...]:
        """The distinct ways in which the conditions read the prompt."""
        return tuple(dict.fromkeys(condition.prefill for condition in self.conditions))

    @property
    def prefill_rows(self) -> list[int]:
        """Which of `prefills` each condition needs."""
        return [self.prefills.index(condition.prefill) for condition in self.conditions]


@dataclass(frozen=True)
class Batch:
    """Prompts that decode together under all their conditions."""

    jobs: tuple[PromptJob, ...]

    @property
    def rows(self) -> list[tuple[Prompt, Resolved]]:
        return [(job.prompt, condition) for job in self.jobs for condition in job.conditions]

    @property
    def keys(self) -> list[Key]:
        return [(prompt.key, condition.key) for prompt, condition in self.rows]


@dataclass(frozen=True)
class Schedule:
    """What is to be answered, in which batches: all that the answers' bits depend on, whoever computes a batch.

    Attributes
    ----------
    jobs : tuple of PromptJob
        In the order of reading, those with the same prefills in a row. Also those that no batch holds any more: the
        prefix tree is that of all.
    batches : tuple of Batch
        Still to be computed.
    """

    jobs: tuple[PromptJob, ...]
    batches: tuple[Batch, ...]
    recipe: Recipe
    max_new_tokens: int
    budget: Budget


def schedule(
    model: Hybrid,
    prompts: Sequence[Prompt],
    conditions: Sequence[Resolved],
    recipe: Recipe,
    max_new_tokens: int,
    budget: Budget,
    finished: Collection[Key] = (),
) -> Schedule:
    """The batches in which every prompt is answered under every condition, without those that are finished.

    A run that stopped has left whole batches, and the rest comes as if it had not stopped. Where parts of a batch are
    there (an earlier run had other conditions), what is missing is planned anew, so that batches are full.
    """
    distinct = tuple({condition.key: condition for condition in conditions}.values())
    jobs = [PromptJob(prompt, distinct) for prompt in {prompt.key: prompt for prompt in prompts}.values()]
    plan = _plan(model, jobs, recipe, max_new_tokens, budget)
    left = [batch for batch in plan.batches if not all(key in finished for key in batch.keys)]
    if any(key in finished for batch in left for key in batch.keys):
        return _plan(model, _without(jobs, finished), recipe, max_new_tokens, budget)
    return replace(plan, batches=tuple(left))


def _without(jobs: Sequence[PromptJob], finished: Collection[Key]) -> list[PromptJob]:
    """What is left of the jobs."""
    missing = (tuple(c for c in job.conditions if (job.prompt.key, c.key) not in finished) for job in jobs)
    return [replace(job, conditions=left) for job, left in zip(jobs, missing, strict=True) if left]


def _plan(
    model: Hybrid, jobs: Sequence[PromptJob], recipe: Recipe, max_new_tokens: int, budget: Budget
) -> Schedule:
    groups: dict[tuple[Actions, ...], dict[str, PromptJob]] = defaultdict(dict)
    for job in jobs:
        groups[job.prefills][job.prompt.key] = job
    ordered: list[PromptJob] = []
    for prefills, members in groups.items():
        prompts = [job.prompt for job in members.values()]
        if not all(looks_ahead(actions, recipe) for actions in prefills):
            prompts = list(prefix_tree.order(model, prompts, recipe))
        ordered += [members[prompt.key] for prompt in prompts]
    batches: list[list[PromptJob]] = []
    room = 0
    for job in ordered:
        if not batches or len(job.conditions) > room:
            batches.append([])
            room = budget.max_sequences
        batches[-1].append(job)
        room -= len(job.conditions)
    return Schedule(tuple(ordered), tuple(Batch(tuple(x)) for x in batches), recipe, max_new_tokens, budget)


def looks_ahead(actions: Actions, recipe: Recipe) -> bool:
    """Whether what acts on a token of the prompt depends on later ones: the authors' mean over the whole prefill."""
    return recipe.binary == "scalar" and any(isinstance(action, Binary) for action in actions)


def tokens_acted_on(
    model: Hybrid, prompt: Prompt, condition: Resolved, answer: Sequence[int], schedule: Schedule
) -> tuple[int, int]:
    """Tokens on which a condition acted, in prefill and in generation, for an answer of these tokens.

    In every attention layer, or those that it names: the engine has seen to that after each pass.
    """
    reading = decode.prompt_tokens(model, prompt.ids, schedule.recipe)
    # One step for each token, and for the one that ends an answer; a prompt that was read whole gave the first of them.
    steps = min(len(answer) + 1, schedule.max_new_tokens) - (reading == len(prompt.ids))
    return reading * bool(condition.prefill), steps * bool(condition.generation)


def run(
    model: Hybrid, schedule: Schedule, timings: Timings
) -> Generator[tuple[Batch, list[list[int]], Budget], None, None]:
    """Finished batches, the tokens of their answers, and the budget that they ran under.

    Out of memory, the budget is halved, and what is missing goes on.
    """
    with parallel_scans(), implementation(model.net):
        while schedule.batches:
            done: set[Key] = set()
            try:
                states = _read(model, schedule, timings)
                for batch in schedule.batches:
                    answers = _decode(model, batch, states, schedule, timings)
                    done.update(batch.keys)
                    yield batch, answers, schedule.budget
            except torch.OutOfMemoryError as problem:
                if schedule.budget == schedule.budget.half():
                    raise HybretError(
                        f"{model.name} does not fit into the memory of {model.device} even one row and one token at a "
                        "time; use a larger device, a smaller dtype or shorter prompts (finished answers are kept)"
                    ) from problem
                schedule = replace(schedule, budget=schedule.budget.half())
            if model.device.type == "cuda":
                torch.cuda.empty_cache()
            missing = _without([job for batch in schedule.batches for job in batch.jobs], done)
            schedule = _plan(model, missing, schedule.recipe, schedule.max_new_tokens, schedule.budget)


def _read(model: Hybrid, schedule: Schedule, timings: Timings) -> Iterator[State]:
    """The state of every prompt of the batches after reading it, one row for each of its conditions."""
    chosen = {job.prompt.key: job for batch in schedule.batches for job in batch.jobs}
    for prefills, group in groupby(schedule.jobs, key=lambda job: job.prefills):
        prompts = [job.prompt for job in group]
        if not any(prompt.key in chosen for prompt in prompts):
            continue
        for prompt, state in _read_group(model, prompts, prefills, schedule, chosen, timings):
            with timings("fork"):
                yield state.select(torch.tensor(chosen[prompt.key].prefill_rows, device=model.device))
