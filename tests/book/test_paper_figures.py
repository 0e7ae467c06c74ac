"""Figures that judge the paper: drawn from rows and tables made by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest
from support import ALIKE, cells, check_no_mixed_means, check_readable, curves, pairs, squares, text

from book.paper import forest, maps, only_keep
from hybret import HybretError, metrics
from hybret.figures import retrieval_maps

DEPARTURES = pd.DataFrame({
    "field": ["binary", "needle_span", "jamba_manipulation"],
    "condition": ["Binary-Keep", "Only-Keep", "Omit-Keep"],
    "difference": [0.01, -0.2, np.nan],
    "low": [-0.02, -0.3, np.nan],
    "high": [0.04, -0.1, np.nan],
})  # fmt: skip
SHARES = pd.DataFrame([
    {"layer": f"layer {layer}", "step": step, "part": part, "mass": (0.3, 0.25, 0.2, 0.1, 0.1, 0.05)[i]}
    for layer, step, (i, part) in itertools.product((2, 5), (0, 1), enumerate(only_keep.PARTS))
])  # fmt: skip


def generation():
    return curves().query("during == 'generation'")


def doses():
    return pairs().assign(mass=lambda rows: rows["length"] / 80)


def test_every_figure_can_be_read():
    table = metrics.accuracy(pairs().assign(variant=lambda rows: rows["condition"]), by="variant")
    drawn = {
        "home": maps.home(generation()),
        "annotated_map": maps.annotated_map(cells()),
        "departures": forest.departures(DEPARTURES, "model griffin-tiny"),
        "variants": forest.variants(table, "griffin-tiny", "variants"),
        "attention_by_step": only_keep.attention_by_step(SHARES, ["The", " best"], "griffin-tiny"),
        "doses": only_keep.doses(doses(), "mass", "mass", by="condition"),
    }
    for name, figure in drawn.items():
        check_readable(figure, name)


def test_home_needs_all_heads_and_draws_the_floor():
    rows = generation().assign(acted_prefill=0, acted_generation=7)
    with pytest.raises(HybretError, match="griffin-tiny end below all its heads"):
        maps.home(rows)
    assert "without the needle" in text(maps.home(generation()))


@pytest.mark.parametrize(
    "draw",
    [
        maps.annotated_map,
        maps.home,
        lambda rows: maps.moved(rows.assign(answer="")),
        lambda rows: only_keep.doses(rows, "dose", "dose", "condition"),
    ],
)
def test_no_figure_averages_different_things(draw):
    check_no_mixed_means(draw, ALIKE)


def test_the_annotated_map_marks_the_best_and_the_worst_cell():
    figure = maps.annotated_map(cells())
    placed = {t.get_text(): t.get_position() for t in figure.axes[0].texts}
    assert set(placed) == set("12345")
    scores = squares(figure.axes[0])
    assert [scores[tuple(c - 0.5 for c in placed[n])] for n in "34"] == [5.0, 0.0]
    ten = maps.annotated_map(cells().assign(rubric="2025-05", score=lambda rows: 2 * rows["score"])).axes
    assert squares(ten[0]) == scores == squares(retrieval_maps(cells(), None, None).axes[0])
    assert ten[1].get_ylabel() == "mean score (scaled to 0 to 5)"


def test_variants_are_drawn_in_order_with_their_intervals_and_the_papers_numbers():
    scores = {("Only", "Keep"): 0.0, ("Only", "Omit"): 5.0, ("Only + self", "Keep"): 2.5, ("Only + self", "Omit"): 5.0}
    rows = [cells(variant=name, before=before, score=score) for (name, before), score in scores.items()]
    table = metrics.accuracy(pd.concat(rows), by=["before", "variant"])
    axes = forest.variants(table, "note", "variants", series="before", paper={("Only", "Omit"): 0.53}).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["Only", "Only + self"]
    points = {
        (line.get_marker(), round(float(y))): round(float(x), 1)
        for line in axes.get_lines()
        if line.get_marker() != "None"
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }
    assert points == {("o", 0): 0, ("s", 0): 100, ("o", 1): 50, ("s", 1): 100, ("D", 0): 53}
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first variant on top
    single = forest.variants(table[table["before"] == "Keep"], "note", "variants", lines={"the paper": 0.857})
    assert "the paper" in text(single) and [float(x) for x in single.axes[0].get_lines()[0].get_xdata()] == [85.7, 85.7]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: forest.departures(DEPARTURES[:0], ""), "the table is empty"),
        (lambda: forest.variants(DEPARTURES[:0], "", "variants"), "the table is empty"),
        (lambda: only_keep.attention_by_step(SHARES, ["The"], ""), "2 steps and 1 tokens"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(HybretError, match=message):
        call()
