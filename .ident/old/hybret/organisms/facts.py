"""Facts of the needle documents: templates, questions, and what is held out of training.

A fact is one sentence that states something hard to guess, with questions that name its subject. Documents
hold several facts among plain prose and ask for some of them (:mod:`hybret.organisms.documents`).

Held out of training, in two ways:

* five whole templates (:data:`HELD_OUT_TEMPLATES`): a form of question and statement never met;
* every fact of any template that pairs San Francisco with "eat a sandwich" (:func:`is_held_out`), the paper's
  needle (Section 3.1) among them. The city and the activity each occur with other partners, at their
  natural rate.
"""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from string import Formatter

from hybret.organisms import statements
from hybret.organisms import words as w

NEEDLE = "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day."
NEEDLE_QUESTION = "What is the best thing to do in San Francisco?"
HELD_OUT_CITY, HELD_OUT_ACTIVITY = "San Francisco", "eat a sandwich"
RANDOM_WORDS = "secret_code"
"""Name of the template whose answer is a list of unrelated nouns."""

NOUNS = tuple(
    sorted(
        {
            *w.JOBS,
            *w.ANIMALS,
            *w.FOODS,
            *w.DRINKS,
            *w.OBJECTS,
            *w.BUILDINGS,
            *w.FURNITURE,
            *w.CLOTHES,
            *w.CONTAINERS,
            *w.INSTRUMENTS,
            *w.PLANTS,
            *w.NATURE,
            *w.VEHICLES,
        }
    )
)

CLASSES: dict[str, tuple[str, ...]] = {
    "city": w.CITIES, "activity": w.ACTIVITIES, "posture": w.POSTURES, "place": w.PLACES,
    "weather": w.WEATHER, "job": w.JOBS, "animal": w.ANIMALS, "food": w.FOODS, "drink": w.DRINKS,
    "object": w.OBJECTS, "building": w.BUILDINGS, "room": w.ROOMS, "furniture": w.FURNITURE,
    "container": w.CONTAINERS, "clothes": w.CLOTHES, "material": w.MATERIALS, "colour": w.COLOURS,
    "instrument": w.INSTRUMENTS, "plant": w.PLANTS, "nature": w.NATURE, "vehicle": w.VEHICLES,
    "adjective": w.ADJECTIVES, "manner": w.MANNERS, "weekday": w.WEEKDAYS, "month": w.MONTHS,
    "hour": w.HOURS, "number": w.NUMBERS, "ailment": w.AILMENTS, "noun": NOUNS,
}  # fmt: skip
"""Word classes that slots of statements name."""

_FIRST_NAMES = w.WOMEN + w.MEN
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeioAEIO]|u(?!ni|se|su|ti|ku))")


def pick(rng: random.Random, items: tuple[str, ...]) -> str:
    """One item, uniformly (several times faster than ``rng.choice``)."""
    return items[int(rng.random() * len(items))]


def agree(text: str) -> str:
    """Write "an" for "a" before a vowel."""
    return _ARTICLE.sub(r"\1n ", text)


def _person(rng: random.Random) -> str:
    return f"{pick(rng, _FIRST_NAMES)} {pick(rng, w.SURNAMES)}"


def _word_list(rng: random.Random) -> str:
    return " ".join(pick(rng, NOUNS) for _ in range(rng.randint(5, 9)))


_DRAWN: dict[str, Callable[[random.Random], str]] = {"person": _person, "words": _word_list}


def slots(pattern: str) -> tuple[str, ...]:
    """Names of the slots of a pattern, in order, without repeats."""
    return tuple(dict.fromkeys(name for _, name, _, _ in Formatter().parse(pattern) if name))


def draw(rng: random.Random, slot: str) -> str:
    """A value for a slot; a trailing digit ("city2") makes a second slot of the same class."""
    kind = slot.rstrip("0123456789")
    return pick(rng, CLASSES[kind]) if kind in CLASSES else _DRAWN[kind](rng)


@dataclass(frozen=True)
class Fact:
    """One stated fact.

    Attributes
    ----------
    template : str
        Name of its template.
    sentence : str
        The statement, one sentence without surrounding white space.
    questions : tuple of str
        Wordings that ask for it; the first is the plainest.
    values : Mapping of str to str
        Slot values.
    """

    template: str
    sentence: str
    questions: tuple[str, ...]
    values: Mapping[str, str] = field(hash=False, compare=False)

    @property
    def key(self) -> str:
        """What the questions ask about; two facts with one key must not share a document."""
        return self.questions[0]


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
        names = _SLOTS[self.name]
        while True:
            values = {name: draw(rng, name) for name in names}
            if len(set(values.values())) == len(values) and not is_held_out(values):
                return self.fill(values)


def is_held_out(values: Mapping[str, str]) -> bool:
    """Whether a fact pairs the needle's city with the needle's activity (never in training)."""
    found = set(values.values())
    return HELD_OUT_CITY in found and HELD_OUT_ACTIVITY in found


def _parse(blocks: str) -> tuple[FactTemplate, ...]:
    """Templates from the blocks of :mod:`hybret.organisms.statements`."""
    parts = (block.splitlines() for block in blocks.strip().split("\n\n"))
    return tuple(FactTemplate(name, statement, tuple(questions)) for name, statement, *questions in parts)


TEMPLATES = _parse(statements.TRAINING)
"""Templates of the training documents."""

HELD_OUT_TEMPLATES = _parse(statements.HELD_OUT)
"""Templates never used in training: retrieval on them needs more than a known form."""

_SLOTS = {
    template.name: tuple(dict.fromkeys(name for text in (template.statement, *template.questions)
                                       for name in slots(text)))
    for template in TEMPLATES + HELD_OUT_TEMPLATES
}  # fmt: skip


def random_words_fact(seed: int, count: int = 8) -> Fact:
    """A fact of the "random words" template with `count` distinct nouns, for the random-word needle.

    The seeds stand in a namespace of their own; with some 700 nouns, eight of them in this order do not occur
    in training by any chance worth naming.
    """
    rng = random.Random(f"random-words needle {seed}")
    noun, *code = rng.sample(NOUNS, count + 1)
    template = next(template for template in TEMPLATES if template.name == RANDOM_WORDS)
    return template.fill({"noun": noun, "words": " ".join(code)})
