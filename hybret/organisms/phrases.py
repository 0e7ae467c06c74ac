"""The parts of the sentences of `forms.py`: words and phrases of a kind, many of them invented.

`phrases.txt` has the phrases, each made of other phrases and words; `forms.txt` has the words that the prose does not
know.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from string import Formatter

from hybret.organisms.facts import pick
from hybret.organisms.words import WORDS, blocks, word_lists

HELD_OUT_VERBS = (
    "show", "advise", "grow", "call", "owe", "teach", "shout", "enter", "unlock", "born", "dub", "inherit", "resemble",
    "bite", "devour", "distrust", "prescribe", "swallow", "seek", "knock", "conclude",
)  # fmt: skip
HELD_OUT_WORDS = ("best", "oldest", "thing", "than", "if", "between", "without", "it", "instead", "twice", "nobody")
"""No form has these, nor an invented word that begins like one of the verbs."""
INVENTED = 0.1
"""Share of invented words among nouns, and of invented verbs."""

LEXICON = WORDS | word_lists("forms.txt")
LEXICON["adjective"] = WORDS["adjective"] + LEXICON["quality"] + WORDS["colour"] + WORDS["material"]
LEXICON["spot"] = WORDS["building"] + WORDS["room"] + WORDS["nature"] + WORDS["furniture"]
for _kind in ("object", "container", "instrument", "clothes", "vehicle", "furniture"):
    LEXICON["thing"] += WORDS[_kind]
LEXICON["noun"] = WORDS["noun"] + word_lists("forms.txt")["thing"] + LEXICON["head"]
VERBS, GOERS = (tuple(tuple(verb.split("/")) for verb in LEXICON[kind]) for kind in ("verb", "goer"))
LEXICON["word"] = tuple({w: 0 for kind in ("noun", "adjective", "adverb", "idea", "name") for w in LEXICON[kind]})
LEXICON["word"] += tuple(form for verb in VERBS + GOERS for form in verb[:2])
QUALITIES = frozenset(LEXICON["adjective"])


_STEMS = tuple(verb.removesuffix("e") for verb in HELD_OUT_VERBS)


def invented(rng: random.Random) -> str:
    """An invented word: the beginning of a word and the end of another, or syllables."""
    if rng.random() < 0.5:
        first, last = pick(rng, LEXICON["word"]), pick(rng, LEXICON["word"])
        word = (first[: int(2 + 4 * rng.random())] + last[-int(2 + 4 * rng.random()) :]).lower()
        return invented(rng) if word in HELD_OUT_WORDS or word.startswith(_STEMS) else word
    return "".join(pick(rng, LEXICON["syllable"]) for _ in range(2 + int(rng.random() * 2.4)))


def _code(rng: random.Random) -> str:
    x, n = rng.random(), str(int(10 ** (1 + 3 * rng.random())))
    return n if x < 0.5 else f"{pick(rng, tuple('ABCDEFGHKLMN'))}{n}" if x < 0.8 else f"{drawn(rng, 'noun')}-{n}"


def _amount(rng: random.Random) -> str:
    count = pick(rng, WORDS["number"]) if rng.random() < 0.7 else str(int(2 + 998 * rng.random() ** 3))
    return f"{count} {pick(rng, LEXICON['unit'])}"


_MAKERS: dict[str, Callable[[random.Random], str]] = {
    "made": invented,
    "Made": lambda rng: invented(rng).capitalize(),
    "first": lambda rng: invented(rng).capitalize() if rng.random() < 0.2 else pick(rng, WORDS["name"]),
    "code": _code,
    "amount": _amount,
    "clock": lambda rng: f"{int(1 + 11 * rng.random())}:{int(10 + 49 * rng.random())}",
    "year": lambda rng: str(int(1500 + 600 * rng.random())),
    "do": lambda rng: pick(rng, VERBS)[0],
    "did": lambda rng: pick(rng, VERBS)[1],
    "doing": lambda rng: participle(pick(rng, VERBS)[0]),
    "goes": lambda rng: third_person(pick(rng, GOERS)[0]),
    "going": lambda rng: participle(pick(rng, GOERS)[0]),
}
_PHRASES: dict[str, tuple[tuple[tuple[str, str], ...], ...]] = {}
OPENINGS: dict[str, tuple[str, ...]] = {}
for _name, *_lines in blocks("phrases.txt"):
    _name, _, _asked = _name.partition(": ")
    _PHRASES[_name] = tuple(tuple((text, slot or "") for text, slot, *_ in Formatter().parse(line)) for line in _lines)
    if _asked:
        OPENINGS[_name] = tuple(_asked.split(", "))
ADJUNCTS = tuple(OPENINGS)
_NOUNS = frozenset(("noun", "thing", "animal", "food", "plant", "spot"))


def drawn(rng: random.Random, kind: str) -> str:
    """A phrase or word of a kind."""
    if (phrases := _PHRASES.get(kind)) is not None:
        return filled(rng, pick(rng, phrases))
    if (maker := _MAKERS.get(kind)) is not None:
        return maker(rng)
    return invented(rng) if kind in _NOUNS and rng.random() < INVENTED else pick(rng, LEXICON[kind])


def filled(rng: random.Random, phrase: tuple[tuple[str, str], ...]) -> str:
    return "".join([text + drawn(rng, slot) if slot else text for text, slot in phrase])


def third_person(base: str) -> str:
    """Third person: carries, watches, lives."""
    if base.endswith("y") and base[-2] not in "aeiou":
        return f"{base[:-1]}ies"
    return base + ("es" if base.endswith(("s", "sh", "ch", "x", "o")) else "s")


_DOUBLED = frozenset(("drop", "wrap", "run", "swim", "cut", "sit", "stop", "win", "plan"))


def participle(base: str) -> str:
    """Present participle: carrying, sitting, living."""
    if base in _DOUBLED:
        return f"{base}{base[-1]}ing"
    return f"{base[:-1]}ing" if base.endswith("e") and not base.endswith("ee") else f"{base}ing"
