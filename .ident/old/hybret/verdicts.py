"""A verdict for every claim of the paper, computed from rows: by model and recipe.

The claims and their tests are data (`CLAIMS`); nothing here knows an answer. `of` judges rows, `said` puts the
verdicts into sentences, `html` into a table.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

import pandas as pd

from . import asked, tables
from .claims import HYPOTHESES, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, VERDICTS, Claim, Outcome
from .claims import benchmarks as claims_benchmarks
from .claims import heads as claims_heads
from .claims import weights as claims_weights
from .claims.evidence import Evidence, NotTestable
from .errors import HybretError, printable
from .presets import made_up

__all__ = ["CLAIMS", "HYPOTHESES", "VERDICTS", "Claim", "html", "of", "said"]

_ALL = (*claims_heads.CLAIMS, *claims_benchmarks.CLAIMS, *claims_weights.CLAIMS)
CLAIMS = {claim.name: claim for hypothesis in HYPOTHESES for claim in _ALL if claim.hypothesis == hypothesis}
ACROSS = "all models"
SWEEP = ("model", "weights", "recipe", "condition", "intervention", "prefill", "generation", "k", "during", "template",
         "haystack", "haystack_seed", "needle", "asked", "length", "depth", "in_window", "answer", "score",
         "prompt")  # fmt: skip
# What rows of a model have one of, and the column that tells.
ONE = {
    "needle": "asked",
    "haystack": "haystack",
    "rubric": "rubric",
    "device": "device",
    "dtype": "dtype",
    "answer length": "max_new_tokens",
}
CELL = ["model", "recipe", "intervention", "prefill", "generation", "k", "during", *tables.CELL]
ITEMS = ("model", "recipe", "benchmark", "group", "task", "label", "condition", "doc_id", "cluster", "gold", "chosen",
         "choices")  # fmt: skip


def of(
    rows: pd.DataFrame | None = None,
    benchmarks: pd.DataFrame | None = None,
    claims: Iterable[str] | None = None,
    models: Iterable[Any] = (),
    recipes: Iterable[str] = (),
    prompts: Iterable[Any] = (),
) -> pd.DataFrame:
    """Judge every claim, for every model and recipe in the rows.

    Parameters
    ----------
    rows : rows of sweeps, with their controls; what is not there is not testable.
    benchmarks : rows of `hybret.harness.evaluate` in the configurations base, sparse and ablated. Of the groups, glue
        is one side, mmlu-lookup another, and everything else that begins with mmlu the third.
    claims : judge only those of these names; default all.
    models : loaded models (or anything with name, heads, parameters and family) that the rows are of. Without them the
        largest k of the rows counts as all heads, and claims about size are not testable.
    recipes : recipes to judge every one of `models` under, also where there are no rows.
    prompts : the prompts of the rows, for the claim about copied answers.

    Returns
    -------
    DataFrame
        One line per claim, model and recipe, in the order of `CLAIMS`; claims that compare models have one line per
        recipe, with the model ``"all models"``. Columns: claim, the claim's fields (label, hypothesis, says, where,
        paper, test, notebook, figure, across), model, recipe, verdict, ours (our figure in words, with its
        interval), value, low, high, unit (of the number that was tested), n, prompts, why.

    Raises
    ------
    HybretError
        For random weights; two sets of weights, templates, needles, haystacks, ... under one name; several answers to
        one cell; an unknown claim; a missing column; or where tables are given and there is nothing to judge.
    """
    given = rows is not None or benchmarks is not None
    rows, benchmarks = _checked(rows, SWEEP), _checked(benchmarks, ITEMS)
    names = list(CLAIMS) if claims is None else list(claims)
    if unknown := [name for name in names if name not in CLAIMS]:
        raise HybretError(f"unknown claim {unknown[0]!r}; choose among {', '.join(CLAIMS)}")
    known = {model.name: model for model in models}
    prompts = list(prompts)
    texts, questions = {prompt.key: prompt.text for prompt in prompts}, {prompt.question for prompt in prompts}
    pairs = [(model, recipe) for model in known for recipe in recipes]
    pairs += [pair for table in (rows, benchmarks) for pair in zip(table["model"], table["recipe"], strict=True)]
    if given and not pairs:
        raise HybretError("there are no rows to judge; run a sweep first, or check the selection that was passed")
    evidence = [
        _evidence(rows, benchmarks, known.get(model), model, recipe, texts, questions)
        for model, recipe in dict.fromkeys(pairs)
    ]
    lines = []
    for claim in (claim for name, claim in CLAIMS.items() if name in names):
        judged: list[tuple[str, str, Any]] = [(e.model, e.recipe, e) for e in evidence]
        if claim.across:
            judged = [
                (ACROSS, recipe, [e for e in evidence if e.recipe == recipe])
                for recipe in dict.fromkeys(e.recipe for e in evidence)
            ]
        about = {"claim": claim.name} | {name: getattr(claim, name) for name in _FIELDS}
        lines += [about | {"model": model, "recipe": recipe} | _line(claim, found) for model, recipe, found in judged]
    return pd.DataFrame(lines, columns=_COLUMNS)


def _evidence(
    rows: pd.DataFrame,
    benchmarks: pd.DataFrame,
    loaded: Any,
    model: str,
    recipe: str,
    texts: dict[str, str],
    questions: set[str],
) -> Evidence:
    own, tested = (t[(t["model"] == model) & (t["recipe"] == recipe)] for t in (rows, benchmarks))
    heads, parameters, family = (getattr(loaded, name, None) for name in ("heads", "parameters", "family"))
    return Evidence(model, recipe, own, tested, heads, parameters, texts, family or "", questions)


_FIELDS = [name for name in Claim.__dataclass_fields__ if name not in ("name", "judge")]
_NUMBERS = ["value", "low", "high", "unit", "n", "prompts"]
_COLUMNS = ["claim", *_FIELDS, "model", "recipe", "verdict", "ours", *_NUMBERS, "why"]


def _line(claim: Claim, found: Any) -> dict[str, Any]:
    try:
        outcome = claim.judge(found)
    except NotTestable as reason:
        outcome = Outcome(NOT_TESTABLE, reason.ours, reason.estimate, reason.why)
    number = outcome.estimate
    return {
        "verdict": outcome.verdict,
        "ours": outcome.ours,
        **{name: getattr(number, name) if number else pd.NA for name in _NUMBERS},
        "why": outcome.why,
    }


def _checked(table: pd.DataFrame | None, columns: Iterable[str]) -> pd.DataFrame:
    """The table with the columns that it needs, and no random weights in it."""
    if table is None or (isinstance(table, pd.DataFrame) and table.empty):
        return pd.DataFrame(columns=[*columns])
    numbers = ("k", "score", "length", "depth", "in_window", "gold", "chosen", "choices")
    asked.table(table, [*columns], numbers, ("model", "recipe"), "a sweep or of the benchmarks")
    weights = table["weights"].astype(str) if "weights" in table else pd.Series("", index=table.index)
    random = made_up(table["model"], weights)
    if random.any():
        raise HybretError(
            f"{table.loc[random, 'model'].iloc[0]} has random weights: what it answers means nothing, so no claim is "
            "judged by it; leave its rows out"
        )
    once = table["template"].where(table["template"] != "jrt") if "template" in table else weights
    kinds = {"weights": weights, "templates (beside the one that reads twice)": once}
    kinds |= {f"{name}s": table[column] for name, column in ONE.items() if column in table}
    for kind, column in kinds.items():
        # Recipes are judged apart, and have rubrics of their own.
        whose = table["model"].astype(str) + ", " + table["recipe"].astype(str) if kind == "rubrics" else table["model"]
        several = column.groupby(whose).nunique() > 1
        if several.any():
            raise HybretError(f"rows of {several.idxmax()} come from different {kind}; pass those of one only")
    table = tables.settled(table)
    if "prompt" in table:
        # What overlapping tables have in common counts once; of two answers to one cell none is the one.
        answers = table.drop_duplicates([*CELL, "prompt", "answer", "score"])
        if (several := answers.duplicated(CELL)).any():
            raise HybretError(
                f"rows of {answers.loc[several, 'model'].iloc[0]} hold several answers to one cell (condition "
                f"{answers.loc[several, 'condition'].iloc[0]!r}), as after joining two runs; pass those of one"
            )
    return table


def said(table: pd.DataFrame) -> dict[str, list[str]]:
    """For each hypothesis a sentence per model: how many of the testable claims are reproduced, and which are not.

    Parameters
    ----------
    table : from `of`, of one recipe or several.
    """
    asked.table(table, _COLUMNS, what="verdicts.of")
    sentences = {}
    for hypothesis, of_it in table.groupby("hypothesis", sort=False):
        parts = []
        for (model, recipe), own in of_it.groupby(["model", "recipe"], sort=False):
            testable = own[own["verdict"] != NOT_TESTABLE]
            good = int((testable["verdict"] == REPRODUCED).sum())
            bad = testable.loc[testable["verdict"] == NOT_REPRODUCED, "label"]
            if len(testable):
                but = f" (not: {'; '.join(bad)})" if len(bad) else ""
                parts.append(f"{model}, {recipe}: {good} of {len(testable)} testable claims reproduced{but}.")
        sentences[f"{hypothesis}, {HYPOTHESES[str(hypothesis)]}"] = parts or ["Nothing could be tested."]
    return sentences


MARKS = {REPRODUCED: "●", NOT_REPRODUCED: "✕", NOT_TESTABLE: "○"}


def html(table: pd.DataFrame) -> str:
    """Verdicts as an HTML table to read: each claim, what the paper says, what was tested, and what every model shows.

    Parameters
    ----------
    table : from `of`. All text is escaped. Links lead to the figure of a sibling page that the claim was measured in;
        other pages link to ``#claim-NAME``.
    """
    asked.table(table, _COLUMNS, what="verdicts.of")
    rows = []
    for _, lines in table.groupby("claim", sort=False):
        claim = {name: escape(str(lines.iloc[0][name])) for name in _FIELDS}
        name = escape(str(lines.iloc[0]["claim"]))
        rows.append(
            f'<tr class="hb-claim" id="claim-{name}"><th colspan="3" scope="colgroup">{claim["says"]} '
            f"<small>{claim['where']}. "
            f"Paper: <b>{claim['paper']}</b>. Test: {claim['test']}. "
            f'<a href="{claim["notebook"]}.html#{claim["figure"]}">Where it is measured</a></small></th></tr>'
        )
        alike: dict[tuple[str, str], list[str]] = {}  # models that show the same share a line
        for line in lines.to_dict("records"):
            said = [line["ours"], f"n = {line['n']}" if line["ours"] and not pd.isna(line["n"]) else "", line["why"]]
            verdict = f"{MARKS[line['verdict']]} {line['verdict'].removesuffix(' on this model')}"
            found = alike.setdefault((verdict, "; ".join(filter(None, said))), [])
            found.append(escape(printable(f"{line['model']}, {line['recipe']}")))
        for (verdict, here), names in alike.items():
            cells = ("<br>".join(names), escape(verdict), escape(printable(here)))
            rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "<tr><th>model, recipe</th><th>verdict</th><th>here</th></tr>"
    return f'<table class="hb-verdicts tex2jax_ignore"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'
