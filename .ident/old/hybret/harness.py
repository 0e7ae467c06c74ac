"""Section 4: benchmarks through lm-evaluation-harness, with the attention of a hybrid under an intervention.

lm-eval renders the prompts and picks the shots; the model behind it (`hybret.hybrid_lm`) answers every request under
all conditions at once. Prefill is all there is: choices are compared by their log-likelihoods.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import lm_eval
import pandas as pd
import torch
import transformers

from . import asked, benchmarks
from .engine.batches import Budget, does
from .engine.likelihood import check
from .errors import HybretError
from .hybrid_lm import Hybrid
from .interventions import Intervention, KeepHeads
from .models import Model
from .progress import bar as progress_bar
from .recipe import CORRECTED, Recipe
from .recipe import recipe as find_recipe
from .store import read_table, tables, unwritable, write_table
from .sweeping import ENGINE_DIGEST

ROWS_AT_ONCE = 5000
"""Documents of the tasks that one call of lm-eval evaluates: what an interruption loses."""
HARNESS = ("benchmarks", "harness", "hybrid_lm")  # beside the engine
# Read once, with the code, as the sweep's.
HARNESS_DIGEST = hashlib.sha256(
    b"".join((Path(__file__).parent / f"{module}.py").read_bytes() for module in HARNESS)
).hexdigest()[:12]


def conditions(model: Model, k: int) -> dict[str, Intervention]:
    """The paper's three configurations: base, sparse (`k` heads) and ablated, sparsified during prefill."""
    return {"base": KeepHeads(model.heads), "sparse": KeepHeads(k), "ablated": KeepHeads(0)}


