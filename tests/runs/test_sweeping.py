"""Sweeps: what a row says, what is computed once, what a folder keeps, and what is refused."""

import dataclasses
import json
import math

import pandas as pd
import pytest
from support import Budget, Timings, progress_bar

import hybret as hb
from hybret import CORRECTED, HybretError, Keep, KeepHeads, Omit, Only, PerPhase

STEPS = 6
QUIET = {"max_new_tokens": STEPS, "progress": False}
CONDITIONS = {
    "keep": Keep(),
    "all heads": KeepHeads(10),
    "k=0": KeepHeads(0),
    "k=2, generation": KeepHeads(2, during="generation"),
    "Only-Omit": PerPhase(generation=Only(), prefill=Omit()),
}
KEEP = {"keep": Keep()}


@pytest.fixture(scope="module")
def prompts(griffin):
    grid = ((76, 128), (0, 100))
    return [*hb.niah.grid(griffin, *grid), *hb.niah.grid(griffin, *grid, control=True)]


@pytest.fixture(scope="module")
def rows(griffin, prompts):
    return run(griffin, prompts)


def run(model, prompts, conditions=CONDITIONS, **options):
    return hb.sweep(model, prompts, conditions, **QUIET | options)


def computed(model, prompts, conditions=CONDITIONS, **options):
    """The rows of a sweep, and the answers that it computed, by (prompt, what acts)."""
    stages = Timings()
    return run(model, prompts, conditions, stages=stages, **options), set(stages.tokens)


def assert_same(found, rows):
    """But for which run and which batch made them."""
    pd.testing.assert_frame_equal(*(part.drop(columns=["run", "batch"]) for part in (found, rows)))


def test_each_row_says_where_the_needle_is(rows, griffin, prompts):
    by = {p.key: p for p in prompts}
    for row in rows.to_dict("records"):
        p = by[row["prompt"]]
        assert (row["length"], row["tokens"], row["template"]) == (p.length, len(p.ids), "base")
        assert (row["haystack"], row["haystack_seed"], row["needle"]) == (p.haystack, 0, p.labels["needle"])
        if p.control:
            assert (row["needle_start"], row["needle_end"], row["distance"], row["in_window"]) == (-1, -1, -1, False)
            assert math.isnan(row["depth"])
            continue
        assert [(row["needle_start"], row["needle_end"])] == list(p.needle_spans)
        assert "Dolores Park" in griffin.tokenizer.decode(p.ids[row["needle_start"] : row["needle_end"]])
        assert row["distance"] == len(p.ids) - 1 - row["needle_start"]
        assert row["in_window"] == (row["distance"] < 32)
        assert row["depth"] == p.depth


def test_the_windows_edge_is_exact(griffin):
    """Measured from the last copy of the needle (JRT has two) to the last prompt token."""
    (prompt,) = hb.niah.grid(griffin, (76,), (0,), template="jrt")
    (_, last), distance = prompt.needle_spans, len(prompt.ids) - 1 - prompt.needle_spans[1][0]
    for window, inside in ((None, True), (distance, False), (distance + 1, True)):
        (row,) = run(dataclasses.replace(griffin, window=window), [prompt], KEEP).to_dict("records")
        assert (row["needle_start"], row["needle_end"]) == last and row["in_window"] is inside


def test_a_control_row_says_whose_control_it_is(griffin):
    lamps = [hb.Needle(name, f"A {name} lamp.", "What?", (name,)) for name in ("blue", "red")]
    needles = [hb.PAPER_NEEDLE, *lamps]  # the lamps have one control prompt: it asks for either
    prompts = [
        p for n in needles for c in (0, 1) for p in hb.niah.grid(griffin, (76,), (0,), needle=n, control=bool(c))
    ]
    rows = run(griffin, prompts, KEEP)
    assert rows["asked"].tolist() == [needle.digest for needle in needles for _ in range(2)]
    assert rows["needle"].tolist() == ["paper", "none", "blue", "none", "red", "none"]
    assert rows["prompt"].nunique() == 5 and set(rows.attrs["needles"]) == {"paper", "blue", "red"}


def test_identical_prompts_and_conditions_are_computed_once(griffin):
    """At depth 0 and 1 per cent of a short haystack the needle lands at one place; shared prefills: test_schedule."""
    prompts = hb.niah.grid(griffin, (76,), (0, 1, 100))
    assert len({p.key for p in prompts}) == 2
    rows, answers = computed(griffin, prompts, CONDITIONS | {"again": KeepHeads(0)})
    assert len(answers) == 2 * 4  # all heads kept is keep, and "again" is k=0
    assert len(rows) == 18 and rows["depth"].tolist()[::6] == [0, 1, 100]
    assert rows["answer"][:6].tolist() == rows["answer"][6:12].tolist()
    labelled = rows.set_index("condition")["answer"]
    assert labelled["again"].tolist() == labelled["k=0"].tolist()


def test_resuming_computes_only_what_is_missing(griffin, prompts, rows, tmp_path):
    few = {label: CONDITIONS[label] for label in ("keep", "k=0")}
    _, first = computed(griffin, prompts[:3], few, out=tmp_path)
    found, more = computed(griffin, prompts, out=tmp_path)
    assert_same(found, rows)
    assert len(first) == 3 * 2 and len(more) == 4 * rows["prompt"].nunique() - 6 and not first & more
    found, none = computed(griffin, prompts, out=tmp_path)
    assert_same(found, rows)
    assert not none
    tables = [pd.read_parquet(path) for path in tmp_path.glob("rows-*.parquet")]
    assert sorted(map(len, tables)) == [6, len(rows)]
    assert_same(max(tables, key=len), rows)


