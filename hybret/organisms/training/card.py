"""The model card of a small model, written from measurements: its configuration, its log, its evaluation, all runs.

    python -m hybret.organisms.training.card griffin-tiny runs/griffin-tiny-*

Runs are folders of trainings, each with the evaluation.json of `hybret.organisms.training.evaluate`. The one with the
lowest held-out loss goes into the model's folder, a summary of all into its seeds.json. Without runs the card is
written anew. The sentences are in `card.md.jinja`; every number on the card comes from a file beside it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from hybret.checkpoints import CHECKPOINTS
from hybret.errors import HybretError
from hybret.models import OLDEST_TRANSFORMERS
from hybret.organisms.skills import LETTERS, TASKS
from hybret.organisms.training import command
from hybret.organisms.training.evaluate import ALL, OWN_SETS, SETS, targets
from hybret.organisms.training.recipes import RECIPES

FILES = ("config.json", "evaluation.json", "training_log.jsonl", "seeds.json")
FAMILIES = {
    "recurrent_gemma": ("RecurrentGemma (Griffin)", ["recurrent_gemma"]),
    "jamba": ("Jamba (Mamba, attention and a mixture of experts)", ["jamba", "mixture-of-experts", "conversational"]),
}
LIKE = {10: "RecurrentGemma-2B", 16: "RecurrentGemma-9B", 32: "AI21-Jamba-Mini-1.6"}
"""Query heads of an attention layer -> the paper's model that has as many."""
SKILLS = {"glue": "sentence judgements", "mmlu-knowledge": "facts in the weights", "mmlu-lookup": "look-ups in a list"}


def ship(name: str, runs: Sequence[Path], folder: Path) -> None:
    """Put the run of the recipe with the lowest held-out loss into the model's folder, and a summary of all runs."""
    rows = [summary(run) for run in runs]
    recipe = (name, RECIPES[name].steps, "")
    plain = [i for i, row in enumerate(rows) if (row["name"], row["schedule"], _kind(row)) == recipe]
    if not plain:
        raise HybretError(f"None of these runs is a training of {name} by its recipe; give at least one.")
    best = min(plain, key=lambda i: rows[i]["held_out_loss"])
    rows[best]["ships"] = True
    shutil.copytree(runs[best] / "model", folder, dirs_exist_ok=True)
    shutil.copy(runs[best] / "evaluation.json", folder / FILES[1])
    lines = [line for line in _log(runs[best] / "log.jsonl") if line["event"] != "answers"]
    (folder / FILES[2]).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / FILES[3]).write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def summary(run: Path) -> dict[str, Any]:
    """One training as a row: what it was, how long it took, and what it reached."""
    if missing := [name for name in ("log.jsonl", "evaluation.json") if not (run / name).is_file()]:
        raise HybretError(f"{run} has no {missing[0]}; train and evaluate this run first.")
    log = _log(run / "log.jsonl")
    training, ended = log[0]["training"], [line for line in log if "held_out_loss" in line]
    if not ended or log[-1]["event"] != "end" or ended[-1]["step"] != log[-1]["step"]:
        raise HybretError(f"{run} holds a training that has not ended; resume it.")
    last, measured = ended[-1], json.loads((run / "evaluation.json").read_text())
    return {
        **{key: training[key] for key in ("name", "seed", "windows", "mimetic")},
        "schedule": training["steps"],
        **{key: last[key] for key in ("step", "tokens", "held_out_loss")},
        "minutes": round(last["seconds"] / 60, 1),
        "device": log[0]["device"],
        "targets": {what: target.value for what, target in targets(measured).items()},
        "skills": _skills(last["probe_averaged"]),
    }


