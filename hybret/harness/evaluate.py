"""Section 4: benchmarks through lm-evaluation-harness, with the attention of a hybrid under an intervention.

lm-eval renders the prompts and picks the shots; the model behind it (`hybret.harness.lm`) answers every request under
all conditions at once. Prefill is all there is: choices are compared by their log-likelihoods.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import lm_eval
import pandas as pd

from hybret.devices import Budget
from hybret.engine.likelihood import check
from hybret.errors import HybretError, check_conditions, integer
from hybret.files import digest, read_table, tables, write_table, writing
from hybret.harness import tasks as benchmarks
from hybret.harness.lm import Hybrid
from hybret.interventions import Intervention
from hybret.interventions.heads import KeepHeads
from hybret.models import Model
from hybret.recipe import CORRECTED, Recipe
from hybret.recipe import recipe as find_recipe
from hybret.resolving import resolve
from hybret.store import REMEDY, model_key
from hybret.sweeping import progress_bar

# Read once, with the code, as the sweep's.
HARNESS_DIGEST = digest(*(Path(__file__).with_name(f"{module}.py") for module in ("evaluate", "lm", "tasks")))


def conditions(model: Model, k: int) -> dict[str, Intervention]:
    """The paper's three configurations: base, sparse (`k` heads) and ablated, sparsified during prefill."""
    return {"base": KeepHeads(model.heads), "sparse": KeepHeads(k), "ablated": KeepHeads(0)}


def evaluate(
    model: Model,
    tasks: str | Sequence[str | benchmarks.Task],
    conditions: Mapping[str, Intervention],
    recipe: Recipe | str = CORRECTED,
    limit: int | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    max_length: int | None = None,
    budget: Budget | None = None,
    progress: bool = True,
    compute: bool = True,
) -> pd.DataFrame:
    """Run benchmarks under every condition, document by document; one row for each.

    The book's chapter "Rows" describes the columns. A model with a chat template gets it, with the shots as turns.

    Parameters
    ----------
    tasks : see `hybret.harness.tasks.find`.
    conditions : row label to intervention; the three of the paper are `conditions`.
    limit : only the first documents of every task.
    out : a folder. Rows are written there, one Parquet file for each task and condition below ``benchmarks/``, named by
        content (weights, recipe, engine, questions): a second call computes only what is missing.
    seed : of lm-eval's sampler, for tasks that draw their shots. GLUE, MMLU and our own tasks draw none.
    max_length : longest text in tokens; longer ones lose their beginning. Default: what the configuration says
        (``max_position_embeddings``), else nothing is cut.
    budget : rows and tokens of one pass; default what fits on the device.
    compute : False runs no model: tasks of which not every row is stored are left out, and the table may be empty.
    """
    recipe = find_recipe(recipe)
    check_conditions(conditions)
    for name, value, least in (("limit", limit, 1), ("max_length", max_length, 2), ("seed", seed, 0)):
        if value is not None:
            integer(name, value, least)
    for condition in conditions.values():
        check(model, condition, recipe)
    wanted = benchmarks.find(tasks)
    max_length = max_length or getattr(model.net.config, "max_position_embeddings", None)
    keys = {label: resolve(condition, model, recipe).key for label, condition in conditions.items()}
    distinct = {keys[label]: condition for label, condition in conditions.items()}
    shared = _identity(model, recipe, limit, seed, max_length)
    paths = dict[tuple[str, str], Path]()
    for task, key in product(wanted, distinct):  # the names hold all that decides the rows
        identity = json.dumps({**shared, "task": task.digest, "does": key}, sort_keys=True)
        if out is not None:
            paths[task.name, key] = Path(out).expanduser() / "benchmarks" / f"{task.name}-{digest(identity, digits=16)}"
    done = {cell: read_table(files[-1]) for cell, path in paths.items() if (files := tables(path))}
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    missing = [task for task in wanted if any((task.name, key) not in done for key in distinct)]
    if not compute:
        wanted, missing = [task for task in wanted if task not in missing], []
        if not wanted:
            return pd.DataFrame()
    with progress_bar(progress, f"{model.name}, {recipe.name}", unit="answer") as bar:
        for task in missing:
            absent = {key: c for key, c in distinct.items() if (task.name, key) not in done}
            lm = Hybrid(model, absent, recipe, max_length, budget, bar)
            loaded = benchmarks.load(task)
            loaded.set_fewshot_seed(seed)
            # Not `simple_evaluate`, which also lists every installed package: two seconds.
            results = lm_eval.evaluate(
                lm,
                {"tasks": {task.name: loaded}, "groups": {}},
                limit=limit,
                bootstrap_iters=0,
                apply_chat_template=model.instruct,
                fewshot_as_multiturn=model.instruct,
            )
            assert results is not None  # only other ranks of a distributed run get nothing
            for key in absent:
                rows = _rows(results["samples"][task.name], lm, key, results["n-shot"][task.name])
                done[task.name, key] = rows
                if path := paths.get((task.name, key)):
                    with writing(f"rows in {path.parent}", REMEDY):
                        path.parent.mkdir(parents=True, exist_ok=True)
                        write_table(path, rows)
    versions = {column: shared[column] for column in ("engine", "harness", "torch", "transformers", "lm_eval")}
    parts = [
        done[task.name, keys[label]].assign(**_labels(model, recipe, task, label, condition), **versions)
        for task, (label, condition) in product(wanted, conditions.items())
    ]
    table = pd.concat(parts, ignore_index=True).astype({"k": "Int64"})
    if (table.groupby(["task", "doc_id"])["doc"].nunique() > 1).any():
        raise HybretError("the conditions were asked different questions; remove the rows of this run and run it again")
    return table


