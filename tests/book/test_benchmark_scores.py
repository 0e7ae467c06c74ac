"""Scores of benchmarks, their averages and their figures, from made-up answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef
from support import text

from book.paper import benchmark_scores as scores
from book.paper import benchmarks
from hybret import HybretError

GLUE = {"cola": 40, "mnli": 60, "mnli_mismatch": 30, "mrpc": 50, "qnli": 20, "qqp": 80, "rte": 20, "sst2": 20,
        "wnli": 10}  # fmt: skip
RIGHT = {"base": 0.9, "sparse": 0.8, "ablated": 0.6}


def answers(tasks, benchmark="glue", group="glue", choices=2, right=RIGHT, seed=0, together=1):
    """Rows of tasks of these sizes, the right share of them answered well; so many documents `together` a cluster."""
    generator = np.random.default_rng(seed)
    lines = []
    for task, n in tasks.items():
        for doc in range(n):
            gold, wrong = generator.integers(choices), generator.integers(1, choices)
            for k, (condition, share) in enumerate(right.items()):
                chosen = gold if generator.random() < share else (gold + wrong) % choices
                lines.append({
                    "benchmark": benchmark, "group": group, "task": task, "label": task, "condition": condition,
                    "k": 9 - k, "model": "m", "weights": "w" * 12, "recipe": "CORRECTED", "doc_id": doc,
                    "cluster": doc // together, "gold": int(gold), "chosen": int(chosen), "choices": choices,
                    "correct": bool(gold == chosen),
                })  # fmt: skip
    return pd.DataFrame(lines)


@pytest.fixture(scope="module")
def glue():
    return answers(GLUE)


@pytest.fixture(scope="module")
def organism():
    return pd.concat([
        answers({"organism_a": 50, "organism_b": 100}, "organism", "glue"),
        answers({"organism_c": 60}, "organism", "mmlu-knowledge", 4),
        answers({"organism_d": 70}, "organism", "mmlu-lookup", 4),
    ])  # fmt: skip


def test_measures_are_those_of_scikit_learn(glue):
    table = scores.per_task(glue).set_index(["task", "condition"])
    for (task, condition), part in glue.groupby(["task", "condition"]):
        line = table.loc[(task, condition)]
        assert line["acc"] == pytest.approx(part["correct"].mean()) and line["n"] == len(part)
        assert line["mcc"] == pytest.approx(matthews_corrcoef(part["gold"], part["chosen"]))
        assert line["f1"] == pytest.approx(f1_score(part["gold"], part["chosen"]))
        assert line["acc_low"] <= line["acc"] <= line["acc_high"] and line["chance"] == 0.5
    four = scores.per_task(answers({"t": 40}, choices=4))
    assert four[["mcc", "f1", "mcc_low"]].isna().all(axis=None) and (four["chance"] == 0.25).all()


def test_variants_of_glue_by_hand(glue):
    task = scores.per_task(glue)
    task = task[task["condition"] == "sparse"].set_index("task")
    acc, mcc, f1, n = (task[column].to_dict() for column in ("acc", "mcc", "f1", "n"))
    usual = {t: mcc[t] if t == "cola" else acc[t] for t in GLUE}
    both = usual | {t: (acc[t] + f1[t]) / 2 for t in ("mrpc", "qqp")}

    def once(values):
        mnli = (values["mnli"] + values["mnli_mismatch"]) / 2
        return np.mean([mnli, *(v for t, v in values.items() if not t.startswith("mnli"))])

    expected = [
        *(np.mean([*values.values()]) for values in (usual, acc, both)),
        once(usual),
        once(both),
        np.mean([v for t, v in usual.items() if t != "wnli"]),
        sum(acc[t] * n[t] for t in GLUE) / sum(n.values()),
    ]
    table = scores.averages(glue).query("condition == 'sparse'")
    assert list(table["variant"]) == list(scores.VARIANTS["glue"]) and set(table["group"]) == {"all"}
    assert list(table["value"]) == pytest.approx(expected)
    assert list(table["default"]) == [True] + [False] * 6
    assert table["value"].nunique() == 7, "some variants cannot be told apart by these rows"


def test_mmlu_is_weighted_by_size_and_not():
    parts = (("x", 90, "stem"), ("y", 10, "other"))
    rows = pd.concat([answers({f"mmlu_{task}": n}, "mmlu", f"mmlu-{group}", 4) for task, n, group in parts])
    table = scores.averages(rows).query("condition == 'ablated'").set_index(["group", "default"])["value"]
    right = rows[rows["condition"] == "ablated"].groupby("task")["correct"].mean()
    assert table["all", True] == pytest.approx(0.9 * right["mmlu_x"] + 0.1 * right["mmlu_y"])
    assert table["all", False] == pytest.approx(right.mean())
    assert table["mmlu-stem", True] == pytest.approx(right["mmlu_x"])


def test_losses_are_paired(glue):
    table = scores.averages(glue).query("default").set_index("condition")
    assert tuple(table.loc["base", ["loss", "loss_low", "loss_high"]]) == (0, 0, 0)
    assert table.loc["ablated", "loss"] == pytest.approx(table.loc["base", "value"] - table.loc["ablated", "value"])
    assert table.loc["ablated", "loss_low"] > 0
    assert table.loc["sparse", "kept"] == pytest.approx(table.loc["sparse", "value"] / table.loc["base", "value"])
    # The same mistakes under both conditions: the difference varies less than either.
    alike = glue[glue["condition"] == "base"]
    odd = (alike["task"] == "qqp") & (alike["doc_id"] == 0)
    nearly = alike.assign(condition="sparse", chosen=alike["chosen"].mask(odd, 1 - alike["chosen"]))
    near = scores.averages(pd.concat([alike, nearly])).query("default").set_index("condition").loc["sparse"]
    assert near["loss_high"] - near["loss_low"] < 0.6 * (near["high"] - near["low"])


def test_questions_of_one_cluster_count_once(organism):
    five = pd.concat([organism.assign(doc_id=5 * organism["doc_id"] + i) for i in range(5)])
    columns = ["value", "low", "high", "loss", "loss_low", "loss_high"]
    once, often = (scores.averages(rows)[columns] for rows in (organism, five))
    pd.testing.assert_frame_equal(once, often)
    apart = scores.averages(five.assign(cluster=five["doc_id"]))
    assert ((apart["high"] - apart["low"]) < 0.6 * (once["high"] - once["low"])).all()
    once, often = scores.default(organism), scores.default(five)
    assert (often.n, often.clusters) == (5 * once.n, once.clusters)
    np.testing.assert_array_equal(once.scores["sparse"], often.scores["sparse"])


def test_intervals_are_those_of_drawing_clusters_in_turn():
    rows = answers({"t": 200}).assign(cluster=lambda rows: np.sqrt(rows["doc_id"]).astype(int))  # of 1, 3, 5, ...
    right = rows[rows["condition"] == "sparse"].groupby("cluster")["correct"].agg(list)
    generator = np.random.default_rng(1)
    drawn = [np.mean(sum(right.loc[generator.integers(15, size=15)], [])) for _ in range(2000)]
    line = scores.per_task(rows).set_index("condition").loc["sparse"]
    assert (line["acc_low"], line["acc_high"]) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.015)


def test_what_never_varies_still_has_an_interval():
    right = {"base": 1.0, "ablated": 1.0}
    table = scores.per_task(answers({"t": 100}, right=right)).set_index("condition")
    assert table.loc["base", "acc_low"] == pytest.approx(1 - 0.037, abs=1e-3) and table.loc["base", "acc_high"] == 1
    assert table.loc["ablated", "loss"] == 0 < table.loc["ablated", "loss_high"] < 0.04
    lists = scores.per_task(answers({"t": 500}, right=right, together=5)).set_index("condition")
    assert lists.loc["base", "acc_low"] == table.loc["base", "acc_low"]
    silent = scores.averages(answers({"t": 5}, right={"base": 0.0, "ablated": 1.0}))
    assert (silent["value"] == [0, 1] * (len(silent) // 2)).all() and silent["kept"].isna().all()


def test_draws_depend_on_the_seed_and_not_on_the_other_tasks(glue):
    index = ["task", "condition"]
    alone, beside = (scores.per_task(rows).set_index(index) for rows in (glue[glue["task"] == "rte"], glue))
    pd.testing.assert_frame_equal(alone, beside.loc[["rte"]])
    three, again, four = (scores.averages(glue, seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(three, again)
    assert not three["low"].equals(four["low"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.iloc[:0], "no rows"),
        (lambda rows: rows.drop(columns="gold"), "no column 'gold'"),
        (lambda rows: rows.iloc[1:], "not every document of cola"),
        (lambda rows: pd.concat([rows, rows.assign(model="other")]), "several values of 'model'"),
        (lambda rows: pd.concat([rows.assign(dtype=d) for d in "ab"]), r"several values of 'dtype' .*\(a, b\)"),
        (lambda rows: pd.concat([rows, rows]), "twice under one condition"),
    ],
)
def test_rows_that_do_not_fit_are_refused(glue, change, message):
    with pytest.raises(HybretError, match=message):
        scores.averages(change(glue))


def test_all_sides_in_one_figure(organism):
    figure = benchmarks.sides(organism)
    table = scores.averages(organism).query("default").set_index(["condition", "group"])["value"]
    groups = ("glue", "mmlu-knowledge", "mmlu-lookup")
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == pytest.approx([100 * table[condition, group] for condition in RIGHT for group in groups])
    for part in ("guessing", "base (k = 9)", "ablated (k = 7)", "m (wwwwwwww)", "CORRECTED", "n = "):
        assert part in text(figure)
    chance = scores.averages(organism).drop_duplicates("group").set_index("group")["chance"].to_dict()
    assert chance == pytest.approx({"glue": 0.5, "mmlu-knowledge": 0.25, "mmlu-lookup": 0.25})


def test_subtasks_draw_every_task_and_correlations_as_such(glue):
    (axes,) = benchmarks.subtasks(glue, ["glue"]).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["cola (mcc)", *list(GLUE)[1:]]
    (drawn,) = [line.get_xdata() for line in axes.lines if line.get_label() == "base (k = 9)"]
    table = scores.per_task(glue).query("condition == 'base'")
    assert list(drawn) == pytest.approx([100 * x for x in (table["mcc"].iloc[0], *table["acc"].iloc[1:])])
    with pytest.raises(HybretError, match="no tasks of the groups mmlu-stem"):
        benchmarks.subtasks(glue, ["mmlu-stem"])
    groups = ["mmlu-stem", "mmlu-humanities", "mmlu-other"]
    rows = pd.concat([answers({f"mmlu_{g}_{i}": 5 for i in range(19)}, "mmlu", g, 4) for g in groups])
    figure = benchmarks.subtasks(rows, groups)
    assert 9 < figure.get_size_inches()[1] < 16 and "MMLU: stem" in text(figure)


def test_tasks_stand_in_the_order_of_their_losses_beside_their_examples(organism):
    examples = {f"organism_{name}": f"Question {name}? → yes" for name in "abcd"}
    figure = benchmarks.by_task(organism, examples)
    table = (
        scores.per_task(organism).query("condition == 'ablated'").sort_values("loss", ascending=False, kind="stable")
    )
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == table["label"].tolist()
    assert [t.get_text() for t in figure.axes[1].texts] == [examples[task] for task in table["task"]]


def test_letters_and_texts_are_compared_on_the_same_documents(organism):
    texts = organism[(organism["doc_id"] < 20) & (organism["condition"] != "sparse") & (organism["group"] != "glue")]
    both = scores.letters_and_texts(organism, texts).set_index(["group", "condition", "options"])
    assert len(both) == 8 and (both["n"] == 20).all()
    assert (both.xs("letters", level="options")["value"] == both.xs("texts", level="options")["value"]).all()


def test_an_example_is_a_question_with_its_answer_and_of_a_list_one_entry():
    question = benchmarks.example("organism_belongings")
    assert question.count(" has a ") == 2 and question.startswith("... ") and len(question) < 150
    assert " → " in benchmarks.example("organism_entailment") and benchmarks.example("cola") == ""
