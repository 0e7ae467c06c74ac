"""A sweep: conditions x prompts to rows, resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers
from tqdm.auto import tqdm

from . import generation, scoring
from .errors import HybretError
from .interventions import Intervention, KeepHeads, PerPhase, elementary, validate
from .models import Model
from .niah import Prompt
from .recipe import CORRECTED, Recipe
from .recipe import recipe as find_recipe
from .scan import parallel_scans
from .store import Store
from .tracing import implementation

# The modules that decide what a model answers: rows of another version of them are never mixed with new ones.
ENGINE = ("attention", "entropy", "generation", "interventions", "models", "scan", "tracing")
# Read once, with the code: a module edited while a run goes on does not change what the run is called.
ENGINE_DIGEST = hashlib.sha256(
    b"".join((Path(__file__).parent / f"{module}.py").read_bytes() for module in ENGINE)
).hexdigest()[:12]
ROWS_PER_BATCH = 160
# Tokens of one prefill, over all its rows. On the CPU a few rows stay in the caches (griffin-tiny, 292 tokens: 77 ms a
# row in fours, 100 ms in elevens); a GPU wants large batches.
PREFILL_TOKENS = {"cpu": 1200, "cuda": 32768}


def sweep(
    model: Model,
    prompts: Sequence[Prompt],
    conditions: Mapping[str, Intervention],
    recipe: Recipe | str = CORRECTED,
    out: str | Path | None = None,
    max_new_tokens: int = generation.MAX_NEW_TOKENS,
    rows_per_batch: int = ROWS_PER_BATCH,
    progress: bool = True,
) -> pd.DataFrame:
    """Answer every prompt under every condition, and score it.

    Conditions that do the same in prefill share one prefill per prompt; conditions of several prompts decode as one
    batch. Cells of the grid with identical prompts are computed once.

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
    rows_per_batch : int
        Rows (prompt x condition) that decode together. In fp32 it does not change an answer; in bf16 it may, so it is
        part of the run.
    progress : bool
        Show a progress bar.

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
    if rows_per_batch < 1 or max_new_tokens < 1:
        raise HybretError("rows_per_batch and max_new_tokens must be at least 1")
    if recipe.rubric not in scoring.RUBRICS:
        raise HybretError(f"unknown rubric {recipe.rubric!r}; choose one of {', '.join(scoring.RUBRICS)}")
    for condition in conditions.values():
        validate(condition, model.heads)
    store = Store(out, _identity(model, recipe, max_new_tokens, rows_per_batch))
    wanted = {(p.key, _key(c)): (p, c) for p in prompts for c in conditions.values()}
    missing = [pair for key, pair in wanted.items() if key not in store.answers]
    with (
        tqdm(total=len(missing), desc=f"{model.name}, {recipe.name}", unit="answer", disable=not progress) as bar,
        parallel_scans(),
        implementation(model.net),
    ):
        for batch in _batches(missing, rows_per_batch):
            answers = _run(model, batch, recipe, max_new_tokens)
            store.add([(p.key, _key(c)) for p, c in batch], answers)
            bar.update(len(batch))
    rows = pd.DataFrame(
        [
            _row(model, recipe, label, condition, p, store.answers[p.key, _key(condition)])
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
    rows_per_batch: int = ROWS_PER_BATCH,
) -> Path:
    """The folder below `out` for this run, named by content: another model, recipe or engine gets another folder."""
    recipe = find_recipe(recipe)
    identity = _identity(model, recipe, max_new_tokens, rows_per_batch)
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    return Path(out) / f"{Path(model.name).name}-{name}"


def _key(condition: Intervention) -> str:
    """What a condition does, whatever it is called: two that do the same share their answers."""
    return f"{condition.at('prefill')!r} | {condition.at('generation')!r}"


def _batches(pairs: Sequence[tuple[Prompt, Intervention]], size: int) -> list[list[tuple[Prompt, Intervention]]]:
    """Whole prompts of similar length together, up to `size` rows; one with more conditions is a batch of its own."""
    by_prompt = [
        list(group)
        for _, group in groupby(sorted(pairs, key=lambda pc: (len(pc[0].ids), pc[0].key)), key=lambda pc: pc[0].key)
    ]
    batches: list[list[tuple[Prompt, Intervention]]] = []
    for group in by_prompt:
        if batches and len(batches[-1]) + len(group) <= size:
            batches[-1].extend(group)
        else:
            batches.append(group)
    return batches


def _run(model: Model, batch: Sequence[tuple[Prompt, Intervention]], recipe: Recipe, max_new_tokens: int) -> list[str]:
    """Answers of one batch of (prompt, condition) pairs, grouped by prompt."""
    states = []
    for _, group in groupby(batch, key=lambda pc: pc[0].key):
        pairs = list(group)
        prompt = pairs[0][0]
        wanted = [c.at("prefill") for _, c in pairs]
        distinct = list(dict.fromkeys(wanted))
        size = max(1, PREFILL_TOKENS.get(model.device.type, 1) // len(prompt.ids))
        chunks = [distinct[i : i + size] for i in range(0, len(distinct), size)]
        state = generation.merge(
            [generation.prefill(model, prompt.ids, chunk, prompt.needle_spans, recipe) for chunk in chunks]
        )
        fork = torch.tensor([distinct.index(w) for w in wanted], device=model.device)
        states.append(state.select(fork))
    tokens = generation.decode(
        model,
        generation.merge(states),
        [c.at("generation") for _, c in batch],
        [p.needle_spans for p, _ in batch],
        recipe,
        max_new_tokens,
    )
    return model.tokenizer.batch_decode(tokens, skip_special_tokens=True)


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


def _identity(model: Model, recipe: Recipe, max_new_tokens: int, rows_per_batch: int) -> dict[str, Any]:
    return {
        "model": model.name,
        "weights": model.digest,
        "window": model.window,
        "dtype": model.dtype,
        "device": model.device.type,
        "recipe": recipe.engine_key,
        "max_new_tokens": max_new_tokens,
        "rows_per_batch": rows_per_batch,
        "engine": ENGINE_DIGEST,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
