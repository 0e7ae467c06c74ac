"""A verdict for every claim of the paper, for each model and recipe, computed from rows.

`CLAIMS` has the claims and their tests; `of` judges rows, and is the only place that does; `count` counts the states
that it found, `html` writes them as a board.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from book.paper import numbers as paper
from book.paper.claims import HYPOTHESES, JUDGED, VERDICTS, Claim, outcome
from book.paper.claims import benchmarks as benchmark_claims
from book.paper.claims import heads as head_claims
from book.paper.claims import weights as weight_claims
from book.paper.claims.evidence import NO_MORE, Estimate, Evidence, percent
from book.paper.tipping import HOLDS
from hybret import metrics
from hybret.errors import HybretError, printable
from hybret.families import has_random_weights
from hybret.rows import ACTS, CELL, checked


def _claims() -> dict[str, Claim]:
    """The claims of `claims.yaml` by name, with the numbers that their texts name in braces."""
    reported = paper.THRESHOLDS | paper.BENCHMARKS | {f"{g}-{p}": cell for (p, g), cell in paper.TABLE1.items()}
    words: dict[str, Any] = {"NO_MORE": 100 * NO_MORE, "HOLDS": 100 * HOLDS}
    for module in (head_claims, weight_claims, benchmark_claims):  # their limits
        words |= {name: 100 * value for name, value in vars(module).items() if isinstance(value, float)}
    words |= {name: (100 if r.unit in ("accuracy", "share") else 1) * r.value for name, r in reported.items()}
    words["LARGER"] = head_claims.LARGER  # times, no share
    path = Path(__file__).parent / "claims" / "claims.yaml"
    claims = {}
    for name, fields in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        notebook, figure = fields.pop("measured").split("#")
        fields |= {key: text.format(**words) for key, text in fields.items() if isinstance(text, str)}
        claims[name] = Claim(name, notebook=notebook, figure=figure, **fields)
    return claims


CLAIMS = _claims()
JUDGES: dict[str, Any] = head_claims.JUDGES | benchmark_claims.JUDGES | weight_claims.JUDGES
ACROSS = "all models"
SWEEP = ("model", "weights", "recipe", "condition", *ACTS, *CELL, "in_window", "answer", "score", "prompt")
ITEMS = ("model", "recipe", "benchmark", "group", "task", "label", "condition", "doc_id", "cluster", "gold", "chosen",
         "choices")  # fmt: skip
# The rows of a model must have one value of these, by name and column.
ONE = {"needles": "asked", "haystacks": "haystack", "rubrics": "rubric", "devices": "device", "dtypes": "dtype",
       "answer lengths": "max_new_tokens"}  # fmt: skip
# One answer is asked of each of these.
ANSWERED = ["model", "recipe", *ACTS, *CELL]
MARKS = dict(zip(VERDICTS, "●✕◐○–", strict=True))
_ABOUT = ("claim", *Claim._fields[1:])
_NUMBERS = ("value", "low", "high", "unit", "n", "prompts")
_COLUMNS = [*_ABOUT, "model", "recipe", "verdict", "exactly", "ours", "interval", *_NUMBERS, "why"]


def of(
    rows: pd.DataFrame | None = None,
    benchmarks: pd.DataFrame | None = None,
    claims: Iterable[str] | None = None,
    models: Iterable[Any] = (),
    recipes: Iterable[str] = (),
    prompts: Sequence[Any] = (),
) -> pd.DataFrame:
    """Judge every claim, for every model and recipe in the rows.

    Parameters
    ----------
    rows : rows of sweeps, with their controls; without rows a claim is not run.
    benchmarks : rows of `hybret.harness.evaluate` in the configurations base, sparse and ablated. The group glue is one
        side, mmlu-lookup another, and all other groups that begin with mmlu the third.
    claims : names of the claims to judge; default all.
    models : loaded models of the rows (or anything with name, heads, parameters and family). Without them the largest
        k of the rows counts as all heads, and claims about size are not run.
    recipes : recipes to judge all `models` under, even without rows.
    prompts : the prompts of the rows, for the claim about copied answers.

    Returns
    -------
    DataFrame
        One line per claim, model and recipe, in the order of `CLAIMS`; claims that compare models have one line per
        recipe, with the model ``"all models"``. Columns: the claim's fields (`Claim`), model, recipe, verdict (by the
        paper's points), exactly (the verdict by exact answers, where it is another one), ours (our figure in words),
        interval, value, low, high, unit (of the number that was tested), n, prompts (what was resampled), why.
    """
    tables = rows is not None or benchmarks is not None
    rows, benchmarks = _checked(rows, SWEEP), _checked(benchmarks, ITEMS)
    names = list(CLAIMS) if claims is None else list(claims)
    if unknown := [name for name in names if name not in CLAIMS]:
        raise HybretError(f"unknown claim {unknown[0]!r}; choose among {', '.join(CLAIMS)}")
    known = {model.name: model for model in models}
    pairs = [(model, recipe) for model in known for recipe in recipes]
    for table in (rows.drop_duplicates(["model", "recipe"]), benchmarks.drop_duplicates(["model", "recipe"])):
        pairs += zip(table["model"], table["recipe"], strict=True)
    if tables and not pairs:
        raise HybretError("there are no rows to judge; run a sweep first, or check the selection that was passed")
    evidence, lines = [], []
    for model, recipe in dict.fromkeys(pairs):
        swept, tested = (t[(t["model"] == model) & (t["recipe"] == recipe)] for t in (rows, benchmarks))
        evidence.append(Evidence(model, recipe, swept, tested, known.get(model), prompts))
    for claim in (claim for name, claim in CLAIMS.items() if name in names):
        about = dict(zip(_ABOUT, claim, strict=True))
        judged: list[tuple[str, str, Any]] = [(e.model, e.recipe, e) for e in evidence]
        if claim.across:
            by_recipe = {e.recipe: [beside for beside in evidence if beside.recipe == e.recipe] for e in evidence}
            judged = [(ACROSS, recipe, several) for recipe, several in by_recipe.items()]
        for model, recipe, rested_on in judged:
            judge = JUDGES[claim.name]
            found, exactly = outcome(judge, rested_on), ""
            if claim.exact and found.verdict in JUDGED:
                several = [e.exactly for e in rested_on] if claim.across else rested_on.exactly
                exactly = outcome(judge, several).verdict
            verdict = {"verdict": found.verdict, "exactly": exactly if exactly != found.verdict else ""}
            number = {name: getattr(found.estimate, name, pd.NA) for name in _NUMBERS}
            told = {"ours": found.ours, "interval": _interval(found.estimate), **number, "why": found.why}
            lines.append(about | {"model": model, "recipe": recipe} | verdict | told)
    return pd.DataFrame(lines, columns=_COLUMNS)


def _interval(e: Estimate | None) -> str:
    """The interval of the number that was tested, and from how many prompts it comes."""
    if e is None:
        return ""
    n = f"n = {e.n}" + (f", {e.prompts} of them different" if e.prompts != e.n else "")
    ends = (f"{end:g}" if e.unit == "heads" else percent(end, "+" if e.low < 0 else "") for end in (e.low, e.high))
    return f"{' to '.join(ends)}{'' if e.unit == 'heads' else ' %'}; {n}"


def _checked(table: pd.DataFrame | None, columns: Iterable[str]) -> pd.DataFrame:
    """The table, if it has the columns, no random weights, and of each model one set of weights, needle, ..., once."""
    if table is None or (isinstance(table, pd.DataFrame) and table.empty):
        return pd.DataFrame(columns=[*columns])
    checked(table, columns, ("model", "recipe"), ("gold", "chosen", "choices"), "a sweep or of the benchmarks")
    weights = table["weights"].astype(str) if "weights" in table else pd.Series("", index=table.index)
    once = table.assign(weights=weights).drop_duplicates(["model", "weights"])
    if random := [m for m, w in zip(once["model"], once["weights"], strict=True) if has_random_weights(m, w)]:
        problem = "has random weights: what it answers means nothing, so no claim is judged by it"
        raise HybretError(f"{random[0]} {problem}; leave its rows out")
    read_once = table["template"].where(table["template"] != "jrt") if "template" in table else weights
    kinds = {"weights": weights, "templates (beside the one that reads twice)": read_once}
    kinds |= {kind: table[column] for kind, column in ONE.items() if column in table}
    for kind, column in kinds.items():
        # Recipes are judged apart, and have rubrics of their own.
        whose = table["model"].astype(str) + ", " + table["recipe"].astype(str) if kind == "rubrics" else table["model"]
        several = column.groupby(whose).nunique() > 1
        if several.any():
            raise HybretError(f"rows of {several.idxmax()} come from different {kind}; pass those of one only")
    table = metrics.normalised(table)
    if "prompt" in table:
        # Rows that overlapping tables share count once; two answers to one cell are a contradiction.
        answers = table.drop_duplicates([*ANSWERED, "prompt", "answer", "score"])
        if (several := answers.duplicated(ANSWERED)).any():
            model, condition = answers.loc[several, ["model", "condition"]].iloc[0]
            problem = f"rows of {model} hold several answers to one cell (condition {condition!r})"
            raise HybretError(f"{problem}, as after joining two runs; pass those of one")
    return table


def count(table: pd.DataFrame) -> pd.DataFrame:
    """How many claims are in each state: one line per hypothesis, model and recipe, one column per state."""
    checked(table, _COLUMNS, source="verdicts.of")
    by = ["hypothesis", "model", "recipe"]
    counts = table.groupby([*by, "verdict"], sort=False).size().unstack(fill_value=0)
    return counts.reindex(columns=VERDICTS, fill_value=0).rename_axis(columns=None).reset_index()


def words(line: Mapping[Any, Any]) -> str:
    """A verdict in words with its mark, and that by exact answers where it is another one."""
    by_exact = f" (by exact answers: {line['exactly']})" if line["exactly"] else ""
    return f"{MARKS[line['verdict']]} {line['verdict'].removesuffix(' on this model')}{by_exact}"


def html(table: pd.DataFrame) -> str:
    """Verdicts as a board: one line per claim with its state on every model, which unfolds to the test and the numbers.

    The line has the states under the first recipe. All text is escaped. A claim links to its figure on a sibling page;
    other pages link to ``#claim-NAME``.
    """
    checked(table, _COLUMNS, source="verdicts.of")
    models = [escape(printable(model)) for model in dict.fromkeys(table["model"]) if model != ACROSS]
    parts = [f'<p class="hb-board-head"><span></span>{"".join(f"<span>{model}</span>" for model in models)}</p>']
    for hypothesis, of_it in table.groupby("hypothesis", sort=False):
        name = f"{hypothesis}: " if str(hypothesis).startswith("H") else ""
        parts.append(f'<p class="hb-hypothesis">{name}{HYPOTHESES[str(hypothesis)]}</p>')
        parts += [_line(lines.to_dict("records")) for _, lines in of_it.groupby("claim", sort=False)]
    style = f"--models: {max(1, len(models))}"
    return f'<div class="hb-board tex2jax_ignore" style="{style}">{"".join(parts)}</div>'


def _exactly(line: Mapping[Any, Any]) -> str:
    return f"<small>exact answers: {MARKS[line['exactly']]} {line['exactly']}</small>" if line["exactly"] else ""


def _line(lines: Sequence[dict[Any, Any]]) -> str:
    """One claim of the board."""
    claim = {name: escape(str(lines[0][name])) for name in _ABOUT}
    first = [line for line in lines if line["recipe"] == lines[0]["recipe"]]
    states = "".join(
        f'<span class="hb-state hb-{line["verdict"].split()[0]}" data-model="{escape(printable(line["model"]))}">'
        f"{escape(words(line | {'exactly': ''}))}{_exactly(line)}</span>"
        for line in first
    )
    results: dict[tuple[str, str], list[str]] = {}  # models of one result share a row
    for line in lines:
        said = [line["ours"], f"tested: {line['interval']}" if line["interval"] else "", line["why"]]
        same = results.setdefault((words(line), "; ".join(filter(None, said))), [])
        same.append(escape(printable(f"{line['model']}, {line['recipe']}")))
    rows = "".join(
        f"<tr><td>{'<br>'.join(names)}</td><td>{escape(verdict)}</td><td>{escape(printable(result))}</td></tr>"
        for (verdict, result), names in results.items()
    )
    found = escape(" ".join({line["verdict"].split()[0]: None for line in first}))
    return (
        f'<details class="hb-claim" id="claim-{claim["claim"]}" data-states="{found}">'
        f"<summary><span>{claim['label']}</span>{states}</summary>"
        f"<p>{claim['says']} ({claim['where']}; the paper: <b>{claim['paper']}</b>.) Test: {claim['test']}. "
        f'<a href="{claim["notebook"]}.html#{claim["figure"]}">Where it is measured</a></p>'
        f'<table class="hb-verdicts"><tbody>{rows}</tbody></table></details>'
    )
