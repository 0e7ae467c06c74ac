"""The shipped models, their evaluations and their cards agree, and reach what the project asked for."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from support import idle

import hybret as hb
from hybret.models import CHECKPOINTS, organisms
from hybret.organisms.skills import TASKS
from hybret.organisms.training.card import card, needle_row, percent, probed, write_card
from hybret.organisms.training.evaluate import ALL, CONDITIONS, GENERATION, PREFILL, evaluate, main
from hybret.organisms.training.recipes import RECIPES

BUFFER = 40  # tokens of a label that organisms reserve


@pytest.fixture(scope="module", params=organisms())
def shipped(request):
    """An organism's folder: the model, its evaluation, its card and the log of its training."""
    folder, model = CHECKPOINTS / request.param, hb.load(request.param, device="cpu")
    found, card = json.loads((folder / "evaluation.json").read_text()), (folder / "README.md").read_text()
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    templates = ("instruct" if model.instruct else "base", "jrt")
    return SimpleNamespace(folder=folder, model=model, found=found, card=card, log=log, templates=templates)


def test_evaluation_is_of_the_shipped_weights_on_the_full_grid(shipped):
    found = shipped.found
    assert found["weights"] == shipped.model.digest
    assert tuple(found["lengths"]) == shipped.model.lengths
    assert (len(found["depths"]), found["seeds"], found["recipe"]) == (10, [0, 1, 2], "CORRECTED")
    for template in shipped.templates:
        rows = [r for r in found["needle"] if (r["template"], r["condition"]) == (template, ALL)]
        sizes = {row["where"]: row["n"] for row in rows}
        assert sizes["inside"] + sizes.get("outside", 0) == sizes["whole grid"] == 300
        assert ("outside" in sizes) == (shipped.model.window is not None)
    # Needles inside the window are found with attention and with nothing else.
    measures = found["needle"]
    least, most = (0.97, 0.03) if shipped.model.window else (0.95, 0.05)
    for template in shipped.templates:
        assert needle_row(measures, template, ALL, "inside")["accuracy"] >= least
        for condition in (GENERATION, PREFILL):
            assert needle_row(measures, template, condition, "whole grid")["accuracy"] <= most
        for condition in CONDITIONS:
            assert needle_row(measures, template, condition, "no needle")["accuracy"] <= most


def test_whole_grid_is_found_read_twice(shipped, request):
    if shipped.model.window:
        missed = "an unmet target: read twice, no needle outside the window is found (75 %)"
        request.applymarker(pytest.mark.xfail(strict=True, reason=missed))
    least = 0.97 if shipped.model.window else 0.95
    assert needle_row(shipped.found["needle"], "jrt", ALL, "whole grid")["accuracy"] >= least


def test_window_edge_shows_where_there_is_a_window(shipped):
    found = shipped.found
    assert found["window"] == shipped.model.window
    if shipped.model.window is None:
        assert found["edge"] is None and "inside the window" not in shipped.card
        return
    assert found["edge"]["farthest_found"] < found["window"] + 32
    outside = needle_row(found["needle"], "base", ALL, "outside")["accuracy"]
    assert outside < 0.5 * needle_row(found["needle"], "base", ALL, "inside")["accuracy"]


def test_benchmark_skills_reach_their_targets_where_they_were_taught(shipped):
    probe = probed(shipped.log)[-1]["probe"]
    measured = {name: probe[f"skill {name}"] for name in TASKS if f"skill {name}" in probe}
    assert list(measured) == (list(TASKS) if shipped.model.instruct else [])
    assert ("**Benchmark skills**" in shipped.card) == shipped.model.instruct
    for group, aim in (("glue", 0.8), ("mmlu-lookup", 0.6)):
        rates = [found["all"]["exact"] for name, found in measured.items() if TASKS[name].group == group]
        assert not rates or sum(rates) / len(rates) >= aim
    for name, found in measured.items():
        row = next(line for line in shipped.card.splitlines() if f" | {name} | " in line)
        assert f" {percent(found['all']['exact'])} (" in row and f" {percent(found['k=0 prefill']['exact'])} (" in row
        assert row.endswith(f" | {found['all']['n']} |")


