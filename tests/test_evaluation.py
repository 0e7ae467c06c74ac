"""The shipped model, its evaluation and its card agree, and reach what the project asked for."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import yaml

from hybret.errors import HybretError
from hybret.models import CHECKPOINTS, load, organisms
from hybret.organisms.card import card, write_card
from hybret.organisms.card_results import needle_row, percent
from hybret.organisms.evaluate import ALL, CONDITIONS, GENERATION, PREFILL, evaluate, main


class Shipped:
    """An organism's folder: the model, its evaluation, its card and its logs."""

    def __init__(self, name: str):
        self.folder = CHECKPOINTS / name
        self.model = load(name, device="cpu")
        self.found = json.loads((self.folder / "evaluation.json").read_text())
        self.card = (self.folder / "README.md").read_text()

    def log(self, name: str) -> list[dict]:
        file = self.folder / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


@pytest.fixture(scope="module", params=organisms())
def shipped(request):
    return Shipped(request.param)


def test_evaluation_is_of_the_shipped_weights_on_the_full_grid(shipped):
    found = shipped.found
    assert found["weights"] == shipped.model.digest
    assert tuple(found["lengths"]) == shipped.model.lengths
    assert (len(found["depths"]), found["seeds"], found["recipe"]) == (10, [0, 1, 2], "CORRECTED")
    for template in ("base", "jrt"):
        sizes = {w: needle_row(found["needle"], template, ALL, w)["n"] for w in ("inside", "outside", "whole grid")}
        assert sizes["inside"] + sizes["outside"] == sizes["whole grid"] == 300


@pytest.mark.parametrize("template", ["base", "jrt"])
def test_needles_inside_the_window_are_found_with_attention_and_with_nothing_else(shipped, template):
    measures = shipped.found["needle"]
    assert needle_row(measures, template, ALL, "inside")["accuracy"] >= 0.97
    for condition in (GENERATION, PREFILL):
        assert needle_row(measures, template, condition, "whole grid")["accuracy"] <= 0.03
    for condition in CONDITIONS:
        assert needle_row(measures, template, condition, "no needle")["accuracy"] <= 0.03


@pytest.mark.xfail(strict=True, reason="an unmet target: read twice, no needle outside the window is found (75 %)")
def test_reading_twice_reaches_the_target_over_the_whole_grid(shipped):
    assert needle_row(shipped.found["needle"], "jrt", ALL, "whole grid")["accuracy"] >= 0.97


def test_window_edge_shows(shipped):
    found = shipped.found
    assert found["edge"]["farthest_found"] < found["window"] + 32
    outside = needle_row(found["needle"], "base", ALL, "outside")["accuracy"]
    assert outside < 0.5 * needle_row(found["needle"], "base", ALL, "inside")["accuracy"]


def test_card_is_the_one_that_these_files_make(shipped, tmp_path):
    config, notes = (
        json.loads((shipped.folder / "config.json").read_text()),
        (shipped.folder / "notes.md").read_text(),
    )
    logs = shipped.log("training_log.jsonl"), shipped.log("twin_log.jsonl")
    assert card(config, shipped.found, *logs, notes) == shipped.card
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
    end = shipped.log("training_log.jsonl")[-1]
    assert f"{end['step']:,}" in text and f"--steps {end['step']}`" in text
    assert "not one of the paper's models" in text


def test_folders_are_small_and_ship_whole(shipped):
    files = [path for path in shipped.folder.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= (16e6 if shipped.model.name == "griffin-tiny" else 17e6)
    assert sum(path.stat().st_size for path in CHECKPOINTS.rglob("*") if path.is_file()) <= 48e6
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
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
