"""Facts of the needle documents: templates, questions, and what is held out of training.

A fact is one sentence that states something hard to guess, with questions that name its subject. Documents hold several
facts among plain prose and ask for some of them (:mod:`hybret.organisms.training.documents`). Held out of training are
whole templates (`HELD_OUT_TEMPLATES`, `TEST_TEMPLATES`), and every fact that pairs San Francisco with "eat a sandwich"
(`is_held_out`), the paper's needle (Section 3.1) among them; both occur with other partners, at their natural rate.
"""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from string import Formatter
from typing import TypeVar

from hybret.organisms.words import WORDS, blocks

NEEDLE = "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day."
HELD_OUT_CITY, HELD_OUT_ACTIVITY = "San Francisco", "eat a sandwich"
RANDOM_WORDS = "secret_code"
"""Name of the template whose answer is a list of unrelated nouns."""

_Item = TypeVar("_Item")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeioAEIO]|u(?!ni|se|su|ti|ku))")


def pick(rng: random.Random, items: tuple[_Item, ...]) -> _Item:
    """One item, uniformly (several times faster than ``rng.choice``)."""
    return items[int(rng.random() * len(items))]


def agree(text: str) -> str:
    """Write "an" for "a" before a vowel."""
    return _ARTICLE.sub(r"\1n ", text)


_DRAWN: dict[str, Callable[[random.Random], str]] = {
    "person": lambda rng: f"{pick(rng, WORDS['name'])} {pick(rng, WORDS['surname'])}",
    "words": lambda rng: " ".join(pick(rng, WORDS["noun"]) for _ in range(rng.randint(5, 9))),
}


@cache
def slots(pattern: str) -> tuple[str, ...]:
    """Names of the slots of a pattern, in order, without repeats."""
    return tuple(dict.fromkeys(name for _, name, _, _ in Formatter().parse(pattern) if name))


def draw(rng: random.Random, slot: str) -> str:
    """A value for a slot; a trailing digit ("city2") makes a second slot of the same class."""
    kind = slot.rstrip("0123456789")
    return pick(rng, WORDS[kind]) if kind in WORDS else _DRAWN[kind](rng)


@dataclass(frozen=True)
class Fact:
    """A stated fact: its template's name, the sentence, wordings of the question (the plainest first), slot values."""

    template: str
    sentence: str
    questions: tuple[str, ...]
    values: Mapping[str, str] = field(hash=False, compare=False)


@dataclass(frozen=True)
class FactTemplate:
    """A statement pattern and the questions that ask for it; ``{slot}`` names a word class."""

    name: str
    statement: str
    questions: tuple[str, ...]

    def fill(self, values: Mapping[str, str]) -> Fact:
        """The fact with these slot values (no check against the held-out facts)."""
        questions = tuple(agree(question.format_map(values)) for question in self.questions)
        return Fact(self.name, agree(self.statement.format_map(values)), questions, values)

    def sample(self, rng: random.Random) -> Fact:
        """A fact with random slot values that is not held out by content."""
        names = slots("\n".join([self.statement, *self.questions]))
        while True:
            values = {name: draw(rng, name) for name in names}
            if len(set(values.values())) == len(values) and not is_held_out(values):
                return self.fill(values)


def is_held_out(values: Mapping[str, str]) -> bool:
    """Whether a fact pairs the needle's city with the needle's activity (never in training)."""
    return {HELD_OUT_CITY, HELD_OUT_ACTIVITY} <= set(values.values())


def _templates(file: str) -> tuple[FactTemplate, ...]:
    """Templates of a text file: in each block a name, a statement, and its questions."""
    return tuple(FactTemplate(name, statement, tuple(questions)) for name, statement, *questions in blocks(file))


TEMPLATES = _templates("facts.txt")
"""Templates of the training documents."""

HELD_OUT_TEMPLATES, TEST_TEMPLATES = _templates("facts_held_out.txt"), _templates("facts_test.txt")
"""Templates never used in training; the corpus was mended by looking at what the first missed, not the second."""
OWN, OWN_TEST = (tuple(map(tuple, blocks(file))) for file in ("own.txt", "own_test.txt"))
"""Sentences of a person's own, of no form: sentence, question, and its answer; one set to develop on, one to test."""


def random_words_fact(seed: int, count: int = 8) -> Fact:
    """A fact of the "random words" template with `count` distinct nouns, for the random-word needle."""
    rng = random.Random(f"random-words needle {seed}")
    noun, *code = rng.sample(WORDS["noun"], count + 1)
    template = next(template for template in TEMPLATES if template.name == RANDOM_WORDS)
    return template.fill({"noun": noun, "words": " ".join(code)})
