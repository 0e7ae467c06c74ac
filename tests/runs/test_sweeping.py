"""Sweeps: what a row says, what is computed once, what survives an interruption, and what is refused."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import tempfile
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

import hybret as hb
from hybret import CORRECTED, PAPER, HybretError, Keep, KeepHeads, Null, Omit, Only, PerPhase, store
from hybret import rows as schema
from hybret.engine import decode, prefix_tree
from hybret.engine.schedule import Budget, Timings
from hybret.scoring import score
from hybret.sweeping import run_folder, sweep
from hybret.tasks import niah

STEPS = 6
CONDITIONS = {
    "keep": Keep(),
    "all heads": KeepHeads(10),
    "k=0": KeepHeads(0),
    "k=2, generation": KeepHeads(2, during="generation"),
    "Only-Omit": PerPhase(generation=Only(), prefill=Omit()),
}


def prompts_of(model, lengths=(76, 128), depths=(0, 100), **options):
    return niah.grid(model, lengths, depths, **options)


@pytest.fixture(scope="module")
def prompts(griffin):
    """Two lengths at two depths, and the control without a needle."""
    return [*prompts_of(griffin), *prompts_of(griffin, control=True)]


@pytest.fixture(scope="module")
def rows(griffin, prompts):
    return run(griffin, prompts)


def run(model, prompts, conditions=CONDITIONS, **options):
    return sweep(model, prompts, conditions, max_new_tokens=STEPS, progress=False, **options)


def assert_same(found, rows):
    """But for which run and which batch made them."""
    pd.testing.assert_frame_equal(*(part.drop(columns=["run", "batch"]) for part in (found, rows)))


@pytest.fixture
def prefills(monkeypatch):
    """(prompt ids, number of distinct prefills) of each prompt that `prefix_tree.prefill` has read."""
    calls, original = [], prefix_tree.prefill

    def counted(model, prompts, rows, *args, **kwargs):
        for prompt, state in original(model, prompts, rows, *args, **kwargs):
            calls.append((prompt.ids, len(rows)))
            yield prompt, state

    monkeypatch.setattr(prefix_tree, "prefill", counted)
    return calls


@pytest.fixture
def no_forward(griffin):
    """A model that fails the test when it runs."""
    hook = griffin.net.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    yield griffin
    hook.remove()


def test_columns_and_order(rows, prompts):
    assert list(rows.columns) == list(schema.COLUMNS)
    whole = [*schema.COLUMNS][9:11] + ["haystack_seed", "length", "tokens", "needle_start", "needle_end", "distance"]
    types = dict.fromkeys(whole, "int64") | {"depth": "float64", "score": "float64", "max_new_tokens": "int64"}
    assert {column: str(rows[column].dtype) for column in types} == types
    assert rows["condition"].tolist() == list(CONDITIONS) * len(prompts)
    assert rows["prompt"].tolist() == [p.key for p in prompts for _ in CONDITIONS]
    assert rows["k"].dtype == "Int64" and rows["in_window"].dtype == bool and rows["exact"].dtype == bool
    assert rows["score"].between(0, 5).all()


def test_each_row_says_what_was_done(rows, griffin, prompts):
    assert set(rows["model"]) == {"random-griffin"} and set(rows["weights"]) == {griffin.digest}
    assert set(rows["recipe"]) == {"CORRECTED"} and set(rows["rubric"]) == {"table2"}
    assert (set(rows["device"]), set(rows["dtype"])) == ({"cpu"}, {"float32"})
    by = rows.drop_duplicates("condition").set_index("condition")
    assert by["k"].isna().tolist() == [True, False, False, False, True]
    assert by["k"].dropna().tolist() == [10, 0, 2]
    assert by["during"].fillna("").tolist() == ["", "both", "both", "generation", ""]
    assert by.loc["Only-Omit", ["prefill", "generation"]].tolist() == ["omit", "only"]
    assert by.loc["k=2, generation", "prefill"] == by.loc["keep", "generation"] == "keep"
    assert by["intervention"].map(lambda text: eval(text)).to_dict() == CONDITIONS
    for row in rows.to_dict("records"):
        points, exact, _ = score(row["answer"], "table2")
        assert (row["score"], row["exact"]) == (points, exact)


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


@pytest.mark.parametrize(("window", "inside"), [(10**6, True), (None, True), (1, False)])
def test_in_window_follows_the_models_window(griffin, window, inside):
    """Measured from the last copy of the needle (JRT has two) to the last prompt token."""
    jrt = prompts_of(griffin, (76,), (0,), template="jrt")
    (row,) = run(dataclasses.replace(griffin, window=window), jrt, {"keep": Keep()}).to_dict("records")
    assert (row["needle_start"], row["needle_end"]) == jrt[0].needle_spans[1] > jrt[0].needle_spans[0]
    assert row["in_window"] is inside


def test_the_windows_edge_is_exact(griffin):
    (prompt,) = prompts_of(griffin, (76,), (0,))
    distance = len(prompt.ids) - 1 - prompt.needle_spans[0][0]
    for window, inside in ((distance, False), (distance + 1, True)):
        assert run(dataclasses.replace(griffin, window=window), [prompt], {"keep": Keep()})["in_window"].all() == inside


def test_all_heads_is_keep_and_conditions_differ(rows):
    answers = rows.pivot(index="prompt", columns="condition", values="answer")
    assert (answers["all heads"] == answers["keep"]).all()
    assert (answers.drop(columns="all heads").nunique(axis=1) == 4).all()


@pytest.mark.parametrize("recipe", [CORRECTED, PAPER], ids=lambda r: r.name)
def test_answers_are_the_slow_loops(model, recipe):
    prompts = prompts_of(model, (76, 100), (100,), recipe=recipe)
    conditions = {"keep": Keep(), "k=1": KeepHeads(1, during="generation"), "Only-Omit": CONDITIONS["Only-Omit"]}
    rows = run(model, prompts, conditions, recipe=recipe)
    for row in rows.to_dict("records"):
        prompt = next(p for p in prompts if p.key == row["prompt"])
        with hb.attach(model, conditions[row["condition"]], recipe):
            assert row["answer"] == model.generate(prompt, STEPS)


@pytest.mark.parametrize("budget", [Budget(1, 1), Budget(7, 50), Budget(64, 100_000)], ids=str)
def test_answers_do_not_depend_on_the_budget(griffin, prompts, rows, budget):
    assert_same(run(griffin, prompts, budget=budget), rows)


def test_out_of_memory_halves_the_budget_and_loses_nothing(griffin, prompts, rows, tmp_path, monkeypatch):
    original, decoded = decode.decode, []

    def small(model, state, conditions, *args, **kwargs):
        if len(conditions) > 6:
            raise torch.OutOfMemoryError("out of memory")
        decoded.extend(conditions)
        return original(model, state, conditions, *args, **kwargs)

    monkeypatch.setattr(decode, "decode", small)
    assert_same(run(griffin, prompts, out=tmp_path, budget=Budget(20, 100)), rows)
    parts = pd.concat([pd.read_parquet(path) for path in tmp_path.glob("answers/*.parquet")])
    assert len(decoded) == len(parts) == len(parts.drop_duplicates(["prompt", "does"]))
    assert set(parts["rows_per_batch"]) <= {5, 10} and set(parts["tokens_per_pass"]) <= {25, 50}


def test_a_device_too_small_for_one_row_is_said(griffin, prompts, tmp_path, monkeypatch):
    def never(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(decode, "decode", never)
    with pytest.raises(HybretError, match="does not fit into the memory of cpu .* use a larger device"):
        run(griffin, prompts[:1], out=tmp_path, budget=Budget(2, 64))
    assert griffin.net.config._attn_implementation == "eager"


def test_stages_add_up_to_the_sweep(griffin, prompts):
    stages = Timings()
    began = time.perf_counter()
    run(griffin, prompts[:2], stages=stages)
    assert set(stages.seconds) == {"prefill", "fork", "decode", "scoring"}
    assert 0 < sum(stages.seconds.values()) <= time.perf_counter() - began


def test_the_same_sweep_twice_is_the_same_table(griffin, prompts, rows):
    again = prompts_of(griffin) + prompts_of(griffin, control=True)
    pd.testing.assert_frame_equal(run(griffin, again), rows)
    other = prompts_of(griffin, (76,), (0,), seed=1)
    assert other[0].key not in set(rows["prompt"])


def test_prefills_are_shared_and_identical_prompts_computed_once(griffin, prefills):
    """At depth 0 and 1 per cent of a short haystack the needle lands at one place."""
    prompts = prompts_of(griffin, (76,), (0, 1, 100))
    assert len({p.key for p in prompts}) == 2
    rows = run(griffin, prompts, CONDITIONS | {"again": KeepHeads(0)})
    # keep, k=0 and omit differ in prefill; all heads kept is keep, and "again" is k=0.
    assert sorted(prefills) == sorted({(p.ids, 3) for p in prompts})
    assert len(rows) == 18 and rows["depth"].tolist()[::6] == [0, 1, 100]
    assert rows["answer"][:6].tolist() == rows["answer"][6:12].tolist()
    labelled = rows.set_index("condition")["answer"]
    assert labelled["again"].tolist() == labelled["k=0"].tolist()


def test_a_control_row_says_whose_control_it_is(griffin):
    lamps = [hb.Needle(name, f"A {name} lamp.", "What?", (name,)) for name in ("blue", "red")]
    needles = [niah.PAPER_NEEDLE, *lamps]  # the lamps have one control prompt: it asks for either
    prompts = [p for n in needles for c in (False, True) for p in prompts_of(griffin, (76,), (0,), needle=n, control=c)]
    rows = run(griffin, prompts, {"keep": Keep()})
    assert rows["asked"].tolist() == [needle.digest for needle in needles for _ in range(2)]
    assert rows["needle"].tolist() == ["paper", "none", "blue", "none", "red", "none"]
    assert rows["prompt"].nunique() == 5 and set(rows.attrs["needles"]) == {"paper", "blue", "red"}


def test_control_rows(rows):
    control = rows[rows["needle"] == "none"]
    assert sorted(control["length"].unique()) == [76, 128] and len(control) == 2 * len(CONDITIONS)
    assert not control["in_window"].any()


def test_resuming_computes_only_what_is_missing(griffin, prompts, rows, tmp_path, prefills):
    few = {label: CONDITIONS[label] for label in ("keep", "k=0")}
    run(griffin, prompts[:3], few, out=tmp_path)
    assert sorted(prefills) == sorted((p.ids, 2) for p in prompts[:3])
    prefills.clear()
    assert_same(run(griffin, prompts, out=tmp_path), rows)
    assert {ids: n for ids, n in prefills} == {p.ids: 2 if p in prompts[:3] else 3 for p in prompts}
    prefills.clear()
    assert_same(run(griffin, prompts, out=tmp_path), rows)
    assert prefills == []
    tables = [pd.read_parquet(path) for path in tmp_path.glob("rows-*.parquet")]
    assert sorted(map(len, tables)) == [6, len(rows)]
    assert_same(max(tables, key=len), rows)


def test_an_interrupted_run_loses_no_finished_batch(griffin, prompts, rows, tmp_path, monkeypatch, prefills):
    original, decoded = decode.decode, []

    def interrupted(*args, **kwargs):
        if len(decoded) == 2:
            raise KeyboardInterrupt
        decoded.append(1)
        return original(*args, **kwargs)

    options = {"out": tmp_path, "budget": Budget(len(CONDITIONS) - 1, 1000)}  # keep and all heads are one
    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(griffin, prompts, **options)
    assert griffin.net.config._attn_implementation == "eager"
    assert len(list(tmp_path.glob("answers/*.parquet"))) == 2
    done = len(prefills)
    prefills.clear()
    assert_same(run(griffin, prompts, **options), rows)
    assert done == 3 and len(prefills) == len({p.key for p in prompts}) - 2


def test_a_half_written_file_is_never_seen(griffin, prompts, rows, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    run(griffin, prompts[:1], out=tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(HybretError, match="no space left to write rows.*finished rows are kept"):
            run(griffin, prompts, out=tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    assert_same(run(griffin, prompts, out=tmp_path), rows)


OTHER_RUNS = {
    "weights": {"model": {"digest": "0" * 12}},
    "window": {"model": {"window": 31}},
    "recipe": {"recipe": PAPER},
    "max_new_tokens": {"max_new_tokens": STEPS + 1},
    "rows_per_batch": {"budget": Budget(3, 2400)},
    "tokens_per_pass": {"budget": Budget(640, 99)},
}


@pytest.mark.parametrize("field", OTHER_RUNS)
def test_a_folder_holds_one_run(griffin, prompts, tmp_path, field, request):
    options = {"max_new_tokens": STEPS, "progress": False, "out": tmp_path}
    sweep(griffin, prompts[:1], {"keep": Keep()}, **options)
    model = request.getfixturevalue("no_forward")
    changed = dict(OTHER_RUNS[field])
    model = dataclasses.replace(model, **changed.pop("model", {}))
    with pytest.raises(HybretError, match=rf"another run \(it differs in {field}[.:].* there, .* here\); choose"):
        sweep(model, prompts[:1], {"keep": Keep()}, **(options | changed))


def test_each_run_gets_a_folder_of_its_own(griffin, tmp_path):
    folders = {
        run_folder(tmp_path, griffin),
        run_folder(tmp_path, griffin, PAPER),
        run_folder(tmp_path, griffin, CORRECTED.replace(binary="scalar")),
        run_folder(tmp_path, griffin, max_new_tokens=7),
        run_folder(tmp_path, dataclasses.replace(griffin, digest="0" * 12)),
        run_folder(tmp_path, dataclasses.replace(griffin, name="google/recurrentgemma-2b")),
    }
    assert len(folders) == 6 and {f.parent for f in folders} == {tmp_path}
    assert run_folder(tmp_path, griffin) == run_folder(tmp_path, griffin, "CORRECTED") in folders


def test_stored_rows_are_read_not_computed(griffin, prompts, tmp_path, prefills):
    folder = run_folder(tmp_path, griffin, max_new_tokens=STEPS)
    given = {"out": folder, "max_new_tokens": STEPS, "progress": False}
    assert hb.load_rows(tmp_path, griffin, prompts, max_new_tokens=STEPS).empty
    first = sweep(griffin, prompts, {"none": KeepHeads(0), "all": Keep()}, **given)
    sweep(griffin, prompts[:1], {"nothing": KeepHeads(0), "hidden": Omit()}, **given)
    sweep(griffin, prompts, {"none": KeepHeads(0)}, CORRECTED.replace(rubric="2025-05"), **given)  # in the same folder
    before = len(prefills)
    rows = hb.load_rows(tmp_path, griffin, prompts, max_new_tokens=STEPS)
    assert len(prefills) == before and set(rows["recipe"]) == {"CORRECTED"}
    assert len(rows) == len(first) + 1 and (rows["intervention"] == repr(Omit())).sum() == 1
    keys = ["intervention", "prompt", "length", "depth"]
    same = first.merge(rows, on=keys, suffixes=("", "_b"))
    assert len(same) == len(first) and (same["score"] == same["score_b"]).all()
    few = hb.load_rows(tmp_path, griffin, prompts[:1], max_new_tokens=STEPS)
    assert set(few["prompt"]) == {prompts[0].key}


def test_a_rescored_run_shares_its_answers(griffin, prompts, tmp_path, prefills):
    run(griffin, prompts[:2], out=tmp_path)
    prefills.clear()
    rescored = run(griffin, prompts[:2], recipe=CORRECTED.replace(rubric="table2-code"), out=tmp_path)
    assert prefills == [] and set(rescored["rubric"]) == {"table2-code"}
    assert set(rescored["recipe"]) == {"CORRECTED(rubric=table2-code)"}


def test_a_folder_that_cannot_be_used_is_refused(no_forward, prompts, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(HybretError, match="cannot write rows in .*; choose a folder you may write to") as caught:
            run(no_forward, prompts, out=out)
        assert "\n" not in str(caught.value)
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    (unknown / "rows-1.parquet").write_bytes(b"")
    with pytest.raises(HybretError, match="holds rows of an unknown run"):
        run(no_forward, prompts, out=unknown)
    (unknown / store.RUN_FILE).write_text("{")
    with pytest.raises(HybretError, match="run.json"):
        run(no_forward, prompts, out=unknown)


@pytest.mark.parametrize("started", [False, True])
def test_a_folder_without_the_right_to_write_is_refused(griffin, prompts, tmp_path, monkeypatch, started, request):
    """Before any model runs, also when the folder holds a run that could be resumed. (Simulated: root may write.)"""
    if started:
        run(griffin, prompts[:1], out=tmp_path)

    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    model = request.getfixturevalue("no_forward")
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", denied)
    with pytest.raises(HybretError, match="Permission denied"):
        run(model, prompts, out=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": []}, "there are no prompts to run"),
        ({"conditions": {}}, "conditions are {}"),
        ({"conditions": {"keep": Keep(), "too many": KeepHeads(11)}}, "k is 11, .* choose k from 0 to 10"),
        ({"conditions": {"x": Omit() & KeepHeads(12, during="generation")}}, "k is 12"),
        ({"conditions": {"x": "null"}}, "'null' is not an intervention"),
        ({"recipe": "AUTHORS"}, "unknown recipe 'AUTHORS'; choose one of PAPER, CORRECTED"),
        ({"recipe": CORRECTED.replace(rubric="stars")}, "unknown rubric 'stars'; choose one of"),
        ({"max_new_tokens": 0}, "must be at least 1"),
    ],
)
def test_bad_input_is_refused_before_any_model_runs(no_forward, prompts, tmp_path, changes, message):
    options = {"prompts": prompts, "conditions": {"null": Null()}, "progress": False, "out": tmp_path / "out"} | changes
    with pytest.raises(HybretError, match=message) as caught:
        sweep(no_forward, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_prompts_longer_than_an_organism_was_trained_on_are_warned_of(tiny, recwarn):
    sweep(tiny, prompts_of(tiny, (512,), (0,), template="jrt"), {"k": KeepHeads(0)}, max_new_tokens=1, progress=False)
    assert not recwarn
    with pytest.warns(UserWarning, match="more than 1024 tokens, the longest that griffin-tiny was trained on"):
        sweep(tiny, prompts_of(tiny, (1100,), (0,)), {"k": KeepHeads(0)}, max_new_tokens=1, progress=False)


def test_the_run_note_names_the_run(griffin, prompts, tmp_path):
    out = Path(tmp_path / "new" / "run")
    run(griffin, prompts[:1], {"keep": Keep()}, out=out)
    note = json.loads((out / store.RUN_FILE).read_text())
    assert (note["model"], note["weights"], note["max_new_tokens"]) == ("random-griffin", griffin.digest, STEPS)
    assert note["recipe"] == CORRECTED.deciding and note["window"] == 32


def test_a_damaged_batch_of_answers_is_named(griffin, prompts, tmp_path):
    conditions = {"all": hb.Keep()}
    hb.sweep(griffin, prompts, conditions, out=tmp_path, progress=False)
    broken = next((tmp_path / "answers").glob("*.parquet"))
    broken.write_bytes(b"no table")
    with pytest.raises(HybretError, match=broken.name):
        hb.sweep(griffin, prompts, conditions, out=tmp_path, progress=False)
