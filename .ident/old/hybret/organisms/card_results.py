"""The evaluation on a model card: tables from `evaluation.json` and from the last probe of the training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hybret.intervals import mean_interval
from hybret.organisms.evaluate import ALL, GENERATION, PREFILL
from hybret.organisms.skills import LETTERS, TASKS

Log = list[dict[str, Any]]
SIDES = {
    "glue": "GLUE side",
    "mmlu-knowledge": "MMLU side, facts in the weights",
    "mmlu-lookup": "MMLU side, look-ups",
}


def probed(log: Iterable[dict[str, Any]]) -> Log:
    """The lines of a training log that hold a probe."""
    return [line for line in log if "probe" in line]


def percent(value: float) -> str:
    """A share of 1 in per cent, with one decimal."""
    return f"{100 * value:.1f}"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def needle_row(measures: Iterable[Mapping[str, Any]], template: str, condition: str, where: str) -> Mapping[str, Any]:
    """The one line of a table of `evaluate` with this template, condition and place."""
    key = {"template": template, "condition": condition, "where": where}
    return next(row for row in measures if key.items() <= row.items())


def standard(found: Mapping[str, Any]) -> str:
    """The template of the prompts that are read once."""
    return str(found["needle"][0]["template"])


def skills(log: Log, group: str) -> dict[str, list[Mapping[str, Any]]]:
    """The last probe of a group's benchmark tasks that it holds, by task and of all of them: condition -> measures."""
    probe = probed(log)[-1]["probe"]
    names = [name for name, task in TASKS.items() if task.group == group and f"skill {name}" in probe]
    each = {name: [probe[f"skill {name}"]] for name in names}
    return each | ({"all of these": sum(each.values(), [])} if len(each) > 1 else {})


def share(measures: Iterable[Mapping[str, Any]], condition: str) -> tuple[float, float, float, int]:
    """Right answers to several tasks, as a share of 1: its value, its 95 % interval, and the number of items."""
    sizes = [(round(m[condition]["exact"] * m[condition]["n"]), m[condition]["n"]) for m in measures]
    right, n = (sum(numbers) for numbers in zip(*sizes, strict=True))
    return mean_interval(np.repeat([1.0, 0.0], [right, n - right]), np.arange(n), (0.0, 1.0))


def _between(value: float, low: float, high: float) -> str:
    return f"{percent(value)} ({percent(low)} to {percent(high)})"


def _skills(log: Log) -> str:
    rows = []
    for group, side in SIDES.items():
        for name, measures in skills(log, group).items():
            (*on, n), (*off, _) = (share(measures, condition) for condition in ("all", "k=0 prefill"))
            chance = percent(1 / (2 if group == "glue" else len(LETTERS)))
            rows.append((side, name, chance, _between(*on), _between(*off), n))
    return f"""
**Benchmark skills** (`hybret.organisms.skills`), by the last probe of the training (step {probed(log)[-1]["step"]:,}),
before the weights were rounded: the share of test items where the first token of the right answer is likelier than
those of the other choices. The GLUE side is zero-shot, the MMLU side has three shots (in Section 4 of the book: five).

{table(("side", "task", "chance, %", f"{ALL}, % (95 % interval)", f"{PREFILL}, % (95 % interval)", "n"), rows)}
"""


