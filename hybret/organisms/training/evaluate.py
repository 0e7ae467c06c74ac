"""What an organism retrieves: the evaluation behind its model card, with hybret's own prompts, sweep and scores.

    python -m hybret.organisms.training.evaluate griffin-tiny --essays FOLDER --out evaluation.json

With the file in the model's folder, `python -m hybret.organisms.training.card griffin-tiny` writes the card from it.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers

from hybret import __version__, metrics
from hybret.errors import HybretError
from hybret.interventions import Intervention, Keep, KeepHeads
from hybret.models import Model, load
from hybret.organisms.facts import HELD_OUT_TEMPLATES, TEST_TEMPLATES, FactTemplate, random_words_fact
from hybret.organisms.own import OWN, OWN_TEST
from hybret.prompts import PAPER_NEEDLE, Needle, Prompt
from hybret.recipe import CORRECTED
from hybret.scoring import normalise
from hybret.sweeping import sweep
from hybret.tasks.haystack import load_haystack
from hybret.tasks.niah import grid

ALL, GENERATION, PREFILL = "all heads", "k=0, generation version", "k=0, prefill version"
SILENT: dict[str, Intervention] = {GENERATION: KeepHeads(0, during="generation"), PREFILL: KeepHeads(0)}
CONDITIONS = {ALL: Keep(), **SILENT}
FACT_DEPTHS = (0, 33, 67, 100)
FACT_LENGTH = 0.8  # of the window; with global attention of the longest prompts


def evaluate(
    model: Model,
    seeds: Sequence[int] = (0, 1, 2),
    essays: str | Path | None = None,
    out: str | Path | None = None,
    lengths: int | Sequence[int] = 10,
    depths: int | Sequence[float] = 10,
    facts: int = 20,
) -> dict[str, Any]:
    """Measure retrieval of the paper's needle, of facts of unseen forms and, if given, among real essays.

    All with every head and with none (k = 0, both versions). The grid is read once and twice (JRT), with an embedded
    haystack per seed; without its needle it gives the floor. The other facts are hidden inside the window only. Models
    with a chat template are asked in it. With global attention every needle is inside.

    Parameters
    ----------
    model : an organism, or any other `Model`.
    seeds : of the embedded haystacks.
    essays : folder of .txt files for one more grid, read once.
    out : folder for the sweep's rows, so that an interrupted evaluation goes on where it stopped.
    lengths, depths : of the grid, as in `hybret.niah.grid`.
    facts : per held-out template, and lists of random words, each at one of four depths; own sentences at all four.

    Returns
    -------
    dict : ready for JSON. Each measurement has `accuracy` (0 to 1) with its 95 % interval `low`, `high`, `exact` (share
        of answers that hold the whole sentence), `n` (answers) and `prompts` (distinct ones).

    Raises
    ------
    HybretError
        On bad input, before the model runs.
    """
    if not seeds or facts < 1:
        raise HybretError("An evaluation needs at least one haystack seed and at least one fact per template.")
    standard = "instruct" if model.instruct else "base"
    read = [(template, seed) for template in (standard, "jrt") for seed in seeds]
    prompts = [p for template, seed in read for p in _grid(model, lengths, depths, template, "embedded", seed)]
    length = int(FACT_LENGTH * (model.window or max(p.length for p in prompts)))
    asked = _fact_prompts(model, length, standard, facts)
    essay_prompts = _grid(model, lengths, depths, standard, Path(essays), 0) if essays is not None else []
    rows = sweep(model, [*prompts, *asked, *essay_prompts], CONDITIONS, out=out)
    paper = rows["needle"].isin([PAPER_NEEDLE.name, metrics.CONTROL])
    embedded = rows[paper & (rows["haystack"] == "embedded")]
    once = embedded.query("template == @standard and condition == @ALL and needle != @metrics.CONTROL")
    hay = load_haystack(Path(essays)) if essays is not None else None
    return {
        "model": model.name,
        "weights": model.digest,
        "window": model.window,
        "recipe": CORRECTED.name,
        "rubric": CORRECTED.rubric,
        "seeds": list(seeds),
        "lengths": sorted(int(n) for n in once["length"].unique()),
        "depths": sorted(float(d) for d in once["depth"].unique()),
        "conditions": {label: repr(condition) for label, condition in CONDITIONS.items()},
        "device": model.device.type,
        "dtype": model.dtype,
        "versions": {
            "hybret": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "needle": _needle_table(embedded),
        "edge": model.window and _edge(once),
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
    """What was never met, each with the seed of its haystack and its depths: so many facts of every held-out form.

    And half as many again of a person's own sentences.
    """
    for number in range(facts):
        kinds = ("template", HELD_OUT_TEMPLATES), ("test", TEST_TEMPLATES)
        made = [(f"{kind} {t.name}", t.sample(_stream(t, number))) for kind, templates in kinds for t in templates]
        for name, fact in [*made, ("random words", random_words_fact(number))]:
            depth = FACT_DEPTHS[number % len(FACT_DEPTHS)]
            yield Needle(name, fact.sentence, fact.questions[0]), number, [depth]
    for name, sentences in (("own", OWN), ("own test", OWN_TEST)):
        for number, (sentence, question, _) in enumerate(sentences[: 3 * facts // 2]):
            yield Needle(name, sentence, question), number, FACT_DEPTHS


def _stream(form: FactTemplate, number: int) -> random.Random:
    return random.Random(f"evaluation {form.name} {number}")


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
    """Accuracy with the paper's needle by template, condition and place; `"no needle"` is the floor."""
    by = ["template", "condition"]
    needle, visible = rows["needle"] == "paper", rows["in_window"]
    places = {"inside": needle & visible, "outside": needle & ~visible, "whole grid": needle, "no needle": ~needle}
    tables = [metrics.accuracy(rows[at], by).assign(where=where) for where, at in places.items() if at.any()]
    return _records(pd.concat(tables, ignore_index=True))


def _edge(rows: pd.DataFrame) -> dict[str, int | None]:
    """Distances (tokens to the end of the prompt) of the farthest needle found and the nearest one missed."""
    hits, missed = rows.loc[rows["exact"], "distance"], rows.loc[~rows["exact"], "distance"]
    return {"farthest_found": max(hits, default=None), "nearest_missed": min(missed, default=None)}


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
    """The first fact of every form: what was hidden and what came back."""
    first = {p.needle.name: p for p in reversed(prompts)}
    answers = rows.drop_duplicates(["prompt", "condition"]).set_index(["prompt", "condition"])["answer"]
    return [
        {"needle": p.needle.name, "question": p.needle.question, "fact": p.needle.sentence}
        | {label: answers[p.key, label] for label in (ALL, GENERATION)}
        for p in reversed(first.values())
    ]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status (2 after one sentence on bad input)."""
    parser = argparse.ArgumentParser(
        prog="python -m hybret.organisms.training.evaluate", description=__doc__.splitlines()[0]
    )
    parser.add_argument("model", help="name of an embedded model")
    parser.add_argument("--essays", type=Path, help="folder of .txt files for one more grid")
    parser.add_argument("--rows", type=Path, help="folder for the rows, to go on after an interruption")
    parser.add_argument("--out", default="evaluation.json", type=Path, help="file to write")
    options = parser.parse_args(arguments)
    try:
        if not options.out.parent.is_dir():
            raise HybretError(f"There is no folder {options.out.parent} to write {options.out.name} to; make it first.")
        result = evaluate(load(options.model), essays=options.essays, out=options.rows)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    except HybretError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
