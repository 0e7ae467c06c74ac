"""Golden rows: what every intervention answered when these files were recorded, cell by cell.

A change that is meant to change no number must pass here as it is. One that is meant to change some records the rows
again, and the differences of the files say what has changed::

    python tests/test_golden.py                 # all of tests/golden
    python tests/test_golden.py random-jamba    # what begins so

Only public names make the rows, so that the code behind them may move. The rows are a CPU's, in float32 and on one
thread: elsewhere the sums of a random model can end on the other side of a tie.
"""

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest
import torch
import transformers
from conftest import THREADS, random_model

import hybret as hb
from hybret import Binary, Keep, KeepHeads, Mass, Null, Omit, Only, PerPhase

FOLDER = Path(__file__).parent / "golden"
MODELS = ("griffin-tiny", "griffin-small", "jamba-tiny", "random-griffin", "random-jamba")
RUNS = [(name, recipe) for name in MODELS for recipe in ("CORRECTED", "PAPER")]
RUNS.remove(("griffin-small", "PAPER"))  # it takes the ways of griffin-tiny
STEPS = 8
# Random models answer differently under nearly everything and take little time; organisms give answers that mean
# something, and some of their prompts are longer than the window of 256 tokens.
RANDOM_GRID = ((90, 120, 160), 5)  # lengths, depths
ORGANISM_GRID = ((128, 320), (0, 60))
# They name the version of the code and how the work was divided; `place` is the prompt's `position`.
LEFT_OUT = ("run", "batch", "place")
VERSIONS = ("engine", "harness", "torch", "transformers", "lm_eval")
# What is the prompt's alone, and so is kept once for all conditions.
OF_PROMPTS = ("template", "haystack", "haystack_seed", "needle", "asked", "length", "depth", "tokens", "needle_start",
              "needle_end", "distance", "in_window", "prompt", "model", "weights", "recipe", "rubric", "device",
              "dtype", "max_new_tokens")  # fmt: skip
BENCHMARK = ("griffin-tiny", "organism_prices", 3)  # model, task, documents
EVERYTHING = ("self", "first", "question", "answer")


def conditions(model):
    """Every intervention, with every field of it at several values, alone and together."""
    heads, first, last = model.heads, model.attention_layers[0], model.attention_layers[-1]
    phases, metrics = ("prefill", "generation", "both"), ("entropy", "output-norm")
    return [
        Keep(),
        *(KeepHeads(k, metric) for metric in metrics for k in (0, 1, 2, heads)),
        *(KeepHeads(2, metric, during) for metric in metrics for during in ("prefill", "generation")),
        *(kind(during=during) for kind in (Omit, Only, Binary, Null) for during in phases),
        Only(renormalise=True), Only("generation", renormalise=True),
        *(Only(also=also) for also in (("self",), ("first",), ("question",), ("answer",), EVERYTHING)),
        Only("prefill", renormalise=True, also=("self", "first")),
        Only(layers=(first,)), Only("generation", layers=(last,), also=("answer",)),
        *(Mass(total) for total in (0.0, 0.5, 3.0, "needle")),
        *(Mass(total, during) for total in (0.5, "needle") for during in ("prefill", "generation")),
        Only() & Mass(1.0), Only("generation") & Mass(2.0, "generation"), Omit() & Mass("needle"),
        KeepHeads(2) & Omit(), Binary() & KeepHeads(1, "output-norm"),
        KeepHeads(2, during="generation") & Omit("prefill"),
        PerPhase(generation=Only(), prefill=Omit()), PerPhase(generation=Omit(), prefill=Keep()),
        PerPhase(generation=Keep(), prefill=Null()), PerPhase(generation=Binary(), prefill=Only()),
        PerPhase(generation=KeepHeads(1), prefill=KeepHeads(3, "output-norm")),
        PerPhase(generation=Only() & Mass(1.0), prefill=Mass(0.5)),
    ]  # fmt: skip


def fewer(_):
    return [
        Keep(), KeepHeads(2), KeepHeads(1, "output-norm"), KeepHeads(2, during="generation"), Omit(), Only(),
        Only("generation"), Only(also=EVERYTHING), Binary(), Null("generation"), Mass(0.5), Only() & Mass(1.0),
        KeepHeads(2) & Omit(), PerPhase(generation=Only(), prefill=Omit()),
    ]  # fmt: skip


def loaded(name):
    return random_model(name) if name.startswith("random") else hb.load(name, device="cpu", dtype="float32")


def rows_of(name, recipe):
    """The grid and its control under every condition, labelled by number: labels are among what is compared."""
    model = loaded(name)
    grid, several = (RANDOM_GRID, conditions) if name.startswith("random") else (ORGANISM_GRID, fewer)
    prompts = [p for c in (False, True) for p in hb.niah.grid(model, *grid, control=c, recipe=recipe)]
    found = several(model)
    numbered = {f"{i:02}": condition for i, condition in enumerate(found)}
    rows = hb.sweep(model, prompts, numbered, recipe, max_new_tokens=STEPS, progress=False)
    return rows, prompts, found


def once(values):
    return values[0] if all(v == values[0] for v in values) else values


def environment():
    cpu = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "transformers": transformers.__version__, "cpu": cpu}


