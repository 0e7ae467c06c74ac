"""The work of a sweep, batch by batch: what runs together, within which budget, and how long each stage takes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from hybret import asked
from hybret.engine import generation, prefixes
from hybret.engine.acting import Actions, acts
from hybret.engine.generation import State
from hybret.engine.placing import Elsewhere
from hybret.engine.scan import parallel_scans
from hybret.engine.sizing import cache_bytes
from hybret.engine.tracing import implementation
from hybret.errors import HybretError
from hybret.interventions import PHASES, Binary, Intervention
from hybret.models import Model
from hybret.prompts import Prompt
from hybret.recipe import Recipe

MOST_ROWS = {"cpu": 640, "cuda": 1024}
# On the CPU a few rows stay in the caches; a GPU wants large passes.
MOST_TOKENS = {"cpu": 2400, "cuda": 32768}
STATE_SHARE = 0.15
"""Share of a GPU's memory for the keys and values of the rows that decode together; merging them takes it twice."""
ROOM_SHARE = 0.25
"""The same of what the weights leave, where that is less: of 139 GiB the 96 of Jamba-Mini leave 43."""

Key = tuple[str, str]
"""Of an answer: its prompt's key, and what the condition `does`."""
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
        asked.whole("rows of a budget", self.rows, 1)
        asked.whole("tokens of a budget", self.tokens, 1)

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
        rows = max(1, min(rows, state_room(model) // size))
    return Budget(rows, MOST_TOKENS.get(kind, 1))


def state_room(model: Model) -> int:
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


def longest_prompt(model: Model) -> int:
    """Tokens of the longest prompt of the model's default grid, read twice: what a default budget is made for."""
    return 2 * max(model.lengths)


def does(model: Model, recipe: Recipe, condition: Intervention) -> str:
    """What a condition does to this model, whatever it is called: two that do the same share their answers."""
    return f"{acts(model, recipe, condition, 'prefill')!r} | {acts(model, recipe, condition, 'generation')!r}"


def acted_on(model: Model, recipe: Recipe, pair: Pair, answer: Sequence[int], max_new_tokens: int) -> tuple[int, int]:
    """Tokens on which a condition acted, in prefill and in generation, for an answer of these tokens.

    In every attention layer, or those that it names: the engine has seen to that after each pass (`acting.settle`).
    """
    prompt, condition = pair
    reading = generation.prompt_tokens(model, prompt.ids, recipe)
    # One step for each token, and for the one that ends an answer; a prompt that was read whole gave the first of them.
    steps = min(len(answer) + 1, max_new_tokens) - (reading == len(prompt.ids))
    did = [bool(acts(model, recipe, condition, phase)) for phase in PHASES]
    return reading * did[0], steps * did[1]


def _alone(row: Actions, recipe: Recipe) -> bool:
    """Whether what acts on a token of the prompt depends on later ones: the authors' mean over the whole prefill."""
    return recipe.binary == "scalar" and any(isinstance(action, Binary) for action in row)


@dataclass(frozen=True)
class Work:
    """What is to be answered, in which batches: all that the answers' bits depend on, whoever computes a batch.

    Attributes
    ----------
    pairs : dict of Key to Pair
        Every prompt that takes part in the tree of beginnings, also those that no batch names.
    recipe : Recipe
    max_new_tokens : int
    budget : Budget
    batches : list of list of Key
    """

    pairs: dict[Key, Pair]
    recipe: Recipe
    max_new_tokens: int
    budget: Budget
    batches: list[list[Key]]


def plan(
    model: Model,
    pairs: Mapping[Key, Pair],
    recipe: Recipe,
    max_new_tokens: int,
    budget: Budget,
    finished: Collection[Key] = (),
) -> Work:
    """The batches in which those of `pairs` are answered that are not finished.

    A run that stopped has left whole batches, and the others come as if it had not stopped. Where parts of a batch are
    there (an earlier run had other conditions), what is missing is planned anew, so that batches are full.
    """
    wanted, reading = _grouped(model, pairs, recipe)
    batches: list[list[Key]] = []
    for rows, prompts in reading.items():
        shared = not all(_alone(row, recipe) for row in rows)
        for prompt in prefixes.order(model, prompts, recipe) if shared else prompts:
            keys = wanted[prompt.key]
            if not batches or len(batches[-1]) + len(keys) > budget.rows:
                batches.append([])
            batches[-1] += keys
    left = [batch for batch in batches if not all(key in finished for key in batch)]
    if any(key in finished for batch in left for key in batch):
        missing = {key: pair for key, pair in pairs.items() if key not in finished}
        return plan(model, missing, recipe, max_new_tokens, budget)
    return Work(dict(pairs), recipe, max_new_tokens, budget, left)


def answered(
    model: Model, work: Work, stages: Stages
) -> Generator[tuple[list[Key], list[list[int]], Budget], None, None]:
    """Finished batches: keys, the tokens of their answers, and the budget that they ran under.

    Out of memory, the budget is halved, and what is missing goes on.

    Raises
    ------
    HybretError
        Not even one row and one token fit.
    """
    done: set[Key] = set()
    with parallel_scans(), implementation(model.net):
        while work.batches:
            try:
                for batch, tokens in _answers(model, work, stages):
                    done.update(batch)
                    yield batch, tokens, work.budget
            except torch.OutOfMemoryError as problem:
                if work.budget == work.budget.half():
                    raise HybretError(
                        f"{model.name} does not fit into the memory of {model.device} even one row and one token at a "
                        "time; use a larger device, a smaller dtype or shorter prompts (finished answers are kept)"
                    ) from problem
                work = replace(work, budget=work.budget.half())
            if model.device.type == "cuda":
                torch.cuda.empty_cache()
            missing = {key: work.pairs[key] for batch in work.batches for key in batch if key not in done}
            work = plan(model, missing, work.recipe, work.max_new_tokens, work.budget)


def _grouped(
    model: Model, pairs: Mapping[Key, Pair], recipe: Recipe
) -> tuple[dict[str, list[Key]], dict[tuple[Actions, ...], list[Prompt]]]:
    """The keys of every prompt, and the prompts by their distinct prefills."""
    wanted: dict[str, list[Key]] = defaultdict(list)
    for key in pairs:
        wanted[key[0]].append(key)
    reading: dict[tuple[Actions, ...], list[Prompt]] = defaultdict(list)
    for keys in wanted.values():
        reading[tuple(dict.fromkeys(acts(model, recipe, pairs[key][1], "prefill") for key in keys))].append(
            pairs[keys[0]][0]
        )
    return wanted, reading


def _answers(model: Model, work: Work, stages: Stages) -> Iterator[tuple[list[Key], list[list[int]]]]:
    wanted, reading = _grouped(model, work.pairs, work.recipe)
    chosen = {prompt for batch in work.batches for prompt, _ in batch}
    of_batch: list[State] = []
    states = (
        (prompt.key, rows, state)
        for rows, prompts in reading.items()
        if not chosen.isdisjoint(p.key for p in prompts)
        for prompt, state in _read(model, prompts, rows, work, chosen, stages)
    )
    for batch in work.batches:
        pairs = [work.pairs[key] for key in batch]
        for _ in {prompt for prompt, _ in batch}:
            prompt, rows, state = next(states)
            with stages("fork"):
                reads = [acts(model, work.recipe, work.pairs[key][1], "prefill") for key in wanted[prompt]]
                of_batch.append(state.select(torch.tensor([rows.index(a) for a in reads], device=model.device)))
        yield batch, _decode(model, pairs, of_batch, work.recipe, work.max_new_tokens, stages)


def _read(
    model: Model, prompts: Sequence[Prompt], rows: Sequence[Actions], work: Work, chosen: Set[str], stages: Stages
) -> Iterator[tuple[Prompt, State]]:
    """The state of every chosen prompt after each of the prefills `rows`, in their order."""
    recipe = work.recipe
    alone = [row for row in rows if _alone(row, recipe)]
    together = [row for row in rows if row not in alone]
    order = torch.tensor([[*together, *alone].index(row) for row in rows], device=model.device)
    source = (
        prefixes.read(model, prompts, together, recipe, work.budget.tokens, chosen)
        if together
        else ((p, None) for p in prompts if p.key in chosen)
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
