"""Verdicts: every claim is decided by rows, in both directions, and refuses what it cannot decide."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from book.paper import numbers as paper
from book.paper import verdicts
from hybret import HybretError

AGREES, CONTRADICTS, UNDECIDED, NOT_RUN, CANNOT = verdicts.VERDICTS
REPO = Path(__file__).resolve().parents[2]
LENGTHS, DEPTHS = range(100, 1100, 100), range(0, 100, 10)
INSIDE = np.array([length <= 600 for length in LENGTHS for _ in DEPTHS])  # 60 of 100 needles are in the window
SAYINGS = {"pearl": "you need humility to know when to stop"}


def hits(n, points=5.0, where=None):
    """Scores of 100 cells: `points` in the first n of those in `where` (default all), 0 elsewhere."""
    scores = np.zeros(100)
    scores[np.flatnonzero(np.ones(100, bool) if where is None else where)[:n]] = points
    return scores


def world(heads=10, model="tiny", recipe="CORRECTED", template="base", n=100, floor=0.0, **changes) -> pd.DataFrame:
    """Rows in which the paper is right about its model with as many heads.

    `changes` name a condition ("g3": k = 3, generation version; "b3": prefill version; "j3": read twice; or a pair with
    an underscore) and give its scores, or how many of the 100 cells are full; "all" changes every condition.
    """
    collapse = {10: 1, 16: 2, 32: 4}.get(heads, 1)
    scores = {}
    for k in range(heads + 1):
        scores[f"g{k}"] = scores[f"j{k}"] = hits(70 if k > collapse else 0)
        scores[f"b{k}"] = hits(70 if k > (collapse if heads != 10 else 9) else 0)
    scores |= {f"{g}_{p}": hits(0) for p in paper.PREFILL for g in paper.GENERATION}
    scores |= {"Keep_Keep": hits(70), "Keep_Only": hits(90), "Keep_Null": hits(90)}
    scores |= {"Only_Keep": hits(99), "Only_Omit": hits(70), "Only_Only": hits(18), "Only_Null": hits(17)}
    cells = np.arange(100)
    scores["Keep_Omit"] = np.where((cells >= 30) & (cells < 40), 0, hits(98))  # ten cells that Omit-Keep adds to
    scores["Omit_Keep"] = np.where((cells >= 30) & (cells < 60), hits(100, 0.5), 0)  # all inside the window
    for name, value in changes.items():
        for key in [name] if name != "all" else list(scores):
            assert key in scores
            scores[key] = hits(value) if np.isscalar(value) else np.asarray(value)
    pairs = [name for name in scores if "_" in name]
    sparse = {name: f"k={name[1:]}" for name in scores if "_" not in name}
    phases = {name: name.lower().split("_") for name in pairs}
    phases |= {name: [kept, kept if name[0] == "b" else "keep"] for name, kept in sparse.items()}
    needle = {"length": np.repeat(LENGTHS, 10), "depth": np.tile(DEPTHS, 10).astype(float), "in_window": INSIDE}
    needle |= {"needle": np.full(100, "paper"), "prompt": np.array([f"p{i}" for i in range(100)])}
    control = {"length": np.array(LENGTHS), "depth": np.full(10, np.nan), "in_window": np.zeros(10, bool)}
    control |= {"needle": np.full(10, "none"), "prompt": np.array([f"c{i}" for i in range(10)])}
    one = {name: np.concatenate([needle[name][:n], control[name]]) for name in needle}
    names = np.repeat([*scores], n + 10)
    rows = pd.DataFrame({name: np.tile(values, len(scores)) for name, values in one.items()}).assign(
        score=np.concatenate([np.append(value[:n], np.full(10, 5.0 * floor)) for value in scores.values()]),
        condition=[name.replace("_", "-") for name in names],
        intervention=names,
        generation=[phases[name][0] for name in names],
        prefill=[phases[name][1] for name in names],
        k=pd.array([int(name[1:]) if name in sparse else None for name in names], dtype="Int64"),
        during=[{"b": "both"}.get(name[0], "generation") if name in sparse else None for name in names],
        template=["jrt" if name[0] == "j" else template for name in names],
    )
    rows = rows.assign(answer=np.where(rows["score"] > 0, "the needle", SAYINGS["pearl"]), exact=rows["score"] == 5)
    rows = rows.assign(haystack="h", haystack_seed=0, asked="the needle", rubric="table2")
    return rows.assign(model=model, weights=f"weights of {model}", recipe=recipe)


def bench(n=500, **changes) -> pd.DataFrame:
    """Benchmark items in which the paper is right; `changes` give right answers of n for "group_condition"."""
    right = {
        "glue": {"base": 450, "sparse": 415, "ablated": 430},
        "mmlu-knowledge": {"base": 400, "sparse": 380, "ablated": 150},
        "mmlu-lookup": {"base": 400, "sparse": 380, "ablated": 150},
    }
    frames = []
    for group, conditions in right.items():
        for condition, good in conditions.items():
            good = changes.get(f"{group.replace('-', '_')}_{condition}", good)
            items = {"doc_id": range(n), "cluster": range(n), "chosen": (np.arange(n) >= good * n / 500).astype(int)}
            about = {"group": group, "condition": condition, "task": f"{group} task", "label": f"{group} task"}
            frames.append(pd.DataFrame(items | about).assign(gold=0, choices=2 if group == "glue" else 4))
    rows = pd.concat(frames, ignore_index=True).assign(benchmark="organism")
    return rows.assign(model="tiny", recipe="CORRECTED", weights="weights of tiny")


def of_hypothesis(hypothesis, *args, **given) -> pd.DataFrame:
    claims = [claim.name for claim in verdicts.CLAIMS.values() if claim.hypothesis == hypothesis]
    return verdicts.of(*args, claims=claims, **given)


def verdict(claim, rows=None, benchmarks=None, **given) -> pd.Series:
    """The line of one claim, which must be the only one."""
    table = verdicts.of(rows, benchmarks, claims=[claim], **given)
    assert len(table) == 1
    return table.iloc[0]


# Changes that leave a claim undecided, and changes that make it wrong, about rows in which it was right.
NO = None  # a gain is never a little wrong, and what is never below zero does not contradict that it is above
CHANGES = [
    ("no-attention-generation", {"g0": 3}, {"g0": 20}),
    ("no-attention-prefill", {"b0": 3}, {"b0": 20}),
    ("no-fuzzy-memory", {"g0": hits(3, 0.5)}, {"g0": hits(20, 0.5)}),
    ("jrt-no-attention", {"j0": 3}, {"j0": 20}),
    ("jrt-few-heads", {"j1": 10}, {"j1": 30}),
    ("tipping-point", {"g1": 3, "g0": 3}, {"g1": 30, "g0": 30}),
    ("plateau", {"g9": 62}, {"g9": 40}),
    ("few-heads-generation", {"g2": 62}, {"g2": 40}),
    ("few-heads-prefill", {"b2": 62}, {"b2": 40}),
    ("exposure", {"Omit_Null": 8}, {"Omit_Null": 30}),
    ("binary", {"Only_Binary": 8}, {"Only_Binary": 30}),
    ("only-keep", NO, {"Only_Keep": 60}),
    ("prefill-better", NO, {"Keep_Only": 50}),
    ("prefill-idle", {"Keep_Null": 62}, {"Keep_Null": 40}),
    ("context", {"Only_Only": 36}, {"Only_Only": 50}),
    ("inside-window", {"Omit_Keep": 0}, {"Omit_Keep": 100}),
    ("beyond-window", {"Keep_Keep": 60}, NO),
    ("complement", {"Omit_Keep": 0}, {"Keep_Omit": 40, "Keep_Keep": 100}),
]
START = {"few-heads-prefill": {"b2": 70}}  # in the paper RG-2B's prefill version does not keep it
BENCH_CHANGES = [
    ("glue-kept", {"glue_ablated": 400}, {"glue_ablated": 350}),
    ("glue-order", {"glue_sparse": 430}, {"glue_sparse": 449}),
    ("mmlu-sparse", {"mmlu_knowledge_sparse": 320, "mmlu_lookup_sparse": 312}, {"mmlu_lookup_sparse": 200}),
    ("mmlu-ablated", {"mmlu_knowledge_ablated": 300, "mmlu_lookup_ablated": 290}, {"mmlu_knowledge_ablated": 499}),
    ("contrast", {"mmlu_knowledge_ablated": 380, "mmlu_lookup_ablated": 380}, {"glue_ablated": 150}),
]


@pytest.mark.parametrize(("claim", "doubt", "wrong"), [*CHANGES, *BENCH_CHANGES], ids=lambda claim: str(claim)[:25])
def test_rows_decide_a_claim_in_both_directions_or_leave_it_undecided(claim, doubt, wrong):
    of_items = claim in [name for name, *_ in BENCH_CHANGES]
    right = {} if of_items else START.get(claim, {})
    for changes, state in ((right, AGREES), (doubt, UNDECIDED), (wrong, CONTRADICTS)):
        if changes is not NO:
            line = verdict(claim, **({"benchmarks": bench(**changes)} if of_items else {"rows": world(**changes)}))
            assert line["verdict"] == state, (line["ours"], line["interval"])
            assert line["ours"] and line["why"] and line["interval"] and line["n"] >= 40
            assert line["low"] <= line["value"] <= line["high"]


@pytest.mark.parametrize(
    ("name", "heads", "change"), [("recurrentgemma-2b", 10, {"b9": 50}), ("AI21-Jamba-Mini-1.6", 32, {"b20": 50})]
)
def test_a_sentence_about_one_model_is_put_to_that_model_alone(name, heads, change):
    right, wrong = (verdict("prefill-version", world(heads, name, **of_it)) for of_it in ({}, change))
    assert (right["verdict"], wrong["verdict"]) == (AGREES, CONTRADICTS)
    other = verdict("prefill-version", world(heads, "griffin-tiny"))
    assert other["verdict"] == CANNOT and "no other model" in other["why"]


def test_points_and_exact_answers_are_judged_apart_and_where_they_disagree_both_are_told():
    half = world(g0=hits(60, 1.0), g1=hits(60, 1.0))  # one phrase of the needle in every answer, none of them exact
    line = verdict("tipping-point", half)
    assert (line["verdict"], line["exactly"]) == (CONTRADICTS, AGREES)
    assert verdicts.words(line) == "✕ contradicts (by exact answers: agrees)" and verdicts.words(line) in verdicts.html(
        verdicts.of(half, claims=["tipping-point"])
    )
    assert verdict("tipping-point", world())["exactly"] == "" == verdict("no-fuzzy-memory", half)["exactly"]
    held = verdict("few-heads-generation", world(g2=hits(70, 4.9)))  # the corrected grammar, never exact
    assert (held["verdict"], held["exactly"]) == (AGREES, CONTRADICTS)
    assert held["ours"].startswith("k = 2 of 10 (20 % of the heads): ") and "60 of 60 inside" in held["ours"]


def three(**changes):
    """Rows of both versions of three models of growing head count, and the models."""
    rows = pd.concat([world(heads, name, **changes.get(name, {})) for heads, name in ((10, "a"), (16, "b"), (32, "c"))])
    rows = rows[rows["k"].notna() & (rows["template"] == "base")]
    sizes = {"a": (10, 5_000_000), "b": (16, 9_000_000), "c": (32, 20_000_000)}
    return rows, [SimpleNamespace(name=n, heads=heads, parameters=size) for n, (heads, size) in sizes.items()]


@pytest.mark.parametrize(
    ("claim", "start", "change"),
    [
        ("tipping-point-order", {}, {"c": {"g2": 70}}),
        ("prefill-order", {"b": {f"b{k}": 35 for k in range(3, 16)}}, {"a": {f"b{k}": 70 for k in range(10)}}),
    ],
)
def test_several_models_decide_a_claim_in_both_directions(claim, start, change):
    rows, models = three(**start)
    right = verdict(claim, rows, models=models)
    wrong = verdict(claim, three(**(start | change))[0], models=models)
    assert (right["verdict"], wrong["verdict"]) == (AGREES, CONTRADICTS)
    assert right["model"] == "all models" and all(f"{name}" in right["ours"] for name in "abc")
    two = verdicts.of(rows, models=models, claims=[claim, "tipping-point"])
    page = verdicts.html(two)
    assert all(f'data-model="{name}"' in page for name in (*"abc", "all models"))
    lonely = verdict(claim, world(), models=models)
    assert lonely["verdict"] == NOT_RUN and "two models" in lonely["why"]


def test_models_of_one_size_are_not_compared():
    rows, models = three()
    models.append(SimpleNamespace(name="d", heads=16, parameters=30_000_000))
    assert verdict("tipping-point-order", pd.concat([rows, world(16, "d")]), models=models)["verdict"] == AGREES
    other = world(16, "d", g2=70)  # its tipping point is that of the model with 10 heads
    assert verdict("tipping-point-order", pd.concat([rows, other]), models=models)["verdict"] == CONTRADICTS
    alike = [SimpleNamespace(**(vars(m) | {"parameters": 7_000_000 + i})) for i, m in enumerate(models)]
    assert verdict("prefill-order", rows, models=alike)["verdict"] == CANNOT


def stepped(rows):
    """Rows without the k that the book's curves of embedded models leave out."""
    most = rows.groupby("model")["k"].transform("max")
    return rows[rows["k"].isna() | (rows["k"] == most) | rows["k"].isin([*range(9), 12, 16, 24])]


