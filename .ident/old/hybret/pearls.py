"""Pearls (the paper's Appendix F): wrong answers worth reading, and whether they were copied from a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from .prompts import PAPER_NEEDLE
from .scoring import normalise

WORDS = 5  # fewest words of a pearl


def pearls(
    rows: pd.DataFrame, texts: Mapping[str, str], questions: Iterable[str] = (PAPER_NEEDLE.question,)
) -> pd.DataFrame:
    """The wrong answers of each condition that are long enough and do not only repeat the question.

    Parameters
    ----------
    rows : rows of sweeps.
    texts : text of each prompt by `Prompt.key`; an answer is looked for in all of them, without case and punctuation.
    questions : what the prompts ask.

    Returns
    -------
    DataFrame
        One line per condition and answer: condition, said (the answer without case and punctuation), answer, times,
        words, copied (whether it stands in a prompt). May be empty.
    """
    wrong = rows[(rows["score"] == 0) & (rows["answer"].str.count(r"\S+") >= WORDS)]
    wrong = wrong.assign(said=wrong["answer"].map(normalise))
    asked = " | ".join(map(normalise, questions))
    wrong = wrong[~wrong["said"].isin([said for said in wrong["said"].unique() if said in asked])]
    groups = wrong.groupby(["condition", "said"], sort=False).agg(answer=("answer", "first"), times=("answer", "size"))
    groups = groups.reset_index()
    everything = " | ".join(normalise(text) for text in texts.values())
    copied = {said: said in everything for said in groups["said"].unique()}
    return groups.assign(
        words=groups["said"].str.count(r"\S+"),
        copied=pd.Series([copied[said] for said in groups["said"]], index=groups.index, dtype=bool),
    )
