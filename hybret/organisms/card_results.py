"""The evaluation on a model card: tables from `evaluation.json` and from the last probe of the training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hybret.organisms.evaluate import ALL, GENERATION, PREFILL

Log = list[dict[str, Any]]


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


def evaluation(found: Mapping[str, Any], log: Log) -> str:
    """The section with what `hybret.organisms.evaluate` measured."""

    def measured(row: Mapping[str, Any]) -> tuple[str, str, str]:
        interval = f"{percent(row['accuracy'])} ({percent(row['low'])} to {percent(row['high'])})"
        return interval, percent(row["exact"]), f"{row['n']} ({row['prompts']})"

    places = {"inside": "inside the window", "outside": "outside the window", "whole grid": "whole grid",
              "no needle": "no needle (floor)"}  # fmt: skip
    prompts = {"base": "read once", "jrt": "read twice (JRT)"}
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
    examples = [(e["question"], e["fact"], e[ALL].strip()) for e in found["examples"]]
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
A needle is inside the window if the last token of the prompt can still see its first. Short contexts have few sentence
ends, so some cells of the grid share a prompt; the intervals count it once.

{table(head, grid_rows(found["needle"], prompts))}

The farthest needle that was found starts {found["edge"]["farthest_found"]} tokens before the prompt's last token, the
nearest that was missed {found["edge"]["nearest_missed"]} (read once, all heads; the window is {found["window"]}).
""",
        f"""
**Facts of other forms**, all inside the window, at four depths. Five templates were held out of training; the lists of
random words have a trained template and contents of their own. New words: the share of the fact's words, longer
than three letters and not in the question, that the answer holds. The last two columns are the training probe's share
of right tokens when the right answer so far is given.

{table(columns, unseen)}

For each form, one fact and the answer with all heads:

{table(("question", "fact", "answer"), examples)}
""",
    ]
    if essays:
        sections.append(
            f"""
**Real essays** as the haystack (`{essays["haystack"]}`, SHA-256 `{essays["sha256"][:12]}`), one grid with the paper's
needle. The model has never seen such text, and its tokenizer takes more tokens for it.

{table(head, grid_rows(essays["needle"], ["base"]))}
"""
        )
    return "\n\n".join(section.strip() for section in sections)