def test_a_curve_in_steps_is_judged_as_the_whole_one_and_what_lies_between_two_is_not_known():
    for rows in (world(10), world(32)):
        whole, steps = of_hypothesis("H1", rows), of_hypothesis("H1", stepped(rows))
        pd.testing.assert_series_equal(whole["verdict"], steps["verdict"])
    late = world(32, **{f"g{k}": 0 for k in range(13)})  # gone at k = 12; k = 13 was not run
    line = verdict("tipping-point", stepped(late))
    assert (line["value"], line["low"], line["high"]) == (12, 12, 15)
    cost = {f"b{k}": round(70 - 2 * (32 - k)) for k in range(5, 33)}  # falls on a straight line
    rows, models = three(a={f"b{k}": 0 for k in range(10)}, c=cost)
    one, other = (verdict("prefill-order", table, models=models)["ours"] for table in (rows, stepped(rows)))
    assert one.split(";")[-1].split("(+")[0] == other.split(";")[-1].split("(+")[0]  # c: but for the interval's ends


def test_answers_copied_from_a_prompt_are_not_invented():
    rows = world()

    def prompts(text, question="Where is it?"):
        about = SimpleNamespace(question=question)
        return [SimpleNamespace(key=key, text=text, needle=about) for key in rows["prompt"].unique()]

    elsewhere = prompts("Nothing of the kind stands here.")
    copied = prompts("As I said: You need humility, to know when to stop!")
    assert verdict("invented", rows, prompts=elsewhere)["verdict"] == AGREES
    line = verdict("invented", rows, prompts=copied)
    assert line["verdict"] == CONTRADICTS and line["ours"].startswith("1 of 1")
    assert verdict("invented", rows)["verdict"] == NOT_RUN
    assert "texts of 1 of the prompts" in verdict("invented", rows, prompts=elsewhere[1:])["why"]
    echoed = verdict("invented", rows, prompts=prompts(copied[0].text, "You need humility to know when to stop?"))
    assert "5 words or more" in echoed["why"]  # who repeats a question has retrieved nothing
    whole = rows["condition"].isin(["g10", "j10", "b10", "Keep-Keep"])
    fine = rows.assign(answer=rows["answer"].mask(~whole, "nobody ever said this in earnest"))
    assert verdict("invented", fine, prompts=copied)["verdict"] == AGREES  # the unmodified model does not count
    assert verdict("invented", rows[whole], prompts=copied)["why"] == "a manipulated model"
    short = verdict("invented", rows.assign(answer="no idea"), prompts=copied)
    assert short["verdict"] == CANNOT and "5 words or more" in short["why"]


