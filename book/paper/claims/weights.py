"""Claims about manipulated attention weights (Section 5, H3), and about what the models then say (Appendix F)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from book.paper import claims
from book.paper import numbers as paper
from book.paper.claims.evidence import Estimate, Evidence, NotTestable, accuracy, difference, estimate, paired, percent
from book.paper.tipping import HOLDS
from book.paper.wrong_answers import wrong_answers
from hybret.metrics import CONTROL

CEILING = 0.95  # accuracy of the unmodified model from which on hardly anything can be better
FAR = 0.15  # accuracy beyond the window that still counts as none: a grid may have no more than 25 needles there
PAIRS = [f"{g}-{p}" for p in paper.PREFILL for g in paper.GENERATION]
HIDDEN = ("Keep-Omit", "Keep-Only", "Keep-Null")  # prefill loses the needle, or all else, or everything


def fail(e: Evidence, chosen: Callable[[str], bool]) -> claims.Outcome:
    """Whether every chosen pair earns nothing above the floor."""
    e.unmodified(e.pair("Keep-Keep"))
    return claims.hardest([claims.nothing(e.pair(pair), f" in {pair}") for pair in PAIRS if chosen(pair)])


def gains(e: Evidence, gain: Estimate, ours: str) -> claims.Outcome:
    """Whether something is better than the untouched model or more, unless this one leaves no room for it."""
    room = e.unmodified(e.pair("Keep-Keep"))
    if room.value >= CEILING and gain.high >= 0:
        raise NotTestable(
            f"untouched, the model already reaches {percent(room.value)} %, so nothing can be much better"
        )
    return claims.at_least(gain, 0.0, ours)


def better(e: Evidence, pair: str, than: str) -> claims.Outcome:
    """Whether a pair is better than another."""
    a, b = e.pair(pair), e.pair(than)
    gain = difference(a, b)
    scores = f"{pair} {percent(accuracy(a).value)} %, {than} {percent(accuracy(b).value)} %"
    return gains(e, gain, f"{scores}: {gain.points}")


def only_keep_is_best(e: Evidence) -> claims.Outcome:
    """Whether Only-Keep is better than the best of the others."""
    others = {pair: accuracy(e.pair(pair)).value for pair in PAIRS if pair != "Only-Keep"}
    return better(e, "Only-Keep", max(others, key=lambda pair: others[pair]))


def prefill_better(e: Evidence) -> claims.Outcome:
    """Whether each way of hiding things in prefill is better than the untouched model."""
    return claims.hardest([better(e, pair, "Keep-Keep") for pair in HIDDEN])


def prefill_idle(e: Evidence) -> claims.Outcome:
    """Whether each way of hiding things in prefill keeps what the untouched model retrieves."""
    keep = e.pair("Keep-Keep")
    room, outcomes = e.unmodified(keep), []
    for pair in HIDDEN:
        cells = e.pair(pair)
        ours = f"{pair} {accuracy(cells)}, Keep-Keep {percent(room.value)} %"
        outcomes.append(claims.keeps(cells, keep, HOLDS, ours))
    return claims.hardest(outcomes)


def context(e: Evidence) -> claims.Outcome:
    """Whether the needle alone is enough for generation if prefill saw its surroundings, and only then."""
    keep, with_context, without = (e.pair(pair) for pair in ("Keep-Keep", "Only-Omit", "Only-Only"))
    e.unmodified(keep)
    ours = f"Only-Omit {accuracy(with_context)}, Only-Only {accuracy(without)}"
    falls = claims.falls_below(without, with_context, 0.5, ours)
    return claims.hardest([claims.keeps(with_context, keep, HOLDS, ours), falls])


def sides(e: Evidence, pair: str) -> tuple[Estimate, Estimate]:
    """Accuracy above the floor of needles inside and beyond the attention window."""
    e.unmodified(e.pair("Keep-Keep"))
    cells = e.pair(pair)
    if cells["in_window"].all():
        raise NotTestable("in this run no needle leaves the attention window, or attention is global")
    if not cells["in_window"].any():
        raise NotTestable("in this run every needle has left the attention window")
    return claims.over_floor(cells[cells["in_window"]]), claims.over_floor(cells[~cells["in_window"]])


def inside_window(e: Evidence) -> claims.Outcome:
    """Whether Omit-Keep finds the needle inside the window, and only there."""
    near, far = sides(e, "Omit-Keep")
    ours = f"Omit-Keep above the floor: {near} inside, {far} beyond"
    return claims.hardest([claims.at_least(near, 0.0, ours), claims.at_most(far, FAR, ours)])


def beyond_window(e: Evidence) -> claims.Outcome:
    """Whether the untouched model finds needles that have left the window."""
    _, far = sides(e, "Keep-Keep")
    return claims.at_least(far, 0.0, f"{far} above the floor beyond the window, {far.n} prompts")


def complement(e: Evidence) -> claims.Outcome:
    """Whether Keep-Omit and Omit-Keep add cells to each other, and both together to Keep-Keep."""
    sides(e, "Keep-Keep")
    keep, first, second = (e.pair(pair) for pair in ("Keep-Keep", "Keep-Omit", "Omit-Keep"))
    union = paired(first, second)
    best = {column: union[[column, f"{column}_b"]].max(axis=1) for column in ("value", "value_floor")}
    union = union.assign(**best)[[*first.columns]]
    alone = {"Keep-Omit": difference(union, second), "Omit-Keep": difference(union, first)}
    gain = difference(union, keep)
    adds = "; ".join(f"{pair} alone adds {added.points}" for pair, added in alone.items())
    ours = f"{adds}; both together, less Keep-Keep: {gain.points}"
    return claims.hardest([*(claims.at_least(added, 0.0, ours) for added in alone.values()), gains(e, gain, ours)])


def invented(e: Evidence) -> claims.Outcome:
    """Whether no wrong answer of a manipulated model stands in a prompt."""
    texts = {prompt.key: prompt.text for prompt in e.prompts}
    if not texts:
        raise NotTestable("not run: the texts of the prompts were not given")
    rows = e.rows[e.rows["needle"] != CONTROL]
    manipulated = (rows[["generation", "prefill"]] != "keep").any(axis=1)
    if rows["k"].notna().any():
        manipulated &= (rows["k"] != e.heads).fillna(True)  # with all its heads a model is not manipulated
    if not manipulated.any():
        raise NotTestable("not run: no manipulated model")
    if unread := len(set(rows.loc[manipulated, "prompt"]) - set(texts)):
        raise NotTestable(f"not run: the texts of {unread} of the prompts were not given, and answers may stand there")
    questions = {prompt.needle.question for prompt in e.prompts}
    wrong = wrong_answers(rows[manipulated], texts, questions).drop_duplicates("said")
    if wrong.empty:
        raise NotTestable("no wrong answer is long enough to be a pearl")
    copied = int(wrong["copied"].sum())
    share = estimate(wrong.assign(prompt=wrong["said"]), wrong["copied"].astype(float), (0.0, 1.0))
    ours = f"{copied} of {len(wrong)} different answers stand in a prompt"
    why = "none of them was copied" if not copied else "some were copied: the wrong sentence was retrieved"
    return claims.Outcome(claims.NOT_REPRODUCED if copied else claims.REPRODUCED, ours, share, why, -float(copied))


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
