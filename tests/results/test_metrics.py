"""Tables: means, intervals that do not claim too much, floors, pairs."""

import numpy as np
import pandas as pd
import pytest
from support import rows_of

from hybret import HybretError, metrics


def one(table):
    assert len(table) == 1
    return table.iloc[0]


def test_mean_exact_and_counts_are_on_the_rubrics_scale():
    row = one(metrics.accuracy(rows_of([5, 5, 0, 2.5]), "condition"))
    assert (row["accuracy"], row["exact"], row["n"], row["prompts"]) == (0.625, 0.5, 4, 4)
    assert 0 <= row["low"] < 0.625 < row["high"] <= 1
    assert one(metrics.accuracy(rows_of([10, 0], rubric="2025-05")))["accuracy"] == 0.5  # its maximum is the scale


@pytest.mark.parametrize(("score", "low", "high"), [(0, 0, 0.037), (5, 0.963, 1), (2, 0.385, 0.422)])
def test_equal_scores_do_not_claim_certainty(score, low, high):
    row = one(metrics.accuracy(rows_of([score] * 100)))
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=6e-4)
    few = one(metrics.accuracy(rows_of([score] * 5)))
    assert few["high"] - few["low"] > 0.4


def test_identical_prompts_count_as_one_observation():
    scores = [0, 5] * 20
    apart, together = rows_of(scores), rows_of(scores).assign(prompt=[f"p{i % 4}" for i in range(40)])
    a, b = one(metrics.accuracy(apart)), one(metrics.accuracy(together))
    assert a["accuracy"] == b["accuracy"] and (b["n"], b["prompts"]) == (40, 4)
    assert b["high"] - b["low"] > 1.5 * (a["high"] - a["low"])


def test_seeds_decide_the_interval():
    rows = rows_of(np.random.default_rng(0).choice([0, 1, 3, 5], 60))
    first = metrics.accuracy(rows, "condition", seed=3)
    pd.testing.assert_frame_equal(first, metrics.accuracy(rows, "condition", seed=3))
    assert any(list(first["low"]) != list(metrics.accuracy(rows, "condition", seed=n)["low"]) for n in (4, 5, 6))
    # A group's interval does not depend on which other groups are in the table.
    more = pd.concat([rows, rows_of([0, 5, 1], condition="other")])
    assert list(metrics.accuracy(more, "condition", seed=3)["low"])[0] == first["low"][0]


def test_an_interval_depends_neither_on_the_names_of_prompts_nor_on_the_order_of_rows():
    rows = rows_of(np.random.default_rng(0).choice([0, 1, 3, 5], 60)).assign(in_window=[True, False, True] * 20)
    other = rows.assign(prompt=[f"{(7 * i) % 60:02d}" for i in range(60)]).sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(*(metrics.accuracy(table) for table in (rows, other)))


def test_how_many_prompts_lie_beyond_the_window_is_no_chance():
    inside = np.arange(100) < 75
    grid = one(metrics.accuracy(rows_of(5.0 * inside, in_window=inside)))
    unseen = {n: metrics.unseen(n) for n in (75, 25)}  # nothing was resampled on either side
    assert (grid["low"], grid["high"]) == pytest.approx((0.75 * (1 - unseen[75]), 0.75 + 0.25 * unseen[25]))
    assert one(metrics.accuracy(rows_of([0] * 100, in_window=inside)))["high"] == pytest.approx(0.037, abs=6e-4)
    half = one(metrics.accuracy(rows_of(5.0 * (np.arange(100) % 2) * inside, in_window=inside)))
    part = one(metrics.accuracy(rows_of(5.0 * (np.arange(75) % 2))))
    assert half["low"] == pytest.approx(half["accuracy"] - 0.75 * (part["accuracy"] - part["low"]))


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = np.random.default_rng(5)
    scores = generator.choice([0, 5], p=[0.3, 0.7], size=(300, 60))
    frames = [rows_of(s, condition=str(i)) for i, s in enumerate(scores)]
    table = metrics.accuracy(pd.concat(frames), "condition")
    covered = ((table["low"] <= 0.7) & (table["high"] >= 0.7)).mean()
    assert 0.90 < covered < 0.99


