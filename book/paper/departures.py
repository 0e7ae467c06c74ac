"""What each decision of the authors' code changes by itself, cell by cell."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

import hybret as hb
from book.paper.chapter import Chapter, keep_heads


def cases(hybrid: hb.Model) -> dict[str, list[str]]:
    """The conditions on which each field of a recipe can show, by field."""
    half = [*keep_heads(hybrid, "generation", "both", ks=[hybrid.heads // 2])]
    return {
        "insertion": ["Keep-Keep"],
        "needle_copies": ["Omit-Keep"],
        "needle_span": ["Omit-Keep", "Only-Keep", "Only-Omit", "Keep-Only"],
        "out_of_window": ["Only-Keep", "Binary-Keep", "Omit-Keep"],
        "binary": ["Binary-Keep", "Keep-Binary"],
        "entropy_dtype": half,
        "entropy_eps": half,
        "tie_break": half,
        "prompt_split": [*half, "Omit-Keep"],
        "jamba_manipulation": ["Omit-Keep", "Only-Keep"],
        "rubric": ["Keep-Keep", *half],
    }


def without_effect(hybrid: hb.Model) -> set[str]:
    """Fields that cannot change anything on this model: some concern Jamba alone, one needs a window."""
    fields = set() if hybrid.family == "jamba" else {"prompt_split", "jamba_manipulation"}
    return fields | ({"out_of_window"} if hybrid.window is None else set())


def rows(
    chapter: Chapter, hybrid: hb.Model, names: Iterable[str], recipe: hb.Recipe, template: str = ""
) -> pd.DataFrame:
    """Rows of the named conditions under a recipe, with their control, at every third length."""
    known = hb.table1_conditions() | keep_heads(hybrid, "generation", "both", ks=[hybrid.heads // 2])
    conditions = {name: known[name] for name in dict.fromkeys(names)}
    prompts = chapter.thinned(chapter.prompts(hybrid, template, recipe=recipe), 3)
    return chapter.sweep(hybrid, prompts, conditions, recipe)


def paired(chapter: Chapter, before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """From what the text says to what the code did, cell by cell; arguments: this run's recipe, and with the change."""
    text, code = (before, after) if chapter.decisions == hb.CORRECTED else (after, before)
    return hb.metrics.departures(text, code, by="condition")


def one_by_one(chapter: Chapter, hybrid: hb.Model, base: pd.DataFrame, fields: Iterable[str] = ()) -> pd.DataFrame:
    """What each field changes by itself; a field without effect has a line of gaps.

    Parameters
    ----------
    base : rows under this run's recipe of all conditions of `cases`.
    fields : some fields of a recipe; all by default.
    """
    parts = []
    for field, names in cases(hybrid).items():
        if fields and field not in fields:
            continue
        if field in without_effect(hybrid):
            gaps = {name: float("nan") for name in ("difference", "low", "high")}
            parts.append(pd.DataFrame({"field": field, "condition": names[:1], **gaps}))
            continue
        before, value = base[base["condition"].isin(names)], getattr(chapter.other, field)
        changed, template = chapter.decisions.replace(**{field: value}), ""
        if field == "needle_copies":  # of prompts that hold the needle twice
            template = "jrt"
            before = rows(chapter, hybrid, names, chapter.decisions, template)
        after = (
            hb.scoring.rescore(before, value) if field == "rubric" else rows(chapter, hybrid, names, changed, template)
        )
        pairs = paired(chapter, before, after).assign(field=field)
        parts.append(pairs.assign(condition=pairs["condition"] + ", read twice") if template else pairs)
    return pd.concat(parts, ignore_index=True)


def of_other_models(chapter: Chapter, hybrid: hb.Model) -> pd.DataFrame:
    """The fields without effect on `hybrid`, measured on the other models of this run that can show them."""

    def measure(another: hb.Model) -> pd.DataFrame:
        fields = without_effect(hybrid) - without_effect(another)
        names = [name for field, several in cases(another).items() if field in fields for name in several]
        if not fields:
            return pd.DataFrame()
        base = rows(chapter, another, names, chapter.decisions)
        return one_by_one(chapter, another, base, fields).assign(model=another.name, weights=another.digest)

    parts = [part for part in chapter.each(measure, chapter.names[1:]) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