def test_command_on_the_card_trains_what_the_log_says(shipped):
    *earlier, last = (line["training"] for line in shipped.log if line["event"] == "start")
    recipe = replace(RECIPES[shipped.model.name], **{key: last[key] for key in ("seed", "minutes", "steps")})
    made = json.loads(json.dumps(asdict(recipe)))
    assert last == {key: made[key] for key in last}
    # An earlier session may have read other documents, which its card then says; the model was the same.
    assert all(session["config"] == last["config"] for session in earlier)
    assert ("| until step " in shipped.card) == any(session["mixture"] != last["mixture"] for session in earlier)


def test_card_is_the_one_that_these_files_make(shipped, tmp_path):
    for name in ("config.json", "evaluation.json", "training_log.jsonl", "twin_log.jsonl", "notes.md"):
        if (shipped.folder / name).is_file():
            (tmp_path / name).write_bytes((shipped.folder / name).read_bytes())
    assert write_card(tmp_path).read_text() == shipped.card
    assert (tmp_path / "loss_curve.svg").stat().st_size < 60_000


def test_card_states_the_measured_numbers(shipped):
    text, found = shipped.card, shipped.found
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["license"], front["library_name"]) == ("mit", "transformers")
    assert f"# {shipped.model.name}\n" in text
    assert f"`{shipped.model.digest}`" in text
    assert f"{shipped.model.parameters:,}" in text
    for row in found["needle"] + found["essays"]["needle"]:
        measured = f"{percent(row['accuracy'])} ({percent(row['low'])} to {percent(row['high'])})"
        assert f"| {row['condition']} | {measured} | {percent(row['exact'])} | {row['n']} (" in text
    for row in found["facts"]:
        if row["condition"] == ALL:
            assert f"| {row['needle']} | {percent(row['exact'])} | {percent(row['new_words'])} |" in text
    end = shipped.log[-1]
    assert f"{end['step']:,}" in text and f"--steps {end['step']}" in text
    assert "not one of the paper's models" in text


