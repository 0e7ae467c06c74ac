"""A sweep: conditions x prompts to rows, resumable."""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers
from tqdm.auto import tqdm

from . import generation, prefixes, scoring
from .errors import HybretError
from .generation import Actions, State
from .interventions import Binary, Intervention, KeepHeads, PerPhase, Phase, effective, elementary, validate
from .models import Model
from .niah import Prompt
from .recipe import CORRECTED, Recipe
from .recipe import recipe as find_recipe
from .scan import parallel_scans
from .store import Store
from .tracing import implementation

# The modules that decide what a model answers: rows of another version of them are never mixed with new ones.
ENGINE = (
    "attention", "entropy", "generation", "interventions", "models", "prefixes", "scan", "states", "streaming",
    "tracing",
)  # fmt: skip
# Read once, with the code: a module edited while a run goes on does not change what the run is called.
ENGINE_DIGEST = hashlib.sha256(
    b"".join((Path(__file__).parent / f"{module}.py").read_bytes() for module in ENGINE)
).hexdigest()[:12]
MOST_ROWS = {"cpu": 320, "cuda": 1024}
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
    """Seconds that a sweep spent in each stage; on a GPU measuring them waits for the GPU after each."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

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
        config = model.net.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        keys = min(longest, model.window or longest)
        layers = len(model.attention_layers)
        size = 2 * layers * config.num_key_value_heads * width * keys * model.net.dtype.itemsize
        memory = torch.cuda.get_device_properties(model.device).total_memory
        rows = max(1, min(rows, int(STATE_SHARE * memory / size)))
    return Budget(rows, MOST_TOKENS.get(kind, 1))


def sweep(
    model: Model,
    prompts: Sequence[Prompt],
    conditions: Mapping[str, Intervention],
    recipe: Recipe | str = CORRECTED,
    out: str | Path | None = None,
    max_new_tokens: int = generation.MAX_NEW_TOKENS,
    budget: Budget | None = None,
    progress: bool = True,
    stages: Stages | None = None,
) -> pd.DataFrame:
    """Answer every prompt under every condition, and score it.

    Conditions that do the same in prefill share one prefill per prompt, prompts that begin alike share the reading of
    that beginning; conditions of several prompts decode as one batch. Cells of the grid with identical prompts are
    computed once. Out of memory, the sweep halves its budget and goes on with what is missing.

    Parameters
    ----------
    model : Model
    prompts : sequence of Prompt
        Templates, haystack seeds and controls may be mixed.
    conditions : mapping of str to Intervention
        Row label to intervention.
    recipe : Recipe or str
        The prompts must come from the same recipe's `insertion`.
    out : folder, optional
        The rows are written here as Parquet, and each finished batch of answers below ``answers/``, so that a second
        call computes only what is missing. One folder holds one run: one model, weights, dtype, recipe, device kind
        and version of the engine (`run_folder` names one).
    max_new_tokens : int
    budget : Budget, optional
        Rows and tokens that run at one time; default what fits on the device (`budget_of`).
    progress : bool
        Show a progress bar.
    stages : Stages, optional
        Collects the seconds of each stage.

    Returns
    -------
    pandas.DataFrame
        One row per prompt and condition; the columns are described in the book's chapter "Rows".

    Raises
    ------
    HybretError
        Nothing to do, an intervention that does not fit, or a folder that cannot be used; before any model runs.
    """
    recipe = find_recipe(recipe)
    if not prompts:
        raise HybretError("there are no prompts to run; build some with hybret.niah.grid")
    if not conditions:
        raise HybretError('there are no conditions to run; give a mapping such as {"k=0": KeepHeads(0)}')
    if max_new_tokens < 1:
        raise HybretError("max_new_tokens must be at least 1")
    if recipe.rubric not in scoring.RUBRICS:
        raise HybretError(f"unknown rubric {recipe.rubric!r}; choose one of {', '.join(scoring.RUBRICS)}")
    for condition in conditions.values():
        validate(condition, model.heads)
    budget = budget or budget_of(model, _longest(model))
    stages = stages or Stages()
    store = Store(out, _identity(model, recipe, max_new_tokens, budget))
    does = {label: _does(model, recipe, condition) for label, condition in conditions.items()}
    wanted = {(p.key, does[label]): (p, c) for p in prompts for label, c in conditions.items()}
    with (
        tqdm(desc=f"{model.name}, {recipe.name}", unit="answer", disable=not progress) as bar,
        parallel_scans(),
        implementation(model.net),
    ):
        missing = {key: pair for key, pair in wanted.items() if key not in store.answers}
        bar.reset(len(missing))
        while missing:
            bar.set_postfix_str(f"up to {budget.rows} rows, {budget.tokens} tokens")
            try:
                for batch, answers in _answers(model, missing, recipe, max_new_tokens, budget, stages):
                    store.add(batch, answers, rows=budget.rows, tokens=budget.tokens)
                    bar.update(len(batch))
            except torch.OutOfMemoryError as problem:
                if budget == budget.half():
                    raise HybretError(
                        f"{model.name} does not fit into the memory of {model.device} even one row and one token at a "
                        "time; use a larger device, a smaller dtype or shorter prompts (finished answers are kept)"
                    ) from problem
                budget = budget.half()
            if model.device.type == "cuda":
                torch.cuda.empty_cache()
            missing = {key: pair for key, pair in missing.items() if key not in store.answers}
    with stages("scoring"):
        rows = pd.DataFrame(
            [
                _row(model, recipe, label, condition, p, store.answers[p.key, does[label]])
                for p in prompts
                for label, condition in conditions.items()
            ]
        ).astype({"k": "Int64"})
    store.write_rows(rows)
    return rows


def run_folder(
    out: str | Path,
    model: Model,
    recipe: Recipe | str = CORRECTED,
    max_new_tokens: int = generation.MAX_NEW_TOKENS,
    budget: Budget | None = None,
) -> Path:
    """The folder below `out` for this run, named by content: another model, recipe or engine gets another folder."""
    recipe = find_recipe(recipe)
    identity = _identity(model, recipe, max_new_tokens, budget or budget_of(model, _longest(model)))
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    return Path(out) / f"{Path(model.name).name}-{name}"


def _longest(model: Model) -> int:
    """Tokens of the longest prompt of the model's default grid, read twice: what a default budget is made for."""
    return 2 * max(model.lengths)


