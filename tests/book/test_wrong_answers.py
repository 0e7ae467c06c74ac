"""Wrong answers: which are worth reading, and which were copied."""

import pandas as pd

from book.paper.wrong_answers import wrong_answers
from hybret import PAPER_NEEDLE

TEXTS = {"a": "It rained all day; the harbour was empty, and nobody came.", "b": "A second text."}


def rows_of(*answers, condition="k=0", score=0.0):
    return pd.DataFrame({"condition": condition, "answer": list(answers), "score": score})


def test_equal_answers_share_a_line_in_each_condition_and_copies_are_found():
    rows = rows_of("The harbour was EMPTY and nobody!", "the harbour was empty, and nobody", "Be kind to one, always.")
    table = wrong_answers(pd.concat([rows, rows_of("A joke that nobody asked for.", condition="Omit-Keep")]), TEXTS)
    assert table["said"].tolist()[:2] == ["the harbour was empty and nobody", "be kind to one always"]
    assert table["answer"].iloc[0] == "The harbour was EMPTY and nobody!"  # as the model wrote it
    assert table["times"].tolist() == [2, 1, 1] and table["words"].tolist() == [6, 5, 6]
    assert table["copied"].tolist() == [True, False, False]
    assert table["condition"].tolist() == ["k=0", "k=0", "Omit-Keep"]


def test_right_short_and_echoing_answers_are_none():
    right = rows_of("eat a sandwich and sit somewhere", score=1.0)
    table = wrong_answers(pd.concat([right, rows_of("too short", PAPER_NEEDLE.question, "")]), TEXTS)
    assert table.empty and {"condition", "said", "answer", "times", "words", "copied"} <= set(table.columns)