def _rows(samples: Iterable[dict[str, Any]], lm: Hybrid, condition: str, shots: int) -> pd.DataFrame:
    """What one task has under one condition: lm-eval's record of the questions, and the model's answers."""
    rows = []
    for sample in samples:
        scores = [lm.scores[strings][condition][0] for strings in sample["arguments"]]
        chosen = max(range(len(scores)), key=scores.__getitem__)  # of several the first, as np.argmax in lm-eval
        tokens = lm.tokens[sample["arguments"][0][0]]
        rows.append(
            {
                "doc_id": sample["doc_id"],
                "doc": digest(*(sample[part] for part in ("doc_hash", "prompt_hash", "target_hash")), digits=16),
                "cluster": sample["doc"].get("cluster", sample["doc_id"]),
                "tokens": tokens,
                "truncated": lm.max_length is not None and tokens > lm.max_length,
                "shots": shots,
                "choices": len(scores),
                "gold": int(sample["target"]),
                "chosen": chosen,
                "correct": chosen == int(sample["target"]),
                "loglikelihoods": scores,
            }
        )
    return pd.DataFrame(rows)


def _labels(model: Model, recipe: Recipe, task: benchmarks.Task, label: str, condition: Intervention) -> dict[str, Any]:
    return {
        "benchmark": task.benchmark,
        "group": task.group,
        "task": task.name,
        "label": task.label,
        "condition": label,
        "intervention": repr(condition),
        "k": condition.k if isinstance(condition, KeepHeads) else None,
        "model": model.name,
        "weights": model.digest,
        "recipe": recipe.name,
        "chat": model.instruct,
        "device": model.device.type,
        "dtype": model.dtype,
    }


def _identity(model: Model, recipe: Recipe, limit: int | None, seed: int, max_length: int | None) -> dict[str, Any]:
    return model_key(model) | {
        "chat": str(model.tokenizer.chat_template) if model.instruct else None,
        "recipe": recipe.engine_key,
        "limit": limit,
        "seed": seed,
        "max_length": max_length,
        "harness": HARNESS_DIGEST,
        "lm_eval": version("lm_eval"),
    }
