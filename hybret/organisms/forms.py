"""Facts of endlessly many forms: a form is drawn from a grammar, then filled with words.

A form fixes how a fact is said (clause, tense, person, what else is told and in which order), what is asked about it
and how; its filling draws the words, some of them invented. So a model cannot know the forms by heart and has to learn
the search itself.

Held out of every form, so that it can be tested on: verbs, openings of questions, and constructions, by the words that
they need (superlatives and "to do" of the paper's needle, comparatives, conditions, instructions, clefts and more).
The forms of `facts_held_out.txt` are made of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from hybret.organisms.corpus import by_words
from hybret.organisms.facts import HELD_OUT_ACTIVITY, HELD_OUT_CITY, Fact, agree, pick
from hybret.organisms.phrases import (
    ADJUNCTS,
    GOERS,
    INVENTED,
    LEXICON,
    OPENINGS,
    QUALITIES,
    VERBS,
    drawn,
    filled,
    invented,
    participle,
    third_person,
)
from hybret.organisms.words import WORDS

HELD_OUT_QUESTIONS = ("How long", "How old", "How much", "How tall", "By what", "Whom", "How many", "What happens")

Fill = Callable[[random.Random, list[str]], tuple[str, str]]
"""A form: given a random stream and the phrases of the context so far, a statement and a question."""

_PERSONS = {"I": ("am", "was", "have", "do"), "sg": ("is", "was", "has", "does"), "pl": ("are", "were", "have", "do")}
_TENSES: dict[str, tuple[str, ...]] = {
    "modal": ("will", "will", "can", "could", "must", "should", "may", "might", "would"),
    "chain": ("want", "have", "hope", "plan", "need", "try", "refuse", "promise", "like"),
    "past chain": ("wanted/want", "had/have", "forgot/forget", "decided/decide", "tried/try", "used/use"),
    "past often": ("always", "never", "often", "rarely", "once", "secretly", "already", "finally", "just"),
    "present often": ("always", "never", "often", "rarely", "still", "usually", "only"),
    **dict.fromkeys(("past", "present", "perfect", "is -ing", "was -ing", "going to"), ("",)),
}  # fmt: skip
_DRAWN_TENSES = ("past",) * 4 + ("present",) * 3 + tuple(_TENSES)


def _conjugate(tense: str, extra: str, verb: Sequence[str], person: str) -> tuple[str, str, str]:
    """The verb in a statement; the auxiliary and the rest of the verb in a question."""
    base, past, perfect = verb
    be, was, have, do = _PERSONS[person]
    now = third_person(base) if do == "does" else base
    if tense == "modal":
        return f"{extra} {base}", extra, base
    if tense == "chain":
        third = "has" if extra == "have" else third_person(extra)
        return f"{third if do == 'does' else extra} to {base}", do, f"{extra} to {base}"
    if tense == "past chain":
        said, asked = extra.split("/")
        return f"{said} to {base}", "did", f"{asked} to {base}"
    aux, rest = {
        "past": ("did", base), "past often": ("did", f"{extra} {base}"),
        "present": (do, base), "present often": (do, f"{extra} {base}"),
        "perfect": (have, perfect), "going to": (be, f"going to {base}"),
        "is -ing": (be, participle(base)), "was -ing": (was, participle(base)),
    }[tense]  # fmt: skip
    others = {"past": past, "past often": f"{extra} {past}", "present": now, "present often": f"{extra} {now}"}
    return others.get(tense, f"{aux} {rest}"), aux, rest


def _recalled(rng: random.Random, cast: list[str], *kinds: str) -> str:
    """A phrase of one of these kinds, at times one that another fact of the context has used."""
    if cast and rng.random() < 0.1:
        return pick(rng, tuple(cast))
    cast.append(phrase := drawn(rng, pick(rng, kinds)))
    return phrase


def _subject(rng: random.Random, cast: list[str], kind: str) -> tuple[str, str, str]:
    """A subject as the statement has it, as a question has it, and its person."""
    if kind == "I":
        return "I", "I", "I"
    if kind == "pl":
        who = pick(rng, ("we", "we", "they", "you", f"{drawn(rng, 'someone')} and {drawn(rng, 'person')}",
                         filled(rng, (("the ", "job"), ("s ", "of"), (" ", "town")))))  # fmt: skip
        return who, who, "pl"
    who = _recalled(rng, cast, kind if kind == "matter" else "person")
    apposed = f", a {pick(rng, WORDS['manner'])} {pick(rng, WORDS['job'])} from {drawn(rng, 'town')},"
    return (who + apposed if kind == "apposed" else who), who, "sg"


def _shorter(rng: random.Random, phrase: str) -> str:
    """A phrase as one asks for it, at times without its adjective."""
    words = phrase.split()
    if len(words) > 2 and words[1] in QUALITIES and rng.random() < 0.3:
        del words[1]
    return " ".join(words)


def _asking(rng: random.Random, opening: str, aux: str, who: str, rest: str, said: str) -> str:
    """A question about something other than its subject; at times a polite one, whose verb is that of the statement."""
    if rng.random() < 0.1:
        return f"{pick(rng, ('Do you know', 'Tell me', 'Please say'))} {opening.lower()} {who} {said}"
    return f"{opening} {aux} {who} {rest}"


def _clause(rng: random.Random) -> Fill:
    """Who does what, where, when, why, by what means; any of it is asked for."""
    goes, passive = rng.random() < 0.25, rng.random() < 0.12
    verb, same_verb = pick(rng, GOERS if goes else VERBS), rng.random() < 0.6
    if rng.random() < INVENTED:
        verb = (base := invented(rng), f"{base}ed", f"{base}ed")
    tense = pick(rng, ("past", "present", "modal") if passive else _DRAWN_TENSES)
    extra = pick(rng, _TENSES[tense])
    kind = pick(rng, ("sg", "sg", "sg", "sg", "apposed", "matter", *(() if passive else ("I", "I", "pl"))))
    things = pick(rng, (("item",), ("item",), ("item", "matter", "person")))
    names = rng.sample(ADJUNCTS, pick(rng, (1, 1, 2, 2, 3) if goes else (0, 0, 1, 1, 2, 3)))
    front, comma = (names[0] if names and rng.random() < 0.4 else ""), pick(rng, (", ", " "))
    asked = pick(rng, ("subject", *names) if goes else ("object", "object", "subject", *names))
    opening = pick(rng, OPENINGS.get(asked, ("What", "What", "What", "Which") if asked == "object" else ("Who",)))
    frame, kept, sayer = rng.random(), rng.random() < 0.6, pick(rng, LEXICON["say"])

    def fill(r: random.Random, cast: list[str]) -> tuple[str, str]:
        who, named, person = _subject(r, cast, kind)
        acts = verb if same_verb else pick(r, GOERS if goes else VERBS)
        what = "" if goes else _recalled(r, cast, *things)
        parts = {name: drawn(r, name) for name in names}
        tail = " ".join([parts[name] for name in names if name != front])
        given = " ".join([parts[name] for name in names if name != asked and (kept or r.random() < 0.3)])
        said, aux, rest = _conjugate(tense, extra, acts, person)
        thing, named = _shorter(r, what), _shorter(r, named)
        if passive and what:
            be = {"past": "was", "present": "is"}.get(tense, f"{extra} be").split()
            text = f"{what} {' '.join(be)} {acts[2]} by {who} {tail}"
            rest = " ".join([*be[1:], acts[2]])
            if asked in ("object", "subject"):
                question = f"What {' '.join(be)} {acts[2]} by {named} {given}"
                question = question if asked == "object" else f"Who {be[0]} {thing} {rest} by {given}"
            else:
                question = f"{opening} {be[0]} {thing} {rest} {given}"
        else:
            text = f"{who} {said} {what} {tail}"
            third = _conjugate(tense, extra, acts, "sg")[0]
            question = f"{opening} {third} {thing} {given}"
            if asked != "subject":
                what = f"{opening} {pick(r, LEXICON['head'])}" if opening == "Which" else opening
                thing = "" if asked == "object" else thing
                question = f"{_asking(r, what, aux, named, rest, said)} {thing} {given}"
        if front:
            text = f"{parts[front]}{comma}{text}"
        if frame < 0.08:
            text = f"{_recalled(r, cast, 'person')} {sayer} that {text}"
        elif frame < 0.12:
            text = f'"{_sentence(text)}," {pick(r, ("said", "wrote"))} {_recalled(r, cast, "person")}'
        return text, question

    return fill


def _statement(rng: random.Random) -> Fill:
    """What something is, has or means: the head of something, and what is said of it."""
    kind, same_head = pick(rng, ("noun", "thing", "idea", "job", "head", "head")), rng.random() < 0.6
    head = drawn(rng, kind)
    described = pick(rng, ("", "", "modifier", "modifier", "adjective"))
    modifier = pick(rng, LEXICON[described]) if described else ""
    by = pick(rng, ("of", "of", pick(rng, LEXICON["by"])))
    be = pick(rng, ("is", "is", "is", "was", "was", "will be", "has always been", "must be", "may be", "should be"))
    copula, base = (be, "") if rng.random() < 0.55 else pick(rng, LEXICON["copula"]).split("/")
    shape, front, reverse = rng.random(), rng.random() < 0.5, rng.random() < 0.15
    name = pick(rng, ADJUNCTS) if rng.random() < 0.4 else ""
    asked = name if rng.random() < 0.3 else ""
    opening = pick(rng, OPENINGS.get(asked, ("What", "What", "What", "Which")))

    def fill(r: random.Random, cast: list[str]) -> tuple[str, str]:
        noun = head if same_head else drawn(r, kind)
        of = _recalled(r, cast, "matter", "person")
        thing = f"the {modifier} {noun} {by} {of}"
        if shape < 0.25:
            thing = f"{drawn(r, 'someone')}'s {modifier} {noun}" if shape < 0.15 else of
        elif shape < 0.32:
            thing = f"{drawn(r, 'his')} {modifier} {noun}"
        said = drawn(r, "item" if base else "predicate")
        tail = drawn(r, name) if name else ""
        text = f"{tail}, {thing} {copula} {said}" if front and tail else f"{thing} {copula} {said} {tail}"
        if reverse:
            return text, f"{'Which ' + noun if opening == 'Which' else 'What'} {copula} {said}"
        does = "did" if copula in ("became", "turned into") else "does"
        aux, _, rest = (f"{does} {base}" if base else copula).partition(" ")
        question = _asking(r, "What" if opening == "Which" else opening, aux, _shorter(r, thing), rest, copula)
        return text, f"{question} {said if asked else ''}"

    return fill


def _place(rng: random.Random) -> Fill:
    """What is somewhere: "there is", or the place first."""
    there, past = rng.random() < 0.5, int(rng.random() < 0.4)
    verbs = pick(rng, ("stands stood", "lies lay", "hangs hung", "sits sat", "waits waited", "lives lived"))
    verb = verbs.split()[past]
    be = ("is", "was")[past]
    name, asks_where = (pick(rng, ADJUNCTS) if rng.random() < 0.4 else ""), rng.random() < 0.4
    kinds = ("noun", "thing", "job", "animal")

    def fill(r: random.Random, cast: list[str]) -> tuple[str, str]:
        what, where = f"a {drawn(r, 'adjective')} {drawn(r, pick(r, kinds))}", drawn(r, "where")
        tail = drawn(r, name) if name else ""
        text = f"there {be} {what} {where} {tail}" if there else f"{where} {verb} {what} {tail}"
        if asks_where:
            return text, f"Where {be} {_shorter(r, what.replace('a ', 'the ', 1))}"
        return text, f"What {be if there else verb} {'there ' if there and r.random() < 0.5 else ''}{where}"

    return fill


def _both(rng: random.Random) -> Fill:
    """Two facts in one sentence; one of them is asked for."""
    forms = [pick(rng, (_clause, _statement))(rng) for _ in range(2)]
    link = pick(rng, (" and ", ", and ", ", but ", ", so ", "; ", " while ", ", and then "))
    second = rng.random() < 0.5

    def fill(r: random.Random, cast: list[str]) -> tuple[str, str]:
        texts, questions = zip(*(one(r, cast) for one in forms), strict=True)
        return link.join(text.rstrip() for text in texts), questions[second]

    return fill


def _jumble(rng: random.Random) -> Fill:
    """Words in an order that means nothing."""
    small = 0.25 + 0.3 * rng.random()

    def fill(r: random.Random, cast: list[str]) -> tuple[str, str]:
        kinds = [
            ("small", "word", "made", "someone")[(r.random() > small) + (x > 0.9) + (x > 0.95)]
            for x in (r.random() for _ in range(r.randint(7, 20)))
        ]
        return " ".join([drawn(r, kind) for kind in kinds]), ""

    return fill


def form(rng: random.Random) -> Fill:
    """A form, drawn anew."""
    x = rng.random()
    kind = _clause if x < 0.44 else _statement if x < 0.76 else _place if x < 0.82 else _both if x < 0.89 else _jumble
    return kind(rng)


_TURNED = {"my": "your", "our": "your", "I": "you", "am": "are", "we": "you"}


def form_fact(rng: random.Random, made: Fill | None = None, cast: list[str] | None = None) -> Fact:
    """A fact of this form, or of one drawn anew, that is not held out by content."""
    made = made or form(rng)
    while True:
        text, question = made(rng, [] if cast is None else cast)
        if HELD_OUT_CITY not in text or HELD_OUT_ACTIVITY not in text:
            break
    text = f"{pick(rng, LEXICON['opener'])} {text}" if rng.random() < 0.12 else text
    sentence = f"{_sentence(text)}."
    if not question or rng.random() < 0.15:
        return Fact("form", sentence, (by_words(rng, sentence),), {})
    if rng.random() < 0.2:  # a person asks another
        question = " ".join(_TURNED.get(word, word) for word in question.split())
    return Fact("form", sentence, (f"{_sentence(question)}?",), {})


def _sentence(text: str) -> str:
    text = agree(" ".join(text.split()))
    return text[0].upper() + text[1:]