def write_card(folder: Path) -> Path:
    """Write the card into a model's folder, from the other files there, and return its path."""
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise HybretError(f"{folder} has no {missing[0]}, which the card reports on; ship a run first.")
    config, evaluation, seeds = (json.loads((folder / name).read_text()) for name in (*FILES[:2], FILES[3]))
    start = _log(folder / FILES[2])[0]
    training, family = start["training"], FAMILIES[config["model_type"]]
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.globals |= {"percent": percent, "table": table}
    template = environment.from_string(Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8"))
    rows = [row for row in evaluation["facts"] if row["condition"] == ALL]
    exact = {row["needle"]: f"{row['exact'] * row['n']:.0f} of {row['n']}" for row in rows}
    goals = targets(evaluation)
    path = folder / "README.md"
    path.write_text(
        template.render(
            config=config, evaluation=evaluation, start=start, training=training, mixture=training["mixture"],
            family=family[0], tags=family[1], like=LIKE[config["num_attention_heads"]], oldest=OLDEST_TRANSFORMERS,
            chat=config["model_type"] == "jamba", shipped=next(row for row in seeds if row.get("ships")),
            seeds=_seeds(seeds), skills=SKILLS,
            goals=[(what, f"{'at least' if t.goal > 0 else 'at most'} {percent(abs(t.goal))}", percent(t.value),
                    "yes" if t.met else "**no**") for what, t in goals.items()],
            silent={what: t.value for what, t in goals.items() if t.goal < 0},
            missed=[what for what, t in goals.items() if not t.met],
            outside=[row for row in evaluation["needle"] if row["where"] == "outside" and row["condition"] == ALL],
            examples=[
                (e["needle"], exact[e["needle"]], *(_cell(e[part]) for part in ("question", "answer")),
                 "" if e["fact"] in e["answer"] else _cell(e["fact"])) for e in evaluation["examples"]
            ],
            developed=len(SETS["form"]), tested=len(SETS["test form"]), own=[len(found) for found in OWN_SETS.values()],
        )
    )  # fmt: skip
    return path


def percent(value: float) -> str:
    """A share of 1 in per cent; a decimal only if it is not a whole number."""
    return f"{100 * value:.1f}".removesuffix(".0") + "%"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in [head, ["---"] * len(head), *rows])


def _log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _kind(row: Mapping[str, Any]) -> str:
    """What a training did otherwise than the recipe."""
    other = {"without attention": row["name"].endswith("-ssm"), "drawn windows": row["windows"]}
    other |= {"copying start": row["mimetic"]}
    return ", ".join(kind for kind, is_so in other.items() if is_so)


def _seeds(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """One line per training: which it is, and what it reached."""
    lines = []
    for row in rows:
        kind = _kind(row)
        reached = row["targets"]
        forms = [
            f"{percent(reached[f'{name}s, on average'])} ({percent(reached[f'{name}s, the worst'])})" for name in SETS
        ]
        lines.append((
            f"{row['seed']}{f', {kind}' if kind else ''}{', **ships**' if row.get('ships') else ''}",
            f"{row['held_out_loss']:.4f}", f"{row['tokens'] / 1e6:.0f}", f"{row['minutes']:.1f}",
            *map(percent, list(reached.values())[:4]), *forms, *(percent(reached[own]) for own in OWN_SETS),
        ))  # fmt: skip
    return lines


def _skills(probe: Mapping[str, Any]) -> dict[str, tuple[float, float, float, int]]:
    """Right answers to each group of benchmark tasks with and without attention, chance, and the number of items."""
    made = {}
    for group in SKILLS:
        found = [probe[f"skill {name}"] for name, t in TASKS.items() if t.group == group and f"skill {name}" in probe]
        if found:
            on, off = (sum(m[c]["exact"] for m in found) / len(found) for c in ("all", "k=0 prefill"))
            chance = 1 / (2 if group == "glue" else len(LETTERS))
            made[group] = round(on, 4), round(off, 4), chance, sum(m["all"]["n"] for m in found)
    return made


@command
def main(arguments: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m hybret.organisms.training.card", description="Write a model card.")
    parser.add_argument("model", choices=list(RECIPES))
    parser.add_argument("runs", nargs="*", type=Path, help="evaluated trainings, controls too; the best of them ships")
    options = parser.parse_args(arguments)
    if options.runs:
        ship(options.model, options.runs, CHECKPOINTS / options.model)
    print(write_card(CHECKPOINTS / options.model))


if __name__ == "__main__":
    sys.exit(main())
