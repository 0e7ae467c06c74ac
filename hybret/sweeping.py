"""A sweep: conditions x prompts to rows, resumable."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from hybret import scoring
from hybret.checkpoints import warn_beyond
from hybret.cluster import Ray
from hybret.devices import Budget, budget_of
from hybret.engine import decode
from hybret.engine.schedule import Timings, answer_key, schedule, tokens_acted_on
from hybret.engine.schedule import run as run_schedule
from hybret.errors import HybretError, check_conditions, conform, integer, one_of, printable
from hybret.interventions import PHASES, Intervention, PerPhase
from hybret.interventions.heads import KeepHeads
from hybret.models import Model, check_prompts
from hybret.prompts import Prompt
from hybret.recipe import CORRECTED, Recipe
from hybret.recipe import recipe as find_recipe
from hybret.resolving import resolve
from hybret.rows import CELL
from hybret.store import Answer, Store, facts, name_of, read_rows, run_key
from hybret.tasks.niah import Niah

MOST_NEW_TOKENS = 4096


def sweep(
    model: Model,
    prompts: Sequence[Prompt],
    conditions: Mapping[str, Intervention],
    recipe: Recipe | str = CORRECTED,
    out: str | Path | None = None,
    max_new_tokens: int = decode.MAX_NEW_TOKENS,
    budget: Budget | None = None,
    progress: bool = True,
    stages: Timings | None = None,
    engine: str | Ray = "local",
) -> pd.DataFrame:
    """Answer every prompt under every condition, and score it.

    Conditions that do the same in prefill share one prefill per prompt, prompts that begin alike share the reading of
    that beginning; conditions of several prompts decode as one batch. Cells of the grid with identical prompts are
    computed once. Out of memory, the sweep halves its budget and goes on with what is missing; on the CPU it halves the
    rows before it begins, until they fit.

    Parameters
    ----------
    prompts : templates, haystack seeds and controls may be mixed; all built with the recipe's `insertion`.
    conditions : row label to intervention.
    out : a folder. The rows are written there as Parquet, each finished batch of answers below ``answers/``, so that
        a second call computes only what is missing. One folder holds one run: one model, weights, dtype, recipe, device
        kind and version of the engine (`run_folder` names one).
    budget : rows and tokens that run at one time; default what fits on the device (`budget_of`).
    stages : collects the seconds of each stage; with Ray summed over the workers.
    engine : ``"local"``, or a `Ray` (``"ray"`` is one with its defaults). Its workers compute the batches of the local
        engine, and the rows are the same; `out` may have been begun by the other engine.

    Returns
    -------
    pandas.DataFrame
        One row per prompt and condition; the book's chapter "Rows" describes the columns and ``rows.attrs``.

    Prompts of another model, an intervention that cannot act on a prompt and an unusable folder are refused before any
    model runs; an intervention that a layer did not carry out, afterwards.
    """
    recipe = find_recipe(recipe)
    _check(model, prompts, conditions)
    integer("max_new_tokens", max_new_tokens, 1, MOST_NEW_TOKENS)
    warn_beyond(model, [p.ids for p in prompts])
    one_of("rubric", recipe.rubric, scoring.RUBRICS)
    conform("budget", budget, Budget | None)
    conform("out", out, Path | str | None)
    resolved = {label: resolve(condition, model, recipe) for label, condition in conditions.items()}
    check_prompts(model, prompts, resolved.values(), recipe, max_new_tokens)
    cluster = Ray() if engine == "ray" else engine
    if isinstance(cluster, Ray):
        cluster.connect()
    else:
        one_of("engine", engine, ("local", "ray"))
    budget = budget or budget_of(model)
    stages = stages or Timings()
    run = run_key(model, recipe, max_new_tokens, budget)  # not what the memory has room for: that may change
    store = Store(out, run, facts(model))
    plan = schedule(model, prompts, list(resolved.values()), recipe, max_new_tokens, budget, store.answers.keys())
    finished = cluster.run(model, plan, stages) if isinstance(cluster, Ray) else run_schedule(model, plan, stages)
    total = sum(len(batch.rows) for batch in plan.batches)
    bar = progress_bar(progress and total > 0, f"{model.name}, {recipe.name}", unit="answer", total=total)
    with bar, closing(finished):
        for batch, tokens, ran in finished:
            bar.set_postfix_str(f"up to {ran.max_sequences} rows, {ran.max_tokens} tokens", refresh=False)
            texts = model.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            answers = [
                Answer(answer, *tokens_acted_on(model, plan, prompt, action, answered))
                for (prompt, action), answered, answer in zip(batch.rows, tokens, texts, strict=True)
            ]
            stages.tokens.update(zip(batch.keys, tokens, strict=True))
            store.add(batch.keys, answers, ran.max_sequences, ran.max_tokens)
            bar.update(len(tokens))
    with stages("scoring"):
        cells = [(p, label, answer_key(p, resolved[label])) for p in prompts for label in conditions]
        lines = [_row(model, recipe, label, conditions[label], p, store.answers[key]) for p, label, key in cells]
        rows = pd.DataFrame(lines).astype({"k": "Int64"})
        batches = [store.batches[key] for *_, key in cells]
        rows = rows.assign(max_new_tokens=max_new_tokens, run=name_of(run), batch=batches)
    rows.attrs.update(run=run, made=store.made_of(rows["batch"]), **_texts(prompts))
    store.write_rows(rows)
    return rows


def _check(model: Any, prompts: Any, conditions: Any) -> None:
    """Refuse prompts and conditions that would give wrong rows."""
    if not isinstance(model, Model):
        raise HybretError(f"model is {model!r}; give what hybret.load returns")
    if not isinstance(prompts, Sequence) or isinstance(prompts, str) or not all(isinstance(p, Prompt) for p in prompts):
        kind = type(prompts).__name__
        raise HybretError(f"prompts are a list of Prompt, not {kind}; build some with hybret.niah.grid")
    if not prompts:
        raise HybretError("there are no prompts to run; build some with hybret.niah.grid")
    if twice := len(prompts) - len({(p.key, repr(p.labels)) for p in prompts}):
        raise HybretError(f"{twice} prompts are given twice and would count twice; give each one once")
    texts: dict[Any, str] = {}
    for p in prompts:
        name = p.labels.get("haystack")
        known = texts.setdefault((name, p.labels.get("haystack_seed")), p.haystack_sha256)
        # The embedded text is generated as far as the longest prompt of a grid needs it.
        if name != "embedded" and known != p.haystack_sha256:
            raise HybretError(f"two different haystacks are called {name!r}; give each a name of its own")
    check_conditions(conditions)


def run_folder(
    out: str | Path,
    model: Model,
    recipe: Recipe | str = CORRECTED,
    max_new_tokens: int = decode.MAX_NEW_TOKENS,
    budget: Budget | None = None,
) -> Path:
    """The folder below `out` for this run, named by content: another model, recipe or engine gets another folder."""
    recipe = find_recipe(recipe)
    run = run_key(model, recipe, max_new_tokens, budget or budget_of(model))
    # A name is foreign text: what is left of it is one plain part of a path.
    plain = re.sub(r"[^\w.@+-]+", "-", Path(model.name).name)[:100]
    return Path(conform("out", out, Path | str)).expanduser() / f"{plain}-{name_of(run)}"


def load_rows(
    out: str | Path,
    model: Model,
    prompts: Iterable[Prompt],
    recipe: Recipe | str = CORRECTED,
    max_new_tokens: int = decode.MAX_NEW_TOKENS,
) -> pd.DataFrame:
    """Rows that finished sweeps left in the run's folder below `out`, whatever they were made for; no model runs.

    Rows of other prompts are left out. Cells of several sweeps come once, under the label of one of them. Empty if
    there are none.
    """
    recipe = find_recipe(recipe)
    paths = sorted(run_folder(out, model, recipe, max_new_tokens).glob("rows-*.parquet"))
    if not paths:
        return pd.DataFrame()
    rows = read_rows(paths)
    # One engine key serves several recipes: those that differ in how prompts are built or scored.
    rows = rows[(rows["recipe"] == recipe.name) & (rows["rubric"] == recipe.rubric)]
    asked = rows["asked"].fillna("") if "asked" in rows else [""] * len(rows)
    wanted = {(p.key, p.labels.get("asked", "")) for p in prompts}  # needles of one text may differ in their keywords
    rows = rows[[pair in wanted for pair in zip(rows["prompt"], asked, strict=True)]]
    return rows.drop_duplicates(["intervention", "prompt", *rows.columns.intersection([*CELL])]).reset_index(drop=True)


def _row(
    model: Model, recipe: Recipe, label: str, condition: Intervention, p: Prompt, answered: Answer
) -> dict[str, Any]:
    answer = f"{p.answer_prefix} {answered.answer}" if p.answer_prefix else answered.answer
    start, end = p.needle_spans[-1] if p.needle_spans else (-1, -1)
    distance = len(p.ids) - 1 - start if p.needle_spans else -1
    sparse = condition if isinstance(condition, KeepHeads) else None
    acts: dict[str, str] = {phase: " & ".join(part.label for part in condition.at(phase)) or "keep" for phase in PHASES}
    if isinstance(condition, PerPhase):
        acts = {phase: getattr(condition, phase).label for phase in PHASES}
    return {
        "model": model.name,
        "weights": model.digest,
        "recipe": recipe.name,
        "condition": label,
        "intervention": repr(condition),
        **acts,
        "k": sparse.k if sparse else None,
        "during": sparse.during if sparse else None,
        "acted_prefill": answered.acted_prefill,
        "acted_generation": answered.acted_generation,
        **p.labels,
        "place": 100 * p.position,
        "tokens": len(p.ids),
        "needle_start": start,
        "needle_end": end,
        "distance": distance,
        "in_window": bool(p.needle_spans) and (model.window is None or distance < model.window),
        "answer": answer,
        **(p.task or Niah()).score(answer, p, scoring.RUBRICS[recipe.rubric]),
        "rubric": recipe.rubric,
        "prompt": p.key,
        "device": model.device.type,
        "dtype": model.dtype,
    }


def _texts(prompts: Iterable[Prompt]) -> dict[str, Any]:
    """12 hex digits of the SHA-256 of every haystack, and of every needle with its question."""
    texts: dict[str, dict[str, str]] = {"haystacks": {}, "needles": {}}
    for p in prompts:
        if p.haystack_sha256:
            texts["haystacks"][f"{p.haystack}, seed {p.haystack_seed}"] = p.haystack_sha256[:12]
        if not p.control:  # a control has no needle's name; `asked` in its rows tells which one it leaves out
            texts["needles"][p.needle.name] = p.needle.digest
    return texts


def progress_bar(shown: bool, desc: str, **options: Any) -> Any:
    """A bar of tqdm on stderr, as text or as a notebook's widget; a log gets a line every 30 seconds."""
    if not shown:
        options["disable"] = True  # False would override TQDM_DISABLE
    if not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        options |= {"mininterval": 30, "maxinterval": 30}
    return tqdm(desc=printable(desc), **options)