@pytest.mark.parametrize("changed", [{"score": 5.0}, {"answer": "another"}, {"prompt": "longer"}])
def test_several_answers_to_one_cell_are_refused_in_any_order(changed):
    rows = world()
    other = rows.assign(**changed)
    for parts in ([rows, other], [other, rows]):
        with pytest.raises(HybretError, match="rows of tiny hold several answers to one cell"):
            verdicts.of(pd.concat(parts))
    once, twice = (verdict("no-attention-generation", table) for table in (rows, pd.concat([rows, rows[10:]])))
    pd.testing.assert_series_equal(once, twice)  # tables that overlap


def test_every_claim_is_tried_here():
    tried = {claim for claim, *_ in (*CHANGES, *BENCH_CHANGES)}
    tried |= {"tipping-point-order", "prefill-order", "prefill-version", "invented"}
    assert tried == set(verdicts.CLAIMS) == set(verdicts.JUDGES)
    assert {claim.hypothesis for claim in verdicts.CLAIMS.values()} == set(verdicts.HYPOTHESES)


def test_a_model_of_another_family_is_judged_as_what_it_is():
    """Instruction-tuned, with 32 heads and no window, in steps of k."""
    jamba = SimpleNamespace(name="jamba-tiny", heads=32, parameters=9_000_000, family="jamba", window=None)
    rows = stepped(world(32, jamba.name, template="instruct"))
    rows = rows.assign(in_window=rows["in_window"] | (rows["needle"] != "none"))
    items = bench().assign(model=jamba.name, weights=f"weights of {jamba.name}")
    lines = verdicts.of(rows, items, models=[jamba])
    counts = verdicts.count(lines).set_index(["hypothesis", "model", "recipe"])
    assert counts.loc["H3", "jamba-tiny", "CORRECTED"].tolist() == [6, 0, 0, 0, 3]
    assert counts.sum(axis=None) == len(lines)
    table = lines.set_index("claim")
    assert table.loc["tipping-point", "ours"] == "k = 4 of 32 heads"
    windowless = table.loc[["inside-window", "beyond-window", "complement"]]
    assert set(windowless["verdict"]) == {CANNOT} and windowless["why"].str.contains("global").all()
    others = table[table["hypothesis"].isin(["H2", "H3"])].drop(index=windowless.index)
    assert set(others["verdict"]) == {AGREES}


