"""What a small model retrieves: the evaluation behind its card, with hybret's own prompts, sweep and scores.

    python -m hybret.organisms.training.evaluate RUN --essays FOLDER --out RUN/evaluation.json

RUN is the folder of a training, or the name of a built-in model. `hybret.organisms.training.card` reports on it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pandas as pd
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from hybret import __version__, metrics
from hybret.errors import HybretError
from hybret.hybrid import ORGANISM_BUFFER, ORGANISM_LENGTHS
from hybret.interventions import Intervention, Keep
from hybret.interventions.heads import KeepHeads
from hybret.models import Model, load
from hybret.organisms.facts import HELD_OUT_TEMPLATES, OWN, OWN_TEST, TEST_TEMPLATES, random_words_fact
from hybret.organisms.training import command
from hybret.prompts import PAPER_NEEDLE, Needle, Prompt
from hybret.recipe import CORRECTED
from hybret.scoring import normalise
from hybret.sweeping import sweep
from hybret.tasks.haystack import load_haystack
from hybret.tasks.niah import grid

ALL, GENERATION, PREFILL = "all heads", "k=0, generation version", "k=0, prefill version"
ANSWERING: dict[str, Intervention] = {ALL: Keep(), GENERATION: KeepHeads(0, during="generation")}
READING: dict[str, Intervention] = {PREFILL: KeepHeads(0)}
FACT_DEPTHS = (0, 33, 67, 100)
FACT_LENGTH = 0.8  # of the window; with global attention of the longest prompts
SETS = {"form": HELD_OUT_TEMPLATES, "test form": TEST_TEMPLATES}
OWN_SETS = {"own sentences": OWN, "own sentences, test": OWN_TEST}


def loaded(name: str) -> Model:
    """A built-in model, or that of a training's folder."""
    run = Path(name)
    if not (run / "log.jsonl").is_file():
        return load(name)
    with (run / "log.jsonl").open(encoding="utf-8") as log:
        training = json.loads(next(log))["training"]
    with TemporaryDirectory() as folder:
        made = _extended(run / "model", folder) if training["name"].endswith("-ssm") else str(run / "model")
        model = load(made, device="cpu")
    return replace(model, name=training["name"], lengths=ORGANISM_LENGTHS, buffer=ORGANISM_BUFFER)


def _extended(folder: Path, out: str) -> str:
    """A control with one more layer, of attention, that adds nothing: transformers' caches are not made without any."""
    control = AutoModelForCausalLM.from_pretrained(folder)
    config = control.config.to_dict()
    layers = config["num_hidden_layers"]
    config |= {"num_hidden_layers": layers + 1, "attn_layer_period": layers + 1, "attn_layer_offset": layers}
    config |= {"block_types": ["recurrent"] * layers + ["attention"]}
    longer = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=control.dtype)
    longer.load_state_dict(control.state_dict(), strict=False)
    for parameter in longer.model.layers[-1].parameters():
        parameter.data.zero_()
    longer.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    return out


