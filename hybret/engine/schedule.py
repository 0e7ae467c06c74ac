"""The work of a sweep, batch by batch: what runs together, and how long each stage takes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch

from hybret.devices import Budget, within_memory
from hybret.engine import decode, prefix_tree
from hybret.engine.attach import implementation
from hybret.engine.scan import parallel_scans
from hybret.engine.state import State, merge
from hybret.errors import HybretError
from hybret.hybrid import Hybrid
from hybret.interventions import Actions
from hybret.prompts import Prompt
from hybret.recipe import Recipe
from hybret.resolving import Resolved

Key = tuple[str, str]
"""Of an answer in a run (`answer_key`)."""


def answer_key(prompt: Prompt, condition: Resolved) -> Key:
    """What decides an answer beside its run (`hybret.store.run_key`)."""
    return prompt.key, condition.key


@dataclass
class Timings:
    """What a sweep did, for those who measure it: the clock waits for the GPU after each stage."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # prefill, fork, decode, scoring
    tokens: dict[Key, list[int]] = field(default_factory=dict)  # of the answers that were computed

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[name] += time.perf_counter() - began


@dataclass(frozen=True)
class PromptJob:
    """A prompt and the conditions to answer it under."""

    prompt: Prompt
    conditions: tuple[Resolved, ...]

    @property
    def prefills(self) -> tuple[Actions, ...]:
        """The distinct ways in which the conditions read the prompt."""
        return tuple(dict.fromkeys(condition.prefill for condition in self.conditions))


@dataclass(frozen=True)
class Batch:
    """Prompts that decode together under all their conditions."""

    jobs: tuple[PromptJob, ...]

    @property
    def rows(self) -> list[tuple[Prompt, Resolved]]:
        return [(job.prompt, condition) for job in self.jobs for condition in job.conditions]

    @property
    def keys(self) -> list[Key]:
        return [answer_key(prompt, condition) for prompt, condition in self.rows]