# ---------------------------------------------------------------- not judged


FULL = {"Keep_Keep": 100, "Only_Keep": 100, "Keep_Omit": 100, "Keep_Only": 100, "Keep_Null": 100}
LOW = {f"mmlu_{half}_{name}": n for half in ("knowledge", "lookup") for name, n in (("base", 150), ("sparse", 125))}
TWICE_0 = {f"j{k}": 0 for k in range(11)}
NO_TEST = [  # claim, rows or items, the state, a word of the reason
    ("no-attention-generation", lambda: world(all=20), CANNOT, "unmodified"),
    ("exposure", lambda: world(all=40, floor=0.2), CANNOT, "unmodified"),
    ("tipping-point-order", lambda: world(all=20), NOT_RUN, "two models"),
    ("no-attention-generation", lambda: world().query("needle != 'none'"), NOT_RUN, "the control"),
    ("jrt-no-attention", lambda: world().query("template != 'jrt'"), NOT_RUN, "k = 10, generation version, read twice"),
    ("exposure", lambda: world().query("k.notna()"), NOT_RUN, "Omit-Keep"),
    ("exposure", lambda: world().query("condition != 'Omit-Null'"), NOT_RUN, "Omit-Null"),
    ("glue-kept", lambda: world(), NOT_RUN, "a benchmark"),
    *((claim, lambda: world(**TWICE_0), CANNOT, "unmodified") for claim in ("jrt-no-attention", "jrt-few-heads")),
    ("jrt-few-heads", lambda: world(g1=70), CANNOT, "nothing to recover"),
    *((claim, lambda: world().assign(in_window=True), NOT_RUN, "both sides")
      for claim in ("inside-window", "beyond-window", "complement")),
    *((claim, lambda: world(**FULL), CANNOT, "no room") for claim in ("only-keep", "prefill-better")),
    ("prefill-better", lambda: world(Keep_Only=hits(60) + hits(10, where=~INSIDE)), CANNOT, "no room"),  # inside: all
    *((claim, lambda: world(n=20), UNDECIDED, "holds the limit")
      for claim in ("no-attention-generation", "exposure", "tipping-point", "few-heads-generation")),
    ("glue-kept", lambda: bench().query("condition != 'sparse'"), NOT_RUN, "the sparse configuration"),
    ("glue-kept", lambda: bench(glue_base=255, glue_sparse=250, glue_ablated=250), CANNOT, "chance"),
    ("glue-kept", lambda: bench(glue_base=295, glue_sparse=250, glue_ablated=250), CANNOT, "chance"),  # its 9 points
    ("mmlu-sparse", lambda: bench(**LOW), CANNOT, "chance"),
    ("mmlu-ablated", lambda: bench(mmlu_lookup_base=220, mmlu_knowledge_base=220), CANNOT, "chance"),
    ("contrast", lambda: bench(glue_base=295, glue_ablated=250), CANNOT, "chance"),
    ("prefill-better", lambda: world().assign(length=lambda r: r["length"] + 1000 * (r["condition"] == "Keep-Keep")),
     NOT_RUN, "on the same prompts"),
]  # fmt: skip


