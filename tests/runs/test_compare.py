"""Two runs side by side: what made them, which cells changed, and what a terminal is shown of it."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from support import ENGINE_DIGEST, digest, run

import hybret as hb
from hybret import HybretError, Keep, KeepHeads

CONDITIONS = {"keep": Keep(), "k=0": KeepHeads(0)}


@pytest.fixture(scope="module")
def rows(griffin):
    prompts = hb.niah.grid(griffin, (76, 128), (0, 100))
    return hb.sweep(griffin, prompts, CONDITIONS, max_new_tokens=3, progress=False)


@pytest.fixture
def changed(rows):
    """Another answer in one cell, another score too in a second, a third is missing; made by another version."""
    other = rows.copy()
    other.loc[0, "answer"] = "\x1b[31mred[/] \u202eevil"
    other.loc[1, ["answer", "score"]] = ["eat a sandwich", 1.0]
    other = other.drop(index=2)
    other.attrs = json.loads(json.dumps(rows.attrs))
    other.attrs["run"]["engine"] = "0" * 12
    return other


def folder(path, *parts):
    for i, part in enumerate(parts):
        path.mkdir(exist_ok=True)
        part.to_parquet(path / f"rows-{i}.parquet")
    return path


def test_rows_point_at_their_batch_and_its_maker(griffin, tmp_path):
    prompts = hb.niah.grid(griffin, (76,), (0, 100))
    out = hb.run_folder(tmp_path, griffin, max_new_tokens=3)
    rows = hb.sweep(griffin, prompts, CONDITIONS, out=out, max_new_tokens=3, progress=False)
    assert out.name.endswith(rows["run"].iloc[0])
    for batch in rows["batch"].unique():
        (path,) = out.glob(f"answers/{batch}.*.parquet")
        part = pd.read_parquet(path)
        assert set(part["made"]) == set(rows.attrs["made"])
        assert {"rows_per_batch", "tokens_per_pass"} <= set(part)
    assert [path.name for path in out.glob("made-*")] == [f"made-{maker}.json" for maker in rows.attrs["made"]]
    assert hb.load_rows(tmp_path, griffin, prompts, max_new_tokens=3).attrs == rows.attrs


def test_what_changed_is_said_cell_by_cell(rows, changed):
    found = hb.diff(rows, changed)
    assert not found.same and found.provenance == {"engine": ([rows.attrs["run"]["engine"]], ["0" * 12])}
    assert sorted(found.cells["change"]) == ["answer", "only in a", "score"]
    by = found.cells.set_index("change")
    assert by.loc["score", ["prompt", "score_b", "answer_b"]].tolist() == [rows["prompt"][1], 1.0, "eat a sandwich"]
    assert by.loc["score", "answer_a"] == rows["answer"][1]
    counts = found.conditions.set_index("condition")
    assert counts.loc["keep", ["cells", "answer", "only in a"]].tolist() == [3, 1, 1]
    assert counts.loc["k=0", ["cells", "score", "only in b"]].tolist() == [4, 1, 0]


def test_labels_do_not_matter_and_recipes_without_a_common_one_are_paired(rows):
    other = rows.assign(condition="x", recipe="PAPER")
    found = hb.diff(rows, other)
    assert found.same and found.provenance == {"recipe": (["CORRECTED"], ["PAPER"])}


def test_several_answers_to_one_cell_are_refused(rows):
    for more, named in (
        ({"model": "other"}, " (they differ in model)"),
        ({"rubric": "2025-05"}, " (they differ in rubric)"),
        ({}, "; compare its runs"),
    ):
        both = pd.concat([rows, rows.assign(score=2.0, **more)])
        for pair in ((both, rows), (rows, both)):
            with pytest.raises(HybretError, match="several answers to one cell" + re.escape(named)):
                hb.diff(*pair)


def test_the_command_escapes_what_models_wrote_and_its_status_tells(rows, changed, tmp_path):
    a, b = folder(tmp_path / "a", rows), folder(tmp_path / "b", changed)
    same = run("diff", a, a)
    assert same.exit_code == 0 and "no cell differs" in same.stdout
    found = run("diff", a, b)
    assert found.exit_code == 1 and not {"\x1b", "\u202e"} & set(found.stdout)
    assert r"b: 0.0  \x1b[31mred[/] \u202eevil" in found.stdout
    told = run("diff", a, b, "--json")
    assert told.exit_code == 1 and "\x1b" not in told.stdout
    told = json.loads(told.stdout)
    assert told["same"] is False and len(told["cells"]) == 3 and told["provenance"]["engine"]["b"] == ["0" * 12]


def test_bad_input_is_one_sentence(rows, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("no table")
    pd.DataFrame({"k": [1]}).astype({"k": "Int64"}).to_parquet(tmp_path / "other.parquet")
    no = "holds no finished rows"
    bad = {"nowhere": no, "empty": no, "text.parquet": "is damaged", "other.parquet": "has no column 'intervention'"}
    for name, says in bad.items():
        found = run("diff", tmp_path / name, tmp_path / name)
        assert found.exit_code == 2 and says in found.stderr and found.stderr.count("\n") == 1
    found = run("diff", folder(tmp_path / "c", rows), folder(tmp_path / "d", rows.assign(haystack="hills")))
    assert found.exit_code == 2 and "no cell in common" in found.stderr and found.stderr.count("\n") == 1
    assert "they differ in haystack" in found.stderr
    with pytest.raises(HybretError, match="the table holds no rows"):
        hb.diff(rows, rows[:0])
    with pytest.raises(HybretError, match="the table has no column 'prompt'"):
        hb.diff(rows.drop(columns="prompt"), rows)


def test_the_digest_of_a_run_covers_every_module_that_decides_an_answer():
    """Loading, the recipe, and what the engine imports, but for what only checks, names or draws."""
    package, decides = Path(hb.__file__).parent, {"checkpoints", "devices", "models"}

    def files(name):
        return [path] if (path := package / f"{name}.py").exists() else [*(package / name).glob("*.py")]

    todo = [*files("engine"), *files("models")]
    while todo:
        imported = set(re.findall(r"^from hybret\.(\w+) import", todo.pop().read_text(), re.MULTILINE))
        new = imported - decides - {"engine", "errors", "files", "prompts"}
        todo += [path for name in new for path in files(name)]
        decides |= new
    assert digest(*sorted(path for name in {"engine", *decides} for path in files(name))) == ENGINE_DIGEST
