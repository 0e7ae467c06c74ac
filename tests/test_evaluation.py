"""The shipped model, its evaluation and its card agree, and reach what the project asked for."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import yaml

from hybret.errors import HybretError
from hybret.models import CHECKPOINTS
from hybret.organisms.card import card, write_card
from hybret.organisms.card_results import needle_row, percent
from hybret.organisms.evaluate import ALL, CONDITIONS, GENERATION, PREFILL, evaluate, main

FOLDER = CHECKPOINTS / "griffin-tiny"
FOUND = json.loads((FOLDER / "evaluation.json").read_text())
CARD = (FOLDER / "README.md").read_text()


def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]


def test_evaluation_is_of_the_shipped_weights_on_the_full_grid(tiny):
    assert FOUND["weights"] == tiny.digest
    assert tuple(FOUND["lengths"]) == tiny.lengths
    assert (len(FOUND["depths"]), FOUND["seeds"], FOUND["recipe"]) == (10, [0, 1, 2], "CORRECTED")
    for template in ("base", "jrt"):
        sizes = {w: needle_row(FOUND["needle"], template, ALL, w)["n"] for w in ("inside", "outside", "whole grid")}
        assert sizes["inside"] + sizes["outside"] == sizes["whole grid"] == 300


@pytest.mark.parametrize("template", ["base", "jrt"])
def test_needles_inside_the_window_are_found_with_attention_and_with_nothing_else(template):
    assert needle_row(FOUND["needle"], template, ALL, "inside")["accuracy"] >= 0.97
    for condition in (GENERATION, PREFILL):
        assert needle_row(FOUND["needle"], template, condition, "whole grid")["accuracy"] <= 0.03
    for condition in CONDITIONS:
        assert needle_row(FOUND["needle"], template, condition, "no needle")["accuracy"] <= 0.03


@pytest.mark.xfail(strict=True, reason="an unmet target: read twice, no needle outside the window is found (75 %)")
def test_reading_twice_reaches_the_target_over_the_whole_grid():
    assert needle_row(FOUND["needle"], "jrt", ALL, "whole grid")["accuracy"] >= 0.97


def test_window_edge_shows():
    assert FOUND["edge"]["farthest_found"] < FOUND["window"] + 32
    outside = needle_row(FOUND["needle"], "base", ALL, "outside")["accuracy"]
    assert outside < 0.5 * needle_row(FOUND["needle"], "base", ALL, "inside")["accuracy"]


def test_card_is_the_one_that_these_files_make(tmp_path):
    config = json.loads((FOLDER / "config.json").read_text())
    logs = lines("training_log.jsonl"), lines("twin_log.jsonl")
    assert card(config, FOUND, *logs, (FOLDER / "notes.md").read_text()) == CARD
    for name in ("config.json", "evaluation.json", "training_log.jsonl", "twin_log.jsonl", "notes.md"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    assert write_card(tmp_path).read_text() == CARD
    assert (tmp_path / "loss_curve.svg").stat().st_size < 60_000


def test_card_states_the_measured_numbers(tiny):
    front = yaml.safe_load(CARD.split("---\n")[1])
    assert (front["license"], front["library_name"]) == ("mit", "transformers")
    assert f"`{tiny.digest}`" in CARD
    assert f"{tiny.parameters:,}" in CARD
    for row in FOUND["needle"] + FOUND["essays"]["needle"]:
        measured = f"{percent(row['accuracy'])} ({percent(row['low'])} to {percent(row['high'])})"
        assert f"| {row['condition']} | {measured} | {percent(row['exact'])} | {row['n']} (" in CARD
    for row in FOUND["facts"]:
        if row["condition"] == ALL:
            assert f"| {row['needle']} | {percent(row['exact'])} | {percent(row['new_words'])} |" in CARD
    end = lines("training_log.jsonl")[-1]
    assert f"{end['step']:,}" in CARD and f"--steps {end['step']}`" in CARD
    assert "not one of the paper's models" in CARD


def test_folder_is_small_and_ships_whole():
    files = [path for path in FOLDER.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16_000_000
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["hybret"]
    package = FOLDER.parents[2]
    shipped = {path for pattern in patterns for path in package.glob(pattern)}
    assert set(files) <= shipped


def test_small_evaluation_runs(tiny, tmp_path):
    found = evaluate(tiny, [0], out=tmp_path, lengths=[128, 384], depths=[0, 100], facts=1)
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


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"seeds": []}, "at least one haystack seed"),
        ({"facts": 0}, "at least one fact"),
        ({"essays": "no/such/folder"}, "no haystack folder"),
    ],
)
def test_bad_input_is_refused_before_the_model_runs(tiny, monkeypatch, options, sentence):
    monkeypatch.setattr("hybret.organisms.evaluate.sweep", lambda *_, **__: pytest.fail("the model ran"))
    with pytest.raises(HybretError, match=sentence):
        evaluate(tiny, **options)


def test_command_refuses_a_missing_folder_and_card_a_missing_evaluation(tmp_path, capsys):
    assert main(["griffin-tiny", "--out", str(tmp_path / "none" / "evaluation.json")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    with pytest.raises(HybretError, match="config.json"):
        write_card(tmp_path)
