"""Spread between haystacks, and the shortest length apart."""

import numpy as np
import pandas as pd
import pytest
from support import rows_of

from book.paper import tipping as spread
from hybret.errors import HybretError


def test_the_spread_is_that_of_the_seeds_means():
    parts = [rows_of(s, haystack_seed=i, model="m") for i, s in enumerate(([5, 5, 5, 0], [5, 0, 0, 0], [5, 5, 0, 0]))]
    rows = pd.concat(parts).assign(prompt=[f"p{i}" for i in range(12)])
    (line,) = spread.by_seed(rows, ["model"]).to_dict("records")
    assert (line["accuracy"], line["least"], line["most"]) == (0.5, 0.25, 0.75)
    assert (line["seeds"], line["n"], line["prompts"]) == (3, 12, 12) and line["low"] < 0.5 < line["high"]


def test_groups_keep_their_own_spread():
    rows = pd.concat([rows_of([5, 0], k=k, haystack_seed=s) for k in (0, 1) for s in range(2)])
    rows["score"] = np.where((rows["k"] == 1) & (rows["haystack_seed"] == 1), 5, rows["score"])
    table = spread.by_seed(rows, ["k"]).set_index("k")
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
    (line,) = spread.shortest_apart(rows).to_dict("records")
    assert (line["shortest"], line["cells"], line["distinct"]) == (128, 4, 2)
    assert (line["column"], line["without"]) == (1.0, pytest.approx(0.2))
    assert line["everything"] == pytest.approx(28 / 60)
    assert (line["column_exact"], line["without_exact"], line["everything_exact"]) == (1.0, 0.0, pytest.approx(1 / 3))


def test_every_model_has_its_own_shortest_length():
    other = grid([5] * 12, "b").assign(length=np.repeat([250, 1000, 4000], 4))
    table = spread.shortest_apart(pd.concat([grid([0] * 12, "a"), other])).set_index("model")
    assert table["shortest"].to_dict() == {"a": 128, "b": 250} and table["without"].to_dict() == {"a": 0, "b": 1}


def test_one_length_leaves_nothing_else():
    (line,) = spread.shortest_apart(grid([5] * 12)[:4]).to_dict("records")
    assert line["column"] == line["everything"] == 1 and np.isnan(line["without"])


def test_rows_of_no_sweep():
    with pytest.raises(HybretError, match="haystack_seed"):
        spread.by_seed(rows_of([1]).drop(columns="haystack_seed"), ["condition"])
    with pytest.raises(HybretError, match="no rows"):
        spread.by_seed(rows_of([]), ["condition"])
