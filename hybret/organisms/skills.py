"""Benchmark tasks for the small models: what Section 4 of the paper asks of GLUE and MMLU, at their size.

Two sides, designed by what they demand and fixed before any ablation was looked at:

* the GLUE side (`group="glue"`): judgements about one or two sentences right before the answer, zero-shot;
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
from hybret.organisms.corpus import paragraph
from hybret.organisms.facts import agree, pick
from hybret.organisms.words import WORDS, blocks
from hybret.organisms.world import FACTS, SUBJECTS

Split = Literal["train", "dev", "test"]
Group = Literal["glue", "mmlu-knowledge", "mmlu-lookup"]


class Item(TypedDict):
    """A question (the user's turn without the options), its choices, and the index of the right one."""

    question: str
    choices: list[str]
    answer: int


Make = Callable[[random.Random, int], tuple[str, str, Sequence[str]]]
"""One (question, right answer, wrong answers) from a random stream and the number of listed entries."""
LETTERS = "ABCD"
_SPLITS = {"test": (0,), "dev": (1,), "train": tuple(range(2, 16))}
LISTED = {"train": (3, 24), "dev": (4, 4), "test": (20, 20)}
"""Least and most entries of a look-up's list; the shots of the five-shot prompt (dev) have short ones."""
QUESTIONS = 5
"""Test questions about one list: it takes most of the tokens, and is read once for all of them."""


@dataclass(frozen=True)
class Task:
    """A benchmark task."""

    name: str
    group: Group
    description: str
    make: Make
    choices: tuple[str, ...] = ()  # fixed, in their order; none: the answer among the wrong ones, shuffled


_YES_NO = ("no", "yes")
_REVIEWS, *_PAIRS = map(tuple, blocks("skills.txt"))
"""Reviews with a judgement twice; and in threes: a sentence, one that says the same, and one that does not."""


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


def _sentiment(rng: random.Random, _: int) -> tuple[str, str, Sequence[str]]:
    good = rng.random() < 0.5
    pattern = pick(rng, _REVIEWS)

    def judged(article: str = "") -> str:
        if rng.random() < 0.25:
            return f"not {article}{pick(rng, WORDS['bad' if good else 'good'])}"
        return article + pick(rng, WORDS["good" if good else "bad"])

    words = {"a": judged("a " if "evening" in pattern or " book " in pattern else "")}
    words["b"] = pick(rng, WORDS["good" if good else "bad"]) if "{a} {b}" in pattern else judged()
    for name in ("food", "drink", "building", "city", "job", "relative", "room", "instrument"):
        words[name] = pick(rng, WORDS[name])
    return f"Is this review good or bad?\n{agree(pattern.format_map(words))}", ("bad", "good")[good], ()


_KINDS = {
    "an animal": "animal", "an instrument": "instrument", "a plant": "plant", "a vehicle": "vehicle",
    "something to eat": "food", "something to wear": "clothes", "a piece of furniture": "furniture",
}  # fmt: skip
_TIMES_NAMED = [word for kind in _KINDS.values() for word in WORDS[kind]]
_CLEAR = {kind: tuple(x for x in WORDS[name] if _TIMES_NAMED.count(x) == 1) for kind, name in _KINDS.items()}


def _entailment(rng: random.Random, _: int) -> tuple[str, str, Sequence[str]]:
    kind = rng.choice(list(_CLEAR))
    who, deed, city = pick(rng, WORDS["name"]), pick(rng, WORDS["deed"]), pick(rng, WORDS["city"])
    first = agree(f"{who} {deed} a {pick(rng, WORDS['adjective'])} {pick(rng, _CLEAR[kind])} in {city}.")
    follows = rng.random() < 0.5
    if not follows:
        change = rng.randrange(3)
        if change == 0:
            who = rng.choice([x for x in WORDS["name"] if x != who])
        elif change == 1:
            deed = rng.choice([x for x in WORDS["deed"] if x != deed])
        else:
            kind = rng.choice([x for x in _CLEAR if x != kind])
    return f"{first}\nDoes it follow that {who} {deed} {kind}?", _YES_NO[follows], ()


def _paraphrase(rng: random.Random, _: int) -> tuple[str, str, Sequence[str]]:
    first, same, different = rng.choice(_PAIRS)
    a, b = rng.sample(WORDS["name"], 2)
    slots = {"a": a, "b": b, "thing": pick(rng, WORDS["object"]), "instrument": pick(rng, WORDS["instrument"]),
             "day": pick(rng, WORDS["weekday"])}  # fmt: skip
    alike = rng.random() < 0.5
    pair = [first, same if alike else different]
    rng.shuffle(pair)
    text_a, text_b = (text.format(**slots) for text in pair)
    return f"Do these two sentences say the same?\n{text_a}\n{text_b}", _YES_NO[alike], ()


def _knowledge(subject: str) -> Make:
    facts, wording = FACTS[subject], SUBJECTS[subject]
    towns = tuple(facts)

    def make(rng: random.Random, _: int) -> tuple[str, str, Sequence[str]]:
        town = pick(rng, towns)
        wrong = rng.sample([x for x in wording.answers if x != facts[town]], 3)
        return wording.question.format(town=town), facts[town], wrong

    return make


def _people(rng: random.Random, n: int) -> list[str]:
    return [f"{a} {pick(rng, WORDS['surname'])}" for a in rng.sample(WORDS["name"], n)]


def _objects(rng: random.Random, n: int) -> list[str]:
    return [f"the {x}" for x in rng.sample(WORDS["object"], n)]


@dataclass(frozen=True)
class Listing:
    """A look-up: how an entry is written, how it is asked for, and where keys and answers come from.

    The options are entries with the key that is asked for and the answers of others: one attention layer is enough to
    tell at each whether the list says so. Options that are bare answers stayed at chance through 356 million tokens.
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
    "belongings": Listing("{key} has a {answer}.", "What does {key} have?", _people, WORDS["object"]),
    "journeys": Listing("{key} went to {answer}.", "Where did {key} go?", _people, WORDS["city"]),
    "prices": Listing("{key} costs {answer} coins.", "How much is {key}?", _objects, WORDS["number"]),
}


def listed(rng: random.Random, name: str, n: int) -> tuple[str, dict[str, str]]:
    """The text of a list of `n` entries, and what it says: key to answer, all of them different."""
    listing = LISTINGS[name]
    entries = dict(zip(listing.keys(rng, n), rng.sample(listing.answers, n), strict=True))
    return " ".join(listing.line(key, answer) for key, answer in entries.items()), entries


def asked(rng: random.Random, name: str, entries: dict[str, str], key: str) -> tuple[str, str, Sequence[str]]:
    """The question for one entry of a list; its wrong answers are other entries' answers, where there are enough."""
    listing = LISTINGS[name]
    wrong = [answer for entry, answer in entries.items() if entry != key]
    if len(wrong) < 3:
        wrong += rng.sample([x for x in listing.answers if x not in entries.values()], 3 - len(wrong))
    right, *others = (listing.line(key, answer) for answer in (entries[key], *rng.sample(wrong, 3)))
    return listing.question.format(key=key), right, others


def _lookup(name: str) -> Make:
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

    ``"test"`` items are reported, ``"dev"`` holds the shots of a five-shot prompt, ``"train"`` trains; no item is
    in two of them. Test items of a look-up come `QUESTIONS` to a list (`subject`), so they are no independent sample:
    intervals have to resample lists.
    """
    if task not in TASKS:
        raise HybretError(f"there is no task {task!r}; choose one of {', '.join(TASKS)}")
    if split not in _SPLITS:
        raise HybretError(f"there is no split {split!r}; choose one of {', '.join(_SPLITS)}")
    if n < 1:
        raise HybretError(f"the number of items is {n}; give at least 1")
    rng = random.Random(f"{task} {split} {seed}")
    distinct: dict[str, Item] = {}
    while len(distinct) < n:
        for made in _next(task, split, rng):
            distinct.setdefault(repr(made), made)
    return list(distinct.values())[:n]
