"""Claims about manipulated attention weights (Section 5, H3), and about what the models then say (Appendix F)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from hybret import claims, paper
from hybret.claims import (
    FLOOR,
    NOT_REPRODUCED,
    REPRODUCED,
    Claim,
    Outcome,
    at_least,
    at_most,
    falls_below,
    hardest,
    keeps,
)
from hybret.claims.evidence import (
    Estimate,
    Evidence,
    NotTestable,
    accuracy,
    difference,
    estimate,
    over_floor,
    paired,
    percent,
)
from hybret.pearls import pearls
from hybret.tables import CONTROL
from hybret.tipping import HOLDS

CEILING = 0.95  # accuracy of the untouched model from which on hardly anything can be better
FAR = 0.15  # accuracy beyond the window that still counts as none: a grid may have no more than 25 needles there
PAIRS = [f"{g}-{p}" for p in paper.PREFILL for g in paper.GENERATION]

claim = partial(claims.claim, hypothesis="H3", notebook="manipulation", figure="fig-table1")
by_distance = partial(claim, figure="fig-by-distance")


def printed(*pairs: str) -> str:
    """The paper's accuracies of pairs."""
    cells = [(pair, paper.TABLE1[pair.split("-")[1], pair.split("-")[0]].value) for pair in pairs]
    return ", ".join(f"{pair} {100 * value:.1f} %" for pair, value in cells)


def fail(e: Evidence, pairs: Iterable[str]) -> Outcome:
    """Whether every pair earns nothing above the floor."""
    e.untouched(e.pair("Keep-Keep"))
    return hardest([claims.nothing(over_floor(e.pair(pair)), f" in {pair}") for pair in pairs])


@claim(
    "needle hidden while answering: nothing",
    "Section 5.1, Table 1",
    f"{printed('Omit-Keep')}, the others 0 or 0.1 %",
    f"{FLOOR}, in each of the five Omit combinations",
)
def exposure(e: Evidence) -> Outcome:
    """Hidden during generation, the needle is not retrieved, whatever prefill saw."""
    return fail(e, [pair for pair in PAIRS if pair.startswith("Omit")])


@claim(
    "Binary in either phase: nothing",
    "Sections 5.1, 5.2, Table 1",
    "0 to 3.7 %",
    f"{FLOOR}, in each of the eight Binary combinations",
)
def binary(e: Evidence) -> Outcome:
    """Equal weights on the needle, in either phase, end retrieval: exact weights matter."""
    return fail(e, [pair for pair in PAIRS if "Binary" in pair])


def gains(e: Evidence, gain: Estimate, ours: str) -> Outcome:
    """Whether something is better than the untouched model or more, unless this one leaves no room for it."""
    room = e.untouched(e.pair("Keep-Keep"))
    if room.value >= CEILING and gain.high >= 0:
        raise NotTestable(
            f"untouched, the model already reaches {percent(room.value)} %, so nothing can be much better"
        )
    return at_least(gain, 0.0, ours)


def better(e: Evidence, pair: str, than: str) -> Outcome:
    """Whether a pair is better than another."""
    a, b = e.pair(pair), e.pair(than)
    gain = difference(a, b)
    return gains(
        e, gain, f"{pair} {percent(accuracy(a).value)} %, {than} {percent(accuracy(b).value)} %: {gain.points}"
    )


@claim(
    "Only-Keep is the best of all",
    "Section 5.1, Table 1",
    printed("Only-Keep", "Keep-Keep"),
    "Only-Keep less the best of the others: interval above 0",
)
def only_keep(e: Evidence) -> Outcome:
    """Seeing only the needle during generation is the best combination, better than the untouched model."""
    others = {pair: accuracy(e.pair(pair)).value for pair in PAIRS if pair != "Only-Keep"}
    return better(e, "Only-Keep", max(others, key=lambda pair: others[pair]))


HIDDEN = ("Keep-Omit", "Keep-Only", "Keep-Null")  # prefill loses the needle, or all else, or everything


@claim(
    "hiding things in prefill improves",
    "Section 5.1, Table 1",
    printed(*HIDDEN, "Keep-Keep"),
    "each less Keep-Keep: interval above 0",
)
def prefill_better(e: Evidence) -> Outcome:
    """Hiding the needle, or all else, during prefill improves on the untouched model."""
    return hardest([better(e, pair, "Keep-Keep") for pair in HIDDEN])


@claim(
    "what prefill sees does not matter",
    "Section 5.2",
    printed(*HIDDEN),
    f"each keeps more than {100 * HOLDS:g} % of Keep-Keep",
)
def prefill_idle(e: Evidence) -> Outcome:
    """What attention sees during prefill does not matter if generation sees enough."""
    keep = e.pair("Keep-Keep")
    room, outcomes = e.untouched(keep), []
    for pair in HIDDEN:
        cells = e.pair(pair)
        outcomes.append(keeps(cells, keep, HOLDS, f"{pair} {accuracy(cells)}, Keep-Keep {percent(room.value)} %"))
    return hardest(outcomes)


