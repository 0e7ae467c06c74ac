"""A sweep: conditions x prompts to rows, resumable."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers

from . import asked, niah, scoring
from .cluster import Ray
from .engine import generation
from .engine.acting import require
from .engine.batches import Budget, Stages, acted_on, answered, budget_of, does, longest_prompt, plan
from .engine.placing import Elsewhere
from .errors import HybretError
from .fitting import needs_question, no_question, validate
from .interventions import Intervention, KeepHeads, PerPhase, elementary
from .models import Model
from .progress import bar as progress_bar
from .prompts import Prompt
from .provenance import facts, name_of, texts_of
from .recipe import CORRECTED, Recipe
from .recipe import recipe as find_recipe
from .soundness import require_tokens, warn_beyond
from .store import Answer, Store, read_rows
from .tables import CELL

MOST_NEW_TOKENS = 4096
HERE = Path(__file__).parent
# The modules that decide what a model answers: rows of another version of them are never mixed with new ones.
ENGINE = [
    *sorted((HERE / "engine").glob("*.py")),
    *(HERE / f"{name}.py" for name in ("anatomy", "fitting", "interventions", "models", "presets")),
]
# Read once, with the code: a module edited while a run goes on does not change what the run is called.
ENGINE_DIGEST = hashlib.sha256(b"".join(module.read_bytes() for module in ENGINE)).hexdigest()[:12]


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
    engine: str | Ray = "local",
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
        Collects the seconds of each stage; with Ray summed over the workers.
    engine : {"local", "ray"} or Ray
        ``"ray"`` is `Ray` with its defaults. Workers then compute the batches of the local engine, and the rows are the
        same; `out` may have been begun by the other engine.

    Returns
    -------
    pandas.DataFrame
        One row per prompt and condition; the columns are described in the book's chapter "Rows", and so is what
        ``rows.attrs`` says of the run.

    Raises
    ------
    HybretError
        Nothing to do, prompts of another model, an intervention that does not fit the model or cannot act on a prompt,
        or a folder that cannot be used; before any model runs. Afterwards: an intervention that did not act in every
        attention layer.
    """
    recipe = find_recipe(recipe)
    _check(model, prompts, conditions, max_new_tokens)
    asked.one_of("rubric", recipe.rubric, scoring.RUBRICS)
    if budget is not None and not isinstance(budget, Budget):
        raise HybretError(f"budget is {budget!r}; give a hybret.engine.batches.Budget, or None for what fits")
    if out is not None:
        asked.folder("out", out)
    for condition in conditions.values():
        validate(condition, model.heads, model.attention_layers)
        if needs_question(elementary(condition)) and not all(p.question_span for p in prompts):
            raise no_question()
        for p in prompts:
            reading, spans = generation.prompt_tokens(model, p.ids, recipe), None if p.control else p.needle_spans
            require(model, recipe, condition, len(p.ids), reading, max_new_tokens, spans)
    if engine not in ("local", "ray") and not isinstance(engine, Ray):
        raise HybretError(f"unknown engine {engine!r}; choose local, ray or a hybret.Ray")
    cluster = Ray() if engine == "ray" else engine if isinstance(engine, Ray) else None
    if cluster:
        cluster.connect()
    elif isinstance(model.net, Elsewhere):
        raise HybretError(f"{model.name} is held by Ray workers; give the hybret.Ray that loaded it as `engine`")
    budget = budget or budget_of(model, longest_prompt(model))
    stages = stages or Stages()
    run = identity(model, recipe, max_new_tokens, budget)
    store = Store(out, run, facts(model))
    effects = {label: does(model, recipe, condition) for label, condition in conditions.items()}
    wanted = {(p.key, effects[label]): (p, c) for p in prompts for label, c in conditions.items()}
    work = plan(model, wanted, recipe, max_new_tokens, budget, store.answers.keys())
    finished = cluster.answered(model, work, stages, run) if cluster else answered(model, work, stages)
    with (
        progress_bar(
            desc=f"{model.name}, {recipe.name}",
            unit="answer",
            total=sum(map(len, work.batches)),
            disable=not progress,
        ) as bar,
        closing(finished),
    ):
        bar.set_postfix_str(f"up to {budget.rows} rows, {budget.tokens} tokens")
        for batch, tokens, ran in finished:
            bar.set_postfix_str(f"up to {ran.rows} rows, {ran.tokens} tokens", refresh=False)
            texts = model.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            acted = [
                acted_on(model, recipe, wanted[key], a, max_new_tokens) for key, a in zip(batch, tokens, strict=True)
            ]
            stages.tokens.update(zip(batch, tokens, strict=True))
            store.add(
                batch,
                [Answer(text, *on) for text, on in zip(texts, acted, strict=True)],
                rows=ran.rows,
                tokens=ran.tokens,
            )
            bar.update(len(batch))
    with stages("scoring"):
        rows = pd.DataFrame(
            [
                _row(model, recipe, label, condition, p, store.answers[p.key, effects[label]])
                | {"max_new_tokens": max_new_tokens, "run": name_of(run), "batch": store.batches[p.key, effects[label]]}
                for p in prompts
                for label, condition in conditions.items()
            ]
        ).astype({"k": "Int64"})
    rows.attrs.update(run=run, made=store.made_of(rows["batch"]), **texts_of(prompts))
    store.write_rows(rows)
    return rows


