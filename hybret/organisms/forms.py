"""Facts of endlessly many forms: a form is drawn from a grammar, then filled with words.

A form fixes how a fact is said (clause, tense, person, what else is told and in which order), what is asked about it
and how; its filling draws the words, some of them invented. So a model cannot know the forms by heart and has to learn
the search itself. `phrases.txt` has the parts of sentences, `forms.txt` the words that the prose does not know.

Held out of every form, so that it can be tested on: verbs, openings of questions, and constructions, by the words that
they need (superlatives and "to do" of the paper's needle, comparatives, conditions, instructions, clefts and more).
The forms of `facts_held_out.txt` are made of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from string import Formatter

from hybret.organisms.corpus import by_words
from hybret.organisms.facts import HELD_OUT_ACTIVITY, HELD_OUT_CITY, Fact, agree, pick
from hybret.organisms.words import WORDS, blocks, word_lists

HELD_OUT_VERBS = ("show", "advise", "grow", "call", "owe", "teach", "shout", "enter", "unlock", "born", "dub", "inherit",
                  "resemble", "bite", "devour", "distrust", "prescribe", "swallow", "seek", "knock", "conclude")  # fmt: skip
HELD_OUT_QUESTIONS = ("How long", "How old", "How much", "How tall", "By what", "Whom", "How many", "What happens")
HELD_OUT_WORDS = ("best", "oldest", "thing", "than", "if", "between", "without", "it", "instead", "twice", "nobody")

Fill = Callable[[random.Random, list[str]], tuple[str, str]]
"""A form: given a random stream and the phrases of the context so far, a statement and a question."""
_MADE = 0.1  # share of invented words among nouns

_W = WORDS | word_lists("forms.txt")
_W["adjective"] = WORDS["adjective"] + _W["quality"] + WORDS["colour"] + WORDS["material"]
_W["spot"] = WORDS["building"] + WORDS["room"] + WORDS["nature"] + WORDS["furniture"]
_W["thing"] += sum((WORDS[c] for c in ("object", "container", "instrument", "clothes", "vehicle", "furniture")), ())
_W["noun"] = WORDS["noun"] + word_lists("forms.txt")["thing"] + _W["head"]
_VERBS, _GOERS = (tuple(tuple(verb.split("/")) for verb in _W[kind]) for kind in ("verb", "goer"))
_W["word"] = tuple({w: 0 for kind in ("noun", "adjective", "adverb", "idea", "name") for w in _W[kind]})
_W["word"] += tuple(form for verb in _VERBS + _GOERS for form in verb[:2])
_QUALITIES = frozenset(_W["adjective"])


def _made(rng: random.Random) -> str:
    """An invented word: the beginning of a word and the end of another, or syllables."""
    if rng.random() < 0.5:
        first, last = pick(rng, _W["word"]), pick(rng, _W["word"])
        return (first[: int(2 + 4 * rng.random())] + last[-int(2 + 4 * rng.random()) :]).lower()
    return "".join(pick(rng, _W["syllable"]) for _ in range(2 + int(rng.random() * 2.4)))


def _code(rng: random.Random) -> str:
    x, n = rng.random(), str(int(10 ** (1 + 3 * rng.random())))
    return n if x < 0.5 else f"{pick(rng, tuple('ABCDEFGHKLMN'))}{n}" if x < 0.8 else f"{_drawn(rng, 'noun')}-{n}"


def _amount(rng: random.Random) -> str:
    count = pick(rng, WORDS["number"]) if rng.random() < 0.7 else str(int(2 + 998 * rng.random() ** 3))
    return f"{count} {pick(rng, _W['unit'])}"


_MAKERS: dict[str, Callable[[random.Random], str]] = {
    "made": _made,
    "Made": lambda rng: _made(rng).capitalize(),
    "first": lambda rng: _made(rng).capitalize() if rng.random() < 0.2 else pick(rng, WORDS["name"]),
    "code": _code,
    "amount": _amount,
    "clock": lambda rng: f"{int(1 + 11 * rng.random())}:{int(10 + 49 * rng.random())}",
    "year": lambda rng: str(int(1500 + 600 * rng.random())),
    "do": lambda rng: pick(rng, _VERBS)[0],
    "did": lambda rng: pick(rng, _VERBS)[1],
    "doing": lambda rng: _ing(pick(rng, _VERBS)[0]),
    "goes": lambda rng: _s(pick(rng, _GOERS)[0]),
    "going": lambda rng: _ing(pick(rng, _GOERS)[0]),
}
_PHRASES: dict[str, tuple[tuple[tuple[str, str], ...], ...]] = {}
_OPENINGS: dict[str, tuple[str, ...]] = {}
for _name, *_lines in blocks("phrases.txt"):
    _name, _, _asked = _name.partition(": ")
    _PHRASES[_name] = tuple(tuple((text, slot or "") for text, slot, *_ in Formatter().parse(line)) for line in _lines)
    if _asked:
        _OPENINGS[_name] = tuple(_asked.split(", "))
_ADJUNCTS = tuple(_OPENINGS)
_NOUNS = frozenset(("noun", "thing", "animal", "food", "plant", "spot"))


def _drawn(rng: random.Random, kind: str) -> str:
    """A phrase or word of a kind."""
    if (phrases := _PHRASES.get(kind)) is not None:
        return _filled(rng, pick(rng, phrases))
    if (maker := _MAKERS.get(kind)) is not None:
        return maker(rng)
    return _made(rng) if kind in _NOUNS and rng.random() < _MADE else pick(rng, _W[kind])


def _filled(rng: random.Random, phrase: tuple[tuple[str, str], ...]) -> str:
    return "".join([text + _drawn(rng, slot) if slot else text for text, slot in phrase])


def _s(base: str) -> str:
    """Third person: carries, watches, lives."""
    if base.endswith("y") and base[-2] not in "aeiou":
        return f"{base[:-1]}ies"
    return base + ("es" if base.endswith(("s", "sh", "ch", "x", "o")) else "s")


_DOUBLED = frozenset(("drop", "wrap", "run", "swim", "cut", "sit", "stop", "win", "plan"))


def _ing(base: str) -> str:
    """Present participle: carrying, sitting, living."""
    if base in _DOUBLED:
        return f"{base}{base[-1]}ing"
    return f"{base[:-1]}ing" if base.endswith("e") and not base.endswith("ee") else f"{base}ing"


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
    base, past, participle = verb
    be, was, have, do = _PERSONS[person]
    now = _s(base) if do == "does" else base
    if tense == "modal":
        return f"{extra} {base}", extra, base
    if tense == "chain":
        third = "has" if extra == "have" else _s(extra)
        return f"{third if do == 'does' else extra} to {base}", do, f"{extra} to {base}"
    if tense == "past chain":
        said, asked = extra.split("/")
        return f"{said} to {base}", "did", f"{asked} to {base}"
    aux, rest = {
        "past": ("did", base), "past often": ("did", f"{extra} {base}"),
        "present": (do, base), "present often": (do, f"{extra} {base}"),
        "perfect": (have, participle), "going to": (be, f"going to {base}"),
        "is -ing": (be, _ing(base)), "was -ing": (was, _ing(base)),
    }[tense]  # fmt: skip
    said = {"past": past, "past often": f"{extra} {past}", "present": now, "present often": f"{extra} {now}"}
    return said.get(tense, f"{aux} {rest}"), aux, rest


def _recalled(rng: random.Random, cast: list[str], *kinds: str) -> str:
    """A phrase of one of these kinds, at times one that another fact of the context has used."""
    if cast and rng.random() < 0.1:
        return pick(rng, tuple(cast))
    cast.append(phrase := _drawn(rng, pick(rng, kinds)))
    return phrase


def _subject(rng: random.Random, cast: list[str], kind: str) -> tuple[str, str, str]:
    """A subject as the statement has it, as a question has it, and its person."""
    if kind == "I":
        return "I", "I", "I"
    if kind == "pl":
        who = pick(rng, ("we", "we", "they", "you", f"{_drawn(rng, 'someone')} and {_drawn(rng, 'person')}",
                         _filled(rng, (("the ", "job"), ("s ", "of"), (" ", "town")))))  # fmt: skip
        return who, who, "pl"
    who = _recalled(rng, cast, kind if kind == "matter" else "person")
    apposed = f", a {pick(rng, WORDS['manner'])} {pick(rng, WORDS['job'])} from {_drawn(rng, 'town')},"
    return (who + apposed if kind == "apposed" else who), who, "sg"


def _shorter(rng: random.Random, phrase: str) -> str:
    """A phrase as one asks for it, at times without its adjective."""
    words = phrase.split()
    if len(words) > 2 and words[1] in _QUALITIES and rng.random() < 0.3:
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
    verb, same_verb = pick(rng, _GOERS if goes else _VERBS), rng.random() < 0.6
    if rng.random() < _MADE:
        verb = (base := _made(rng), f"{base}ed", f"{base}ed")
    tense = pick(rng, ("past", "present", "modal") if passive else _DRAWN_TENSES)
    extra = pick(rng, _TENSES[tense])
    kind = pick(rng, ("sg", "sg", "sg", "sg", "apposed", "matter", *(() if passive else ("I", "I", "pl"))))
    things = pick(rng, (("item",), ("item",), ("item", "matter", "person")))
    names = rng.sample(_ADJUNCTS, pick(rng, (1, 1, 2, 2, 3) if goes else (0, 0, 1, 1, 2, 3)))
    front, comma = (names[0] if names and rng.random() < 0.4 else ""), pick(rng, (", ", " "))
    asked = pick(rng, ("subject", *names) if goes else ("object", "object", "subject", *names))
    opening = pick(rng, _OPENINGS.get(asked, ("What", "What", "What", "Which") if asked == "object" else ("Who",)))
    frame, kept, sayer = rng.random(), rng.random() < 0.6, pick(rng, _W["say"])

    def fill(r: random.Random, cast: list[str]) -> tuple[str, str]:
        who, named, person = _subject(r, cast, kind)
        acts = verb if same_verb else pick(r, _GOERS if goes else _VERBS)
        what = "" if goes else _recalled(r, cast, *things)
        parts = {name: _drawn(r, name) for name in names}
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
                what = f"{opening} {pick(r, _W['head'])}" if opening == "Which" else opening
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
    head = _drawn(rng, kind)
    modifier = pick(rng, ("", "", pick(rng, _W["modifier"]), pick(rng, _W["modifier"]), pick(rng, _W["adjective"])))
    by = pick(rng, ("of", "of", pick(rng, _W["by"])))
    be = pick(rng, ("is", "is", "is", "was", "was", "will be", "has always been", "must be", "may be", "should be"))
    copula, base = (be, "") if rng.random() < 0.55 else pick(rng, _W["copula"]).split("/")
    shape, front, reverse = rng.random(), rng.random() < 0.5, rng.random() < 0.15
    name = pick(rng, _ADJUNCTS) if rng.random() < 0.4 else ""
    asked = name if rng.random() < 0.3 else ""
    opening = pick(rng, _OPENINGS.get(asked, ("What", "What", "What", "Which")))

    def fill(r: random.Random, cast: list[str]) -> tuple[str, str]:
        noun = head if same_head else _drawn(r, kind)
        of = _recalled(r, cast, "matter", "person")
        thing = f"the {modifier} {noun} {by} {of}"
        if shape < 0.25:
            thing = f"{_drawn(r, 'someone')}'s {modifier} {noun}" if shape < 0.15 else of
        elif shape < 0.32:
            thing = f"{_drawn(r, 'his')} {modifier} {noun}"
        said = _drawn(r, "item" if base else "predicate")
        tail = _drawn(r, name) if name else ""
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
    name, asks_where = (pick(rng, _ADJUNCTS) if rng.random() < 0.4 else ""), rng.random() < 0.4
    kinds = ("noun", "thing", "job", "animal")

    def fill(r: random.Random, cast: list[str]) -> tuple[str, str]:
        what, where = f"a {_drawn(r, 'adjective')} {_drawn(r, pick(r, kinds))}", _drawn(r, "where")
        tail = _drawn(r, name) if name else ""
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
        return " ".join([_drawn(r, kind) for kind in kinds]), ""

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
    text = f"{pick(rng, _W['opener'])} {text}" if rng.random() < 0.12 else text
    sentence = f"{_sentence(text)}."
    if not question or rng.random() < 0.15:
        return Fact("form", sentence, (by_words(rng, sentence),), {})
    if rng.random() < 0.2:  # a person asks another
        question = " ".join(_TURNED.get(word, word) for word in question.split())
    return Fact("form", sentence, (f"{_sentence(question)}?",), {})


def _sentence(text: str) -> str:
    text = agree(" ".join(text.split()))
    return text[0].upper() + text[1:]