def evaluate(
    model: Model,
    tasks: str | Sequence[str],
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
    """Run benchmarks under every condition, document by document.

    Parameters
    ----------
    model : Model
        One with a chat template gets it, with the shots as turns.
    tasks : str or sequence of str
        See `hybret.benchmarks.find`.
    conditions : mapping of str to Intervention
        Row label to intervention; the three of the paper are `conditions`.
    recipe : Recipe or str
    limit : int, optional
        Only the first documents of every task.
    out : folder, optional
        Rows are written here, one Parquet file for each task and condition below ``benchmarks/``, named by content
        (weights, recipe, engine, what is asked): a second call computes only what is missing.
    seed : int
        Of lm-eval's sampler, for tasks that draw their shots. GLUE, MMLU and the organisms' tasks draw none.
    max_length : int, optional
        Longest text in tokens; longer ones lose their beginning. Default: what the configuration says
        (``max_position_embeddings``), else nothing is cut.
    budget : Budget, optional
        Rows and tokens of one pass; default what fits on the device.
    progress : bool
    compute : bool
        False runs no model: tasks of which not every row is stored are left out, and the table may be empty.

    Returns
    -------
    pandas.DataFrame
        One row per document and condition; the columns are described in the book's chapter "Rows".

    Raises
    ------
    HybretError
        Nothing to do, unknown tasks, data that have not been fetched, a condition that cannot act; before any model
        runs. Afterwards: sparsification that did not act, or documents that differ between the conditions.
    """
    recipe = find_recipe(recipe)
    asked.conditions(conditions)
    if limit is not None and limit < 1:
        raise HybretError(f"limit is {limit}; give at least 1 document per task")
    for condition in conditions.values():
        check(model, condition)
    wanted = benchmarks.find(tasks)
    max_length = max_length or getattr(model.net.config, "max_position_embeddings", None)
    acting = {does(model, recipe, condition): condition for condition in conditions.values()}
    shared = _identity(model, recipe, limit, seed, max_length)
    cells = {(task.name, effect): _path(out, task, {**shared, "task": task.digest, "does": effect})
             for task in wanted for effect in acting}  # fmt: skip
    found = {cell: tables(path) for cell, path in cells.items() if path is not None}
    done = {cell: read_table(paths[-1]) for cell, paths in found.items() if paths}
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    missing = [task for task in wanted if any((task.name, effect) not in done for effect in acting)]
    if not compute:
        wanted, missing = [task for task in wanted if task not in missing], []
        if not wanted:
            return pd.DataFrame()
    with progress_bar(desc=f"{model.name}, {recipe.name}", unit="answer", disable=not progress) as bar:
        for loaded in _portions(missing, limit):
            absent = {e: c for e, c in acting.items() if any((name, e) not in done for name in loaded)}
            lm = Hybrid(model, absent, recipe, max_length, budget, bar)
            for task in loaded.values():
                task.set_fewshot_seed(seed)
            # Not `simple_evaluate`, which also lists every installed package: two seconds.
            results = lm_eval.evaluate(
                lm,
                {"tasks": loaded, "groups": {}},
                limit=limit,
                bootstrap_iters=0,
                apply_chat_template=model.instruct,
                fewshot_as_multiturn=model.instruct,
            )
            assert results is not None  # only other ranks of a distributed run get nothing
            for name, effect in product(loaded, absent):
                rows = _rows(results["samples"][name], lm, effect, results["n-shot"][name])
                done[name, effect] = rows
                _write(cells[name, effect], rows)
    table = pd.concat(
        [
            done[task.name, does(model, recipe, condition)].assign(
                **_labels(model, recipe, task, label, condition), **{c: shared[c] for c in _VERSIONS}
            )
            for task in wanted
            for label, condition in conditions.items()
        ],
        ignore_index=True,
    ).astype({"k": "Int64"})
    if (table.groupby(["task", "doc_id"])["doc"].nunique() > 1).any():
        raise HybretError("the conditions were asked different questions; remove the rows of this run and run it again")
    return table


def _portions(tasks: Sequence[benchmarks.Task], limit: int | None) -> Iterator[dict[str, Any]]:
    """lm-eval's tasks, some thousand documents at a time."""
    portion: list[benchmarks.Task] = []
    documents = 0
    for task in tasks:
        n = sum(1 for split, path in task.data.items() if split != "dev" for _ in path.open("rb"))
        n = min(n, limit or n)
        if portion and documents + n > ROWS_AT_ONCE:
            yield benchmarks.load(portion)
            portion, documents = [], 0
        portion.append(task)
        documents += n
    if portion:
        yield benchmarks.load(portion)


def _rows(samples: Iterable[dict[str, Any]], lm: Hybrid, condition: str, shots: int) -> pd.DataFrame:
    """What one task has under one condition: lm-eval's record of the questions, and the model's answers."""
    rows = []
    for sample in samples:
        scores = [lm.scores[strings][condition][0] for strings in sample["arguments"]]
        chosen = max(range(len(scores)), key=scores.__getitem__)  # of several the first, as np.argmax in lm-eval
        asked = "".join(sample[part] for part in ("doc_hash", "prompt_hash", "target_hash"))
        tokens = lm.tokens[sample["arguments"][0][0]]
        rows.append(
            {
                "doc_id": sample["doc_id"],
                "doc": hashlib.sha256(asked.encode()).hexdigest()[:16],
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


_VERSIONS = ("engine", "harness", "torch", "transformers", "lm_eval")


def _identity(
    model: Model, recipe: Recipe, limit: int | None, seed: int, max_length: int | None
) -> dict[str, str | int | None]:
    return {
        "weights": model.digest,
        "window": model.window,
        "chat": str(model.tokenizer.chat_template) if model.instruct else None,
        "dtype": model.dtype,
        "device": model.device.type,
        "recipe": recipe.engine_key,
        "limit": limit,
        "seed": seed,
        "max_length": max_length,
        "engine": ENGINE_DIGEST,
        "harness": HARNESS_DIGEST,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "lm_eval": version("lm_eval"),
    }


def _path(out: str | Path | None, task: benchmarks.Task, identity: dict[str, Any]) -> Path | None:
    """Where the rows of one task under one condition lie (`tables`), named by everything that decides them."""
    if out is None:
        return None
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return Path(out) / "benchmarks" / f"{task.name}-{name}"


def _write(path: Path | None, rows: pd.DataFrame) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(path, rows)
    except OSError as problem:
        raise unwritable(path.parent, problem) from problem