def test_controls_are_the_floor_and_never_the_accuracy():
    needle = rows_of([5, 5, 5, 0], depth=[0.0, 50.0, 0.0, 50.0])
    control = rows_of([1, 1], needle="none", depth=np.nan, prompt=["c0", "c1"])
    rows = pd.concat([needle, control])
    assert one(metrics.accuracy(rows, "condition"))["accuracy"] == 0.75
    assert one(metrics.floor(rows, "condition"))["accuracy"] == 0.2
    assert one(metrics.accuracy(control, "condition"))["accuracy"] == 0.2
    row = one(metrics.above_floor(rows, "condition"))
    assert (row["floor"], row["above"]) == (pytest.approx(0.2), pytest.approx(0.55))
    by_depth = metrics.above_floor(rows, ["condition", "depth"])
    assert list(by_depth["floor"]) == pytest.approx([0.2, 0.2]) and list(by_depth["accuracy"]) == [1, 0.5]
    assert one(metrics.above_floor(rows))["above"] == pytest.approx(0.55)
    with pytest.raises(HybretError, match="no control rows"):
        metrics.floor(needle)
    with pytest.raises(HybretError, match="different rubrics"):
        metrics.above_floor(pd.concat([needle, control.assign(rubric="2025-06-23")]))


def test_by_distance_keeps_the_edge_of_the_window():
    distance = np.arange(1, 512)
    rows = rows_of(np.where(distance < 256, 5, 0), distance=distance)
    rows = pd.concat([rows, rows_of([5], needle="none", distance=-1)])
    table = metrics.by_distance(rows, window=256, edges=[0, 0.5, 1, 1.5, 2])
    assert list(table["near"]) == [0.0, 0.5, 1.0, 1.5] and list(table["far"]) == [0.5, 1.0, 1.5, 2.0]
    assert list(table["accuracy"]) == [1, 1, 0, 0] and table["n"].sum() == 511
    only = metrics.by_distance(rows, window=256, edges=[0.9, 1, 1.1])
    assert list(only["accuracy"]) == [1, 0] and only["n"].sum() < 60
    with pytest.raises(HybretError, match="rising edges"):
        metrics.by_distance(rows, window=256, edges=[1, 0])
    with pytest.raises(HybretError, match="window"):
        metrics.by_distance(rows, window=0, edges=[0, 1])


def test_departures_pair_cells_not_prompts():
    generator = np.random.default_rng(2)
    base = generator.choice([0, 5], 100)
    a, b = rows_of(base), rows_of(np.where(np.arange(100) < 10, 5 - base, base)).assign(prompt="another")
    row = one(metrics.departures(a, b.sample(frac=1, random_state=0)))
    assert row["changed"] == 0.1 and row["n"] == 100
    assert row["difference"] == pytest.approx(row["b"] - row["a"])
    # Pairing makes the interval far narrower than that of the two accuracies.
    own = one(metrics.accuracy(a))
    assert row["high"] - row["low"] < 0.8 * (own["high"] - own["low"])
    same = one(metrics.departures(a, a))
    assert same["difference"] == 0 and same["low"] == pytest.approx(-0.037, abs=1e-3) == -same["high"]
    table = metrics.departures(
        pd.concat([rows_of([0, 0, 5], condition="z"), rows_of([5, 5, 5], condition="a")]),
        pd.concat([rows_of([5, 5, 5], condition="a"), rows_of([5, 0, 5], condition="z")]),
    ).set_index("condition")
    assert table.loc["z", ["a", "b"]].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert table.loc["a", ["a", "b", "difference"]].tolist() == [1, 1, 0]
    with pytest.raises(HybretError, match="share no cell"):
        metrics.departures(a, b.assign(length=b["length"] + 1000))
    with pytest.raises(HybretError, match="several rows for one cell"):
        metrics.departures(a, pd.concat([b, b]))


def two(**column):
    ((name, (one, other)),) = column.items()
    same = {"model": "m", "asked": "a", "intervention": "Keep()", "dtype": "float32", "k": 2, "weights": "w"}
    parts = [rows_of([5, 0], **(same | {name: value})) for value in (one, other)]
    return pd.concat(parts, ignore_index=True)


UNLIKE = "model weights recipe rubric during intervention template haystack needle asked device dtype max_new_tokens"


@pytest.mark.parametrize("column", UNLIKE.split())
def test_no_mean_is_over_things_that_are_not_alike(column):
    rows = two(**{column: ("table2", "2025-06-23")})
    with pytest.raises(HybretError, match=rf"several values of '{column}' in one mean \(table2, 2025-06-23\)"):
        metrics.accuracy(rows, "k")
    apart = metrics.accuracy(rows, ["k", column])
    assert list(apart["accuracy"]) == [0.5, 0.5] and list(apart["n"]) == [2, 2]
    assert one(metrics.accuracy(two(haystack_seed=(0, 1)), "k"))["n"] == 4  # seeds are draws of one haystack


@pytest.mark.parametrize("query", [metrics.accuracy, metrics.floor, metrics.above_floor])
def test_a_row_that_is_there_twice_is_not_counted_twice(query):
    rows = pd.concat([rows_of([5, 0]), rows_of([1, 1], needle="none", depth=np.nan, prompt=["c0", "c1"])])
    with pytest.raises(HybretError, match="2 of these rows are there twice|4 of these rows are there twice"):
        query(pd.concat([rows, rows]), "condition")