@pytest.mark.parametrize(("claim", "rows", "state", "why"), NO_TEST, ids=[f"{c}: {why}" for c, _, _, why in NO_TEST])
def test_why_a_claim_is_not_decided(claim, rows, state, why):
    table = rows()
    line = verdict(claim, **{"benchmarks" if "benchmark" in table else "rows": table})
    assert line["verdict"] == state and why in line["why"]


def test_what_was_measured_of_a_claim_that_was_not_run_is_told():
    part = world(Omit_Only=50).query("condition != 'Omit-Null'")
    assert verdict("exposure", part)["verdict"] == CONTRADICTS  # one failure is enough
    line = verdict("exposure", world().query("condition != 'Omit-Null'"))
    assert line["verdict"] == NOT_RUN and "0 of 40 beyond it in Omit-Keep" in line["ours"]
    swept = verdict("only-keep", world(Only_Keep=20).query("condition != 'Keep-Keep'"))
    assert swept["verdict"] == CONTRADICTS  # k = all heads is the unmodified model, too


def test_a_model_that_does_not_retrieve_shows_nothing():
    for rows in (world(all=20), world(all=40, floor=0.2)):
        assert set(verdicts.of(rows)["verdict"]) <= {CANNOT, NOT_RUN}
    assert verdicts.of().empty
    tiny = SimpleNamespace(name="tiny", heads=10, parameters=5_000_000)  # loaded, without rows under one recipe
    table = verdicts.of(world(), claims=["exposure"], models=[tiny], recipes=["CORRECTED", "PAPER"])
    assert table["verdict"].tolist() == [AGREES, NOT_RUN]


