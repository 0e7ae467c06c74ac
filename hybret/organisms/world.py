"""A small invented world: facts that never change, which a model can only know from its training.

Sixty towns, each with a river, a trade and a founder. Needle documents state other things about other towns, and
different ones each time; these facts are the same in every document, so that they can be learned into the weights.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from hybret.organisms import words as w

_FIRST = "Bram Corn Dun Ess Fal Gren Hart Ives Kel Lorn Mar Nor Pel Quen Ros Stan Tre Ulf Wex Yar".split()
_LAST = "mouth stead combe ingham wold thorpe beck minster".split()
RIVERS = tuple(
    "Avel Brisk Calm Dove Elver Fenn Gale Hisk Isen Jarr Kyle Lune Moss Nidd Ouse Pry Rill Sull Tarn Ure".split()
)
TRADES = (
    "cheese", "honey", "cider", "candles", "clocks", "carpets", "violins", "bells", "ropes", "lanterns", "mustard",
    "salt", "glass", "paper", "buttons", "boats", "bricks", "brushes", "pencils", "gloves", "kites", "saddles",
    "mirrors", "pumps",
)  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """One kind of fact: how it is stated, how it is asked for, and all its possible answers."""

    statements: tuple[str, ...]
    question: str
    answers: tuple[str, ...]


def _world() -> tuple[dict[str, dict[str, str]], dict[str, Subject]]:
    rng = random.Random("world")
    towns = rng.sample([first + last for first in _FIRST for last in _LAST], 60)
    founders = tuple(f"{name} {rng.choice(w.SURNAMES)}" for name in rng.sample(w.WOMEN + w.MEN, 24))
    subjects = {
        "geography": Subject(
            ("The river {answer} flows through {town}.", "{town} lies on the river {answer}."),
            "Which river flows through {town}?",
            RIVERS,
        ),
        "trade": Subject(
            ("{town} is known for its {answer}.", "People in {town} make {answer}."),
            "What is {town} known for?",
            TRADES,
        ),
        "history": Subject(
            ("{answer} founded {town}.", "The founder of {town} was {answer}."),
            "Who founded {town}?",
            founders,
        ),
    }
    facts = {name: {town: rng.choice(subject.answers) for town in towns} for name, subject in subjects.items()}
    return facts, subjects


FACTS, SUBJECTS = _world()
"""Subject -> town -> answer; subject -> its wordings."""


def statement(rng: random.Random, subject: str, town: str) -> str:
    """A sentence that tells one fact."""
    return rng.choice(SUBJECTS[subject].statements).format(town=town, answer=FACTS[subject][town])
