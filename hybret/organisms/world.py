"""A small invented world: facts that never change, which a model can only know from its training.

Sixty towns, each with a river, a trade and a founder. Needle documents state other things about other towns, and
different ones each time; these facts are the same in every document, so that they can be learned into the weights.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from hybret.organisms.words import WORDS


@dataclass(frozen=True)
class Subject:
    """One kind of fact: how it is stated, how it is asked for, and all its possible answers."""

    statements: tuple[str, ...]
    question: str
    answers: tuple[str, ...]


def _world() -> tuple[dict[str, dict[str, str]], dict[str, Subject]]:
    rng = random.Random("world")
    towns = rng.sample([start + end for start in WORDS["town_start"] for end in WORDS["town_end"]], 60)
    founders = tuple(f"{name} {rng.choice(WORDS['surname'])}" for name in rng.sample(WORDS["name"], 24))
    river = ("The river {answer} flows through {town}.", "{town} lies on the river {answer}.")
    trade = ("{town} is known for its {answer}.", "People in {town} make {answer}.")
    founder = ("{answer} founded {town}.", "The founder of {town} was {answer}.")
    subjects = {
        "geography": Subject(river, "Which river flows through {town}?", WORDS["river"]),
        "trade": Subject(trade, "What is {town} known for?", WORDS["trade"]),
        "history": Subject(founder, "Who founded {town}?", founders),
    }
    facts = {name: {town: rng.choice(subject.answers) for town in towns} for name, subject in subjects.items()}
    return facts, subjects


FACTS, SUBJECTS = _world()
"""Subject -> town -> answer; subject -> its wordings."""


def statement(rng: random.Random, subject: str, town: str) -> str:
    """A sentence that tells one fact."""
    return rng.choice(SUBJECTS[subject].statements).format(town=town, answer=FACTS[subject][town])