@claim(
    "needle alone, if prefill saw the rest",
    "Section 5.2, Table 1",
    printed("Only-Omit", "Only-Only"),
    f"Only-Omit keeps more than {100 * HOLDS:g} % of Keep-Keep, Only-Only less than half of Only-Omit",
)
def context(e: Evidence) -> Outcome:
    """The needle alone is enough for generation where prefill saw its surroundings, and not where it did not."""
    keep, with_context, without = (e.pair(pair) for pair in ("Keep-Keep", "Only-Omit", "Only-Only"))
    e.untouched(keep)
    ours = f"Only-Omit {accuracy(with_context)}, Only-Only {accuracy(without)}"
    return hardest([keeps(with_context, keep, HOLDS, ours), falls_below(without, with_context, 0.5, ours)])


def sides(e: Evidence, pair: str) -> tuple[Estimate, Estimate]:
    """Accuracy above the floor of needles inside and beyond the attention window."""
    e.untouched(e.pair("Keep-Keep"))
    cells = e.pair(pair)
    if cells["in_window"].all():
        raise NotTestable("in this run no needle leaves the attention window, or attention is global")
    if not cells["in_window"].any():
        raise NotTestable("in this run every needle has left the attention window")
    return over_floor(cells[cells["in_window"]]), over_floor(cells[~cells["in_window"]])


@by_distance(
    "Omit-Keep works inside the window",
    "Section 5.2, Figure 4b",
    "inside the window only",
    f"Omit-Keep above the floor: interval above 0 inside, at most {100 * FAR:g} % beyond",
)
def inside_window(e: Evidence) -> Outcome:
    """Hidden during generation, the needle is still found inside the attention window, and only there."""
    near, far = sides(e, "Omit-Keep")
    ours = f"Omit-Keep above the floor: {near} inside, {far} beyond"
    return hardest([at_least(near, 0.0, ours), at_most(far, FAR, ours)])


@by_distance(
    "retrieval beyond the window",
    "Section 5.2, Figure 4",
    "yes, in RG-2B",
    "Keep-Keep beyond the window, above the floor: interval above 0",
)
def beyond_window(e: Evidence) -> Outcome:
    """A needle that has left the attention window can still be retrieved."""
    _, far = sides(e, "Keep-Keep")
    return at_least(far, 0.0, f"{far} above the floor beyond the window, {far.n} prompts")


@claim(
    "two maps complement each other",
    "Section 5.2, Figure 4",
    "complementary maps",
    "each alone adds cells to the other, and both together to Keep-Keep: intervals above 0",
    figure="fig-maps-three",
)
def complement(e: Evidence) -> Outcome:
    """The maps of Keep-Omit and Omit-Keep complement each other to an improved Keep-Keep."""
    sides(e, "Keep-Keep")
    keep, first, second = (e.pair(pair) for pair in ("Keep-Keep", "Keep-Omit", "Omit-Keep"))
    union = paired(first, second)
    union = union.assign(**{column: union[[column, f"{column}_b"]].max(axis=1) for column in ("value", "value_floor")})[
        [*first.columns]
    ]
    alone = {"Keep-Omit": difference(union, second), "Omit-Keep": difference(union, first)}
    gain = difference(union, keep)
    adds = "; ".join(f"{pair} alone adds {added.points}" for pair, added in alone.items())
    ours = f"{adds}; both together, less Keep-Keep: {gain.points}"
    return hardest([*(at_least(added, 0.0, ours) for added in alone.values()), gains(e, gain, ours)])


@claim(
    "answers stand in no prompt",
    "Appendix F",
    "none",
    "none of the wrong answers of five words or more",
    hypothesis="appendix",
    notebook="pearls",
    figure="tab-pearls",
)
def invented(e: Evidence) -> Outcome:
    """What manipulated models say instead stands in none of the prompts."""
    if not e.texts:
        raise NotTestable("not run: the texts of the prompts were not given")
    rows = e.rows[e.rows["needle"] != CONTROL]
    touched = (rows[["generation", "prefill"]] != "keep").any(axis=1)
    if rows["k"].notna().any():
        touched &= (rows["k"] != e.heads).fillna(True)  # with all its heads a model is not manipulated
    if not touched.any():
        raise NotTestable("not run: no manipulated model")
    if unread := len(set(rows.loc[touched, "prompt"]) - set(e.texts)):
        raise NotTestable(f"not run: the texts of {unread} of the prompts were not given, and answers may stand there")
    found = pearls(rows[touched], e.texts, e.questions).drop_duplicates("said")
    if found.empty:
        raise NotTestable("no wrong answer is long enough to be a pearl")
    n, copied = len(found), int(found["copied"].sum())
    share = estimate(found.assign(prompt=found["said"]), found["copied"].astype(float), (0.0, 1.0))
    ours = f"{copied} of {n} different answers stand in a prompt"
    why = "none of them was copied" if not copied else "some were copied: the wrong sentence was retrieved"
    return Outcome(NOT_REPRODUCED if copied else REPRODUCED, ours, share, why, -float(copied))


CLAIMS = [one for one in vars().values() if isinstance(one, Claim)]
