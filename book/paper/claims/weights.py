"""Claims about manipulated attention weights (Section 5, H3), and about what the models then say (Appendix F)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd

from book.paper import claims
from book.paper import numbers as paper
from book.paper.claims.evidence import (
    CannotTest,
    Estimate,
    Evidence,
    NotRun,
    difference,
    estimate,
    over_floor,
    paired,
    words,
)
from book.paper.tipping import HOLDS
from book.paper.wrong_answers import WORDS, wrong_answers
from hybret.metrics import CONTROL

CEILING = 0.95  # accuracy inside the window from which on hardly anything can be better
CLOSE = 0.10  # accuracy that is still close to none: as the paper's 3.7 % in Omit-Keep is, interval and all
FAR = 0.15  # accuracy beyond the window that still counts as none: a grid may have no more than 25 needles there
PAIRS = [f"{g}-{p}" for p in paper.PREFILL for g in paper.GENERATION]
HIDDEN = ("Keep-Omit", "Keep-Only", "Keep-Null")  # prefill loses the needle, or all else, or everything


def fail(e: Evidence, chosen: Callable[[str], bool]) -> claims.Outcome:
    """Whether every chosen pair earns close to nothing that the control does not."""
    e.unmodified(e.pair("Keep-Keep"))

    def one(pair: str) -> claims.Outcome:
        return claims.nothing(e.pair(pair), f" in {pair}", limit=CLOSE)

    return claims.every(one, filter(chosen, PAIRS))


def gains(e: Evidence, gain: Estimate, before: pd.DataFrame, ours: str) -> claims.Outcome:
    """Whether something is better than `before`; neither, where this left no room for a gain inside the window."""
    e.unmodified(e.pair("Keep-Keep"))
    near = before[before["in_window"]] if before["in_window"].any() else before
    if over_floor(near).value >= CEILING and gain.low <= 0 <= gain.high:
        raise CannotTest(f"no room for a gain over {words(before)}", ours)
    return claims.at_least(gain, 0.0, ours)


def better(e: Evidence, pair: str, than: str) -> claims.Outcome:
    """Whether a pair is better than another."""
    a, b = e.pair(pair), e.pair(than)
    return gains(e, difference(a, b), b, f"{pair}: {words(a)}; {than}: {words(b)}")


def only_keep_is_best(e: Evidence) -> claims.Outcome:
    """Whether Only-Keep is better than every other pair."""
    return claims.every(partial(better, e, "Only-Keep"), [pair for pair in PAIRS if pair != "Only-Keep"])


def prefill_better(e: Evidence) -> claims.Outcome:
    """Whether each way of hiding things in prefill is better than the unmodified model."""
    return claims.every(partial(better, e, than="Keep-Keep"), HIDDEN)


def prefill_idle(e: Evidence) -> claims.Outcome:
    """Whether each way of hiding things in prefill keeps what the unmodified model retrieves."""
    keep = e.unmodified(e.pair("Keep-Keep"))

    def one(pair: str) -> claims.Outcome:
        return claims.keeps(e.pair(pair), keep, HOLDS, f"{pair}: {words(e.pair(pair))}; Keep-Keep: {words(keep)}")

    return claims.every(one, HIDDEN)


def context(e: Evidence) -> claims.Outcome:
    """Whether the needle alone is enough for generation if prefill saw its surroundings, and only then."""
    keep = e.unmodified(e.pair("Keep-Keep"))
    with_context, without = e.pair("Only-Omit"), e.pair("Only-Only")
    ours = f"Only-Omit: {words(with_context)}; Only-Only: {words(without)}"
    falls = claims.falls_below(without, with_context, 0.5, ours)
    return claims.hardest([claims.keeps(with_context, keep, HOLDS, ours), falls])


def sides(e: Evidence, pair: str) -> tuple[Estimate, Estimate]:
    """Accuracy of needles inside and beyond the attention window, above the control's."""
    e.unmodified(e.pair("Keep-Keep"))
    if getattr(e.known, "window", 0) is None:
        raise CannotTest("attention is global, so that no needle leaves it")
    cells = e.pair(pair)
    if cells["in_window"].nunique() < 2:
        raise NotRun("needles on both sides of the window's edge")
    return over_floor(cells[cells["in_window"]]), over_floor(cells[~cells["in_window"]])