def test_accuracies_are_compared_above_the_floor_and_its_control_is_part_of_the_chance():
    rows = world(all=np.ones(100), floor=0.2, g10=100)
    assert verdict("no-attention-generation", rows)["verdict"] == AGREES
    # A floor of 30 %: half of 70 % is not half of the retrieval.
    floor = {"floor": 0.3, "Only_Omit": np.maximum(hits(70), 1.5), "Only_Only": np.full(100, 1.5)}
    assert verdict("context", world(**floor, Keep_Keep=np.maximum(hits(70), 1.5)))["verdict"] == AGREES
    few = {"g2": np.where(np.arange(100) < 50, 5.0, 1.5), "g10": np.where(np.arange(100) < 70, 5.0, 1.5)}
    assert verdict("few-heads-generation", world(floor=0.3, **few))["verdict"] == CONTRADICTS
    rows = world(g0=np.full(100, 0.5))
    odd = (rows["needle"] == "none") & (rows["condition"] == "g0")
    rows["score"] = rows["score"].mask(odd, rows["length"] % 200 / 100)  # 0 or 1 by turns, as much as the answers earn
    line = verdict("no-attention-generation", rows)
    assert line["value"] == pytest.approx(0) and line["high"] > 0.05 and line["prompts"] == 100
    assert line["verdict"] == UNDECIDED