def test_a_floor_belongs_to_its_needle_haystack_and_template():
    def needle(name, asked, haystack="h"):
        return rows_of([5, 0], needle=name, asked=asked, haystack=haystack)

    def control(score, asked, haystack="h"):
        return rows_of([score], needle="none", depth=np.nan, prompt="c", asked=asked, haystack=haystack)

    paper, lamp, hills = needle("paper", "a"), needle("lamp", "b"), needle("paper", "a", "hills")
    floors = [control(1, "a"), control(2.5, "b"), control(5, "a", "hills")]
    table = metrics.above_floor(pd.concat([paper, lamp, hills, *floors]), ["needle", "haystack"])
    floors_of = table.set_index(["needle", "haystack"])["floor"].to_dict()
    assert floors_of == pytest.approx({("paper", "h"): 0.2, ("lamp", "h"): 0.5, ("paper", "hills"): 1.0})
    assert one(metrics.above_floor(pd.concat([paper, *floors])))["floor"] == 0.2
    assert one(metrics.floor(pd.concat([paper, *floors])))["accuracy"] == 0.2
    part = metrics.above_floor(pd.concat([paper, lamp, floors[0]]), "needle")
    assert part["floor"].isna().tolist() == [False, True]
    with pytest.raises(HybretError, match="no control rows .* with the same needle, haystack"):
        metrics.above_floor(pd.concat([paper, floors[1]]))


@pytest.mark.parametrize("column", [*sorted(set(UNLIKE.split()) - {"rubric", "needle"}), "haystack_seed"])
def test_what_a_control_must_share_with_its_rows(column):
    rows, other = rows_of([5, 0], **{column: "one"}), rows_of([5, 0], **{column: "other"})
    about = {"needle": "none", "depth": np.nan, "length": 0}
    ground = [rows_of([n], prompt=f"c{n}", **about, **{column: at}) for n, at in ((1, "one"), (5, "other"))]
    assert one(metrics.above_floor(pd.concat([rows, *ground]), "condition"))["floor"] == 0.2
    both = metrics.above_floor(pd.concat([rows, other, *ground]), column)
    assert dict(zip(both[column], both["floor"], strict=True)) == {"one": 0.2, "other": 1.0}


@pytest.mark.parametrize("column", [*UNLIKE.split(), "haystack_seed", "length", "depth", "prompt"])
def test_rows_are_the_same_where_all_of_their_cell_is(column):
    values = (1, 2) if column in ("length", "depth") else ("table2", "2025-06-23")
    first, second = (rows_of([5.0]).assign(**{column: value}) for value in values)
    metrics.check_unique(pd.concat([first, second]))
    with pytest.raises(HybretError, match="1 of these rows are there twice"):
        metrics.check_unique(pd.concat([first, second, second]))


def test_a_floor_is_that_of_the_lengths_that_were_asked():
    needle = rows_of([5, 0], length=[100, 200])
    control = rows_of([1, 0, 5], needle="none", depth=np.nan, prompt=["c0", "c1", "c2"], length=[100, 200, 300])
    rows = pd.concat([needle, control])
    assert one(metrics.above_floor(rows))["floor"] == pytest.approx(0.1)
    short = rows[(rows["needle"] == "none") | (rows["length"] == 100)]
    assert one(metrics.above_floor(short, "condition"))["floor"] == one(metrics.floor(short))["accuracy"] == 0.2
    with pytest.raises(HybretError, match="no control rows .* template and lengths"):
        metrics.above_floor(pd.concat([needle, control[control["length"] == 300]]))


def test_rounding_makes_no_other_cells():
    rows = rows_of([5, 0, 5], depth=[30.0, 30.000000000000004, 60.0], k=[2.0, 2.0000000000000004, 3.0])
    table = metrics.accuracy(rows, ["k", "depth"])
    assert table[["k", "depth", "n"]].to_numpy().tolist() == [[2, 30.0, 2], [3, 60.0, 1]]
    assert table["k"].dtype == "Int64"
    b = rows.assign(depth=[30.000000000000004, 30.0, 60.0])
    assert metrics.departures(rows, b)["n"].sum() == 3


@pytest.mark.parametrize(
    ("scores", "by", "says"), [([], (), "no rows"), ([1], "kk", "'kk'"), ([1, np.nan], (), "no score")]
)
def test_bad_rows(scores, by, says):
    with pytest.raises(HybretError, match=says):
        metrics.accuracy(rows_of(scores), by)
