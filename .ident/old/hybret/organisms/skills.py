"""Benchmark tasks for the organisms: what Section 4 of the paper asks of GLUE and MMLU, at their size.

Two sides, designed by what they demand and fixed before any ablation was looked at:

* the GLUE side (`group="glue"`): judgements about one or two sentences that stand right before the answer, zero-shot.
  Nothing has to be fetched from a distance;
* the MMLU side: four options, five-shot. Either about facts that are in the weights and nowhere in the prompt
  (`"mmlu-knowledge"`: :mod:`hybret.organisms.world`), or about one of many items that are listed far before the
  question (`"mmlu-lookup"`). All options of a look-up stand in the list, so that one has to find the right entry.

Items of the three splits are disjoint by construction: the checksum of an item decides which split it may occur in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypedDict
from zlib import crc32

from hybret.errors import HybretError
from hybret.organisms import words as w
from hybret.organisms.corpus import paragraph
from hybret.organisms.facts import agree, pick
from hybret.organisms.world import FACTS, SUBJECTS

Split = Literal["train", "dev", "test"]
Group = Literal["glue", "mmlu-knowledge", "mmlu-lookup"]


class Item(TypedDict):
    """A question (the user's turn without the options), its choices, and the index of the right one."""

    question: str
    choices: list[str]
    answer: int


LETTERS = "ABCD"
_SPLITS = {"test": (0,), "dev": (1,), "train": tuple(range(2, 16))}
LISTED = {"train": (3, 24), "dev": (4, 4), "test": (20, 20)}
"""Least and most entries of a look-up's list; the shots of the five-shot prompt (dev) have short ones."""
QUESTIONS = 5
"""Test questions about one list: it takes most of the tokens, and is read once for all of them."""


@dataclass(frozen=True)
class Task:
    """A benchmark task.

    Attributes
    ----------
    name : as in the tables.
    group : the side it belongs to.
    description : what it asks, in one sentence.
    make : one (question, right answer, wrong answers) from a random stream and the number of listed entries.
    choices : fixed choices in their order; none: the answer among the wrong ones, shuffled.
    """

    name: str
    group: Group
    description: str
    make: Callable[[random.Random, int], tuple[str, str, Sequence[str]]]
    choices: tuple[str, ...] = ()


_YES_NO = ("no", "yes")


def _acceptability(rng: random.Random, _: int) -> tuple[str, str, Sequence[str]]:
    words = pick(rng, tuple(paragraph(rng))).split()
    good = rng.random() < 0.5
    if not good:
        # The first and the last word stay: a capital or a full stop in the wrong place would give it away.
        i = rng.choice([i for i in range(1, len(words) - 2) if words[i] != words[i + 1]])
        if rng.random() < 0.5:  # two neighbours change places
            words[i], words[i + 1] = words[i + 1], words[i]
        else:  # a word moves to another place
            words.insert(rng.choice([j for j in range(1, len(words) - 1) if abs(j - i) > 1]), words.pop(i))
    return f"Is this sentence correct?\n{' '.join(words)}", _YES_NO[good], ()


_REVIEWS = (
    "The {food} at the {building} in {city} was {a} and the {job} was {b}.",
    "We found the {building} in {city} {a}, and even the {drink} was {b}.",
    "My {relative} called the {instrument} concert {a} and the hall {b}.",
    "It was {a} {b} evening with {food} and {drink} in the {room}.",
    "The {job} wrote {a} book about {city}, and the pictures are {b}.",
)


def _sentiment(rng: random.Random, _: int) -> tuple[str, str, Sequence[str]]:
    good = rng.random() < 0.5
    pattern = pick(rng, _REVIEWS)

    def judged(article: bool) -> str:
        if rng.random() < 0.25:
            return "not " + ("a " if article else "") + pick(rng, w.BAD if good else w.GOOD)
        return ("a " if article else "") + pick(rng, w.GOOD if good else w.BAD)

    review = pattern.format(
        a=judged("evening" in pattern or " book " in pattern),
        b=pick(rng, w.GOOD if good else w.BAD) if "{a} {b}" in pattern else judged(False),
        food=pick(rng, w.FOODS), drink=pick(rng, w.DRINKS), building=pick(rng, w.BUILDINGS), city=pick(rng, w.CITIES),
        job=pick(rng, w.JOBS), relative=pick(rng, w.RELATIVES), room=pick(rng, w.ROOMS),
        instrument=pick(rng, w.INSTRUMENTS),
    )  # fmt: skip
    return f"Is this review good or bad?\n{agree(review)}", ("bad", "good")[good], ()


_KINDS = {
    "an animal": w.ANIMALS, "an instrument": w.INSTRUMENTS, "a plant": w.PLANTS, "a vehicle": w.VEHICLES,
    "something to eat": w.FOODS, "something to wear": w.CLOTHES, "a piece of furniture": w.FURNITURE,
}  # fmt: skip
_TIMES_NAMED = [word for kind in _KINDS.values() for word in kind]
_CLEAR = {kind: tuple(x for x in items if _TIMES_NAMED.count(x) == 1) for kind, items in _KINDS.items()}


def _entailment(rng: random.Random, _: int) -> tuple[str, str, Sequence[str]]:
    kind = rng.choice(list(_CLEAR))
    who, deed, city = pick(rng, w.WOMEN + w.MEN), pick(rng, w.DEEDS), pick(rng, w.CITIES)
    first = agree(f"{who} {deed} a {pick(rng, w.ADJECTIVES)} {pick(rng, _CLEAR[kind])} in {city}.")
    follows = rng.random() < 0.5
    if not follows:
        change = rng.randrange(3)
        if change == 0:
            who = rng.choice([x for x in w.WOMEN + w.MEN if x != who])
        elif change == 1:
            deed = rng.choice([x for x in w.DEEDS if x != deed])
        else:
            kind = rng.choice([x for x in _CLEAR if x != kind])
    return f"{first}\nDoes it follow that {who} {deed} {kind}?", _YES_NO[follows], ()


_PAIRS = (
    ("{a} sold the {thing} to {b}.", "{b} bought the {thing} from {a}.", "{a} bought the {thing} from {b}."),
    ("{a} taught {b} to play the {instrument}.", "{b} learned the {instrument} from {a}.",
     "{a} learned the {instrument} from {b}."),
    ("{a} lent {b} the {thing}.", "{b} borrowed the {thing} from {a}.", "{a} borrowed the {thing} from {b}."),
    ("{a} gave {b} the {thing}.", "{b} got the {thing} from {a}.", "{a} got the {thing} from {b}."),
    ("{a} arrived before {b} on {day}.", "{b} arrived after {a} on {day}.", "{a} arrived after {b} on {day}."),
    ("{a} is the parent of {b}.", "{b} is the child of {a}.", "{a} is the child of {b}."),
)  # fmt: skip


def _paraphrase(rng: random.Random, _: int) -> tuple[str, str, Sequence[str]]:
    first, same, other = rng.choice(_PAIRS)
    a, b = rng.sample(w.WOMEN + w.MEN, 2)
    slots = {"a": a, "b": b, "thing": pick(rng, w.OBJECTS), "instrument": pick(rng, w.INSTRUMENTS),
             "day": pick(rng, w.WEEKDAYS)}  # fmt: skip
    alike = rng.random() < 0.5
    pair = [first, same if alike else other]
    rng.shuffle(pair)
    one, two = (text.format(**slots) for text in pair)
    return f"Do these two sentences say the same?\n{one}\n{two}", _YES_NO[alike], ()


def _knowledge(subject: str) -> Callable[[random.Random, int], tuple[str, str, Sequence[str]]]:
    facts, wording = FACTS[subject], SUBJECTS[subject]
    towns = tuple(facts)

    def make(rng: random.Random, _: int) -> tuple[str, str, Sequence[str]]:
        town = pick(rng, towns)
        wrong = rng.sample([x for x in wording.answers if x != facts[town]], 3)
        return wording.question.format(town=town), facts[town], wrong

    return make


def _people(rng: random.Random, n: int) -> list[str]:
    return [f"{a} {pick(rng, w.SURNAMES)}" for a in rng.sample(w.WOMEN + w.MEN, n)]


def _objects(rng: random.Random, n: int) -> list[str]:
    return [f"the {x}" for x in rng.sample(w.OBJECTS, n)]


@dataclass(frozen=True)
class Listing:
    """A look-up: how an entry is written, how it is asked for, and where keys and answers come from.

    The options are entries with the key that is asked for and the answers of others. So a model that copies from the
    list knows at each option whether it says what the list says, which one attention layer is enough for; options
    that are bare answers stayed at chance through 356 million tokens.
    """

    entry: str
    question: str
    keys: Callable[[random.Random, int], list[str]]
    answers: tuple[str, ...]

    def line(self, key: str, answer: str) -> str:
        """An entry as a sentence."""
        text = agree(self.entry.format(key=key, answer=answer))
        return text[:1].upper() + text[1:]


LISTINGS = {
    "belongings": Listing("{key} has a {answer}.", "What does {key} have?", _people, w.OBJECTS),
    "journeys": Listing("{key} went to {answer}.", "Where did {key} go?", _people, w.CITIES),
    "prices": Listing("{key} costs {answer} coins.", "How much is {key}?", _objects, w.NUMBERS),
}


def listed(rng: random.Random, name: str, n: int) -> tuple[str, dict[str, str]]:
    """The text of a list of `n` entries, and what it says: key to answer, all of them different."""
    listing = LISTINGS[name]
    entries = dict(zip(listing.keys(rng, n), rng.sample(listing.answers, n), strict=True))
    return " ".join(listing.line(key, answer) for key, answer in entries.items()), entries


def asked(rng: random.Random, name: str, entries: dict[str, str], key: str) -> tuple[str, str, Sequence[str]]:
    """The question for one entry of a list; its wrong answers are other entries' answers, where there are enough."""
    listing = LISTINGS[name]
    wrong = [answer for other, answer in entries.items() if other != key]
    if len(wrong) < 3:
        wrong += rng.sample([x for x in listing.answers if x not in entries.values()], 3 - len(wrong))
    right, *others = (listing.line(key, answer) for answer in (entries[key], *rng.sample(wrong, 3)))
    return listing.question.format(key=key), right, others


def _lookup(name: str) -> Callable[[random.Random, int], tuple[str, str, Sequence[str]]]:
    def make(rng: random.Random, n: int) -> tuple[str, str, Sequence[str]]:
        text, entries = listed(rng, name, n)
        question, right, wrong = asked(rng, name, entries, pick(rng, tuple(entries)))
        return f"{text}\n\n{question}", right, wrong

    return make


TASKS = {
    task.name: task
    for task in (
        Task("acceptability", "glue", "Are the words of this sentence in order?", _acceptability, _YES_NO),
        Task("sentiment", "glue", "Is this review good or bad?", _sentiment, ("bad", "good")),
        Task("entailment", "glue", "Does a statement about a kind of thing follow?", _entailment, _YES_NO),
        Task("paraphrase", "glue", "Do two sentences say the same?", _paraphrase, _YES_NO),
        *(Task(name, "mmlu-knowledge", f"The {name} of an invented world, held in the weights.", _knowledge(name))
          for name in SUBJECTS),
        *(Task(name, "mmlu-lookup", f"One of {LISTED['test'][0]} entries listed before the question.", _lookup(name))
          for name in LISTINGS),
    )
}  # fmt: skip


def options(rng: random.Random, right: str, wrong: Sequence[str]) -> tuple[list[str], int]:
    """The answer and the wrong ones in random order, and where the answer stands."""
    choices = [right, *wrong]
    rng.shuffle(choices)
    return choices, choices.index(right)


def rendered(question: str, choices: Sequence[str]) -> str:
    """A multiple-choice question as MMLU writes it (Hendrycks et al., 2020), without its answer."""
    lines = (f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
    return "\n".join([question, *lines, "Answer:"])


def occurs(question: str, choices: Sequence[str], split: Split) -> bool:
    """Whether an item may occur in a split."""
    return crc32("\n".join([question, *choices]).encode()) % 16 in _SPLITS[split]


def item(task: str, split: Split, rng: random.Random) -> Item:
    """One item of a split from a random stream."""
    made = TASKS[task]
    return _first(split, rng, lambda: made.make(rng, rng.randint(*LISTED[split])), made.choices)


def _first(
    split: Split, rng: random.Random, make: Callable[[], tuple[str, str, Sequence[str]]], fixed: Sequence[str] = ()
) -> Item:
    """The first item made that may occur in the split."""
    while True:
        question, right, wrong = make()
        choices, answer = (list(fixed), fixed.index(right)) if fixed else options(rng, right, wrong)
        if occurs(question, choices, split):
            return {"question": question, "choices": choices, "answer": answer}


def _next(task: str, split: Split, rng: random.Random) -> list[Item]:
    """The next item of a split from a random stream, or the test questions about the next list."""
    if split != "test" or task not in LISTINGS:
        return [item(task, split, rng)]
    text, entries = listed(rng, task, rng.randint(*LISTED[split]))

    def about(key: str) -> tuple[str, str, Sequence[str]]:
        question, right, wrong = asked(rng, task, entries, key)
        return f"{text}\n\n{question}", right, wrong

    return [_first(split, rng, partial(about, key)) for key in rng.sample(list(entries), QUESTIONS)]


def subject(question: str) -> str:
    """What a question is about, the same for all questions about one list, or about one fact."""
    return question.rpartition("\n\n")[0] or question


def items(task: str, split: Split, n: int, seed: int = 0) -> list[Item]:
    """The first `n` distinct items of a split; the same arguments give the same items.

    Test items of a look-up come `QUESTIONS` to a list (`subject`), so they are no independent sample: intervals have to
    resample lists.

    Parameters
    ----------
    task : name in `TASKS`.
    split : ``"test"`` is what is reported, ``"dev"`` holds the shots of a five-shot prompt, ``"train"`` is what the
        organisms were trained on. No item is in two of them.
    n : how many.
    seed : of the stream.

    Returns
    -------
    list of dict
        `question` (the user's turn without the options), `choices`, `answer` (index of the right choice).

    Raises
    ------
    HybretError
        If there is no such task or split, or `n` is not positive.
    """
    if task not in TASKS:
        raise HybretError(f"there is no task {task!r}; choose one of {', '.join(TASKS)}")
    if split not in _SPLITS:
        raise HybretError(f"there is no split {split!r}; choose one of {', '.join(_SPLITS)}")
    if n < 1:
        raise HybretError(f"the number of items is {n}; give at least 1")
    rng = random.Random(f"{task} {split} {seed}")
    found: dict[str, Item] = {}
    while len(found) < n:
        for made in _next(task, split, rng):
            found.setdefault(repr(made), made)
    return list(found.values())[:n]