def test_manipulations_that_the_authors_code_never_applies_show_nothing():
    rows = pd.concat([world(32, "j", recipe) for recipe in ("CORRECTED", "PAPER")])
    jamba = SimpleNamespace(name="j", heads=32, parameters=9_000_000, family="jamba", window=9)
    table = of_hypothesis("H3", rows, models=[jamba]).set_index(["claim", "recipe"])
    assert table.loc[("exposure", "CORRECTED"), "verdict"] == AGREES
    assert set(table.xs("PAPER", level="recipe")["verdict"]) == {CANNOT}
    assert "do not act on Jamba" in table.loc[("exposure", "PAPER"), "why"]
    griffin = SimpleNamespace(**(vars(jamba) | {"family": "recurrent_gemma"}))
    assert verdict("exposure", world(32, "j", "PAPER"), models=[griffin])["verdict"] == AGREES


def test_a_clear_failure_outweighs_doubt():
    rows = world(Omit_Keep=hits(40, where=~INSIDE))
    few = rows[rows["in_window"] | (rows["length"] == 700) | (rows["needle"] == "none")]  # 10 needles beyond the window
    line = verdict("inside-window", few)
    assert line["verdict"] == CONTRADICTS and "inside" in line["ours"]
    doubt = verdict("inside-window", world()[world()["prompt"].isin(few["prompt"])])
    assert doubt["verdict"] == UNDECIDED and "n = 10" in doubt["interval"]
    assert verdict("no-attention-generation", world(n=20, g0=10))["verdict"] == CONTRADICTS  # few, but clear
    # Two maps that make up no more than the unmodified model, and more than it.
    halves = {"Keep_Omit": hits(30), "Omit_Keep": hits(50) - hits(30), "Keep_Keep": hits(50)}
    assert verdict("complement", world(**halves))["verdict"] == UNDECIDED
    assert verdict("complement", world(**halves | {"Keep_Keep": 35}))["verdict"] == AGREES


def test_the_real_benchmarks_are_judged_as_they_are_reported():
    glue, mmlu = (bench().query(f"group == '{group}'") for group in ("glue", "mmlu-knowledge"))
    glue = pd.concat([glue.assign(task=task, gold=glue["doc_id"] % 2) for task in ("cola", "rte")])
    glue["chosen"] = (glue["gold"] + glue["chosen"]) % 2
    subjects = pd.concat(
        [mmlu.assign(task="mmlu_x", group="mmlu-stem"), mmlu.assign(task="mmlu_y", group="mmlu-other")]
    )
    few = (subjects["task"] == "mmlu_y") & (subjects["doc_id"] >= 100)  # the first 100 items: base has them all right
    real = pd.concat([glue.assign(benchmark="glue"), subjects[~few].assign(benchmark="mmlu")])
    both = pd.concat([bench(glue_base=260), real])  # of the organisms' tasks nothing is reported
    table = verdicts.of(benchmarks=both).set_index("claim")
    assert table.loc["glue-kept", "ours"].startswith("base 85.0 %")  # accuracy of rte 90 %, mcc of cola 80 %
    assert table.loc["mmlu-sparse", "ours"].startswith("base 83.3 %")  # by size, 500 and 100 items
    assert table.loc["mmlu-sparse", "verdict"] == table.loc["contrast", "verdict"] == AGREES
    halves = verdict("mmlu-sparse", benchmarks=bench(mmlu_lookup_sparse=250))  # 380 and 250 of 400: the mean is judged
    assert halves["ours"].startswith("base 80.0 %, sparse 63.0 %: 79 % of base (facts: base 80.0 %, sparse 76.0 %")


# ---------------------------------------------------------------- the table