OTHER_RUNS = {
    "model": {"model": {"name": "other"}},
    "weights": {"model": {"digest": "0" * 12}},
    "window": {"model": {"window": 31}},
    "recipe": {"recipe": CORRECTED.replace(needle_copies="first")},
    "max_new_tokens": {"max_new_tokens": STEPS + 1},
    "rows_per_batch": {"budget": Budget(3, 2400)},
    "tokens_per_pass": {"budget": Budget(640, 99)},
}


def test_a_folder_holds_one_run(griffin, prompts, tmp_path, request):
    run(griffin, prompts[:1], KEEP, out=tmp_path)
    note = json.loads((tmp_path / "run.json").read_text())
    assert (note["model"], note["weights"], note["max_new_tokens"]) == ("random-griffin", griffin.digest, STEPS)
    assert note["recipe"] == CORRECTED.deciding and note["window"] == 32
    folders = {hb.run_folder(tmp_path, griffin), hb.run_folder(tmp_path, griffin, "CORRECTED")}
    request.getfixturevalue("asleep")
    for field, change in OTHER_RUNS.items():
        options = {"model": {}, "out": tmp_path} | change
        model = dataclasses.replace(griffin, **options.pop("model"))
        with pytest.raises(HybretError, match=rf"another run \(it differs in {field}[.:].* there, .* here\); choose"):
            run(model, prompts[:1], KEEP, **options)
        folders.add(hb.run_folder(tmp_path, model, **{k: v for k, v in change.items() if k != "model"}))
    assert len(folders) == 1 + len(OTHER_RUNS) and {folder.parent for folder in folders} == {tmp_path}
    for field in ("device", "engine", "torch", "transformers"):  # of another machine or version
        (tmp_path / "run.json").write_text(json.dumps(note | {field: "other"}))
        with pytest.raises(HybretError, match=rf'it differs in {field}: "other" there, .* here'):
            run(griffin, prompts[:1], KEEP, out=tmp_path)


def test_stored_rows_are_read_not_computed(griffin, prompts, tmp_path, request):
    folder = hb.run_folder(tmp_path, griffin, max_new_tokens=STEPS)
    assert hb.load_rows(tmp_path, griffin, prompts, max_new_tokens=STEPS).empty
    first = run(griffin, prompts, {"none": KeepHeads(0), "all": Keep()}, out=folder)
    run(griffin, prompts[:1], {"nothing": KeepHeads(0), "hidden": Omit()}, out=folder)
    request.getfixturevalue("asleep")  # another rubric shares the folder, and the answers
    rescored = run(griffin, prompts, {"none": KeepHeads(0)}, recipe=CORRECTED.replace(rubric="2025-05"), out=folder)
    assert set(rescored["rubric"]) == {"2025-05"} and set(rescored["recipe"]) == {"CORRECTED(rubric=2025-05)"}
    rows = hb.load_rows(tmp_path, griffin, prompts, max_new_tokens=STEPS)
    assert set(rows["recipe"]) == {"CORRECTED"}
    assert len(rows) == len(first) + 1 and (rows["intervention"] == repr(Omit())).sum() == 1
    keys = ["intervention", "prompt", "length", "depth"]
    same = first.merge(rows, on=keys, suffixes=("", "_b"))
    assert len(same) == len(first) and (same["score"] == same["score_b"]).all()
    few = hb.load_rows(tmp_path, griffin, prompts[:1], max_new_tokens=STEPS)
    assert set(few["prompt"]) == {prompts[0].key}


def test_a_folder_that_cannot_be_used_is_refused(griffin, prompts, tmp_path, monkeypatch, asleep):
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(HybretError, match="cannot write rows in .*; choose a folder you may write to") as caught:
            run(griffin, prompts, out=out)
        assert "\n" not in str(caught.value)
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    (unknown / "rows-1.parquet").write_bytes(b"")
    with pytest.raises(HybretError, match="holds rows of an unknown run"):
        run(griffin, prompts, out=unknown)
    (unknown / "run.json").write_text("{")
    with pytest.raises(HybretError, match="run.json"):
        run(griffin, prompts, out=unknown)


def test_prompts_longer_than_an_organism_was_trained_on_are_warned_of(tiny, recwarn):
    short = {"max_new_tokens": 1}
    run(tiny, hb.niah.grid(tiny, (512,), (0,), template="jrt"), {"k": KeepHeads(0)}, **short)
    assert not recwarn
    with pytest.warns(UserWarning, match="more than 1024 tokens, the longest that griffin-tiny was trained on"):
        run(tiny, hb.niah.grid(tiny, (1100,), (0,)), {"k": KeepHeads(0)}, **short)


def test_a_log_gets_a_few_lines_and_not_one_for_every_answer_and_none_where_nothing_is_computed(
    griffin, tmp_path, capsys
):
    with progress_bar(True, "model", total=2000) as bar:
        for _ in range(2000):
            bar.update()
    log = capsys.readouterr().err
    assert "2000/2000" in log and log.count("model") <= 2
    for begins in (True, False):
        hb.sweep(griffin, hb.niah.grid(griffin, (76,), 1), KEEP, out=tmp_path, max_new_tokens=1)
        assert ("answer" in capsys.readouterr().err) is begins
