"""What the page of verdicts reads: rows that other chapters left; nothing is computed."""

from __future__ import annotations

from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

import hybret as hb
from book.paper import tipping
from book.paper.chapter import Chapter


def installed(chapter: Chapter) -> tuple[list[hb.Model], list[str]]:
    """Models of this run that are installed and have weights of their own, and why others are left out."""
    models, skipped = [], []
    for name in chapter.names:
        try:
            model = chapter.load(name)
        except hb.HybretError as problem:
            skipped.append(str(problem).split(";")[0])
            continue
        if model.has_random_weights:
            skipped.append(f"{name}: its weights are random, so that what it answers means nothing")
        else:
            models.append(model)
    return models, skipped


def stored(
    chapter: Chapter, models: list[hb.Model]
) -> tuple[pd.DataFrame | None, pd.DataFrame | None, list[hb.Prompt]]:
    """Stored rows of sweeps under both recipes, stored rows of benchmarks, and the prompts of the former."""
    prompts, rows, benchmarks = [], [], []
    for model, recipe in product(models, (chapter.decisions, chapter.other)):
        asked = [p for template in ("", "jrt") for p in chapter.prompts(model, template, recipe=recipe)]
        rows.append(hb.load_rows(chapter.out, model, asked, recipe))
        benchmarks += _benchmarks(chapter, model, recipe, rows[-1])
        prompts += asked
    joined = [pd.concat(parts, ignore_index=True) if any(map(len, parts)) else None for parts in (rows, benchmarks)]
    return joined[0], joined[1], prompts


def _benchmarks(chapter: Chapter, model: hb.Model, recipe: hb.Recipe, rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Stored rows of benchmarks in the sparse configuration of the chapter on benchmarks."""
    stored: list[pd.DataFrame] = []
    with suppress(hb.HybretError):  # the sweep that would give k has not run
        k, _ = tipping.sparse_configuration(rows[rows["template"] != "jrt"] if len(rows) else rows, model.heads)
        conditions = hb.harness.conditions(model, k)
        options: Any = {"limit": chapter.limit or None, "seed": chapter.seed, "out": chapter.out}
        options |= {"progress": False, "compute": False}
        for tasks in ("organism", "glue", "mmlu"):
            with suppress(hb.HybretError):  # data that were never fetched have no rows either
                stored.append(hb.harness.evaluate(model, tasks, conditions, recipe, **options))
    return stored


def write(table: pd.DataFrame, results: str) -> None:
    """Write the verdicts where the book's other pages find them."""
    Path(results).mkdir(parents=True, exist_ok=True)
    path = Path(results) / "verdicts.json"
    table.to_json(path, orient="records", indent=1)
    hb.figures.note(path)