def test_each_model_and_recipe_has_its_own_lines():
    rows = pd.concat([world(), world(recipe="PAPER", g0=20), world(16, "other")])
    table = of_hypothesis("H1", rows)
    assert set(table["hypothesis"]) == {"H1"}
    one = table[table["claim"] == "no-attention-generation"].set_index(["model", "recipe"])["verdict"]
    assert one["tiny", "CORRECTED"] == AGREES and one["tiny", "PAPER"] == CONTRADICTS
    assert one["other", "CORRECTED"] == AGREES and len(one) == 3
    assert (table["claim"] == "tipping-point-order").sum() == 2  # one per recipe
    assert set(table["verdict"]) <= set(verdicts.VERDICTS)


MIXED = [({"weights": "other"}, "weights"), ({"asked": "b"}, "needles"), ({"haystack": "b"}, "haystacks"),
         ({"dtype": "b"}, "dtypes"), ({"device": "b"}, "devices")]  # fmt: skip


def test_bad_input():
    rows = world().assign(dtype="float32", device="cpu")
    for other, kind in MIXED:
        with pytest.raises(HybretError, match=f"tiny come from different {kind}"):
            verdicts.of(pd.concat([rows, rows.assign(**other)]))
    calls = {
        "different templates": lambda: verdicts.of(pd.concat([rows, world(template="instruct")])),
        "no rows to judge": lambda: verdicts.of(world()[:0]),
        "unknown claim 'H1'": lambda: verdicts.of(world(), claims=["H1"]),
        "no column 'in_window'": lambda: verdicts.of(world().drop(columns="in_window")),
        "no column 'choices'": lambda: verdicts.of(benchmarks=bench().drop(columns="choices")),
    }
    for message, call in calls.items():
        with pytest.raises(HybretError, match=message):
            call()
    for made_up in ({"model": "random-griffin"}, {"weights": "random000000"}):
        for tables in ({"rows": world().assign(**made_up)}, {"benchmarks": bench().assign(**made_up)}):
            with pytest.raises(HybretError, match="random weights"):
                verdicts.of(**tables)


def test_the_board_has_a_line_for_every_claim_and_its_states_under_the_first_recipe():
    table = verdicts.of(pd.concat([world(), world(recipe="PAPER", g0=40)]), bench())
    page = verdicts.html(table)
    first = table[table["recipe"] == table["recipe"].iloc[0]]
    assert page.count("<summary>") == table["claim"].nunique() and page.count('class="hb-state') == len(first)
    assert all(f"<summary><span>{label}</span>" in page for label in set(table["label"]))
    assert len(set(verdicts.MARKS.values())) == 5 == len(verdicts.VERDICTS)  # told apart without colour


def test_a_claim_leads_to_where_it_is_measured(figures_of):
    for claim in verdicts.CLAIMS.values():
        assert claim.figure in figures_of(claim.notebook), claim.name


JUDGING = re.compile(r"\b(not )?reproduced\b|\bnot testable\b|\bholds here\b|\bagrees with the paper|\bhere they part|"
                     r"\bcontradicts the paper|\bundecided\b|\bstatements hold\b", re.I)  # fmt: skip
SAYS_STATES = {"verdicts.ipynb", "glossary.md", "index.md", "your-model.md"}  # what the states mean, not what is in one
JUDGE_CALLS = {"verdicts.ipynb", "benchmarks.ipynb"}


def test_agreement_with_the_paper_is_computed_in_one_place_and_no_page_has_a_verdict_of_its_own():
    """Pages show verdicts by directives; where a notebook judges its rows, it does so by `verdicts.of`."""
    pages = [*(REPO / "book").glob("*.md"), *(REPO / "notebooks").glob("*.ipynb")]
    for page in pages:
        cells = json.loads(page.read_text())["cells"] if page.suffix == ".ipynb" else [{"source": page.read_text()}]
        text = "\n".join("".join(cell["source"]) for cell in cells)
        assert ("verdicts.of(" in text) <= (page.name in JUDGE_CALLS | SAYS_STATES), page.name
        if page.name not in SAYS_STATES:
            assert not (found := JUDGING.search(text)), f"{page.name}: {found[0]}"
    judges = [p.name for p in (REPO / "book" / "paper").rglob("*.py") if "claims.AGREES" in p.read_text()]
    assert set(judges) <= {"weights.py"}  # one that compares no interval
