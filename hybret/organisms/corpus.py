"""Plain English prose from grammars: the filler of the training documents and the embedded haystack.

A paragraph keeps one register (story, essay, news, letter, instructions, nature, talk) and its own people,
place and topic for two to five sentences. `registers.txt` has the sentence patterns; their slots name word
classes, so sentences are grammatical and mean something, if little.

Training prose and the haystack are disjoint by construction, sentence by sentence: :func:`is_haystack`
sends one sentence in eight, by its checksum, to the haystack and never to training.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from zlib import crc32

from hybret.errors import HybretError
from hybret.organisms.facts import Fact, agree, pick, slots
from hybret.organisms.words import WORDS, blocks

HAYSTACK_SHARE = 8
"""One sentence in this many belongs to the haystack."""

_NEEDLE_PARTS = ("San Francisco", "sandwich", "Dolores", "sunny")


@dataclass(frozen=True)
class Register:
    """A kind of prose: patterns of the first and the other sentences of its paragraphs.

    Word classes in `shared` are drawn once per paragraph and stand in the patterns as ``{the_<class>}``; ``{who}``,
    ``{he}``, ``{him}``, ``{his}`` (and capitals) are the paragraph's person.
    """

    shared: tuple[str, ...]
    openers: tuple[str, ...]
    followers: tuple[str, ...]


# Two blocks each: the name with the shared classes and the openers, and "then" with the followers.
_PARTS = tuple(blocks("registers.txt"))
REGISTERS = tuple(
    Register(tuple(head.split(": ")[1].split()), tuple(openers), tuple(followers))
    for (head, *openers), (_, *followers) in zip(_PARTS[::2], _PARTS[1::2], strict=True)
)


def is_haystack(sentence: str) -> bool:
    """Whether a sentence is reserved for the haystack and so never occurs in training prose."""
    return crc32(sentence.encode()) % HAYSTACK_SHARE == 0


@cache
def _compiled(pattern: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The slots of a pattern, each with the word list it draws from (empty: bound by the paragraph)."""
    return tuple((name, WORDS.get(name.rstrip("0123456789"), ())) for name in slots(pattern))


def _cast(rng: random.Random, register: Register) -> dict[str, str]:
    """People, place and topic that the sentences of one paragraph share."""
    woman = rng.random() < 0.5
    he, him, his = ("she", "her", "her") if woman else ("he", "him", "his")
    cast = {"who": pick(rng, WORDS["woman" if woman else "man"]), "he": he, "him": him, "his": his,
            "He": he.capitalize(), "His": his.capitalize()}  # fmt: skip
    for name in register.shared:
        cast[f"the_{name}"] = pick(rng, WORDS[name])
    return cast


def _sentence(rng: random.Random, pattern: str, cast: dict[str, str]) -> str:
    values = dict(cast)
    for name, items in _compiled(pattern):
        if items:
            values[name] = pick(rng, items)
    text = agree(pattern.format_map(values))
    return text[0].upper() + text[1:]


def paragraph(rng: random.Random, haystack: bool = False) -> list[str]:
    """The two to five sentences of a paragraph in one register.

    With `haystack` only sentences that are reserved for it are drawn, instead of only the others.
    """
    register = REGISTERS[int(rng.random() * len(REGISTERS))]
    cast = _cast(rng, register)
    openers, followers = register.openers, register.followers
    patterns = [pick(rng, openers), *rng.sample(followers, rng.randint(1, 4))]
    sentences: list[str] = []
    for pattern in patterns:
        while is_haystack(sentence := _sentence(rng, pattern, cast)) != haystack:
            pattern = pick(rng, openers if not sentences else followers)
        sentences.append(sentence)
    return sentences


def prose(rng: random.Random) -> Iterator[list[str]]:
    """Endless paragraphs of training prose (lists of sentences)."""
    while True:
        yield paragraph(rng)


_LINKS = ("the", "of", "and", "to", "with", "in", "that", "for", "a", "on")
_QUOTE_QUESTIONS = tuple(next(blocks("quotes.txt")))


def by_words(rng: random.Random, sentence: str) -> str:
    """A question that asks for a sentence by some of its words: three to seven in a row, or some longer ones."""
    words = sentence.rstrip('.?!"').replace(",", "").split()
    if rng.random() < 0.5:
        size = min(len(words), rng.randint(3, 7))
        first = rng.randint(0, len(words) - size)
        asked = words[first : first + size]
    else:
        # Two to four of the longer words, mostly in their order, with other small words between them.
        long = [i for i, word in enumerate(words) if len(word) > 3]
        kept = rng.sample(long, min(len(long), rng.randint(2, 4)))
        kept = sorted(kept) if rng.random() < 0.8 else kept
        asked = [word for i in kept for word in (pick(rng, _LINKS), words[i])]
    text = " ".join(asked)
    return pick(rng, _QUOTE_QUESTIONS).format(words=text[:1].lower() + text[1:])


def quote(rng: random.Random) -> Fact:
    """A sentence of training prose as a fact, asked for by some of its words."""
    sentence = pick(rng, tuple(paragraph(rng)))
    return Fact("quote", sentence, (by_words(rng, sentence),), {})


def haystack(seed: int, characters: int = 20_000) -> str:
    """Long plain prose that no training document contains, to hide needles in.

    One space stands between sentences, a blank line between paragraphs. Every sentence is reserved
    (:func:`is_haystack`), and none names a scored part of the paper's needle, so that credit cannot come
    from the haystack. The seeds are a namespace of their own ("haystack <seed>").
    The text ends with the paragraph that reaches `characters`.
    """
    if characters < 1:
        raise HybretError(f"A haystack needs a positive number of characters, not {characters}.")
    rng = random.Random(f"haystack {seed}")
    paragraphs: list[str] = []
    size = 0
    while size < characters:
        text = " ".join(paragraph(rng, haystack=True))
        if not any(part in text for part in _NEEDLE_PARTS):
            paragraphs.append(text)
            size += len(text) + 2
    return "\n\n".join(paragraphs)
