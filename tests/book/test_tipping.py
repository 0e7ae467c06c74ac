"""Tipping points: where a curve of accuracy over k turns, found on curves made by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support import rows_of

from book.paper import tipping
from book.paper.tipping import sparse_configuration, tipping_points
from hybret import HybretError


def curve(accuracies, floor=0.0, n=20, **columns) -> pd.DataFrame:
    """Rows of one curve: share of full needles by k, from 0 heads up, and a control of constant score."""
    frames = []
    for k, accuracy in enumerate(accuracies):
        scores = [5.0] * round(accuracy * n) + [0.0] * (n - round(accuracy * n))
        needle = pd.DataFrame({"score": scores, "needle": "paper", "prompt": [f"p{i}" for i in range(n)]})
        control = pd.DataFrame({"score": [5 * floor] * 2, "needle": "none", "prompt": ["c0", "c1"]})
        frames.append(pd.concat([needle, control]).assign(k=k, condition=f"k={k}"))
    rows = pd.concat(frames, ignore_index=True).astype({"k": "Int64"})
    rows = rows.assign(exact=rows["score"] == 5, rubric="table2")
    given = {"model": "m", "recipe": "CORRECTED", "template": "base", "during": "generation", **columns}
    return rows.assign(**given)


def points(rows: pd.DataFrame) -> pd.Series:
    table = tipping_points(rows)
    assert len(table) == 1
    return table.iloc[0]


def sparse_k(rows: pd.DataFrame) -> int:
    return sparse_configuration(rows, 16)[0]


@pytest.mark.parametrize(
    ("accuracies", "least", "collapse"),
    [
        ([0, 0, 0.5, 0.9, 1], 3, 1),
        ([0, 0, 1, 1, 1], 2, 1),
        ([0, 0.95, 0.5, 1, 1], 3, 0),  # a lucky k below the threshold is no threshold
        ([0, 0.2, 0, 1, 1], 3, 0),  # nothing left at k = 2, but something below it
        ([0, 0, 0, 0, 0.5], 4, 3),  # relative to the full model, which need not be perfect
    ],
)
def test_where_a_curve_turns(accuracies, least, collapse):
    row = points(curve(accuracies))
    assert (row["least"], row["collapse"], row["heads"]) == (least, collapse, 4)
    assert row["full"] == accuracies[-1]


def test_credit_that_the_control_gets_too_is_none():
    assert points(curve([0.2, 0.2, 1, 1], floor=0.2))["collapse"] == 1
    left = points(curve([0.2, 0.2, 1, 1]))
    assert pd.isna(left["collapse"]) and left["least"] == 2


def test_a_model_that_does_not_retrieve_has_no_tipping_point():
    row = points(curve([0.2, 0.2, 0.4], floor=0.2))
    assert not row["retrieves"] and pd.isna(row["least"]) and pd.isna(row["collapse"])
    assert points(curve([0.2, 0.2, 0.5], floor=0.2))["retrieves"]


def test_every_curve_has_its_own_line():
    both = curve([0, 0, 0, 1], during="both")
    table = tipping_points(pd.concat([curve([0, 1, 1, 1]), both])).set_index("during")
    assert table.loc["generation", "least"] == 1 and table.loc["both", "least"] == 3


def test_sparse_k_is_the_papers_choice_in_section_4():
    prefill = curve([0, 0.1, 0.95, 0.9, 1], during="both")
    rows = pd.concat([curve([0, 1, 1, 1, 1]), prefill])
    assert sparse_k(rows) == 2
    assert sparse_k(curve([0, 0.3, 0.5, 0.5], during="both")) == 2  # near-perfect for a model that reaches half
    # Of what is retrieved, 0.6 without the floor of 0.4: 0.95 is not 95 % of that.
    assert sparse_k(curve([0.4, 0.9, 0.95, 1], floor=0.4, during="both")) == 3


def test_a_model_that_does_not_retrieve_is_sparsified_as_far_as_the_papers():
    assert sparse_configuration(curve([0, 0.1, 0.95, 1], during="both"), 3)[0] == 2
    for poor in (curve([0, 0.1, 0.2], during="both"), curve([0, 0.3, 0.5], floor=0.3, during="both")):
        k, why = sparse_configuration(poor, 16)
        assert k == 3 and "hardly retrieves" in why


def test_heads_kept_by_another_measure_are_no_part_of_the_curve():
    entropy = curve([0, 0, 1], during="both").assign(intervention="KeepHeads(k=1, metric='entropy', during='both')")
    rows = pd.concat([entropy, curve([1, 1, 1], during="both").assign(intervention="KeepHeads(k=1, metric='l2')")])
    assert sparse_k(rows) == 2 and points(rows)["least"] == 2


FIRST, OTHER = curve([0, 1]), curve([0, 1], model="other")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sparse_k(curve([0, 1])), "no rows that keep heads"),  # the generation version only
        (lambda: tipping_points(curve([0, 1]).assign(k=pd.NA)), "no rows that keep heads"),
        (lambda: tipping_points(curve([0, 1]).query("needle != 'none'")), "no control rows"),
        (lambda: tipping_points(pd.concat([FIRST, OTHER.query("needle != 'none'")])), "no control for model other"),
        (lambda: tipping_points(pd.concat([FIRST, OTHER.query("needle != 'none' or k == 0")])), "other, .* k 1,"),
        (lambda: sparse_k(pd.concat([FIRST, OTHER]).assign(during="both")), "mix several values of 'model'"),
        (lambda: tipping.by_seed(rows_of([1]).drop(columns="haystack_seed"), ["condition"]), "haystack_seed"),
        (lambda: tipping.by_seed(rows_of([]), ["condition"]), "no rows"),
    ],
)
def test_bad_rows(call, message):
    with pytest.raises(HybretError, match=message):
        call()


def test_the_spread_is_that_of_the_seeds_means():
    parts = [rows_of(s, haystack_seed=i, model="m") for i, s in enumerate(([5, 5, 5, 0], [5, 0, 0, 0], [5, 5, 0, 0]))]
    rows = pd.concat(parts).assign(prompt=[f"p{i}" for i in range(12)])
    (line,) = tipping.by_seed(rows, ["model"]).to_dict("records")
    assert (line["accuracy"], line["least"], line["most"]) == (0.5, 0.25, 0.75)
    assert (line["seeds"], line["n"], line["prompts"]) == (3, 12, 12) and line["low"] < 0.5 < line["high"]
    rows = pd.concat([rows_of([5, 0], k=k, haystack_seed=s) for k in (0, 1) for s in range(2)])
    rows["score"] = np.where((rows["k"] == 1) & (rows["haystack_seed"] == 1), 5, rows["score"])
    table = tipping.by_seed(rows, ["k"]).set_index("k")
    assert table.loc[0, ["least", "most"]].tolist() == [0.5, 0.5]
    assert table.loc[1, ["least", "most"]].tolist() == [0.5, 1.0]


def grid(scores, model="m"):
    """Three lengths of four depths; the shortest has two different prompts."""
    rows = rows_of(scores, model=model).assign(
        length=np.repeat([128, 256, 512], 4), depth=np.tile([0.0, 33, 67, 100], 3)
    )
    rows["prompt"] = [f"{model}{i}" for i in (0, 0, 0, 3, *range(4, 12))]
    return rows


def test_the_shortest_length_stands_apart():
    control = rows_of([5], needle="none", length=128, model="m")
    rows = pd.concat([grid([5] * 4 + [0] * 4 + [2] * 4), control])
    (line,) = tipping.shortest_apart(rows).to_dict("records")
    other = grid([5] * 12, "b").assign(length=np.repeat([250, 1000, 4000], 4))
    table = tipping.shortest_apart(pd.concat([grid([0] * 12, "a"), other])).set_index("model")
    assert table["shortest"].to_dict() == {"a": 128, "b": 250} and table["without"].to_dict() == {"a": 0, "b": 1}
    (alone,) = tipping.shortest_apart(grid([5] * 12)[:4]).to_dict("records")
    assert alone["column"] == alone["everything"] == 1 and np.isnan(alone["without"])  # one length: nothing else
    assert (line["shortest"], line["cells"], line["distinct"]) == (128, 4, 2)
    assert (line["column"], line["without"]) == (1.0, pytest.approx(0.2))
    assert line["everything"] == pytest.approx(28 / 60)
    assert (line["column_exact"], line["without_exact"], line["everything_exact"]) == (1.0, 0.0, pytest.approx(1 / 3))


def test_answers_read_twice_and_the_control_are_counted():
    def answers(scores, k, template="base", **more):
        return rows_of(scores, model="m", k=k, template=template, answer=[f"{s:g} points" for s in scores], **more)

    rows = [answers([5, 0, 0], 1), answers([5, 5, 0], 1, "jrt"), answers([5, 5], 2), answers([5, 5], 2, "jrt")]
    (twice,) = tipping.read_twice(pd.concat(rows)).to_dict("records")
    assert twice == {"model": "m", "k": 1, "once": 1, "twice": 2, "prompts": 3}
    control = tipping.without_needle(pd.concat([answers([5], 1), answers([0, 0, 1], 1, needle="none")]))
    assert control.to_dict("records") == [{"model": "m", "answers": 3, "scored": 1}]
