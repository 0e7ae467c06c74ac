"""Rubrics: every line of Table 2, the dated ones, and needles that Table 2 does not know."""

import pandas as pd
import pytest

from hybret import PAPER_NEEDLE, HybretError, Needle
from hybret.scoring import RUBRICS, Line, Rubric, rescore, score

FULL = PAPER_NEEDLE.sentence
FIXED = FULL.replace("is eat", "is to eat")


@pytest.mark.parametrize(
    ("rubric", "answer", "points"),
    [
        ("table2", "", 0),
        ("table2", "   \n", 0),
        ("table2", "Ask the mayor.", 0),
        ("table2", "You could eat a sandwich.", 1),
        ("table2", "Go to Dolores Park!", 0.5),
        ("table2", "Sit in Dolores Park.", 1),
        ("table2", "on a sunny day", 1),
        ("table2", "meat a sandwich", 1),  # inside words, as the authors' code
        ("table2", "sit in _Dolores Park_", 0.5),  # and without a line, as there
        ("table2", "one sunny day", 1),
        ("table2", "eat a sandwich in Dolores Park", 1.5),
        ("table2", "eat a sandwich and sit in Dolores Park on a sunny day", 3),
        ("table2", "is to eat a sandwich and sit in Dolores Park on a sunny day", 4),
        ("table2", FIXED, 4),
        ("table2", FULL, 5),
        ("table2", f'He said: "{FULL}" And more.', 5),
        ("table2", FULL.upper().replace(" IS ", "  is:\n").replace("SANDWICH ", "sandwich, "), 5),
        ("table2", f"{FIXED} {FULL}", 5),
        ("table2", "The best thing to do in San Francisco", 0),
        ("2025-06-23", "one sunny day", 0),
        ("2025-06-23", "on a sunny day", 1),
        ("2025-06-23", FIXED, 3),
        ("2025-06", "The best thing to do in San Francisco is a walk", 1),
        ("2025-06", FIXED, 4),  # here the sum of all phrases, not the rule for corrected grammar
        ("2025-06", FIXED.removeprefix("The best thing to do in San Francisco "), 3),
        ("2025-06", FULL, 5),
        ("2025-05", FULL, 10),
        ("2025-05", FIXED, 0),
    ],
)
def test_points(rubric, answer, points):
    assert score(answer, rubric).points == points
    assert score(answer, rubric).exact == (points == RUBRICS[rubric].maximum)


def test_rubrics_are_dated_and_end_at_their_maximum():
    dates = [r.since for r in RUBRICS.values()]
    assert dates == sorted(dates) == ["2025-05-01", "2025-06-01", "2025-06-23", "2025-10-01"]
    for name, rubric in RUBRICS.items():
        assert rubric.name == name and score(FULL, name).points == rubric.maximum
        assert sum(line.points for line in rubric.lines if not line.sets) < rubric.maximum


def test_the_highest_line_that_sets_replaces_the_sum():
    """Whatever the order of the lines, and also where the sum is higher."""
    lines = [Line("blue", 2, sets=True), Line("green", 1, sets=True), Line("red", 3)]
    for several in (lines, lines[::-1]):
        assert score("red, green and blue", Rubric("mine", "2026-01-01", 9, tuple(several), "here")).points == 2


def test_other_needles_earn_a_share_for_their_keywords():
    lamp = Needle("lamp", "Mr Finch keeps a blue lamp in the boathouse.", "What?", ("blue lamp", "the boathouse"))
    assert score("A blue lamp.", "table2", lamp) == (1.5, False, ("blue lamp",))
    assert score("a Blue Lamp, in the boathouse", "table2", lamp).points == 3
    exact = (5, True, (lamp.sentence,))
    assert score("mr finch keeps a blue lamp in the boathouse", "table2", lamp) == exact
    assert score("A blue lamp.", "2025-05", lamp).points == 0
    assert score(FULL, "table2", lamp).points == 0
    assert score("words", "table2", Needle("bare", "xyzzy plugh", "?")).points == 0
    lunch = Needle("lunch", "We eat a sandwich in <i>Dolores</i> Park.", "?", ("eat a sandwich", "in Dolores Park"))
    assert score("meat a sandwich", "table2", lunch).points == 0
    assert score("Eat a **sandwich** in _Dolores Park_!", "table2", lunch).points == 3


def test_rescoring_replaces_the_score_and_nothing_else():
    rows = pd.DataFrame(
        {"answer": [FULL, "sunny day", "sunny day"], "needle": ["paper", "paper", "none"], "score": 0.0, "rubric": "?"}
    ).assign(asked=PAPER_NEEDLE.digest)
    again = rescore(rows, "table2")
    assert list(again["score"]) == [5, 1, 1] and list(again["exact"]) == [True, False, False]
    assert list(rescore(rows, "2025-06-23")["score"]) == [5, 0, 0]
    assert list(rows["score"]) == [0, 0, 0] and set(again["rubric"]) == {"table2"}
    lamp = Needle("lamp", "Mr Finch keeps a lamp for sunny days.", "What?", ("sunny",))
    own = rows.assign(needle=["lamp", "lamp", "none"], asked=lamp.digest)
    # The control too, by the needle that it leaves out.
    assert list(rescore(own, "table2", [lamp])["score"]) == [3, 3, 3]
    with pytest.raises(HybretError, match="needle 'lamp' .asked"):
        rescore(own, "table2")
    for some in (rows, rows[:0]):
        with pytest.raises(HybretError, match="unknown rubric"):
            rescore(some, "table3")
    with pytest.raises(HybretError, match="no column 'answer'"):
        rescore(rows.drop(columns="answer"), "table2")