@dataclass(frozen=True)
class Schedule:
    """What is to be answered, in which batches: all that the answers' bits depend on, whoever computes a batch."""

    jobs: tuple[PromptJob, ...]  # in the order of reading; finished ones too, which shape the prefix tree
    batches: tuple[Batch, ...]  # still to be computed
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
    there (an earlier run had other conditions), what is missing is planned anew, so that batches are full. The schedule
    of a model on the CPU has the part of the budget that the memory has room for.
    """
    budget = within_memory(model, budget, max(len(prompt.ids) for prompt in prompts) + max_new_tokens)
    distinct = tuple({condition.key: condition for condition in conditions}.values())
    jobs = [PromptJob(prompt, distinct) for prompt in {prompt.key: prompt for prompt in prompts}.values()]
    plan = _plan(model, jobs, recipe, max_new_tokens, budget)
    left = [batch for batch in plan.batches if not all(key in finished for key in batch.keys)]
    if any(key in finished for batch in left for key in batch.keys):
        return _plan(model, _without(jobs, finished), recipe, max_new_tokens, budget)
    return replace(plan, batches=tuple(left))


def _without(jobs: Sequence[PromptJob], finished: Collection[Key]) -> list[PromptJob]:
    """What is left of the jobs."""
    missing = (tuple(c for c in job.conditions if answer_key(job.prompt, c) not in finished) for job in jobs)
    return [replace(job, conditions=left) for job, left in zip(jobs, missing, strict=True) if left]


def _plan(model: Hybrid, jobs: Sequence[PromptJob], recipe: Recipe, max_new_tokens: int, budget: Budget) -> Schedule:
    groups: dict[tuple[Actions, ...], dict[str, PromptJob]] = defaultdict(dict)
    for job in jobs:
        groups[job.prefills][job.prompt.key] = job
    ordered: list[PromptJob] = []
    for prefills, members in groups.items():
        prompts: Iterable[Prompt] = [job.prompt for job in members.values()]
        if not all(looks_ahead(actions, recipe) for actions in prefills):
            prompts = prefix_tree.order(model, list(prompts), recipe)
        ordered += [members[prompt.key] for prompt in prompts]
    batches: list[list[PromptJob]] = []
    for job in ordered:
        if not batches or sum(len(j.conditions) for j in [*batches[-1], job]) > budget.max_sequences:
            batches.append([])
        batches[-1].append(job)
    return Schedule(tuple(ordered), tuple(Batch(tuple(b)) for b in batches), recipe, max_new_tokens, budget)


def looks_ahead(actions: Actions, recipe: Recipe) -> bool:
    """Whether what acts on a token of the prompt depends on later ones."""
    return any(action.looks_ahead(recipe) for action in actions)


def tokens_acted_on(
    model: Hybrid, schedule: Schedule, prompt: Prompt, condition: Resolved, answer: Sequence[int]
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
    done: set[Key] = set()
    with parallel_scans(), implementation(model.net):
        while schedule.batches:
            try:
                for batch, answers in _answers(model, schedule, timings):
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


def _answers(model: Hybrid, schedule: Schedule, timings: Timings) -> Iterator[tuple[Batch, list[list[int]]]]:
    states = _read(model, schedule, timings)
    for batch in schedule.batches:
        parts = []
        for job in batch.jobs:
            key, prefills, state = next(states)
            assert key == job.prompt.key, "prompts are read in the order of the batches"
            with timings("fork"):
                rows = [prefills.index(condition.prefill) for condition in job.conditions]
                parts.append(state.select(torch.tensor(rows, device=model.device)))
        with timings("fork"):
            state = merge(parts)
            parts.clear()  # their memory can go
        prompts, conditions = zip(*batch.rows, strict=True)
        actions, spans = [c.generation for c in conditions], [p.needle_spans for p in prompts]
        questions = [p.question_span for p in prompts]
        try:
            with timings("decode"):
                answers = decode.decode(
                    model, state, actions, spans, schedule.recipe, schedule.max_new_tokens, questions=questions
                )
        except decode.NotFiniteError as problem:
            acting = conditions[problem.row].prefill + conditions[problem.row].generation
            raise problem.explained(model, prompts[problem.row].ids, acting) from None
        yield batch, answers


def _read(model: Hybrid, schedule: Schedule, timings: Timings) -> Iterator[tuple[str, list[Actions], State]]:
    """The key of every prompt of the batches, the ways in which it is read, and its state with a row for each."""
    chosen = {key for batch in schedule.batches for key, _ in batch.keys}
    for prefills, group in groupby(schedule.jobs, key=lambda job: job.prefills):
        prompts = [job.prompt for job in group]
        states = read(model, prompts, prefills, schedule.recipe, schedule.budget.max_tokens, chosen)
        while True:
            with timings("prefill"):
                if (ready := next(states, None)) is None:
                    break
            prompt, rows, state = ready
            yield prompt.key, rows, state


def read(
    model: Hybrid,
    prompts: Sequence[Prompt],
    prefills: Sequence[Actions],
    recipe: Recipe,
    max_tokens: int,
    chosen: Set[str] | None = None,
) -> Iterator[tuple[Prompt, list[Actions], State]]:
    """Every prompt, read under each of `prefills`: their order in its state, and the state.

    The order of prompts is that of `prefix_tree`, whose parameters these are; what looks ahead is read alone.
    """
    ahead = [actions for actions in prefills if looks_ahead(actions, recipe)]
    rows = [actions for actions in prefills if actions not in ahead]
    source: Iterator[tuple[Prompt, State | None]] = (
        prefix_tree.prefill(model, prompts, rows, recipe, max_tokens, chosen)
        if rows
        else ((prompt, None) for prompt in prompts if chosen is None or prompt.key in chosen)
    )
    for prompt, state in source:
        if ahead:
            spans, question = prompt.needle_spans, prompt.question_span
            last = decode.prefill(model, prompt.ids, ahead, spans, recipe, None, True, question)
            state = merge([state, last]) if state else last
        assert state is not None
        yield prompt, rows + ahead, state


def workload(model: Hybrid, schedule: Schedule) -> dict[str, int]:
    """How much there is to compute; tokens are those of all prefills, as if no prompts shared their beginnings."""
    jobs = [job for batch in schedule.batches for job in batch.jobs]
    tokens = [len(job.prefills) * decode.prompt_tokens(model, job.prompt.ids, schedule.recipe) for job in jobs]
    return {
        "prompts": len(jobs),
        "conditions": len({condition.key for job in jobs for condition in job.conditions}),
        "prefills": sum(len(job.prefills) for job in jobs),
        "tokens": sum(tokens),
        "answers": sum(len(job.conditions) for job in jobs),
        "batches": len(schedule.batches),
    }


def estimated_seconds(model: Hybrid, schedule: Schedule) -> float:
    """The time that a schedule takes, from its middle batch: prefill by its tokens, decoding by its answers."""
    if not schedule.batches:
        return 0.0
    sample, timings = replace(schedule, batches=(schedule.batches[len(schedule.batches) // 2],)), Timings()
    for _ in run(model, sample, timings):
        pass
    part, total = workload(model, sample), workload(model, schedule)
    reading = timings.seconds.pop("prefill") * total["tokens"] / max(1, part["tokens"])
    return reading + sum(timings.seconds.values()) * total["answers"] / part["answers"]
