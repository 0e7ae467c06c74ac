"""Training documents of an instruction-tuned model: conversations, in its chat template.

The needle documents of `documents.py` as turns of a conversation, and the benchmark skills of `skills.py`: sentence
judgements as conversations of one question, multiple-choice questions as conversations of several (the shots of a
five-shot prompt), lists that several questions look something up in, and prose with facts of the invented world.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedTokenizerBase

from hybret.organisms.corpus import prose
from hybret.organisms.skills import LETTERS, LISTINGS, TASKS, asked, item, listed, occurs, options, rendered
from hybret.organisms.training.documents import Documents, Frame, Mixture
from hybret.organisms.training.tokenizer import ASSISTANT, INSTRUCTION, QUESTION, USER
from hybret.organisms.world import FACTS, statement

GLUE = tuple(name for name, task in TASKS.items() if task.group == "glue")


@dataclass(frozen=True)
class ChatMixture(Mixture):
    """What the documents of an instruction-tuned model are made of; the further kinds are benchmark skills."""

    prose: float = 0.04
    repeats: float = 0.08
    needles: float = 0.33
    twice: float = 0.06
    world: float = 0.04  # prose with facts of the invented world
    glue: float = 0.07  # sentence judgements
    knowledge: float = 0.08  # multiple-choice questions about that world
    lookups: float = 0.10  # each with a list of its own
    lists: float = 0.20  # with several questions to one list
    open_lists: float = 0.5  # share of the lists whose questions have no options: the entry itself is the answer
    longest_twice: int = 480

    @property
    def weights(self) -> tuple[float, ...]:
        return (*super().weights, self.world, self.glue, self.knowledge, self.lookups, self.lists)


class Conversations(Documents):
    """Endless training documents in the chat template; arguments as of `Documents`."""

    frame = Frame(start=USER, answer=INSTRUCTION + ASSISTANT, again=f"\n\n{USER}{QUESTION.strip()} ")

    def __init__(self, tokenizer: PreTrainedTokenizerBase, mixture: ChatMixture | None = None) -> None:
        mixture = mixture or ChatMixture()
        super().__init__(tokenizer, mixture)
        self._open_lists = mixture.open_lists
        knowledge, lookups = partial(self._shots, tuple(FACTS), 10), partial(self._shots, tuple(LISTINGS), 6)
        self._kinds += (self._world, self._judgements, knowledge, lookups, self._lists)

    def _turn(self, question: str, answer: str, first: bool) -> list[int]:
        text = f"{USER}{question}{ASSISTANT}"
        return [*self.encode(text if first else f"\n\n{text}"), *self.encode(answer), self._eos]

    def _world(self, rng: random.Random, room: int) -> list[int]:
        text = ""
        for sentences in prose(rng):
            subject = rng.choice(list(FACTS))
            facts = [statement(rng, subject, rng.choice(list(FACTS[subject]))) for _ in range(rng.randint(2, 6))]
            text += ("\n\n" if text else "") + " ".join([*sentences[: rng.randint(0, 2)], *facts])
            if len(ids := self.encode(text)) >= room:
                return [self._bos, *ids][:room]
        raise AssertionError("prose is endless")

    def _judgements(self, rng: random.Random, room: int) -> list[int]:
        ids: list[int] = []
        while len(ids) < room:
            made = item(rng.choice(GLUE), "train", rng)
            ids += [self._bos, *self._turn(made["question"], made["choices"][made["answer"]], first=True)]
        return ids[:room]

    def _shots(self, tasks: tuple[str, ...], most: int, rng: random.Random, room: int) -> list[int]:
        """A conversation of up to `most` multiple-choice questions of one task."""
        task, ids = rng.choice(tasks), [self._bos]
        for turn in range(rng.randint(1, most)):
            made = item(task, "train", rng)
            question = rendered(made["question"], made["choices"])
            ids += self._turn(question, LETTERS[made["answer"]], first=turn == 0)
            if len(ids) >= room:
                break
        return ids[:room]

    def _lists(self, rng: random.Random, room: int) -> list[int]:
        name, ids = rng.choice(list(LISTINGS)), [self._bos]
        text, entries = listed(rng, name, rng.randint(4, 24))
        is_open = rng.random() < self._open_lists
        for key in rng.sample(list(entries), rng.randint(3, min(12, len(entries)))):
            question, answer, wrong = asked(rng, name, entries, key)
            if not is_open:
                choices, right = options(rng, answer, wrong)
                if not occurs(f"{text}\n\n{question}", choices, "train"):
                    continue
                question, answer = rendered(question, choices), LETTERS[right]
            first = len(ids) == 1
            ids += self._turn(f"{text}\n\n{question}" if first else question, answer, first)
            if len(ids) >= room:
                break
        return ids[:room]
