"""Verdicts: every claim is decided by rows, in both directions, and refuses what it cannot decide."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from hybret import figures, harness, paper, verdicts
from hybret.errors import HybretError

REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE = verdicts.VERDICTS
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
    rows = rows.assign(haystack="h", haystack_seed=0, rubric="table2")
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
            items = pd.DataFrame({"doc_id": range(n), "cluster": range(n), "correct": np.arange(n) < good * n / 500})
            choices = 2 if group == "glue" else 4
            frames.append(items.assign(group=group, condition=condition, task=f"{group} task", choices=choices))
    return pd.concat(frames, ignore_index=True).assign(model="tiny", recipe="CORRECTED", weights="weights of tiny")


def verdict(claim, rows=None, benchmarks=None, **given) -> pd.Series:
    """The line of one claim, which must be the only one."""
    table = verdicts.of(rows, benchmarks, claims=[claim], **given)
    assert len(table) == 1
    return table.iloc[0]


# Changes that make a claim wrong about rows in which it was right. "Almost" stands for what an interval must notice:
# a handful of answers too many.
CHANGES = {
    "no-attention-generation": {"g0": 3},
    "no-attention-prefill": {"b0": 3},
    "no-fuzzy-memory": {"g0": hits(3, 0.5)},
    "jrt-no-attention": {"j0": 3},
    "jrt-few-heads": {"j1": 10},
    "tipping-point": {"g1": 30},
    "tipping-point-own": {"g2": 0, "g3": 0},
    "plateau": {"g2": 60},
    "prefill-version": {"b9": 50},
    "few-heads-generation": {"g2": 60},
    "few-heads-prefill": {"b2": 60},
    "exposure": {"Omit_Null": 3},
    "binary": {"Only_Binary": 3},
    "only-keep": {"Keep_Null": 100},
    "prefill-better": {"Keep_Only": 70},
    "prefill-idle": {"Keep_Null": 60},
    "context": {"Only_Only": 40},
    "inside-window": {"Omit_Keep": 0},
    "beyond-window": {"Keep_Keep": 60},
    "complement": {"Omit_Keep": 0},
}  # fmt: skip
START = {"few-heads-prefill": {"b2": 70}}  # in the paper RG-2B's prefill version does not keep it


@pytest.mark.parametrize("claim", CHANGES)
def test_rows_decide_a_claim_in_both_directions(claim):
    right = verdict(claim, world(**START.get(claim, {})))
    wrong = verdict(claim, world(**CHANGES[claim]))
    assert (right["verdict"], wrong["verdict"]) == (REPRODUCED, NOT_REPRODUCED)
    for line in (right, wrong):
        assert line["ours"] and line["why"] and line["low"] <= line["value"] <= line["high"] and line["n"] >= 40


BENCH_CHANGES = {
    "glue-kept": {"glue_ablated": 390},
    "glue-order": {"glue_sparse": 430},
    "mmlu-sparse-knowledge": {"mmlu_knowledge_sparse": 315},
    "mmlu-sparse-lookup": {"mmlu_lookup_sparse": 315},
    "mmlu-ablated-knowledge": {"mmlu_knowledge_ablated": 300},
    "mmlu-ablated-lookup": {"mmlu_lookup_ablated": 300},
    "contrast": {"mmlu_knowledge_ablated": 385, "mmlu_lookup_ablated": 385},
}


@pytest.mark.parametrize("claim", BENCH_CHANGES)
def test_items_decide_a_claim_in_both_directions(claim):
    right, wrong = verdict(claim, benchmarks=bench()), verdict(claim, benchmarks=bench(**BENCH_CHANGES[claim]))
    assert (right["verdict"], wrong["verdict"]) == (REPRODUCED, NOT_REPRODUCED)
    assert right["low"] <= right["value"] <= right["high"] and right["n"] >= 500


def three(**changes):
    """Rows of three models of growing head count, and the models."""
    rows = pd.concat([world(heads, name, **changes.get(name, {})) for heads, name in ((10, "a"), (16, "b"), (32, "c"))])
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
    assert (right["verdict"], wrong["verdict"]) == (REPRODUCED, NOT_REPRODUCED)
    assert right["model"] == "all models" and all(f"{name}" in right["ours"] for name in "abc")
    lonely = verdict(claim, world(), models=models)
    assert lonely["verdict"] == NOT_TESTABLE and "two models" in lonely["why"]


def test_answers_copied_from_a_prompt_are_not_invented():
    rows = world()
    elsewhere = [SimpleNamespace(key="p0", text="Nothing of the kind stands here.")]
    copied = [SimpleNamespace(key="p0", text="As I said: You need humility, to know when to stop!")]
    assert verdict("invented", rows, prompts=elsewhere)["verdict"] == REPRODUCED
    line = verdict("invented", rows, prompts=copied)
    assert line["verdict"] == NOT_REPRODUCED and line["ours"].startswith("1 of 1")
    assert verdict("invented", rows)["verdict"] == NOT_TESTABLE
    short = verdict("invented", rows.assign(answer="no idea"), prompts=copied)
    assert short["verdict"] == NOT_TESTABLE and "long enough" in short["why"]


def test_every_claim_is_tried_here():
    tried = {*CHANGES, *BENCH_CHANGES, "tipping-point-order", "prefill-order", "invented"}
    assert tried == set(verdicts.CLAIMS)
    assert {claim.hypothesis for claim in verdicts.CLAIMS.values()} == set(verdicts.HYPOTHESES)


@pytest.mark.parametrize(
    ("heads", "claim", "change"),
    [
        (16, "tipping-point-own", {"g1": 70, "g2": 70}),
        (32, "tipping-point-own", {"g4": 70, "g3": 70}),
        (16, "plateau", {"g3": 3}),
        (32, "plateau", {"g27": 60}),
        (32, "prefill-version", {"b20": 50}),
    ],
)
def test_sentences_about_one_model_are_put_to_the_one_with_as_many_heads(heads, claim, change):
    assert verdict(claim, world(heads))["verdict"] == REPRODUCED
    assert verdict(claim, world(heads, **change))["verdict"] == NOT_REPRODUCED


@pytest.mark.parametrize("claim", ["tipping-point-own", "plateau", "prefill-version"])
def test_and_not_to_others(claim):
    line = verdict(claim, world(8))
    assert line["verdict"] == NOT_TESTABLE and "8" in line["why"]


# ---------------------------------------------------------------- not testable


def reasons(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["claim"], table["why"], strict=True))


def test_a_model_that_does_not_retrieve_shows_nothing():
    for rows in (world(all=20), world(all=40, floor=0.2)):
        table = verdicts.of(rows)
        assert (table["verdict"] == NOT_TESTABLE).all()
        why = reasons(table)
        assert "untouched" in why["no-attention-generation"] and "untouched" in why["exposure"]
        assert "two models" in why["tipping-point-order"]


def test_credit_that_the_control_earns_too_is_no_retrieval():
    rows = world(all=np.ones(100), floor=0.2, g10=100)
    assert verdict("no-attention-generation", rows)["verdict"] == REPRODUCED
    bare = verdict("no-attention-generation", rows[rows["needle"] != "none"])
    assert bare["verdict"] == NOT_TESTABLE and bare["why"].startswith("not run: the control")


def test_what_was_not_run_is_said():
    rows = world()
    no_jrt = rows[rows["template"] != "jrt"]
    assert reasons(verdicts.of(no_jrt))["jrt-no-attention"] == "not run: k = 10, generation version, read twice"
    no_pairs = rows[rows["k"].notna()]
    assert "not run: Keep-Keep" in reasons(verdicts.of(no_pairs))["exposure"]
    part = rows[rows["condition"] != "Omit-Null"]
    assert reasons(verdicts.of(part))["exposure"] == "not run: Omit-Null"
    assert reasons(verdicts.of(part, bench().query("group != 'mmlu-lookup'")))["mmlu-sparse-lookup"].startswith(
        "not run"
    )
    half = bench().query("condition != 'sparse'")
    assert "the sparse configuration" in reasons(verdicts.of(rows, half))["glue-kept"]
    nothing = verdicts.of(rows)
    assert (nothing.loc[nothing["notebook"] == "benchmarks", "verdict"] == NOT_TESTABLE).all()
    assert verdicts.of().empty


def test_a_loaded_model_without_rows_was_not_run():
    tiny = SimpleNamespace(name="tiny", heads=10, parameters=5_000_000)
    table = verdicts.of(world(), claims=["exposure"], models=[tiny], recipes=["CORRECTED", "PAPER"])
    assert dict(zip(table["recipe"], table["why"], strict=True))["PAPER"] == "not run: Keep-Keep"
    assert len(table) == 2


def test_manipulations_that_the_authors_code_never_applies_show_nothing():
    rows = pd.concat([world(32, "j", recipe) for recipe in ("CORRECTED", "PAPER")])
    jamba = SimpleNamespace(name="j", heads=32, parameters=9_000_000, family="jamba")
    table = verdicts.of(rows, hypothesis="H3", models=[jamba]).set_index(["claim", "recipe"])
    assert table.loc[("exposure", "CORRECTED"), "verdict"] == REPRODUCED
    assert set(table.xs("PAPER", level="recipe")["verdict"]) == {NOT_TESTABLE}
    assert "do not act on Jamba" in table.loc[("exposure", "PAPER"), "why"]
    griffin = SimpleNamespace(**(vars(jamba) | {"family": "recurrent_gemma"}))
    assert verdict("exposure", world(32, "j", "PAPER"), models=[griffin])["verdict"] == REPRODUCED


def test_a_clear_failure_outweighs_doubt():
    rows = world(Omit_Keep=0)
    few = rows[rows["in_window"] | (rows["length"] == 700) | (rows["needle"] == "none")]  # 10 needles beyond the window
    line = verdict("inside-window", few)
    assert line["verdict"] == NOT_REPRODUCED and "inside" in line["ours"]
    doubt = verdict("inside-window", world()[world()["prompt"].isin(few["prompt"])])
    assert doubt["verdict"] == NOT_TESTABLE and "10 prompts" in doubt["why"]


def test_without_a_window_there_is_nothing_beyond_it():
    rows = world().assign(in_window=True)
    for claim in ("inside-window", "beyond-window", "complement"):
        line = verdict(claim, rows)
        assert line["verdict"] == NOT_TESTABLE and "window" in line["why"]


def test_few_prompts_decide_only_what_is_clear():
    for claim in ("no-attention-generation", "exposure", "tipping-point", "few-heads-generation"):
        line = verdict(claim, world(n=20))
        assert line["verdict"] == NOT_TESTABLE and "20 prompts" in line["why"], claim
    assert verdict("no-attention-generation", world(n=20, g0=10))["verdict"] == NOT_REPRODUCED


def test_what_cannot_be_better_is_not_compared_unless_it_is_worse():
    full = world(Keep_Keep=100, Only_Keep=100, Keep_Omit=100, Keep_Only=100, Keep_Null=100)
    for claim in ("only-keep", "prefill-better"):
        assert verdict(claim, full)["verdict"] == NOT_TESTABLE
    assert verdict("only-keep", world(Keep_Keep=100, Only_Keep=20))["verdict"] == NOT_REPRODUCED


def test_nothing_lost_is_nothing_to_recover():
    line = verdict("jrt-few-heads", world(g1=70))
    assert line["verdict"] == NOT_TESTABLE and "nothing to recover" in line["why"]


def test_a_task_at_chance_shows_nothing():
    line = verdict("glue-kept", benchmarks=bench(glue_base=255))
    assert line["verdict"] == NOT_TESTABLE and "chance" in line["why"]
    assert verdict("mmlu-ablated-lookup", benchmarks=bench(mmlu_lookup_base=220))["verdict"] == NOT_TESTABLE


def test_the_real_mmlu_is_a_matter_of_knowledge():
    items = bench().query("group != 'mmlu-lookup'").replace({"group": {"mmlu-knowledge": "mmlu-stem"}})
    assert verdict("mmlu-sparse-knowledge", benchmarks=items)["verdict"] == REPRODUCED
    assert verdict("mmlu-sparse-lookup", benchmarks=items)["verdict"] == NOT_TESTABLE
    assert verdict("contrast", benchmarks=items)["verdict"] == REPRODUCED


def test_stored_benchmarks_are_read_not_computed(griffin, tmp_path):
    given = {"conditions": harness.conditions(griffin, 3), "limit": 1, "out": tmp_path, "progress": False}
    assert harness.evaluate(griffin, ["organism_sentiment"], **given, compute=False).empty
    done = harness.evaluate(griffin, ["organism_sentiment"], **given)
    hook = griffin.net.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    both = harness.evaluate(griffin, ["organism_sentiment", "organism_prices"], **given, compute=False)
    hook.remove()
    pd.testing.assert_frame_equal(both, done)


# ---------------------------------------------------------------- the table


def test_each_model_and_recipe_has_its_own_lines():
    rows = pd.concat([world(), world(recipe="PAPER", g0=20), world(16, "other")])
    table = verdicts.of(rows, hypothesis="H1")
    assert set(table["hypothesis"]) == {"H1"}
    one = table[table["claim"] == "no-attention-generation"].set_index(["model", "recipe"])["verdict"]
    assert one["tiny", "CORRECTED"] == REPRODUCED and one["tiny", "PAPER"] == NOT_REPRODUCED
    assert one["other", "CORRECTED"] == REPRODUCED and len(one) == 3
    assert (table["claim"] == "tipping-point-order").sum() == 2  # one per recipe
    wide = verdicts.overview(table)
    assert wide.loc["no-attention-generation", ("tiny", "PAPER")] == NOT_REPRODUCED
    assert list(wide.index) == list(dict.fromkeys(table["claim"]))
    assert set(table["verdict"]) <= set(verdicts.VERDICTS)


def test_sentences_follow_the_verdicts():
    (before,), (after,) = (verdicts.said(verdicts.of(world(**c), hypothesis="abstract")) for c in ({}, {"g2": 20}))
    assert "tiny, CORRECTED: 1 of 2 testable claims reproduced (not: 15 % of heads throughout)" in before
    assert "0 of 2 testable" in after and "15 % of heads while answering; 15 % of heads throughout" in after
    (nothing,) = verdicts.said(verdicts.of(world(), hypothesis="H2"))
    assert nothing.endswith("Nothing could be tested.")


@pytest.mark.parametrize("made_up", [{"model": "random-griffin"}, {"weights": "random000000"}])
def test_random_weights_are_refused(made_up):
    with pytest.raises(HybretError, match="random weights"):
        verdicts.of(world().assign(**made_up))
    with pytest.raises(HybretError, match="random weights"):
        verdicts.of(benchmarks=bench().assign(**made_up))


def test_bad_input():
    mixed = pd.concat([world(), world().assign(weights="other")])
    with pytest.raises(HybretError, match="different weights"):
        verdicts.of(mixed)
    with pytest.raises(HybretError, match="unknown hypothesis 'H4'"):
        verdicts.of(world(), hypothesis="H4")
    with pytest.raises(HybretError, match="unknown claim 'H1'"):
        verdicts.of(world(), claims=["H1"])
    with pytest.raises(HybretError, match="no column 'in_window'"):
        verdicts.of(world().drop(columns="in_window"))
    with pytest.raises(HybretError, match="no column 'choices'"):
        verdicts.of(benchmarks=bench().drop(columns="choices"))


def test_the_page_escapes_what_models_and_rows_bring():
    table = verdicts.of(world(model="<script>alert(1)</script>", g0=40), hypothesis="H1")
    page = verdicts.html(table.assign(why="<b>so</b>"))
    assert "<script>" not in page and "&lt;script&gt;" in page and "<b>so" not in page
    assert page.count("<tr>") == len(table) + 1 and page.count("hb-claim") == table["claim"].nunique()
    for word in ("reproduced", "not reproduced", "not testable", "sparsification.html#fig-accuracy-by-k"):
        assert word in page


def test_the_figure_shows_every_verdict():
    table = verdicts.of(pd.concat([world(), world(recipe="PAPER", g0=40)]), bench())
    figure = figures.verdicts(table, "note")
    axes = figure.axes[0]
    drawn = [line for line in axes.lines if line.get_linestyle() == "None"]
    assert len(drawn) == len(table)
    assert [t.get_text() for t in axes.get_yticklabels()] == list(dict.fromkeys(table["label"]))
    looks = {(line.get_marker(), line.get_fillstyle()) for line in drawn}
    assert len(looks) == 3  # told apart without colour
    assert {t.get_text() for t in figure.legends[0].get_texts()} == set(verdicts.VERDICTS)
    with pytest.raises(HybretError, match="no verdicts"):
        figures.verdicts(table[:0])


@pytest.mark.parametrize("claim", verdicts.CLAIMS.values(), ids=lambda claim: claim.name)
def test_a_claim_leads_to_where_it_is_measured(claim, figures_of):
    assert claim.figure in figures_of(claim.notebook)


def test_claims_are_documented():
    for claim in verdicts.CLAIMS.values():
        for field in ("says", "where", "paper", "test", "needs"):
            assert getattr(claim, field), (claim.name, field)
        assert claim.says.endswith(".") and len(claim.says) < 120 and len(claim.label) <= 40
