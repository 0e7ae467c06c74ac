"""Pearls: which answers are worth reading, and which were copied."""

from __future__ import annotations

import pandas as pd

from book.paper.wrong_answers import wrong_answers
from hybret.prompts import PAPER_NEEDLE

TEXTS = {"a": "It rained all day; the harbour was empty, and nobody came.", "b": "A second text."}


def rows_of(*answers, condition="k=0", score=0.0) -> pd.DataFrame:
    return pd.DataFrame({"condition": condition, "answer": list(answers), "score": score})


def test_equal_answers_are_one_pearl_and_copies_are_found():
    rows = rows_of(
        "The harbour was EMPTY and nobody!", "the harbour was empty, and nobody", "Be kind to one another, always."
    )
    table = wrong_answers(rows, TEXTS).set_index("said")
    assert table["times"].to_dict() == {"the harbour was empty and nobody": 2, "be kind to one another always": 1}
    assert table["copied"].tolist() == [True, False] and table["words"].tolist() == [6, 6]
    assert table["answer"].iloc[0] == "The harbour was EMPTY and nobody!"  # as the model wrote it


def test_right_short_and_echoing_answers_are_none():
    right = rows_of("eat a sandwich and sit somewhere", score=1.0)
    rest = rows_of("too short", PAPER_NEEDLE.question, "")
    table = wrong_answers(pd.concat([right, rest]), TEXTS)
    assert table.empty and {"condition", "said", "answer", "times", "words", "copied"} <= set(table.columns)


def test_each_condition_has_its_own_pearls():
    answer = "A joke that nobody asked for."
    table = wrong_answers(pd.concat([rows_of(answer), rows_of(answer, condition="Omit-Keep")]), TEXTS)
    assert list(table["condition"]) == ["k=0", "Omit-Keep"]