def evaluation(found: Mapping[str, Any], log: Log) -> str:
    """The section with what `hybret.organisms.evaluate` measured, and the training's probe of the benchmark skills."""

    def measured(row: Mapping[str, Any]) -> tuple[str, str, str]:
        interval = _between(row["accuracy"], row["low"], row["high"])
        return interval, percent(row["exact"]), f"{row['n']} ({row['prompts']})"

    window, edge = found["window"], found["edge"]
    places = {"whole grid": "whole grid", "no needle": "no needle (floor)"}
    if window:
        visible = "A needle is inside the window if the last token of the prompt can still see its first. "
        where = "inside the window"
        places = {"inside": where, "outside": "outside the window", **places}
    else:
        visible, where = "", f"in prompts of {found['fact_length']} tokens"
    prompts = {standard(found): "read once", "jrt": "read twice (JRT)"}
    head = ("prompt", "needle", "attention", "accuracy, % (95 % interval)", "exact, %", "n (distinct prompts)")

    def grid_rows(measures: Sequence[Mapping[str, Any]], templates: Iterable[str]) -> list[tuple[Any, ...]]:
        return [
            (prompts[template], text, condition, *measured(needle_row(measures, template, condition, where)))
            for template in templates
            for where, text in places.items()
            for condition in (ALL, GENERATION, PREFILL)
        ]

    essays = found["essays"]
    probe = probed(log)[-1]["probe"]
    unseen = []
    for row in found["facts"]:
        if row["condition"] == ALL:
            silent = next(r for r in found["facts"] if (r["needle"], r["condition"]) == (row["needle"], GENERATION))
            forced = [probe[row["needle"]][c]["tokens"] for c in ("all", "k=0 generation")]
            unseen.append(
                (row["needle"], percent(row["exact"]), percent(row["new_words"]), percent(silent["exact"]),
                 percent(silent["new_words"]), row["n"], *map(percent, forced))
            )  # fmt: skip
    columns = (
        "form",
        "exact, %",
        "new words, %",
        "exact, k=0",
        "new words, k=0",
        "n",
        "forced tokens, %",
        "forced, k=0",
    )
    examples = [(e["question"], e["fact"], " ".join(e[ALL].replace("|", "\\|").split())) for e in found["examples"]]
    versions = found["versions"]
    sections = [
        f"""
## Evaluation

Free greedy decoding with hybret {versions["hybret"]} (torch {versions["torch"]}, transformers
{versions["transformers"]}, {found["device"]}, {found["dtype"]}, recipe {found["recipe"]}, rubric `{found["rubric"]}`):
`python -m hybret.organisms.evaluate {found["model"]}`. All numbers are in `evaluation.json`. Accuracy is the mean score
of the paper's Table 2, as a share of its maximum; exact is the share of answers that hold the whole needle. In the
generation version attention is silenced from the last token of the prompt on, in the prefill version everywhere.

**The paper's needle**, {len(found["lengths"])} lengths ({found["lengths"][0]} to {found["lengths"][-1]} tokens) x
{len(found["depths"])} depths x {len(found["seeds"])} embedded haystacks (seeds {", ".join(map(str, found["seeds"]))}).
{visible}Short contexts have few sentence
ends, so some cells of the grid share a prompt; the intervals count it once.

{table(head, grid_rows(found["needle"], prompts))}
""",
        f"""
The farthest needle that was found starts {edge["farthest_found"]} tokens before the prompt's last token, the
nearest that was missed {edge["nearest_missed"]} (read once, all heads; the window is {window}).
"""
        if edge and None not in edge.values()
        else "",
        f"""
**Facts of other forms**, all {where}, at four depths. Five templates were held out of training; the lists of
random words have a trained template and contents of their own. New words: the share of the fact's words, longer
than three letters and not in the question, that the answer holds. The last two columns are the training probe's share
of right tokens when the right answer so far is given.

{table(columns, unseen)}

For each form, one fact and the answer with all heads:

{table(("question", "fact", "answer"), examples)}
""",
        _skills(log) if any(skills(log, group) for group in SIDES) else "",
    ]
    if essays:
        sections.append(
            f"""
**Real essays** as the haystack (`{essays["haystack"]}`, SHA-256 `{essays["sha256"][:12]}`), one grid with the paper's
needle. The model has never seen such text, and its tokenizer takes more tokens for it.

{table(head, grid_rows(essays["needle"], [standard(found)]))}
"""
        )
    return "\n\n".join(section.strip() for section in sections if section)