def inside_window(e: Evidence) -> claims.Outcome:
    """Whether Omit-Keep finds the needle inside the window, and only there."""
    near, far = sides(e, "Omit-Keep")
    ours = f"Omit-Keep: {words(e.pair('Omit-Keep'))}"
    return claims.hardest([claims.at_least(near, 0.0, ours), claims.at_most(far, FAR, ours)])


def beyond_window(e: Evidence) -> claims.Outcome:
    """Whether the unmodified model finds needles that have left the window."""
    _, far = sides(e, "Keep-Keep")
    return claims.at_least(far, 0.0, words(e.pair("Keep-Keep")))


def complement(e: Evidence) -> claims.Outcome:
    """Whether Keep-Omit and Omit-Keep add prompts to each other, and both together to Keep-Keep."""
    sides(e, "Keep-Keep")
    keep, first, second = (e.pair(pair) for pair in ("Keep-Keep", "Keep-Omit", "Omit-Keep"))
    union = paired(first, second)
    best = {column: union[[column, f"{column}_b"]].max(axis=1) for column in ("value", "value_floor")}
    union = union.assign(in_window=union["in_window"], **best)[[*first.columns]]
    parts = {"Keep-Omit": first, "Omit-Keep": second, "Keep-Keep": keep}
    ours = "; ".join(f"{name}: {words(cells)}" for name, cells in parts.items()) + f"; the first two: {words(union)}"
    # The better of two can only add to either.
    added = {name: difference(union, part, least=None if name == "Keep-Keep" else 0.0) for name, part in parts.items()}
    return claims.hardest(claims.outcome(gains, e, added[name], parts[name], ours) for name in parts)


def invented(e: Evidence) -> claims.Outcome:
    """Whether no wrong answer of a manipulated model stands in a prompt."""
    texts = {prompt.key: prompt.text for prompt in e.prompts}
    if not texts:
        raise NotRun("the texts of the prompts")
    rows = e.rows[e.rows["needle"] != CONTROL]
    manipulated = (rows[["generation", "prefill"]] != "keep").any(axis=1)
    if rows["k"].notna().any():
        manipulated &= (rows["k"] != e.heads).fillna(True)  # with all its heads a model is not manipulated
    if not manipulated.any():
        raise NotRun("a manipulated model")
    if unread := len(set(rows.loc[manipulated, "prompt"]) - set(texts)):
        raise NotRun(f"the texts of {unread} of the prompts, in which answers may stand")
    questions = {prompt.needle.question for prompt in e.prompts}
    wrong = wrong_answers(rows[manipulated], texts, questions).drop_duplicates("said")
    if wrong.empty:
        raise CannotTest(f"no wrong answer has {WORDS} words or more")
    copied = int(wrong["copied"].sum())
    share = estimate(wrong.assign(prompt=wrong["said"]), wrong["copied"].astype(float), (0.0, 1.0))
    ours = f"{copied} of {len(wrong)} different wrong answers are in a prompt"
    why = "none of them was copied" if not copied else "some were copied: the wrong sentence was retrieved"
    return claims.Outcome(claims.CONTRADICTS if copied else claims.AGREES, ours, share, why, -float(copied))


JUDGES = {
    "exposure": partial(fail, chosen=lambda pair: pair.startswith("Omit")),
    "binary": partial(fail, chosen=lambda pair: "Binary" in pair),
    "only-keep": only_keep_is_best,
    "prefill-better": prefill_better,
    "prefill-idle": prefill_idle,
    "context": context,
    "inside-window": inside_window,
    "beyond-window": beyond_window,
    "complement": complement,
    "invented": invented,
}