def summary(values):
    """One value if all cells have it, else six hex digits of each cell's."""
    plain = [None if isinstance(v, float) and v != v or v is pd.NA else v for v in pd.Series(values).tolist()]
    if all(v == plain[0] for v in plain):
        return plain[0] if not isinstance(plain[0], str) or len(plain[0]) < 100 else digest(plain[0])
    return " ".join(digest(v)[:6] for v in plain)


def digest(value):
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]


def sweep_of(name, recipe):
    """What is kept of a sweep; lists that belong to cells are in the order of the prompts."""
    rows, prompts, found = rows_of(name, recipe)
    of_conditions = [c for c in rows.columns if c not in (*OF_PROMPTS, *LEFT_OUT, "condition", "intervention")]
    by_label = {}
    for condition, (_, part) in zip(found, rows.groupby("condition", sort=True), strict=True):
        assert list(part["prompt"]) == [p.key for p in prompts]
        assert set(part["intervention"]) == {repr(condition)}
        by_label[repr(condition)] = {
            "label": condition.label,
            **{column: summary(part[column]) for column in of_conditions},
            "points": round(float(part["score"].sum()), 6),
        }
    first = rows[rows["condition"] == rows["condition"].iloc[0]]
    assert all(
        part[column].equals(first[column].set_axis(part.index))
        for _, part in rows.groupby("condition")
        for column in OF_PROMPTS
    ), "a column of prompts differs between conditions"
    return {
        "columns": list(rows.columns),
        "cells": [f"{p.length}/{'control' if p.control else format(p.depth, 'g')}" for p in prompts],
        "distinct answers": int(rows["answer"].nunique()),
        "distinct conditions": int(rows.groupby("condition")["answer"].agg(tuple).nunique()),
        "prompts": {
            **{column: summary(first[column]) for column in OF_PROMPTS},
            "text": summary([p.text for p in prompts]),
            "position": summary([p.position for p in prompts]),
            "question_span": summary([p.question_span for p in prompts]),
        },
        "conditions": by_label,
    }


def benchmark():
    name, task, documents = BENCHMARK
    two = {"base": Keep(), "sparse": KeepHeads(2)}
    rows = hb.harness.evaluate(loaded(name), task, two, limit=documents, progress=False)
    chances = rows.pop("loglikelihoods")
    kept = {
        label: {column: once(rows.loc[rows["condition"] == label, column].tolist()) for column in rows if column != "k"}
        | {"loglikelihoods": [[round(x, 5) for x in one] for one in chances[rows["condition"] == label]]}
        for label in two
    }
    for columns in kept.values():
        for column in VERSIONS:
            del columns[column]
    return {"columns": [*rows.columns, "loglikelihoods"], "conditions": kept}


def leaves(value, *where):
    """What a record holds, by its path; of a column with one value for each cell, every cell."""
    if isinstance(value, dict):
        return {path: leaf for key, part in value.items() for path, leaf in leaves(part, *where, key).items()}
    return {(*where, i): part for i, part in enumerate(value.split(" ") if isinstance(value, str) else [value])}


def assert_as_recorded(name, new):
    old, new = json.loads((FOLDER / f"{name}.json").read_text()), json.loads(json.dumps(new))
    was, before, after = old.pop("environment"), leaves(old), leaves(new)
    for path in [path for path in before.keys() & after.keys() if "loglikelihoods" in path]:
        torch.testing.assert_close(*(torch.tensor(found.pop(path)) for found in (before, after)), rtol=0, atol=1e-4)
    changed = [
        (*path, before.get(path), after.get(path)) for path in before | after if before.get(path) != after.get(path)
    ]
    assert not changed, f"{name}.json was recorded with {was}; this is {environment()}"


@pytest.mark.parametrize(("name", "recipe"), RUNS)
def test_rows_are_as_recorded(name, recipe):
    assert_as_recorded(f"{name}-{recipe}", sweep_of(name, recipe))


def test_a_benchmark_is_as_recorded():
    assert_as_recorded("benchmark", benchmark())


def test_recorded_rows_tell_conditions_apart():
    """Rows that say the same whatever is done to a model would guard nothing."""
    for name in MODELS:
        kept = json.loads((FOLDER / f"{name}-CORRECTED.json").read_text())
        # An organism finds the needle or does not, in the same words.
        assert kept["distinct conditions"] >= len(kept["conditions"]) / (2 if name.startswith("random") else 4), name


def record(prefix=""):
    """Write the files whose names begin with `prefix` from what the code gives now."""
    torch.set_num_threads(THREADS)
    FOLDER.mkdir(exist_ok=True)
    made = {f"{name}-{recipe}": (sweep_of, name, recipe) for name, recipe in RUNS}
    for file, (make, *given) in {**made, "benchmark": (benchmark,)}.items():
        if file.startswith(prefix):
            kept = {"environment": environment(), **make(*given)}
            (FOLDER / f"{file}.json").write_text(json.dumps(kept, indent=1) + "\n")
            print(file, {key: value for key, value in kept.items() if key.startswith("distinct")})


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HYBRET_CACHE"] = folder  # as in the tests: the user's cache is neither read nor written
        record(*sys.argv[1:2])