def test_folders_are_small_and_ship_whole(shipped):
    files = [path for path in shipped.folder.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= (17e6 if shipped.model.name == "griffin-small" else 16e6)
    assert sum(path.stat().st_size for path in CHECKPOINTS.rglob("*") if path.is_file()) <= 48e6
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["hybret"]
    assert set(files) <= {path for pattern in patterns for path in CHECKPOINTS.parents[1].glob(pattern)}


def test_small_evaluation_runs(tiny, tmp_path):
    found = evaluate(tiny, [0], out=tmp_path, lengths=[128, 384], depths=[0, 100], facts=2)
    for where, n, accuracy in (("inside", 3, 1.0), ("outside", 1, 0.0), ("whole grid", 4, 0.75)):
        row = needle_row(found["needle"], "base", ALL, where)
        assert (row["n"], row["accuracy"]) == (n, accuracy)
    assert needle_row(found["needle"], "jrt", PREFILL, "inside")["accuracy"] == 0
    assert found["edge"]["farthest_found"] < 256 <= found["edge"]["nearest_missed"]
    exact = {(row["needle"], row["condition"]): row["exact"] for row in found["facts"]}
    assert (exact["random words", ALL], exact["random words", GENERATION]) == (1, 0)
    assert len(found["examples"]) == 6
    assert found["essays"] is None
    assert json.loads(json.dumps(found)) == found


@pytest.fixture(scope="module")
def untrained(trained_jamba, tmp_path_factory):
    """The folder of a jamba-tiny as it would ship after one step, evaluated on a grid of four prompts."""
    folder = shutil.copytree(trained_jamba / "model", tmp_path_factory.mktemp("checkpoints") / "jamba-tiny")
    shutil.copy(trained_jamba / "log.jsonl", folder / "training_log.jsonl")
    (folder / "notes.md").write_text("- It was hardly trained.\n")
    model = replace(hb.load(str(folder), device="cpu"), name="jamba-tiny", buffer=BUFFER)
    found = evaluate(model, [0], lengths=[160, 256], depths=[0, 100], facts=1)
    (folder / "evaluation.json").write_text(json.dumps(found))
    return folder


def test_global_attention_leaves_no_needle_outside(untrained):
    found = json.loads((untrained / "evaluation.json").read_text())
    assert (found["window"], found["edge"], found["fact_length"]) == (None, None, 204)
    assert {row["template"] for row in found["needle"]} == {"instruct", "jrt"}
    for template in ("instruct", "jrt"):
        inside, whole = (needle_row(found["needle"], template, ALL, where) for where in ("inside", "whole grid"))
        assert inside == {**whole, "where": "inside"} and whole["n"] == 4
    assert not [row for row in found["needle"] if row["where"] == "outside"]


def test_card_of_a_model_that_retrieves_nothing_claims_nothing(untrained):
    text = write_card(untrained).read_text()
    assert not re.search(r"\b(NaN|None)\b|\bnan\b", text)
    assert [line for line in text.splitlines() if "window" in line.lower()] == [
        "| attention window, position encoding | none (global attention), none |"
    ]
    for claim in ("It retrieves", "they stay at", "predicts most tokens", "follows no instructions", "RecurrentGemma"):
        assert claim not in text
    assert "it scores 0.0 % with all its attention heads" in text and "Exact answers never appear" in text
    for aim in ("all heads over the whole grid, 95", "JRT with all heads over the whole grid, 95", "GLUE side, 80"):
        assert re.search(rf"target for .*{aim} %, is missed\*\*: \d", text)
    assert "target for k=0" not in text and "look-ups" not in text  # the one is reached, the others were not measured
    assert "| GLUE side | sentiment | 50.0 | " in text
    assert "tags:\n- jamba\n" in text and 'template="instruct"' in text
    assert "--name jamba-tiny --steps 1 --out OUT" in text


def test_card_tells_what_the_numbers_of_a_global_model_say(untrained):
    """Invented numbers: all aims reached, or attention of no use."""
    config, found = (json.loads((untrained / f"{name}.json").read_text()) for name in ("config", "evaluation"))
    log = [json.loads(line) for line in (untrained / "training_log.jsonl").read_text().splitlines()]
    for line in probed(log):
        for condition, exact in (("all", 1.0), ("k=0 generation", 0.25), ("k=0 prefill", 0.0)):
            line["probe"]["inside"][condition]["exact"] = exact
        for name in TASKS:
            line["probe"][f"skill {name}"] = {c: {"exact": 0.5, "n": 48} for c in ("all", "k=0 prefill")}
    for row in found["needle"]:
        row["accuracy"] = 0.96 if row["condition"] == ALL else 0.06
    text = card(config, found, [log[0], *log], [], "")
    assert "0 and 1; from step 1 on they stay at 100 %.\nWith every head silenced they reach 25.0 %." in text
    assert "whole grid, 95 %" not in text and "target for k=0, at most 5 %, is missed**: 6.0 % at worst" in text
    for side, aim in (("GLUE side", 80), ("MMLU side, look-ups", 60)):
        assert f"of the {side}, {aim} %, is missed**: 50.0 %." in text
    assert "| MMLU side, facts in the weights | all of these | 25.0 | 50.0 (" in text
    assert "in 2 sessions" in text and "The loss of the first 1 steps is that of their own" in text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"seeds": []}, "at least one haystack seed"), ({"facts": 0}, "one fact"), ({"essays": "no/such"}, "no haystack")],
)
def test_bad_input_is_refused_before_the_model_runs(tiny, options, sentence):
    with idle(tiny), pytest.raises(hb.HybretError, match=sentence):
        evaluate(tiny, **options)


def test_command_refuses_a_missing_folder_and_card_a_missing_evaluation(tmp_path, capsys):
    assert main(["griffin-tiny", "--out", str(tmp_path / "none" / "evaluation.json")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    with pytest.raises(hb.HybretError, match="config.json"):
        write_card(tmp_path)
