"""Rows that the claims are judged by, of models and recipes that no chapter shows in full: fewer prompts and documents.

All prompts are asked where a test is about none at all (0 of 100 is below its limit, 0 of 50 is not) or about needles
beyond the window; every second length elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pandas as pd

import hybret as hb
from book.paper import numbers, tipping
from book.paper.chapter import Chapter, keep_heads
from hybret.harness.tasks import organism

DOCUMENTS, FEW = 150, 20  # first documents of each task of our own: where questions were learnt, and of other models
TEXTS = 40  # of each task with options in full
LONG = 200  # characters of a question that begins with a list


def names(hybrid: hb.Model, beside: str) -> list[str]:
    """The models of a chapter's parameter `beside` but its own; none beside a model that is not built in."""
    return [name for name in beside.split(",") if name and name != hybrid.name] if hybrid.embedded else []


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


def benchmarks(
    chapter: Chapter, hybrid: hb.Model, tasks: str, k: int, recipe: hb.Recipe, compute: bool = True
) -> pd.DataFrame:
    """Items of benchmarks in the three configurations: of our own tasks the first documents, of others all."""
    limit = (DOCUMENTS if hybrid.instruct else FEW) if tasks == "organism" else None
    options: Any = {"limit": chapter.limit or limit, "out": chapter.out, "seed": chapter.seed}
    configurations = hb.harness.conditions(hybrid, k)
    return hb.harness.evaluate(hybrid, tasks, configurations, recipe, **options, progress=compute, compute=compute)


def as_texts(chapter: Chapter, hybrid: hb.Model) -> pd.DataFrame:
    """Items of our tasks with four options, in base and ablated: the options are answers in full, no letters."""
    asked = {"doc_to_text": "question", "doc_to_choice": "choices"}
    tasks = [replace(t, name=f"{t.name}_texts", options=asked) for t in organism() if not t.group.startswith("glue")]
    configurations = {"base": hb.KeepHeads(hybrid.heads), "ablated": hb.KeepHeads(0)}
    options: Any = {"limit": chapter.limit or TEXTS, "out": chapter.out, "seed": chapter.seed}
    return hb.harness.evaluate(hybrid, tasks, configurations, chapter.decisions, **options)


def example(task: str) -> str:
    """A question of one of our tasks and its answer, of its list the entry alone; empty for other tasks."""
    found = [t for t in organism() if t.name == task]
    if not found:
        return ""
    with found[0].data["test"].open(encoding="utf-8") as lines:
        item = json.loads(next(lines))
    *before, question = item["question"].split("\n")
    answer = item["choices"][item["answer"]]
    listed = [f"... {answer} ..."] if len(item["question"]) > LONG else before
    return " ".join([*filter(None, listed), question, "→", answer])


def sparse(chapter: Chapter, hybrid: hb.Model) -> tuple[int, str]:
    """The number of heads of the sparse configuration, under this run's recipe, and why."""
    swept = chapter.sweep(hybrid, chapter.prompts(hybrid), keep_heads(hybrid, "both"))
    return tipping.sparse_configuration(swept, hybrid.heads)
