"""The command line, as a user types it."""

import json
import re

import pandas as pd
import pytest
from typer.testing import CliRunner

from hybret.cli import app


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_models_lists_what_can_be_named():
    found = run("models")
    assert found.exit_code == 0
    assert "griffin-tiny" in found.stdout and "google/recurrentgemma-2b" in found.stdout


def test_sweep_prints_one_json_object(tmp_path):
    words = [
        "sweep",
        "--k",
        0,
        "--k",
        10,
        "--during",
        "generation",
        "--lengths",
        "128,",
        "--depths",
        "0,50,100",
        "--json",
    ]
    first = run(*words, "--control", "--out", tmp_path)
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout)
    assert list(found) == ["k=0 (generation)", "k=10 (generation)"]
    none, whole = found.values()
    assert none["accuracy"] == none["floor"] == 0 and whole["accuracy"] == whole["exact"] == 1 and whole["n"] == 3
    assert whole["ci95"][0] <= whole["accuracy"] <= whole["ci95"][1]
    assert list(tmp_path.glob("rows-*.parquet"))
    assert json.loads(run(*words, "--control", "--out", tmp_path).stdout) == found


def test_a_needle_of_ones_own_is_hidden_asked_for_and_scored(tmp_path):
    sentence, question = "The secret code of the lamp is poplar iris castle.", "What is the secret code of the lamp?"
    own = ["--needle", sentence, "--question", question, "--keywords", "poplar, iris,castle"]
    words = ["sweep", "--k", 10, "--lengths", "200,", "--depths", "100,", "--json", *own]
    found = run(*words, "--out", tmp_path)
    assert json.loads(found.stdout)["k=10 (generation)"]["exact"] == 1, found.output
    (rows,) = map(pd.read_parquet, tmp_path.glob("rows-*.parquet"))
    assert rows["needle"].str.match(r"needle-[0-9a-f]{8}$").all() and sentence in rows["answer"][0]
    shown = run("sweep", "--help").stdout
    assert all(f"{option} <str>" in shown for option in ("--needle", "--question", "--keywords", "--haystack"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "nope"], "unknown model 'nope'"),
        (["--k", 11], "k from 0 to 10"),
        (["--k", -1], "k is -1"),
        (["--during", "later"], "unknown phase 'later'"),
        (["--recipe", "mine"], "unknown recipe 'mine'"),
        (["--template", "poem"], "unknown template 'poem'"),
        (["--lengths", "20,30"], "leaves no room"),
        (["--lengths", "many"], "give a count"),
        (["--depths", "0,200"], "outside 0 to 100"),
        (["--limit", 0], "limit is 0"),
        (["--haystack", "no-such-folder"], "no haystack folder"),
        (["--device", "toaster"], "'toaster' is not available"),
    ],
)
def test_bad_input_is_one_sentence_and_not_success(words, says):
    found = run("sweep", *words)
    assert found.exit_code == 2
    assert says in found.stderr and found.stderr.count("\n") <= 2 and "Traceback" not in found.output


def test_a_warning_is_one_line_without_its_place():
    found = run("sweep", "--k", 0, "--lengths", "1100,1200", "--depths", "50,", "--json")
    assert found.exit_code == 0 and json.loads(found.stdout)
    assert re.fullmatch(
        r"warning: some prompts have more than 1024 tokens, [^\n]+ give shorter lengths\n", found.stderr
    )


def test_training_has_its_own_bad_input(tmp_path):
    (tmp_path / "log.jsonl").write_text("{}")
    found = run("train", "--smoke", "--out", tmp_path)
    assert found.exit_code == 2
