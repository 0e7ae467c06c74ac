"""A verdict for every claim of the paper, for each model and recipe, computed from rows.

`CLAIMS` has the claims and their tests; `of` judges rows, `said` writes the verdicts as sentences, `html` as a table.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

import pandas as pd

from book.paper.claims import HYPOTHESES, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, VERDICTS, Claim, Outcome
from book.paper.claims import benchmarks as claims_benchmarks
from book.paper.claims import heads as claims_heads
from book.paper.claims import weights as claims_weights
from book.paper.claims.evidence import Evidence, NotTestable
from hybret import metrics
from hybret.errors import HybretError, printable
from hybret.families import has_random_weights
from hybret.rows import ACTS, check_columns

__all__ = ["CLAIMS", "HYPOTHESES", "VERDICTS", "Claim", "html", "of", "said"]

_ALL = (*claims_heads.CLAIMS, *claims_benchmarks.CLAIMS, *claims_weights.CLAIMS)
CLAIMS = {claim.name: claim for hypothesis in HYPOTHESES for claim in _ALL if claim.hypothesis == hypothesis}
ACROSS = "all models"
SWEEP = ("model", "weights", "recipe", "condition", *ACTS, *metrics.CELL, "in_window", "answer", "score", "prompt")
# The rows of a model must have one value of these, by name and column.
ONE = {"needle": "asked", "haystack": "haystack", "rubric": "rubric", "device": "device", "dtype": "dtype",
       "answer length": "max_new_tokens"}  # fmt: skip
CELL = ["model", "recipe", *ACTS, *metrics.CELL]
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
    rows : rows of sweeps, with their controls; without rows a claim is not testable.
    benchmarks : rows of `hybret.harness.evaluate` in the configurations base, sparse and ablated. The group glue is one
        side, mmlu-lookup another, and all other groups that begin with mmlu the third.
    claims : names of the claims to judge; default all.
    models : loaded models of the rows (or anything with name, heads, parameters and family). Without them the largest
        k of the rows counts as all heads, and claims about size are not testable.
    recipes : recipes to judge all `models` under, even without rows.
    prompts : the prompts of the rows, for the claim about copied answers.

    Returns
    -------
    DataFrame
        One line per claim, model and recipe, in the order of `CLAIMS`; claims that compare models have one line per
        recipe, with the model ``"all models"``. Columns: claim, the claim's fields (label, hypothesis, says, where,
        paper, test, notebook, figure, across), model, recipe, verdict, ours (our figure in words, with its
        interval), value, low, high, unit (of the number that was tested), n, prompts, why.
    """
    tables = rows is not None or benchmarks is not None
    rows, benchmarks = _checked(rows, SWEEP), _checked(benchmarks, ITEMS)
    names = list(CLAIMS) if claims is None else list(claims)
    if unknown := [name for name in names if name not in CLAIMS]:
        raise HybretError(f"unknown claim {unknown[0]!r}; choose among {', '.join(CLAIMS)}")
    known = {model.name: model for model in models}
    prompts = list(prompts)
    texts, questions = {prompt.key: prompt.text for prompt in prompts}, {prompt.needle.question for prompt in prompts}
    pairs = [(model, recipe) for model in known for recipe in recipes]
    pairs += [pair for table in (rows, benchmarks) for pair in zip(table["model"], table["recipe"], strict=True)]
    if tables and not pairs:
        raise HybretError("there are no rows to judge; run a sweep first, or check the selection that was passed")
    evidence, lines = [], []
    for model, recipe in dict.fromkeys(pairs):
        swept, tested = (t[(t["model"] == model) & (t["recipe"] == recipe)] for t in (rows, benchmarks))
        heads, parameters, family = (getattr(known.get(model), n, None) for n in ("heads", "parameters", "family"))
        evidence.append(Evidence(model, recipe, swept, tested, heads, parameters, texts, family or "", questions))
    for claim in (claim for name, claim in CLAIMS.items() if name in names):
        judged: list[tuple[str, str, Any]] = [(e.model, e.recipe, e) for e in evidence]
        if claim.across:
            judged = [
                (ACROSS, recipe, [e for e in evidence if e.recipe == recipe])
                for recipe in dict.fromkeys(e.recipe for e in evidence)
            ]
        about = {"claim": claim.name} | {name: getattr(claim, name) for name in _FIELDS}
        lines += [about | {"model": model, "recipe": recipe} | _line(claim, rows) for model, recipe, rows in judged]
    return pd.DataFrame(lines, columns=_COLUMNS)


_FIELDS = [name for name in Claim._fields if name not in ("name", "judge")]
_NUMBERS = ["value", "low", "high", "unit", "n", "prompts"]
_COLUMNS = ["claim", *_FIELDS, "model", "recipe", "verdict", "ours", *_NUMBERS, "why"]


