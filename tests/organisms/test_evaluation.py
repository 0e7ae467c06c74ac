"""The shipped models, their evaluations and their cards agree, and what is missed is said."""

import json
import shutil
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import idle

import hybret as hb
from hybret.models import CHECKPOINTS, organisms
from hybret.organisms.training.card import FILES, ship, summary, write_card
from hybret.organisms.training.evaluate import ALL, GENERATION, PREFILL, evaluate, loaded, main, targets
from hybret.organisms.training.recipes import RECIPES


@pytest.fixture(scope="module", params=organisms())
def shipped(request):
    """A model's folder: the model, its evaluation, the log of its training, and all trainings."""
    folder, model = CHECKPOINTS / request.param, hb.load(request.param, device="cpu")
    found, seeds = (
        json.loads(path.read_text()) if (path := folder / name).is_file() else None
        for name in ("evaluation.json", "seeds.json")
    )
    with (folder / "training_log.jsonl").open() as log:
        training = json.loads(next(log))["training"]
    return SimpleNamespace(folder=folder, model=model, found=found, seeds=seeds, training=training)


def test_evaluation_is_of_the_shipped_weights_on_the_full_grid(shipped):
    found = shipped.found
    assert found["weights"] == shipped.model.digest and tuple(found["lengths"]) == shipped.model.lengths
    assert (len(found["depths"]), found["seeds"], found["recipe"]) == (10, [0, 1, 2], "CORRECTED")
    rows = {(row["template"], row["where"], row["condition"]): row for row in found["needle"]}
    assert rows["jrt", "whole grid", ALL]["n"] == 300 and rows["jrt", "whole grid", PREFILL]["n"] >= 100
    assert ("outside" in {where for _, where, _ in rows}) == (shipped.model.window is not None)
    # Needles inside the window are found with attention, and without it no answer is exact.
    assert all(row["exact"] >= 0.95 for (_, where, how), row in rows.items() if (where, how) == ("inside", ALL))
    assert all(row["exact"] == 0 for (_, where, how), row in rows.items() if how != ALL or where == "no needle")


def test_the_card_is_of_these_files_and_says_what_is_missed(shipped, tmp_path):
    for name in FILES:
        (tmp_path / name).write_bytes((shipped.folder / name).read_bytes())
    card = write_card(tmp_path).read_text()
    assert card == (shipped.folder / "README.md").read_text()
    for what, target in targets(shipped.found).items():
        assert (f"- **A target is missed**: {what}." in card) == (not target.met)


def test_the_seed_of_the_lowest_held_out_loss_ships_by_the_recipe(shipped):
    made = json.loads(json.dumps(asdict(replace(RECIPES[shipped.model.name], seed=shipped.training["seed"]))))
    assert {key: shipped.training[key] for key in made} == made
    rows = [row for row in shipped.seeds if (row["name"], row["windows"]) == (shipped.model.name, [])]
    assert len(rows) >= 3 and len({row["seed"] for row in rows}) == len(rows)
    (best,) = (row for row in shipped.seeds if row.get("ships"))
    assert best == min(rows, key=lambda row: row["held_out_loss"]) and best["seed"] == shipped.training["seed"]
    assert best["targets"] == {what: target.value for what, target in targets(shipped.found).items()}


def test_folders_are_small_and_ship_whole(shipped):
    files = [path for path in shipped.folder.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16.5e6
    assert sum(path.stat().st_size for path in CHECKPOINTS.rglob("*") if path.is_file()) <= 48e6
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["hybret"]
    assert set(files) <= {path for pattern in patterns for path in CHECKPOINTS.parents[1].glob(pattern)}


def test_small_evaluation_runs(tiny, tmp_path):
    found = evaluate(tiny, [0], out=tmp_path, lengths=[128, 384], depths=[0, 100], facts=1)
    rows = {(row["template"], row["condition"], row["where"]): row for row in found["needle"]}
    for where, n, accuracy in (("inside", 3, 1.0), ("outside", 1, 0.0), ("whole grid", 4, 0.75)):
        row = rows["base", ALL, where]
        assert (row["n"], row["accuracy"]) == (n, accuracy)
    assert rows["jrt", PREFILL, "inside"]["accuracy"] == 0
    exact = {(row["needle"], row["condition"]): row["exact"] for row in found["facts"]}
    assert (exact["random words", ALL], exact["random words", GENERATION]) == (1, 0)
    assert len(found["examples"]) == 13 + 10 + 1 + 2 and json.loads(json.dumps(found)) == found
    assert len(targets(found)) == 16 and targets(found)["lists of random words"] == (1, 0.97)


def test_the_best_run_ships_and_a_control_is_told_beside_it(trained_jamba, tmp_path, monkeypatch):
    """Runs of a jamba-tiny after one step: the second has the lower loss, the third is a control."""
    runs = [shutil.copytree(trained_jamba, tmp_path / name) for name in ("first", "second", "control")]
    model = replace(loaded(str(runs[0])), name="jamba-tiny")
    found = evaluate(model, [0], lengths=[160], depths=[0, 100], facts=1)
    assert (found["window"], found["fact_length"]) == (None, 128)
    assert not [row for row in found["needle"] if row["where"] == "outside"]
    for run, loss, name in zip(runs, (3.0, 2.0, 1.0), ("jamba-tiny", "jamba-tiny", "jamba-tiny-ssm"), strict=True):
        with pytest.raises(hb.HybretError, match=r"no evaluation\.json"):
            summary(run)
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        lines[0]["training"] |= {"name": name, "steps": 2}  # of which its session did one
        lines[-2]["held_out_loss"] = loss
        (run / "log.jsonl").write_text("\n".join(map(json.dumps, lines[:-1])))
        (run / "evaluation.json").write_text(json.dumps(found))
        with pytest.raises(hb.HybretError, match="has not ended"):
            summary(run)
        (run / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(hb.HybretError, match="None of these runs"):  # their schedule has two steps, not the recipe's
        ship("jamba-tiny", runs, tmp_path / "jamba-tiny")
    monkeypatch.setitem(RECIPES, "jamba-tiny", replace(RECIPES["jamba-tiny"], steps=2))
    ship("jamba-tiny", runs, tmp_path / "jamba-tiny")
    ships = [row.get("ships", False) for row in json.loads((tmp_path / "jamba-tiny" / "seeds.json").read_text())]
    assert ships == [False, True, False]
    text = write_card(tmp_path / "jamba-tiny").read_text()
    assert "| 0, **ships** | 2.0000 |" in text and "| 0, without attention | 1.0000 |" in text
    assert "--name jamba-tiny --seed 0 --compile" in text and "which ended it at 50% of them" in text
    assert "nan" not in text.lower().split() and "RecurrentGemma" not in text


def test_bad_input_is_refused_before_the_model_runs(tiny, tmp_path, capsys):
    bad = {"one haystack seed": {"seeds": []}, "one fact": {"facts": 0}, "no haystack": {"essays": "no/such"}}
    few = {"lengths": [128], "depths": [0], "facts": 1}
    for sentence, options in bad.items():
        with idle(tiny), pytest.raises(hb.HybretError, match=sentence):
            evaluate(tiny, **few | options)
    with idle(tiny), pytest.raises(hb.HybretError, match="window of 64 tokens is too short"):
        evaluate(replace(tiny, window=64, buffer=0), [0], **few)
    assert main(["griffin-tiny", "--out", str(tmp_path / "none" / "evaluation.json")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    with pytest.raises(hb.HybretError, match=r"config\.json"):
        write_card(tmp_path)
