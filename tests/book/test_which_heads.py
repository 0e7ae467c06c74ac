"""The choice of heads: what is asked, and what its tables say of answers made by hand."""

import itertools

import pandas as pd
import pytest
from support import check_readable

import hybret as hb
from book.paper import which_heads
from book.paper.chapter import Chapter
from hybret import HybretError

LOT = which_heads.RANDOM["static"]
HEADS = itertools.product(["griffin-tiny"], which_heads.STATIC, [2], range(16))
SCORES = pd.DataFrame(HEADS, columns=["model", "score", "layer", "head"]).assign(
    value=lambda table: table["head"].where(table["score"] == "copied", -table["head"])
)


def right(way, k, draw, prompt):
    """Entropy needs 6 heads of 16, and one prompt of four 8; of two draws one needs 6 and the other 12."""
    needs = {"all heads": 0, "entropy": 8 if prompt == 3 else 6, LOT: (6, 12)[draw - 1]}
    return k >= needs[way]


@pytest.fixture(scope="module")
def rows():
    asked = [("all heads", 16, 0)]
    asked += [(way, k, draw) for k in (3, 6, 8, 12) for way, draw in (("entropy", 0), (LOT, 1), (LOT, 2))]
    return pd.DataFrame([
        {"model": "griffin-tiny", "way": way, "kept": k, "draw": draw, "share": k / 16, "prompt": prompt,
         "in_window": True, "exact": right(way, k, draw, prompt)}
        for (way, k, draw), prompt in itertools.product(asked, range(4))
    ])  # fmt: skip


def test_the_number_of_heads_that_is_enough_has_an_interval_over_prompts_and_draws(rows):
    found = which_heads.enough(rows).set_index("way")
    assert found.loc["entropy"].tolist() == ["griffin-tiny", 8, 6, 8]
    assert found.loc[LOT].tolist() == ["griffin-tiny", 12, 6, 12]
    never = which_heads.enough(rows.assign(exact=rows["exact"] & (rows["kept"] > 12))).set_index("way")
    assert never.loc["entropy", ["heads", "low", "high"]].tolist() == [16] * 3
    shown = which_heads.side_by_side(found.reset_index(), "heads")
    assert shown.to_numpy().tolist() == [["entropy", "8 (6 to 8)"], [LOT, "12 (6 to 12)"]]


def test_random_heads_are_shown_by_their_draws_and_few_means_15_per_cent(rows):
    table = which_heads.table(rows)
    drawn = table[table["way"] == LOT].set_index("kept")
    assert drawn.loc[8, ["exact", "low", "high", "draws"]].tolist() == [0.5, 0, 1, 2]
    assert set(which_heads.few(table)["kept"]) == {3}
    check_readable(which_heads.ways(table, "griffin-tiny"), "ways")


def test_every_choice_keeps_as_many_heads_of_every_layer(tiny):
    scores = SCORES[SCORES["head"] < tiny.heads]
    both = pd.concat([scores, scores.assign(layer=5)])
    asked = which_heads.conditions(tiny, both, draws=5)
    kept = {k for _, k, _ in asked}
    assert kept == set(range(1, tiny.heads)) and which_heads.counts(32) == [2, 4, 5, 8, 12, 16, 20, 24]
    for (way, k, _), condition in asked.items():
        if isinstance(condition, hb.OnlyHeads):
            assert [sum(layer == at for layer, _ in condition.heads) for at in tiny.attention_layers] == [k, k], way
        assert condition.during == "generation"
    lots = [asked[LOT, 5, draw] for draw in range(1, 6)]
    assert len(set(lots)) == 5 and (which_heads.RANDOM["token"], 5, 2) not in asked
    assert asked["looks at the next token", 1, 0].heads == ((2, tiny.heads - 1), (5, tiny.heads - 1))


def test_heads_are_scored_on_other_prompts(tiny):
    chapter = Chapter("griffin-tiny")
    asked = chapter.prompts(tiny, control=False, lengths=[200], depths=[50])
    scoring = which_heads.scoring_prompts(chapter, tiny, asked)
    assert scoring and not {p.key for p in scoring} & {p.key for p in asked}
    assert {p.needle for p in scoring} == {which_heads.SCORED_ON}
    with pytest.raises(HybretError, match="scored on prompts that judge them"):
        which_heads.scoring_prompts(chapter, tiny, scoring)


def test_overlap_counts_the_heads_that_two_scores_share():
    shared = which_heads.overlap(SCORES).set_index(["one", "other"])["griffin-tiny"]
    of = which_heads.STATIC
    assert shared[of["focus"], of["write"]] == 1 and shared[of["focus"], of["copied"]] == 0
    check_readable(which_heads.head_maps(SCORES, "griffin-tiny"), "head_maps")