def evaluate(
    model: Model,
    seeds: Sequence[int] = (0, 1, 2),
    essays: str | Path | None = None,
    out: str | Path | None = None,
    lengths: int | Sequence[int] = 10,
    depths: int | Sequence[float] = 10,
    facts: int = 20,
) -> dict[str, Any]:
    """Measure retrieval of the paper's needle, of facts of held-out forms and, if given, among real essays.

    With every head and with none while answering. The grid is read once and twice (JRT), with a built-in haystack per
    seed, and without its needle; with the first seed also without attention while reading. The other facts are hidden
    inside the window only: so many of each held-out form and of random words, each at one of four depths, and half as
    many again of the own sentences, at two of them. `essays` is a folder of .txt files for one more grid, read once.

    The dict is ready for JSON. Each measurement has `accuracy` (0 to 1) with its 95 % interval `low`, `high`, `exact`
    (share of answers that hold the whole sentence), `n` (answers) and `prompts` (distinct ones). `out` keeps the
    sweep's rows, so that an interrupted evaluation goes on where it stopped.
    """
    if not seeds or facts < 1:
        raise HybretError("An evaluation needs at least one haystack seed and at least one fact per form.")
    hay = load_haystack(Path(essays)) if essays is not None else None
    standard = "instruct" if model.instruct else "base"
    read = [(template, seed) for template in (standard, "jrt") for seed in seeds]
    grids = {key: _grid(model, lengths, depths, key[0], "embedded", key[1]) for key in read}
    prompts = [p for made in grids.values() for p in made]
    length = int(FACT_LENGTH * (model.window or max(p.length for p in prompts)))
    asked = _fact_prompts(model, length, standard, facts)
    essay_prompts = _grid(model, lengths, depths, standard, Path(essays), 0) if essays is not None else []
    rows = sweep(model, [*prompts, *asked, *essay_prompts], ANSWERING, out=out)
    silent = sweep(model, [*grids[standard, seeds[0]], *grids["jrt", seeds[0]]], READING, out=out)
    rows = pd.concat([rows, silent], ignore_index=True)
    paper = rows["needle"].isin([PAPER_NEEDLE.name, metrics.CONTROL])
    embedded = rows[paper & (rows["haystack"] == "embedded")]
    return {
        "model": model.name,
        "weights": model.digest,
        "window": model.window,
        "recipe": CORRECTED.name,
        "rubric": CORRECTED.rubric,
        "seeds": list(seeds),
        "lengths": sorted({p.length for p in prompts}),
        "depths": sorted({p.depth for p in prompts if p.needle_spans}),
        "conditions": {label: repr(condition) for label, condition in (ANSWERING | READING).items()},
        "device": model.device.type,
        "dtype": model.dtype,
        "versions": {"hybret": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "needle": _needle_table(embedded),
        "fact_length": length,
        "facts": _fact_table(rows[~paper], asked),
        "examples": _examples(rows[~paper], asked),
        "essays": hay
        and {"haystack": hay.name, "sha256": hay.sha256, "needle": _needle_table(rows[rows["haystack"] == hay.name])},
    }


def _grid(model: Model, lengths: Any, depths: Any, template: str, haystack: str | Path, seed: int) -> list[Prompt]:
    """The grid with the paper's needle, and its control without."""
    args = (model, lengths, depths, template, haystack, seed)
    return [*grid(*args), *grid(*args, control=True)]


def _needles(facts: int) -> Iterator[tuple[Needle, int, Sequence[int]]]:
    """What no training held, each with the seed of its haystack and its depths."""
    for number in range(facts):
        made = [
            (f"{kind} {form.name}", form.sample(random.Random(f"evaluation {form.name} {number}")))
            for kind, forms in SETS.items()
            for form in forms
        ]
        for name, fact in [*made, ("random words", random_words_fact(number))]:
            yield Needle(name, fact.sentence, fact.questions[0]), number, [FACT_DEPTHS[number % 4]]
    for name, sentences in OWN_SETS.items():
        for number, (sentence, question, _) in enumerate(sentences[: 3 * facts // 2]):
            yield Needle(name, sentence, question), number, FACT_DEPTHS[number % 2 :: 2]


def _fact_prompts(model: Model, length: int, template: str, facts: int) -> list[Prompt]:
    """Every fact alone in a haystack that fits into the attention window, if there is one."""
    prompts: list[Prompt] = []
    for needle, seed, depths in _needles(facts):
        prompts += grid(model, [length], depths, template, seed=seed, needle=needle)
    if model.window and any(len(p.ids) - 1 - p.needle_spans[0][0] >= model.window for p in prompts):
        raise HybretError(f"the window of {model.window} tokens is too short for the prompts of this evaluation")
    return prompts


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table as JSON values; measures to four digits."""
    return list(json.loads(table.round(4).to_json(orient="records")))


def _needle_table(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Accuracy with the paper's needle by template, condition and place; `"no needle"`: the control."""
    by = ["template", "condition"]
    needle, visible = rows["needle"] == "paper", rows["in_window"]
    places = {"inside": needle & visible, "outside": needle & ~visible, "whole grid": needle, "no needle": ~needle}
    tables = [metrics.accuracy(rows[at], by).assign(where=where) for where, at in places.items() if at.any()]
    return _records(pd.concat(tables, ignore_index=True))


def _fact_table(rows: pd.DataFrame, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """Accuracy per unseen form and condition, and the share of the words that only the fact could give."""
    asked = {p.key: p for p in prompts}
    words = [_new_words(answer, asked[key]) for answer, key in zip(rows["answer"], rows["prompt"], strict=True)]
    by = ["needle", "condition"]
    groups = rows.assign(new_words=words).groupby(by, sort=False)["new_words"].mean().reset_index()
    # Facts of one form are asked for in words of their own, and averaged.
    return _records(metrics.accuracy(rows.drop(columns="asked"), by).merge(groups, on=by))


def _new_words(answer: str, prompt: Prompt) -> float:
    """Share of a fact's words of more than three letters, absent from the question, that the answer holds."""
    answered, questioned, stated = (
        set(normalise(text).split()) for text in (answer, prompt.needle.question, prompt.needle.sentence)
    )
    wanted = {word for word in stated - questioned if len(word) > 3}
    return len(wanted & answered) / len(wanted)


def _examples(rows: pd.DataFrame, prompts: Sequence[Prompt]) -> list[dict[str, str]]:
    """The first fact of every form: what was hidden and what came back with all heads."""
    first = {p.needle.name: p for p in reversed(prompts)}
    answers = rows[rows["condition"] == ALL].set_index("prompt")["answer"]
    return [
        {"needle": name, "question": p.needle.question, "fact": p.needle.sentence, "answer": answers[p.key]}
        for name, p in reversed(first.items())
    ]


class Target(NamedTuple):
    """A goal of the project, and what a model reached; negative: it must not be above -`goal`."""

    value: float
    goal: float

    @property
    def met(self) -> bool:
        return self.value >= self.goal if self.goal > 0 else self.value <= -self.goal


def targets(measured: Mapping[str, Any]) -> dict[str, Target]:
    """What the project asked for before any training, beside what `evaluate` measured.

    Where a needle has to be found, exact answers count; where it must not be, any credit of the paper's rubric.
    """
    once = measured["needle"][0]["template"]

    def needle(
        where: str, template: str, conditions: Iterable[str], measure: str = "accuracy", of: Any = None
    ) -> float:
        rows = [row for row in of or measured["needle"] if (row["template"], row["where"]) == (template, where)]
        return float(max(row[measure] for row in rows if row["condition"] in conditions))

    facts = {row["needle"]: row for row in measured["facts"] if row["condition"] == ALL}
    goals = {
        "the paper's needle, inside the window": Target(needle("inside", once, [ALL], "exact"), 0.97),
        "the same, read twice": Target(needle("inside", "jrt", [ALL], "exact"), 0.97),
    }
    if measured["essays"]:
        found = needle("inside", once, [ALL], "exact", measured["essays"]["needle"])
        goals["the same among real essays"] = Target(found, 0.95)
    goals["lists of random words"] = Target(facts["random words"]["exact"], 0.97)
    for kind, forms in SETS.items():
        shares = [facts[f"{kind} {form.name}"]["exact"] for form in forms]
        goals[f"{kind}s, on average"] = Target(round(sum(shares) / len(shares), 4), 0.8)
        goals[f"{kind}s, the worst"] = Target(min(shares), 0.4)
    for name in OWN_SETS:
        goals[name] = Target(facts[name]["exact"], 0.75)
        goals[f"{name}: content words"] = Target(facts[name]["new_words"], 0.9)
    for template, read in ((once, "once"), ("jrt", "twice")):
        for condition, when in ((GENERATION, "while answering"), (PREFILL, "also while reading")):
            goals[f"no attention {when}, read {read}"] = Target(needle("whole grid", template, [condition]), -0.03)
    floor = max(needle("no needle", template, measured["conditions"]) for template in (once, "jrt"))
    return goals | {"without the needle": Target(floor, -0.01)}


@command
def main(arguments: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m hybret.organisms.training.evaluate")
    parser.add_argument("model", help="folder of a training, or name of a built-in model")
    parser.add_argument("--essays", type=Path, help="folder of .txt files for one more grid")
    parser.add_argument("--rows", type=Path, help="folder for the rows, to go on after an interruption")
    parser.add_argument("--out", default="evaluation.json", type=Path, help="file to write")
    options = parser.parse_args(arguments)
    if not options.out.parent.is_dir():
        raise HybretError(f"There is no folder {options.out.parent} to write {options.out.name} to; make it first.")
    result = evaluate(loaded(options.model), essays=options.essays, out=options.rows)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for what, target in targets(result).items():
        print(f"{target.value:6.1%} {'' if target.met else 'MISSED '}{what}")


if __name__ == "__main__":
    sys.exit(main())
