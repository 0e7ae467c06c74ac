"""Wrong answers worth reading (the paper's Appendix F), and whether they were copied from a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from hybret.prompts import PAPER_NEEDLE
from hybret.scoring import normalise

WORDS = 5  # fewest words of a wrong answer worth reading


def wrong_answers(
    rows: pd.DataFrame, texts: Mapping[str, str], questions: Iterable[str] = (PAPER_NEEDLE.question,)
) -> pd.DataFrame:
    """The wrong answers of each condition that are long enough and do not only repeat the question.

    One line per condition and answer: condition, said (the answer without case and punctuation), answer, times, words,
    copied (whether one of `texts`, the prompts by `Prompt.key`, contains it, without case and punctuation).
    """
    wrong = rows[(rows["score"] == 0) & (rows["answer"].str.count(r"\S+") >= WORDS)]
    wrong = wrong.assign(said=wrong["answer"].map(normalise))
    asked = " | ".join(map(normalise, questions))
    wrong = wrong[~wrong["said"].isin([text for text in wrong["said"].unique() if text in asked])]
    groups = wrong.groupby(["condition", "said"], sort=False).agg(answer=("answer", "first"), times=("answer", "size"))
    groups = groups.reset_index()
    prompts = " | ".join(normalise(text) for text in texts.values())
    copied = {text: text in prompts for text in groups["said"].unique()}
    return groups.assign(words=groups["said"].str.count(r"\S+"), copied=groups["said"].map(copied).astype(bool))


def chosen(groups: pd.DataFrame, count: int) -> pd.DataFrame:
    """At most `count` of the wrong answers: of each model and condition the most frequent and the longest, in turns.

    `groups` is what `wrong_answers` returns, with a column model. Copies from the haystack are taken only where there
    is nothing else; an answer of several conditions comes once.
    """
    orders = (["copied", "times", "words", "said"], ["copied", "words", "times", "said"])
    firsts = [
        groups.sort_values(order, ascending=[True, False, False, True]).groupby(["model", "condition"]).head(1)
        for order in orders
    ]
    picked = pd.concat(firsts).drop_duplicates("said").sort_values(["times", "said"], ascending=[False, True])
    picked = picked.sort_values("copied", kind="stable")
    turn = picked.groupby("model").cumcount()
    picked = picked.loc[turn.sort_values(kind="stable").index].head(count).sort_values("copied", kind="stable")
    picked["in the haystack"] = picked["copied"].map({True: "yes", False: "no"})
    return picked[["answer", "model", "condition", "times", "in the haystack"]]