def _check(model: Any, prompts: Any, conditions: Any, max_new_tokens: Any) -> None:
    """Refuse what cannot be answered, before anything is computed."""
    if not isinstance(model, Model):
        raise HybretError(f"model is {model!r}; give what hybret.load returns")
    if not isinstance(prompts, Sequence) or isinstance(prompts, str) or not all(isinstance(p, Prompt) for p in prompts):
        raise HybretError(
            f"prompts are a list of Prompt, not {type(prompts).__name__}; build some with hybret.niah.grid"
        )
    if not prompts:
        raise HybretError("there are no prompts to run; build some with hybret.niah.grid")
    cells = {
        (p.key, p.template, p.haystack, p.haystack_seed, p.needle, p.target.digest, p.length, repr(p.depth))
        for p in prompts
    }
    if len(cells) < len(prompts):
        raise HybretError(
            f"{len(prompts) - len(cells)} prompts are given twice and would count twice; give each one once"
        )
    texts: dict[tuple[str, int | None], str] = {}
    for p in prompts:  # of the embedded text as much is written as the longest prompt of a grid needs
        known = texts.setdefault((p.haystack, p.haystack_seed), p.haystack_sha256)
        if p.haystack != "embedded" and known != p.haystack_sha256:
            raise HybretError(f"two different haystacks are called {p.haystack!r}; give each a name of its own")
    asked.conditions(conditions)
    niah.require_reader(model, prompts)
    require_tokens(model, [p.ids for p in prompts], asked.whole("max_new_tokens", max_new_tokens, 1, MOST_NEW_TOKENS))
    warn_beyond(model, [p.ids for p in prompts])


def run_folder(
    out: str | Path,
    model: Model,
    recipe: Recipe | str = CORRECTED,
    max_new_tokens: int = generation.MAX_NEW_TOKENS,
    budget: Budget | None = None,
) -> Path:
    """The folder below `out` for this run, named by content: another model, recipe or engine gets another folder."""
    recipe = find_recipe(recipe)
    run = identity(model, recipe, max_new_tokens, budget or budget_of(model, longest_prompt(model)))
    # A name is foreign text: what is left of it is one plain part of a path.
    plain = re.sub(r"[^\w.@+-]+", "-", Path(model.name).name)[:100]
    return asked.folder("out", out) / f"{plain}-{name_of(run)}"


def stored(
    out: str | Path,
    model: Model,
    prompts: Iterable[Prompt],
    recipe: Recipe | str = CORRECTED,
    max_new_tokens: int = generation.MAX_NEW_TOKENS,
) -> pd.DataFrame:
    """Rows that finished sweeps left in the run's folder below `out`, whatever they were made for; no model runs.

    Parameters
    ----------
    out, model, recipe, max_new_tokens : as in `run_folder`.
    prompts : rows of other prompts are left out.

    Returns
    -------
    pandas.DataFrame
        As of `sweep`. What several sweeps asked for comes once, under the label of one of them. Empty if there is
        nothing.
    """
    recipe = find_recipe(recipe)
    paths = sorted(run_folder(out, model, recipe, max_new_tokens).glob("rows-*.parquet"))
    if not paths:
        return pd.DataFrame()
    rows = read_rows(paths)
    # One engine key serves several recipes: those that differ in how prompts are built or scored.
    rows = rows[(rows["recipe"] == recipe.name) & rows["prompt"].isin({p.key for p in prompts})]
    return rows.drop_duplicates(["intervention", "prompt", *CELL]).reset_index(drop=True)


def _row(model: Model, recipe: Recipe, label: str, condition: Intervention, p: Prompt, found: Answer) -> dict[str, Any]:
    answer = f"{p.given} {found.answer}" if p.given else found.answer
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
        "acted_prefill": found.acted_prefill,
        "acted_generation": found.acted_generation,
        "template": p.template,
        "haystack": p.haystack,
        "haystack_seed": p.haystack_seed,
        "needle": p.needle,
        "asked": p.target.digest,
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


def identity(model: Model, recipe: Recipe, max_new_tokens: int, budget: Budget) -> dict[str, Any]:
    """What a folder of rows belongs to: rows of two runs that differ in any of it are never mixed."""
    return {
        "model": model.name,
        "weights": model.digest,
        "window": model.window,
        "dtype": model.dtype,
        "device": model.device.type,
        "recipe": recipe.deciding,
        "max_new_tokens": max_new_tokens,
        "rows_per_batch": budget.rows,
        "tokens_per_pass": budget.tokens,
        "engine": ENGINE_DIGEST,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