def _line(claim: Claim, evidence: Any) -> dict[str, Any]:
    try:
        outcome = claim.judge(evidence)
    except NotTestable as reason:
        outcome = Outcome(NOT_TESTABLE, reason.ours, reason.estimate, reason.why)
    number = outcome.estimate
    numbers = {name: getattr(number, name) if number else pd.NA for name in _NUMBERS}
    return {"verdict": outcome.verdict, "ours": outcome.ours, **numbers, "why": outcome.why}


def _checked(table: pd.DataFrame | None, columns: Iterable[str]) -> pd.DataFrame:
    """The table, if it has the columns, no random weights, and of each model one set of weights, needle, ..., once."""
    if table is None or (isinstance(table, pd.DataFrame) and table.empty):
        return pd.DataFrame(columns=[*columns])
    numbers, source = ("gold", "chosen", "choices"), "a sweep or of the benchmarks"
    check_columns(table, columns, numbers=numbers, complete=("model", "recipe"), source=source)
    weights = table["weights"].astype(str) if "weights" in table else pd.Series("", index=table.index)
    if random := [m for m, w in zip(table["model"], weights, strict=True) if has_random_weights(m, w)]:
        raise HybretError(
            f"{random[0]} has random weights: what it answers means nothing, so no claim is "
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
    table = metrics.normalised(table)
    if "prompt" in table:
        # Rows that overlapping tables share count once; two answers to one cell are a contradiction.
        answers = table.drop_duplicates([*CELL, "prompt", "answer", "score"])
        if (several := answers.duplicated(CELL)).any():
            raise HybretError(
                f"rows of {answers.loc[several, 'model'].iloc[0]} hold several answers to one cell (condition "
                f"{answers.loc[several, 'condition'].iloc[0]!r}), as after joining two runs; pass those of one"
            )
    return table


def said(table: pd.DataFrame) -> dict[str, list[str]]:
    """For each hypothesis a sentence per model and recipe: how many testable claims are reproduced, and which not."""
    check_columns(table, _COLUMNS, source="verdicts.of")
    sentences = {}
    for hypothesis, of_it in table.groupby("hypothesis", sort=False):
        parts = []
        for (model, recipe), judged in of_it.groupby(["model", "recipe"], sort=False):
            testable = judged[judged["verdict"] != NOT_TESTABLE]
            good = int((testable["verdict"] == REPRODUCED).sum())
            bad = testable.loc[testable["verdict"] == NOT_REPRODUCED, "label"]
            if len(testable):
                but = f" (not: {'; '.join(bad)})" if len(bad) else ""
                parts.append(f"{model}, {recipe}: {good} of {len(testable)} testable claims reproduced{but}.")
        sentences[f"{hypothesis}, {HYPOTHESES[str(hypothesis)]}"] = parts or ["Nothing could be tested."]
    return sentences


MARKS = {REPRODUCED: "●", NOT_REPRODUCED: "✕", NOT_TESTABLE: "○"}


def html(table: pd.DataFrame) -> str:
    """Verdicts as an HTML table: each claim with the paper's number and the test, then the verdict on every model.

    All text is escaped. A claim links to its figure on a sibling page; other pages link to ``#claim-NAME``.
    """
    check_columns(table, _COLUMNS, source="verdicts.of")
    rows = []
    for _, lines in table.groupby("claim", sort=False):
        claim = {name: escape(str(lines.iloc[0][name])) for name in _FIELDS}
        name = escape(str(lines.iloc[0]["claim"]))
        rows.append(
            f'<tr class="hb-claim" id="claim-{name}"><th colspan="3" scope="colgroup">{claim["says"]} '
            f"<small>{claim['where']}. Paper: <b>{claim['paper']}</b>. Test: {claim['test']}. "
            f'<a href="{claim["notebook"]}.html#{claim["figure"]}">Where it is measured</a></small></th></tr>'
        )
        models: dict[tuple[str, str], list[str]] = {}  # models of one result share a line
        for line in lines.to_dict("records"):
            parts = [line["ours"], f"n = {line['n']}" if line["ours"] and not pd.isna(line["n"]) else "", line["why"]]
            verdict = f"{MARKS[line['verdict']]} {line['verdict'].removesuffix(' on this model')}"
            same = models.setdefault((verdict, "; ".join(filter(None, parts))), [])
            same.append(escape(printable(f"{line['model']}, {line['recipe']}")))
        for (verdict, result), names in models.items():
            cells = ("<br>".join(names), escape(verdict), escape(printable(result)))
            rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "<tr><th>model, recipe</th><th>verdict</th><th>here</th></tr>"
    return f'<table class="hb-verdicts tex2jax_ignore"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'
