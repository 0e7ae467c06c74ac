"""Facts of endlessly many forms: a form is drawn from a grammar, then filled with words.

A form fixes how a fact is said (clause, tense, person, adjuncts and their order), what is asked about it and how; its
filling draws the words. So a model cannot know the forms by heart, and has to learn the search itself.

Some sentences are of no form: :func:`_jumble` strings words together without a grammar, and asks for them by some.

Held out of every form, for tests of what was never met (:data:`HELD_OUT_VERBS`, :data:`HELD_OUT_QUESTIONS`,
:data:`HELD_OUT_WORDS`): verbs, openings of questions, and constructions by the words that they need: superlatives and
"to do" (the paper's needle), comparatives, conditions, instructions, clefts, "between", "without". The forms of
`forms_held_out.txt` need them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from hybret.organisms.facts import HELD_OUT_ACTIVITY, HELD_OUT_CITY, Fact, agree, pick
from hybret.organisms.words import WORDS, word_lists

W = {**WORDS, **{f"form_{name}": entries for name, entries in word_lists("forms.txt").items()}}
HELD_OUT_VERBS = ("show", "advise", "grow", "call", "owe", "teach", "shout", "enter")
HELD_OUT_QUESTIONS = ("How long", "How old", "How much", "How tall", "By what", "Whom", "How many", "What happens")
HELD_OUT_WORDS = ("best", "oldest", "thing", "than", "if", "between", "without", "it", "instead", "born", "old")

Words = Sequence[str]
Fill = Callable[[random.Random, list[str]], tuple[str, list[str]]]
_THINGS = tuple(
    word
    for kind in ("object", "container", "instrument", "clothes", "vehicle", "furniture", "form_thing", "form_thing")
    for word in W[kind]
)
_NOUNS = WORDS["noun"] + W["form_thing"] + W["form_head"]
_ADJECTIVES = W["adjective"] + W["form_adjective"] + W["colour"] + W["material"]
_PLACES = W["building"] + W["room"] + W["nature"] + W["furniture"]
_ALL = tuple(  # in their order, without repeats
    {word.split("/")[-1]: 0 for kind, entries in W.items() if kind != "form_syllable" for word in entries}
)
_SMALL = tuple(
    "the the the a a of of to and in is was that it for with as his her on at by from my our not this but had have they "
    "you we who will can all so no more only when after because about into over each every some".split()
)


def _made(rng: random.Random) -> str:
    """An invented word of two to four syllables."""
    return "".join(pick(rng, W["form_syllable"]) for _ in range(2 + int(rng.random() * 2.4)))


def _noun(rng: random.Random, words: Words = _NOUNS) -> str:
    return _made(rng) if rng.random() < 0.08 else pick(rng, words)


def _name(rng: random.Random) -> str:
    x = rng.random()
    first = _made(rng).capitalize() if x < 0.2 else pick(rng, W["name"])
    return first if x < 0.5 else f"{first} {_made(rng).capitalize() if x > 0.9 else pick(rng, W['surname'])}"


def _city(rng: random.Random) -> str:
    return _made(rng).capitalize() if rng.random() < 0.15 else pick(rng, W["city"])


def _code(rng: random.Random) -> str:
    x, n = rng.random(), str(int(10 ** (1 + 3 * rng.random())))
    return n if x < 0.5 else f"{pick(rng, 'ABCDEFGHKLMNPRST')}{n}" if x < 0.8 else f"{_noun(rng)}-{_noun(rng)}-{n}"


def _amount(rng: random.Random) -> str:
    number = pick(rng, W["number"]) if rng.random() < 0.7 else str(int(2 + 998 * rng.random() ** 3))
    return f"{number} {pick(rng, W['form_unit'])}"


_PEOPLE: tuple[Callable[[random.Random], str], ...] = (
    _name,
    _name,
    lambda r: f"{pick(r, ('my', 'our', 'his', 'her', 'your'))} {pick(r, W['relative'])}",
    lambda r: f"my {pick(r, W['relative'])} {_name(r)}",
    lambda r: f"{_name(r)}'s {pick(r, W['relative'])}",
    lambda r: f"the {pick(r, W['manner'])} {pick(r, W['job'])}",
    lambda r: f"the {pick(r, W['job'])} {pick(r, ('of', 'in', 'from', 'near'))} {_city(r)}",
    lambda r: f"the {pick(r, W['relative'])} of {_name(r)}",
    lambda r: f"the {_noun(r, W['animal'])} of {_name(r)}",
    lambda r: f"our {pick(r, _ADJECTIVES)} {_noun(r, W['animal'])}",
    lambda r: f"the {pick(r, W['job'])} who {pick(r, _VERBS)[1]} the {_noun(r)}",
    lambda r: f"{pick(r, ('Mr.', 'Mrs.', 'Dr.', 'Aunt', 'Uncle', 'Captain'))} {pick(r, W['surname'])}",
)
_THING: tuple[Callable[[random.Random], str], ...] = (
    lambda r: f"the {pick(r, _ADJECTIVES)} {_noun(r, _THINGS)}",
    lambda r: f"the {_noun(r)} {pick(r, W['form_preposition'])} {_city(r)}",
    lambda r: f"the {pick(r, W['building'])} in {_city(r)}",
    lambda r: f"{_name(r)}'s {_noun(r, _THINGS)}",
    lambda r: f"{pick(r, ('my', 'our', 'his', 'her', 'your', 'their'))} {pick(r, _ADJECTIVES)} {_noun(r)}",
    lambda r: f"the {pick(r, _ADJECTIVES)} {_noun(r)} of {_name(r)}",
    lambda r: f"the {_noun(r)} {pick(r, W['form_preposition'])} the {_noun(r, _PLACES)}",
    lambda r: f"the {_noun(r)} {_noun(r)}",
    lambda r: _city(r),
    lambda r: f"the {_noun(r, W['plant'])} by the {pick(r, W['nature'])}",
    lambda r: f"the {pick(r, W['form_head'])} of {_city(r)}",
)


def _a(rng: random.Random, words: Words = _NOUNS) -> str:
    return f"a {_noun(rng, words)}"


_OBJECTS: tuple[Callable[[random.Random], str], ...] = (
    lambda r: f"a {pick(r, _ADJECTIVES)} {_noun(r, _THINGS)}",
    lambda r: f"the {pick(r, _ADJECTIVES)} {_noun(r)}",
    lambda r: f"a {pick(r, W['colour'])} {_noun(r, W['animal'])} and a {pick(r, W['material'])} {_noun(r, _THINGS)}",
    lambda r: f"{_noun(r, W['food'])}, {_noun(r, W['food'])} and {pick(r, W['drink'])}",
    lambda r: f"{_amount(r)} and a {_noun(r)}",
    lambda r: f"the {pick(r, _ADJECTIVES)} {pick(r, W['job'])} with a {pick(r, W['clothes'])}",
    lambda r: f"a {_noun(r)} that {pick(r, _PEOPLE)(r)} {pick(r, _VERBS)[1]} in the {pick(r, W['room'])}",
    lambda r: f"{_noun(r)} {_noun(r)} {_noun(r)}",
    lambda r: f"{pick(r, W['idea'])} and {pick(r, W['idea'])}",
    lambda r: f"a {pick(r, W['material'])} {_noun(r, _THINGS)} full of {_noun(r, W['food'])}",
    lambda r: f"a {_noun(r)} named {_name(r)}",
    lambda r: _name(r),
    lambda r: f"the {_noun(r)} and the {_noun(r)}",
    lambda r: f"{pick(r, W['number'])} {pick(r, _ADJECTIVES)} {_noun(r)}s",
    lambda r: f"{_name(r)}'s {_noun(r)}",
    lambda r: _amount(r),
    lambda r: f"a {_noun(r)} made of {pick(r, W['material'])} {_noun(r)}",
)


def _vp(rng: random.Random) -> str:
    """A verb phrase in the base form."""
    x = rng.random()
    if x < 0.3:
        return pick(rng, W["activity"])
    if x < 0.5:
        return f"{pick(rng, _GOERS)[0]} {pick(rng, _WHERE)(rng)}"
    return f"{pick(rng, _VERBS)[0]} {pick(rng, _OBJECTS)(rng)}"


_PREDICATES: tuple[Callable[[random.Random], str], ...] = (
    *_OBJECTS,
    lambda r: f"{pick(r, _ADJECTIVES)} and {pick(r, _ADJECTIVES)}",
    lambda r: f"too {pick(r, _ADJECTIVES)} for {pick(r, _PEOPLE)(r)}",
    lambda r: f"that {pick(r, _PEOPLE)(r)} {pick(r, _VERBS)[1]} {pick(r, _OBJECTS)(r)}",
    lambda r: f"{pick(r, _WHERE)(r)}",
    _code, _code, _name, _city, _made, _amount,
    lambda r: f"\"{' '.join(_noun(r, _ALL) for _ in range(2 + int(4 * r.random())))}\"",
)  # fmt: skip
_WHERE: tuple[Callable[[random.Random], str], ...] = (
    lambda r: f"{pick(r, _PLACED)} the {_noun(r, _PLACES)}",
    lambda r: f"{pick(r, _PLACED)} the {pick(r, _ADJECTIVES)} {_noun(r)}",
    lambda r: f"in {_city(r)}",
    lambda r: f"at {pick(r, W['place'])}",
    lambda r: f"in the {pick(r, W['building'])} {pick(r, _PLACED)} the {pick(r, W['nature'])}",
    lambda r: f"{pick(r, _PLACED)} {_name(r)}'s {_noun(r)}",
)
_PLACED = ("in", "behind", "near", "under", "above", "beside", "on", "inside", "next to", "on top of", "across from")
_WHEN: tuple[Callable[[random.Random], str], ...] = (
    lambda r: f"on {pick(r, W['weekday'])}",
    lambda r: f"on {pick(r, W['weekday'])} {pick(r, W['daytime'])}",
    lambda r: f"in {pick(r, W['month'])}",
    lambda r: f"at {pick(r, W['hour'])}",
    lambda r: f"at {int(1 + 11 * r.random())}:{int(10 + 49 * r.random())}",
    lambda r: f"in {int(1500 + 600 * r.random())}",
    lambda r: f"after {_amount(r)}",
    lambda r: f"every {pick(r, W['season'])}",
    lambda r: f"before {pick(r, W['moment'])}",
    lambda r: f"during the {_noun(r)}",
    lambda r: f"last {pick(r, W['season'] + W['weekday'])}",
    lambda r: f"while {pick(r, _PEOPLE)(r)} was {_ing(pick(r, _GOERS)[0])} {pick(r, _WHERE)(r)}",
    lambda r: f"when {pick(r, _PEOPLE)(r)} {pick(r, _VERBS)[1]} the {_noun(r)}",
)
_WHY: tuple[Callable[[random.Random], str], ...] = (
    lambda r: f"because of the {pick(r, _ADJECTIVES)} {_noun(r)}",
    lambda r: f"because {pick(r, _PEOPLE)(r)} {pick(r, _VERBS)[1]} {pick(r, _OBJECTS)(r)}",
    lambda r: f"because the {_noun(r)} is {pick(r, _ADJECTIVES)}",
    lambda r: f"to {_vp(r)}",
    lambda r: f"in order to {_vp(r)}",
)
_ADJUNCTS: dict[str, tuple[tuple[str, ...], tuple[Callable[[random.Random], str], ...]]] = {
    "where": (("Where", "Where", "In what place", "At which place"), _WHERE),
    "when": (("When", "When", "At what time", "On which day"), _WHEN),
    "why": (("Why", "Why", "For what reason"), _WHY),
    "with": (
        ("With what", "How", "By means of what"),
        (
            lambda r: f"with a {pick(r, _ADJECTIVES)} {_noun(r, _THINGS)}",
            lambda r: f"by {_ing(pick(r, _VERBS)[0])} the {_noun(r)}",
        ),
    ),
    "company": (
        ("With whom", "Together with whom", "In whose company"),
        (lambda r: f"together with {pick(r, _PEOPLE)(r)}", lambda r: f"with {_name(r)} and {pick(r, _PEOPLE)(r)}"),
    ),
    "for": (("For whom", "For which person"), (lambda r: f"for {pick(r, _PEOPLE)(r)}",)),
    "from": (("From whom", "From where"), (lambda r: f"from {pick(r, _PEOPLE)(r)}", lambda r: f"from {_city(r)}")),
    "how": (("How", "In what way"), (lambda r: pick(r, W["adverb"]), lambda r: f"in silence and {pick(r, W['adverb'])}")),
    "about": (("About what", "On what subject"), (lambda r: f"about {pick(r, W['idea'])} and {pick(r, W['idea'])}",)),
    "weather": (("On what kind of day",), (lambda r: f"on a {pick(r, W['weather'])} {pick(r, W['daytime'])}",)),
}  # fmt: skip
_ASKABLE = tuple(_ADJUNCTS)
_VERBS = tuple(tuple(verb.split("/")) for verb in W["form_verb"])
_GOERS = tuple(tuple(verb.split("/")) for verb in W["form_goer"])


def _s(base: str) -> str:
    """Third person: carries, watches, lives."""
    if base.endswith("y") and base[-2] not in "aeiou":
        return f"{base[:-1]}ies"
    return base + ("es" if base.endswith(("s", "sh", "ch", "x", "o")) else "s")


_DOUBLED = frozenset("drop wrap run swim cut sit stop win hug plan put mix".split()) - {"mix"}


def _ing(base: str) -> str:
    """Present participle: carrying, sitting, living."""
    if base in _DOUBLED:
        return f"{base}{base[-1]}ing"
    return f"{base[:-1]}ing" if base.endswith("e") and not base.endswith("ee") else f"{base}ing"


_PERSONS = {
    "I": ("am", "was", "have", "do"),
    "sg": ("is", "was", "has", "does"),
    "pl": ("are", "were", "have", "do"),
}
_MODALS = ("will", "will", "can", "could", "must", "should", "may", "might", "would")
_CHAINS = ("want to", "have to", "hope to", "plan to", "need to", "try to", "refuse to", "promise to", "like to")
_PAST_CHAINS = ("wanted to/want to", "had to/have to", "forgot to/forget to", "decided to/decide to",
                "tried to/try to", "managed to/manage to", "refused to/refuse to", "used to/use to")  # fmt: skip
_OFTEN = ("always", "never", "often", "rarely", "still", "usually", "once", "secretly", "already", "finally")
_TENSES = ("past",) * 5 + ("present",) * 3 + ("modal", "modal", "perfect", "is -ing", "was -ing", "chain", "past chain",
                                              "past often", "present often", "going to")  # fmt: skip


def _conjugate(tense: str, extra: str, verb: Words, person: str) -> tuple[str, str, str]:
    """The verb in a statement; the auxiliary and the rest of the verb in a question."""
    base, past, participle = verb
    be, was, have, do = _PERSONS[person]
    if tense == "past":
        return past, "did", base
    if tense == "present":
        return (_s(base) if do == "does" else base), do, base
    if tense == "modal":
        return f"{extra} {base}", extra, base
    if tense == "perfect":
        return f"{have} {participle}", have, participle
    if tense == "is -ing":
        return f"{be} {_ing(base)}", be, _ing(base)
    if tense == "was -ing":
        return f"{was} {_ing(base)}", was, _ing(base)
    if tense == "chain":
        first, _ = extra.split()
        third = "has" if first == "have" else _s(first)
        return f"{third if do == 'does' else first} to {base}", do, f"{extra} {base}"
    if tense == "past chain":
        said, asked = extra.split("/")
        return f"{said} {base}", "did", f"{asked} {base}"
    if tense == "past often":
        return f"{extra} {past}", "did", f"{extra} {base}"
    if tense == "present often":
        return f"{extra} {_s(base) if do == 'does' else base}", do, f"{extra} {base}"
    return f"{be} going to {base}", be, f"going to {base}"


def _extra(rng: random.Random, tense: str) -> str:
    return pick(rng, {"modal": _MODALS, "chain": _CHAINS, "past chain": _PAST_CHAINS}.get(tense, _OFTEN))


def _recalled(rng: random.Random, cast: list[str], makers: Sequence[Callable[[random.Random], str]]) -> str:
    """A phrase, at times one that another fact of the context has used."""
    if cast and rng.random() < 0.12:
        return pick(rng, tuple(cast))
    cast.append(phrase := pick(rng, makers)(rng))
    return phrase


def _subject(rng: random.Random, cast: list[str], kind: str) -> tuple[str, str, str]:
    """A subject as the statement has it, as a question has it, and its person."""
    if kind == "I":
        return "I", "I", "I"
    if kind == "pl":
        x = rng.random()
        if x < 0.5:
            who = pick(rng, ("we", "they", "you"))
            return who, who, "pl"
        if x < 0.75:
            both = f"{_name(rng)} and {pick(rng, _PEOPLE)(rng)}"
            return both, both, "pl"
        many = f"the {pick(rng, W['job'])}s {pick(rng, ('of', 'in', 'from', 'near'))} {_city(rng)}"
        return many, many, "pl"
    who = _recalled(rng, cast, _THING if kind == "thing" else _PEOPLE)
    if kind == "apposed":
        return f"{who}, a {pick(rng, W['manner'])} {pick(rng, W['job'])} from {_city(rng)},", who, "sg"
    return who, who, "sg"


def _shorter(rng: random.Random, phrase: str) -> str:
    """A phrase as one asks for it, at times without its second word (an adjective, mostly)."""
    words = phrase.split()
    if len(words) > 2 and rng.random() < 0.15:
        del words[1]
    return " ".join(words)


def _clause(rng: random.Random) -> Fill:
    """Who does what, where, when, why, with what; any of it is asked for."""
    goes = rng.random() < 0.25
    verb = pick(rng, _GOERS if goes else _VERBS)
    same_verb = rng.random() < 0.6
    tense = pick(rng, _TENSES)
    extra = _extra(rng, tense)
    kind = pick(rng, ("sg", "sg", "sg", "sg", "I", "I", "pl", "apposed", "thing"))
    makers = (pick(rng, _OBJECTS),) if rng.random() < 0.5 else _OBJECTS + _THING + _PEOPLE
    names = rng.sample(_ASKABLE, pick(rng, (1, 1, 2, 2, 3) if goes else (0, 0, 1, 1, 2, 3)))
    front = names[0] if names and rng.random() < 0.3 else ""
    comma = ", " if rng.random() < 0.6 else " "
    passive = not goes and rng.random() < 0.15
    asked = pick(rng, ("subject", *names) if goes else ("object", "object", "subject", *names))
    style, frame, openings = rng.random(), rng.random(), rng.random()
    kept = rng.random() < 0.6
    sayer = pick(rng, W["form_say"])

    def fill(r: random.Random, cast: list[str]) -> tuple[str, list[str]]:
        who, named, person = _subject(r, cast, kind)
        acts = verb if same_verb else pick(r, _GOERS if goes else _VERBS)
        what = "" if goes else f" {_recalled(r, cast, makers)}"
        parts = {name: pick(r, _ADJUNCTS[name][1])(r) for name in names}
        tail = "".join(f" {parts[name]}" for name in names if name != front)
        given = "".join(f" {parts[name]}" for name in names if name != asked and (kept or r.random() < 0.3))
        said, aux, rest = _conjugate(tense, extra, acts, person)
        if passive:
            is_, was, *_ = _PERSONS["sg"]
            be = {"past": was, "present": is_}.get(tense, "will be" if tense == "modal" else "has been")
            text = f"{what[1:]} {be} {acts[2]} by {named}{tail}"
            be, been = (be.split() + [""])[:2]
            object_ = _shorter(r, what[1:])
            question = {
                "object": f"What {be} {been} {acts[2]} by {named}{given}",
                "subject": f"Who {be} {object_} {been} {acts[2]} by{given}",
            }.get(asked) or f"{_opening(openings, asked)} {be} {object_} {been} {acts[2]}{given}"
            loose = f"What happened to {object_}"
        else:
            text = f"{who} {said}{what}{tail}"
            third = _conjugate(tense, extra, acts, "sg")[0]
            object_ = f" {_shorter(r, what[1:])}" if what else ""
            if asked == "object":
                question = f"What {aux} {named} {rest}{given}"
                if style < 0.15:
                    question = f"What is it that {named} {said}{given}"
            elif asked == "subject":
                question = f"{'Who' if style < 0.7 else 'Which person'} {third}{object_}{given}"
            else:
                question = f"{_opening(openings, asked)} {aux} {named} {rest}{object_}{given}"
                if style < 0.15:
                    lowered = _opening(openings, asked).lower()
                    question = f"{'Do you know' if openings < 0.5 else 'Tell me'} {lowered} {named} {said}{object_}{given}"
            loose = f"What do we know about {named}"
        if front:
            text = f"{parts[front]}{comma}{text}"
        if frame < 0.08:
            says = _recalled(r, cast, _PEOPLE)
            text = f"{says} {sayer} that {text}"
        elif frame < 0.12:
            text = f'"{text[0].upper()}{text[1:]}," {pick(r, ("said", "whispered", "wrote"))} {_recalled(r, cast, _PEOPLE)}'
        return text, [question, loose if style > 0.85 else question]

    return fill


def _opening(chance: float, asked: str) -> str:
    openings = _ADJUNCTS[asked][0]
    return openings[int(chance * len(openings))]


_COPULAS = ("is", "is", "is", "is", "was", "was", "will be", "has always been", "must be", "may be", "should be",
            "became/become", "remains/remain", "means/mean", "looks like/look like", "turned into/turn into",
            "stands for/stand for", "consists of/consist of", "comes down to/come down to", "includes/include",
            "requires/require", "needs/need", "hides/hide", "contains/contain", "holds/hold", "brings/bring",
            "costs/cost", "produces/produce", "explains/explain", "depends on/depend on", "tastes of/taste of",
            "smells like/smell like", "belongs to/belong to", "weighs/weigh", "begins with/begin with")  # fmt: skip
_MODIFIERS = ("", "", "", "first ", "second ", "third ", "last ", "secret ", "real ", "new ", "favourite ", "true ",
              "only ", "usual ", "other ", "main ", "next ", "former ")  # fmt: skip


def _statement(rng: random.Random) -> Fill:
    """What something is, has or means: the head of something, and what is said of it."""
    words = pick(rng, (_NOUNS, _THINGS, W["idea"], W["job"], W["form_head"], W["form_head"]))
    head, same_head = pick(rng, words), rng.random() < 0.6
    modifier = pick(rng, (*_MODIFIERS, f"{pick(rng, _ADJECTIVES)} ", f"{pick(rng, _ADJECTIVES)} "))
    preposition = pick(rng, ("of", "of", *W["form_preposition"]))
    copula, _, base = pick(rng, _COPULAS).partition("/")
    makers = (pick(rng, _PREDICATES),) if rng.random() < 0.6 else _PREDICATES
    shape, style, lead = rng.random(), rng.random(), rng.random()
    name = pick(rng, _ASKABLE) if rng.random() < 0.35 else ""
    front = name and rng.random() < 0.3
    asks = pick(rng, ("what", "what", "what", "what", "reverse", name or "what"))

    def fill(r: random.Random, cast: list[str]) -> tuple[str, list[str]]:
        noun = head if same_head else _noun(r, words)
        of = _recalled(r, cast, _THING + _PEOPLE)
        thing = f"the {modifier}{noun} {preposition} {of}"
        if shape < 0.15:
            thing = f"{_name(r)}'s {modifier}{noun}"
        elif shape < 0.25:
            thing = of
        elif shape < 0.3:
            thing = f"{pick(r, ('my', 'our', 'his', 'her', 'your', 'their'))} {modifier}{noun}"
        said = pick(r, makers)(r)
        tail = pick(r, _ADJUNCTS[name][1])(r) if name else ""
        text = f"{tail}, {thing} {copula} {said}" if front else f"{thing} {copula} {said} {tail}".rstrip()
        asked = _shorter(r, thing)
        aux, rest = ("did" if copula[-2:] in ("me", "to") and base in ("become", "turn into") else "does", base)
        if not base:
            aux, _, rest = copula.partition(" ")
        opening = "What" if asks in ("what", "reverse") else _opening(style, asks)
        question = f"{opening} {aux} {asked} {rest}".rstrip()
        if asks == "reverse":
            question = f"What {copula} {said}"
        elif asks != "what":
            question += f" {said}"
        elif style < 0.1:
            question = f"Which {noun} {copula} {said}"
        elif style < 0.2:
            question = f"{'Do you know' if lead < 0.5 else 'Tell me'} what {asked} {copula}"
        return text, [question, f"What about {asked}" if style > 0.85 else question]

    return fill


def _place(rng: random.Random) -> Fill:
    """What is somewhere: "there is", or the place first."""
    there, past = rng.random() < 0.5, rng.random() < 0.4
    verb = pick(rng, (("stands", "stood"), ("lies", "lay"), ("hangs", "hung"), ("sits", "sat"), ("waits", "waited"),
                      ("sleeps", "slept"), ("lives", "lived")))[past]  # fmt: skip
    be = "was" if past else "is"
    name = pick(rng, _ASKABLE) if rng.random() < 0.4 else ""
    style = rng.random()

    def fill(r: random.Random, cast: list[str]) -> tuple[str, list[str]]:
        what, where = _recalled(r, cast, _OBJECTS), pick(r, _WHERE)(r)
        tail = f" {pick(r, _ADJUNCTS[name][1])(r)}" if name else ""
        text = f"there {be} {what} {where}{tail}" if there else f"{where} {verb} {what}{tail}"
        said = be if there else verb
        question = f"What {said} {where}" if style < 0.5 else f"Where {be} {_shorter(r, what)}"
        return text, [question, f"What is there {where}" if style < 0.2 else question]

    return fill


def _both(rng: random.Random) -> Fill:
    """Two facts in one sentence; one of them is asked for."""
    forms = [form(rng, pair=False) for _ in range(2)]
    link = pick(rng, (" and ", ", and ", ", but ", ", so ", "; ", " while ", ", and then "))
    second = rng.random() < 0.5

    def fill(r: random.Random, cast: list[str]) -> tuple[str, list[str]]:
        made = [one(r, cast) for one in forms]
        return link.join(text for text, _ in made), made[second][1]

    return fill


def _jumble(rng: random.Random) -> Fill:
    """Words of all kinds in no order that means anything, asked for by some of them."""
    opening = pick(rng, ("What", "What about", "Which", "Where is", "Who", "When", "Tell me about", "Why", "What is"))
    ordered, small = rng.random() < 0.6, 0.25 + 0.3 * rng.random()

    def fill(r: random.Random, cast: list[str]) -> tuple[str, list[str]]:
        words = [
            pick(r, _SMALL) if r.random() < small else _noun(r, _ALL) if r.random() < 0.9 else _name(r)
            for _ in range(r.randint(7, 20))
        ]
        long = [i for i, word in enumerate(words) if word not in _SMALL]
        kept = r.sample(long, min(len(long), r.randint(2, 5)))
        kept = sorted(kept) if ordered else kept
        asked = " ".join(f"{pick(r, _SMALL)} {words[i]}" if r.random() < 0.5 else words[i] for i in kept)
        return " ".join(words), [f"{opening} {asked}"] * 2

    return fill


def form(rng: random.Random, pair: bool = True) -> Fill:
    """A form: given a random stream and the phrases of the context so far, a text and its questions."""
    x = rng.random()
    if x < 0.42:
        return _clause(rng)
    if x < 0.76:
        return _statement(rng)
    if x < 0.83:
        return _place(rng)
    return _both(rng) if pair and x < 0.91 else _jumble(rng) if pair else _clause(rng)


_PREFIXES = ("Tell me: ", "Do you know: ", "I forgot: ", "Please say: ", "Question: ", "So ")
_TURNED = {"my": "your", "our": "your", "I": "you", "am": "are", "we": "you"}


def fact(rng: random.Random, made: Fill | None = None, cast: list[str] | None = None) -> Fact:
    """A fact of this form, or of one drawn anew, that is not held out by content."""
    made = made or form(rng)
    while True:
        text, questions = made(rng, [] if cast is None else cast)
        if HELD_OUT_CITY not in text or HELD_OUT_ACTIVITY not in text:
            break
    if rng.random() < 0.2:  # a person asks another
        questions = [" ".join(_TURNED.get(word, word) for word in question.split()) for question in questions]
    prefix = pick(rng, _PREFIXES) if rng.random() < 0.05 else ""
    texts = [_sentence(text) for text in (text, *questions)]
    end = "!" if rng.random() < 0.02 else "."
    return Fact("form", f"{texts[0]}{end}", tuple(f"{prefix}{question}?" for question in texts[1:]), {})


def _sentence(text: str) -> str:
    text = agree(" ".join(text.split()))
    return text[0].upper() + text[1:]
