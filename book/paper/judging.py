"""Rows that the claims are judged by.

Chapters compute some of models and recipes that they do not show in full, on fewer prompts: on all where a test is
about none at all (0 of 100 is below its limit, 0 of 50 is not) or about needles beyond the window, on every second
length elsewhere. The page of verdicts reads what the chapters left and computes nothing.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pandas as pd

import hybret as hb
from book.paper import benchmarks, numbers, tipping
from book.paper.chapter import Chapter, keep_heads


def figure2(chapter: Chapter, hybrid: hb.Model, recipe: hb.Recipe) -> pd.DataFrame:
    """Rows of the paper's Figure 2 at every second length; those of its Figure 3 are left in the folder."""

    def swept(template: str, ks: set[int], *phases: str) -> pd.DataFrame:
        prompts = chapter.prompts(hybrid, template, recipe=recipe)
        chapter.sweep(hybrid, prompts, keep_heads(hybrid, *phases, ks=[0]), recipe)
        return chapter.sweep(hybrid, chapter.thinned(prompts), keep_heads(hybrid, *phases, ks=sorted(ks)), recipe)

    heads = hybrid.heads
    swept("jrt", {0, 1, 2, heads}, "generation")
    return swept("", {0, 1, 2, 3, 4, numbers.few_heads(heads), heads // 2, hybrid.ks[-2], heads}, "generation", "both")


def table1(chapter: Chapter, hybrid: hb.Model, recipe: hb.Recipe) -> pd.DataFrame:
    """Rows of the paper's Table 1 at every second length; none where manipulations do not act."""
    if recipe.jamba_manipulation == "no-op" and hybrid.family == "jamba":
        return pd.DataFrame()
    prompts, pairs = chapter.prompts(hybrid, recipe=recipe), hb.table1_conditions()
    chapter.sweep(hybrid, prompts, {name: pairs[name] for name in ("Keep-Keep", "Omit-Keep")}, recipe)
    return chapter.sweep(hybrid, chapter.thinned(prompts), pairs, recipe)


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
    prompts, rows, tested = [], [], []
    for model in models:
        k = None  # of the sparse configuration; none where the sweep that gives it has not run
        for recipe in (chapter.decisions, chapter.other):
            asked = [p for template in ("", "jrt") for p in chapter.prompts(model, template, recipe=recipe)]
            swept = hb.load_rows(chapter.out, model, asked, recipe)
            if recipe == chapter.decisions:
                once = swept[swept["template"] != "jrt"] if len(swept) else swept
                with suppress(hb.HybretError):
                    k, _ = tipping.sparse_configuration(once, model.heads)
            for tasks in ("organism", "glue", "mmlu") if k is not None else ():
                with suppress(hb.HybretError):  # data that were never fetched have no rows either
                    tested.append(benchmarks.items(chapter, model, tasks, k or 0, recipe, compute=False))
            rows.append(swept)
            prompts += asked
    joined = [pd.concat(parts, ignore_index=True) if any(map(len, parts)) else None for parts in (rows, tested)]
    return joined[0], joined[1], prompts


def write(table: pd.DataFrame, results: str) -> None:
    """Write the verdicts where the book's other pages find them."""
    Path(results).mkdir(parents=True, exist_ok=True)
    path = Path(results) / "verdicts.json"
    table.to_json(path, orient="records", indent=1)
    hb.figures.note(path)
