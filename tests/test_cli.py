"""The command line, as a user types it."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from support import run, toy

from hybret import cli

GRID = ("--lengths", "128,", "--depths", "0,50,100")


def test_sweep_prints_one_json_object(tmp_path):
    words = ["sweep", "--k", 0, "--k", 10, "--during", "generation", *GRID, "--json", "--control", "--out", tmp_path]
    first = run(*words)
    assert first.exit_code == 0, first.output
    table = json.loads(first.stdout)
    assert list(table) == ["k=0 (generation)", "k=10 (generation)"]
    none, everything = table.values()
    assert none["accuracy"] == none["floor"] == 0 and everything["accuracy"] == everything["exact"] == 1
    assert everything["n"] == 3 and everything["ci95"][0] <= everything["accuracy"] <= everything["ci95"][1]
    assert list(tmp_path.glob("rows-*.parquet"))
    assert json.loads(run(*words).stdout) == table


def test_a_dry_run_counts_what_a_sweep_computes_and_writes_nothing(tmp_path):
    words = ["sweep", "--dry-run", *GRID, "--limit", 2, "--rows-per-batch", 11, "--out", tmp_path / "out"]
    work = json.loads(run(*words, "--json").stdout)
    assert work.pop("estimated_seconds") >= 0 and 100 < work.pop("tokens") < 256
    # Heads are dropped while answering: every condition reads a prompt alike.
    assert work == {"prompts": 2, "conditions": 11, "prefills": 2, "answers": 22, "batches": 2}
    shown = run(*words)
    assert shown.exit_code == 0 and re.search(r"estimated seconds +\d", shown.stdout)
    assert json.loads(run(*words, "--json", "--during", "prefill").stdout)["prefills"] == 22
    assert run(*words, "--k", 11).exit_code == 2 and not (tmp_path / "out").exists()


def test_a_needle_of_ones_own_is_hidden_asked_for_and_scored(tmp_path):
    sentence, question = "The secret code of the lamp is poplar iris castle.", "What is the secret code of the lamp?"
    needle = ["--needle", sentence, "--question", question, "--keywords", "poplar, iris,castle"]
    words = ["sweep", "--k", 10, "--lengths", "200,", "--depths", "100,", "--json", *needle]
    done = run(*words, "--out", tmp_path)
    assert json.loads(done.stdout)["k=10 (generation)"]["exact"] == 1, done.output
    (rows,) = map(pd.read_parquet, tmp_path.glob("rows-*.parquet"))
    assert rows["needle"].str.match(r"needle-[0-9a-f]{8}$").all() and sentence in rows["answer"][0]
    shown = run("sweep", "--help").stdout
    assert all(f"{option} <str>" in shown for option in ("--needle", "--question", "--keywords", "--haystack"))


def test_a_warning_is_one_line_without_its_place():
    done = run("sweep", "--k", 0, "--lengths", "1100,1200", "--depths", "50,", "--limit", 1, "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)
    pattern = r"warning: some prompts have more than 1024 tokens, [^\n]+ give shorter lengths\n"
    assert re.fullmatch(pattern, done.stderr)


def test_explore_writes_a_page_and_prints_its_path(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        toy(model=name).to_parquet(tmp_path / name / "rows-1.parquet")
    done = run("explore", tmp_path, "--out", tmp_path / "x.html")
    assert done.exit_code == 0 and done.stdout.strip() == str(tmp_path / "x.html")
    assert all(name in (tmp_path / "x.html").read_text() for name in ("one", "two"))
    assert Path(run("explore", tmp_path / "one").stdout.strip()) == tmp_path / "one" / "explorer.html"


@pytest.mark.parametrize("columns", ["24", "40", "200"])
def test_a_table_cuts_no_word_in_a_narrow_terminal(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    cells = ("k=0 (generation)", "100.0%", "61.0% to 100.0%", 1234567.8)
    cli.show(("condition", "accuracy", "95 % interval", "n"), [cells])
    words = capsys.readouterr().out.split()
    assert {word for cell in cells for word in str(cell).split()} <= {*words}
