"""The shipped models, their evaluations and their cards agree, and reach what the project asked for."""

import json
import re
import shutil
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import idle

import hybret as hb
from hybret.models import CHECKPOINTS, organisms
from hybret.organisms.training.card import needle_row, write_card
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


def test_folders_are_small_and_ship_whole(shipped):
    files = [path for path in shipped.folder.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= (17e6 if shipped.model.name == "griffin-small" else 16e6)
    assert sum(path.stat().st_size for path in CHECKPOINTS.rglob("*") if path.is_file()) <= 48e6
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["hybret"]
    assert set(files) <= {path for pattern in patterns for path in CHECKPOINTS.parents[1].glob(pattern)}


def test_small_evaluation_runs(tiny, tmp_path):
    found = evaluate(tiny, [0], out=tmp_path, lengths=[128, 384], depths=[0, 100], facts=1)
    for where, n, accuracy in (("inside", 3, 1.0), ("outside", 1, 0.0), ("whole grid", 4, 0.75)):
        row = needle_row(found["needle"], "base", ALL, where)
        assert (row["n"], row["accuracy"]) == (n, accuracy)
    assert needle_row(found["needle"], "jrt", PREFILL, "inside")["accuracy"] == 0
    assert found["edge"]["farthest_found"] < 256 <= found["edge"]["nearest_missed"]
    exact = {(row["needle"], row["condition"]): row["exact"] for row in found["facts"]}
    assert (exact["random words", ALL], exact["random words", GENERATION]) == (1, 0)
    assert len(found["examples"]) == 6 and found["essays"] is None
    assert json.loads(json.dumps(found)) == found


@pytest.fixture(scope="module")
def untrained(trained_jamba, tmp_path_factory):
    """The folder of a jamba-tiny as it would ship after one step, evaluated on two prompts."""
    folder = shutil.copytree(trained_jamba / "model", tmp_path_factory.mktemp("checkpoints") / "jamba-tiny")
    shutil.copy(trained_jamba / "log.jsonl", folder / "training_log.jsonl")
    (folder / "notes.md").write_text("- It was hardly trained.\n")
    model = replace(hb.load(str(folder), device="cpu"), name="jamba-tiny", buffer=BUFFER)
    found = evaluate(model, [0], lengths=[160], depths=[0, 100], facts=1)
    (folder / "evaluation.json").write_text(json.dumps(found))
    return folder


def test_global_attention_leaves_no_needle_outside_and_a_card_claims_nothing_that_was_not_measured(untrained):
    found = json.loads((untrained / "evaluation.json").read_text())
    assert (found["window"], found["edge"], found["fact_length"]) == (None, None, 128)
    assert {row["template"] for row in found["needle"]} == {"instruct", "jrt"}
    for template in ("instruct", "jrt"):
        inside, whole = (needle_row(found["needle"], template, ALL, where) for where in ("inside", "whole grid"))
        assert inside == {**whole, "where": "inside"} and whole["n"] == 2
    assert not [row for row in found["needle"] if row["where"] == "outside"]
    text = write_card(untrained).read_text()
    assert not re.search(r"\b(NaN|None)\b|\bnan\b", text) and text.lower().count("window") == 1
    for claim in ("It retrieves", "they stay at", "predicts most tokens", "follows no instructions", "RecurrentGemma"):
        assert claim not in text
    for aim in ("all heads over the whole grid, 95", "JRT with all heads over the whole grid, 95", "GLUE side, 80"):
        assert re.search(rf"target for .*{aim} %, is missed\*\*: \d", text)
    assert "target for k=0" not in text and "look-ups" not in text  # the one is reached, the others were not measured
    assert "--name jamba-tiny --steps 1 --out OUT" in text


def test_bad_input_is_refused_before_the_model_runs(tiny, tmp_path, capsys):
    bad = {"one haystack seed": {"seeds": []}, "one fact": {"facts": 0}, "no haystack": {"essays": "no/such"}}
    few = {"lengths": [128], "depths": [0]}
    for sentence, options in bad.items():
        with idle(tiny), pytest.raises(hb.HybretError, match=sentence):
            evaluate(tiny, **few | options)
    with idle(tiny), pytest.raises(hb.HybretError, match="window of 64 tokens is too short"):
        evaluate(replace(tiny, window=64, buffer=0), [0], **few)
    assert main(["griffin-tiny", "--out", str(tmp_path / "none" / "evaluation.json")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    with pytest.raises(hb.HybretError, match="config.json"):
        write_card(tmp_path)