def _acts(model: Model, recipe: Recipe, condition: Intervention, phase: Phase) -> Actions:
    return effective([condition.at(phase)], model.family, model.heads, recipe)[0]


def _does(model: Model, recipe: Recipe, condition: Intervention) -> str:
    """What a condition does to this model, whatever it is called: two that do the same share their answers."""
    return f"{_acts(model, recipe, condition, 'prefill')!r} | {_acts(model, recipe, condition, 'generation')!r}"


def _looks_ahead(action: Intervention, recipe: Recipe) -> bool:
    """Whether what it does to a token of the prompt depends on later ones: the authors' mean over the whole prefill."""
    return isinstance(action, Binary) and recipe.binary == "scalar"


def _answers(
    model: Model,
    missing: Mapping[tuple[str, str], Pair],
    recipe: Recipe,
    max_new_tokens: int,
    budget: Budget,
    stages: Stages,
) -> Iterator[tuple[list[tuple[str, str]], list[str]]]:
    """Finished batches: the keys of `missing` and their answers."""
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
                states.append(generation.prefill(model, prompt.ids, alone, prompt.needle_spans, recipe, streaming=True))
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
) -> list[str]:
    """Answers of one batch; `states` is emptied, so that its memory can go once the batch is merged."""
    with stages("fork"):
        state = generation.merge(states)
        states.clear()
    with stages("decode"):
        tokens = generation.decode(
            model,
            state,
            [condition.at("generation") for _, condition in pairs],
            [prompt.needle_spans for prompt, _ in pairs],
            recipe,
            max_new_tokens,
        )
    return list(model.tokenizer.batch_decode(tokens, skip_special_tokens=True))


def _row(model: Model, recipe: Recipe, label: str, condition: Intervention, p: Prompt, answer: str) -> dict[str, Any]:
    points, exact, _ = scoring.score(answer, recipe.rubric, p.target)
    start, end = p.needle_spans[-1] if p.needle_spans else (-1, -1)
    distance = len(p.ids) - 1 - start if p.needle_spans else -1
    heads = {part for part in elementary(condition) if isinstance(part, KeepHeads)}
    sparse = next(iter(heads)) if len(heads) == 1 and isinstance(condition, KeepHeads) else None
    pair = condition if isinstance(condition, PerPhase) else None
    return {
        "model": model.name,
        "weights": model.digest,
        "recipe": recipe.name,
        "condition": label,
        "intervention": repr(condition),
        "prefill": pair.prefill.label if pair else _phase_label(condition, "prefill"),
        "generation": pair.generation.label if pair else _phase_label(condition, "generation"),
        "k": sparse.k if sparse else None,
        "during": condition.during if isinstance(condition, KeepHeads) else None,
        "template": p.template,
        "haystack": p.haystack,
        "haystack_seed": p.haystack_seed,
        "needle": p.needle,
        "length": p.length,
        "depth": p.depth,
        "tokens": len(p.ids),
        "needle_start": start,
        "needle_end": end,
        "distance": distance,
        "in_window": bool(p.needle_spans) and (model.window is None or distance < model.window),
        "answer": answer,
        "score": points,
        "exact": exact,
        "rubric": recipe.rubric,
        "prompt": p.key,
        "device": model.device.type,
        "dtype": model.dtype,
    }


def _phase_label(condition: Intervention, phase: Any) -> str:
    return " & ".join(part.label for part in condition.at(phase)) or "keep"


def _identity(model: Model, recipe: Recipe, max_new_tokens: int, budget: Budget) -> dict[str, Any]:
    return {
        "model": model.name,
        "weights": model.digest,
        "window": model.window,
        "dtype": model.dtype,
        "device": model.device.type,
        "recipe": recipe.engine_key,
        "max_new_tokens": max_new_tokens,
        "rows_per_batch": budget.rows,
        "tokens_per_pass": budget.tokens,
        "engine": ENGINE_DIGEST,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
