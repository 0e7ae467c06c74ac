"""Training documents of the small models: token sequences of an exact length, made faster than a GPU eats them.

Needle documents hold several facts in plain prose and ask for some of them in the paper's prompt; others are prose, or
repeat random spans, from which copying is learned; some read the context twice (JRT). A recurrent state cannot know
which of the facts will be asked, so retrieval has to come from attention.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from hybret.errors import HybretError
from hybret.organisms.corpus import prose, quote
from hybret.organisms.facts import TEMPLATES, Fact, pick
from hybret.organisms.forms import form, form_fact
from hybret.organisms.training.tokenizer import ANSWER, CONTEXT, QUESTION
from hybret.organisms.words import WORDS


@dataclass(frozen=True)
class Frame:
    """What stands around context, question and answer of a prompt."""

    start: str = ""
    answer: str = ANSWER  # before an answer
    again: str = QUESTION  # before a further question


# GPT-2's pre-tokenization, for ASCII text: no token crosses these pieces, so each is tokenized only once.
_PIECES = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.ASCII)
_SHORTEST = 24
Kind = Callable[[random.Random, int], list[int]]
"""Makes a document of at most so many tokens."""


@dataclass(frozen=True)
class Mixture:
    """What the training documents are made of; every share is a probability."""

    # weights of the document kinds, which need not sum to 1: plain prose, repeated random spans, needle documents, and
    # those that read context and question twice (JRT)
    prose: float = 0.08
    repeats: float = 0.15
    needles: float = 0.67
    twice: float = 0.10
    facts: tuple[int, ...] = (2, 3, 4, 6, 8, 12)  # in a context, drawn uniformly; fewer where there is no room
    questions: int = 5  # at most in a needle document, drawn uniformly from 1 up (JRT documents have one)
    # shares of facts whose form is drawn anew (`hybret.organisms.forms`), and of those that are sentences of the prose
    # itself, which some of their words ask for (`hybret.organisms.corpus.quote`); the others are of the fact templates
    forms: float = 0.6
    quotes: float = 0.25
    one_form: float = 0.3  # of contexts whose facts are all of one form: only their content tells them apart
    own_line: float = 0.5  # of facts between newlines after a sentence, as the needle at test time; others are inline
    at_ends: float = 0.05  # of facts before all prose; twice as many follow all of it, where they are harder to find
    plain_question: float = 0.5  # of questions in the first wording; the others are drawn from all wordings
    shortest_context: int = 30  # tokens
    # tokens of a context that is read twice; below the attention window, so that the second reading never has to be
    # remembered by the recurrent state
    longest_twice: int = 200
    full_context: float = 0.35  # of contexts as long as the room allows; the others are uniform below that
    cut_context: float = 0.3  # of contexts that end in the middle of a sentence, as a trimmed haystack does
    span: tuple[int, int] = (6, 40)  # least and most words or tokens of a repeated span
    span_tokens: float = 0.5  # of repeated spans made of random tokens; the others are random nouns

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the document kinds, in the order of `Documents`."""
        return self.prose, self.repeats, self.needles, self.twice

    def __post_init__(self) -> None:
        if min(self.weights) < 0 or sum(self.weights) <= 0:
            raise HybretError(f"Document weights must be at least 0 and not all 0, not {self.weights}.")
        if not self.facts or min(self.facts) < 1 or self.questions < 1:
            raise HybretError("A needle document needs at least one fact and at least one question.")
        if not 1 <= self.span[0] <= self.span[1]:
            raise HybretError(f"The span lengths must rise from at least 1, not {self.span}.")


class Documents:
    """Endless training documents."""

    frame = Frame()

    def __init__(self, tokenizer: PreTrainedTokenizerBase, mixture: Mixture | None = None) -> None:
        self.tokenizer = tokenizer
        self.mixture = mixture or Mixture()
        self._piece = cache(lambda piece: tuple(tokenizer(piece, add_special_tokens=False)["input_ids"]))
        self._bos, self._eos = int(tokenizer.bos_token_id), int(tokenizer.eos_token_id)
        self._vocabulary = len(tokenizer)
        self._kinds: tuple[Kind, ...] = (self._prose, self._repeats, self._needles, self._twice)
        self._kind_weights = self.mixture.weights

    def encode(self, text: str) -> list[int]:
        """Token ids without ``<bos>``, equal to the tokenizer's own and several times faster."""
        if not text.isascii():
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return list(chain.from_iterable(map(self._piece, _PIECES.findall(text))))

    def sample(self, rng: random.Random, length: int) -> NDArray[np.int16]:
        """One sequence of exactly `length` token ids: documents, each after ``<bos>``; the last may be cut."""
        if length < _SHORTEST:
            raise HybretError(f"A training sequence needs at least {_SHORTEST} tokens, not {length}.")
        ids: list[int] = []
        while len(ids) < length:
            room = length - len(ids)
            (kind,) = rng.choices(self._kinds, self._kind_weights)
            ids += kind(rng, room) or self._prose(rng, room)
        return np.array(ids[:length], dtype=np.int16)

    def _sentences(self, rng: random.Random, tokens: int, cut: bool) -> list[str]:
        """Prose of at most `tokens` tokens, in pieces with separators; `cut` fills it up with part of one."""
        pieces: list[str] = []
        for sentences in prose(rng):
            separator = "\n\n" if pieces else ""
            for sentence in sentences:
                piece = separator + sentence
                size = len(self.encode(piece))
                if size > tokens:
                    return pieces + self._cut(piece, tokens) if cut else pieces
                pieces.append(piece)
                tokens -= size
                separator = " "
        raise AssertionError("prose is endless")

    def _cut(self, piece: str, tokens: int) -> list[str]:
        """As many whole words of a piece as fit; nothing if not one does."""
        words = _PIECES.findall(piece)
        while words and (len(self.encode("".join(words))) > tokens or words[-1].isspace()):
            words.pop()
        return ["".join(words)] if words else []

    def _prose(self, rng: random.Random, room: int) -> list[int]:
        return [self._bos, *self.encode("".join(self._sentences(rng, room + 64, cut=False)))][:room]

    def _repeats(self, rng: random.Random, room: int) -> list[int]:
        m = self.mixture
        size = rng.randint(*m.span)
        if rng.random() < m.span_tokens:
            span = [rng.randrange(self._eos + 1, self._vocabulary) for _ in range(size)]
        else:
            span = self.encode(" " + " ".join(rng.choices(WORDS["noun"], k=size)) + ".")
        ids = [self._bos]
        while len(ids) < room:
            text = "".join(self._sentences(rng, rng.randint(0, 80), cut=False))
            ids += self.encode(f" {text}" if len(ids) > 1 and text else text)
            ids += span
        return ids[:room]

    def _facts(self, rng: random.Random) -> list[Fact]:
        """Facts of one context, no two about the same thing."""
        m = self.mixture
        one = rng.random() < m.one_form
        cast: list[str] = []  # phrases that several facts may share
        kind = rng.random() * (1 - one * m.quotes)
        made, template = (form(rng) if one and kind < m.forms else None), pick(rng, TEMPLATES)
        facts: dict[str, Fact] = {}
        for _ in range(rng.choice(m.facts)):
            if not one:
                kind, template = rng.random(), pick(rng, TEMPLATES)
            if kind < m.forms:
                fact = form_fact(rng, made, cast)
            else:
                fact = quote(rng) if kind >= 1 - m.quotes else template.sample(rng)
            if fact.sentence not in {other.sentence for other in facts.values()}:
                facts.setdefault(fact.questions[0], fact)
        return list(facts.values())

    def _context(self, rng: random.Random, facts: list[Fact], tokens: int) -> str:
        """Prose of at most `tokens` tokens with the facts in random gaps."""
        m = self.mixture
        cut = rng.random() < m.cut_context
        pieces = self._sentences(rng, tokens, cut)
        ends_cut = bool(pieces) and not pieces[-1].endswith((".", "?", "!", '"'))
        gaps: list[list[str]] = [[] for _ in range(len(pieces) + 1)]
        for fact in facts:
            at = 0 if rng.random() < m.at_ends else -1 if rng.random() < 2 * m.at_ends else rng.randrange(len(gaps))
            gaps[at].append(fact.sentence)
        text = ""
        for index, gap in enumerate(gaps):
            for sentence in gap:
                if rng.random() < m.own_line or (ends_cut and index == len(pieces)):
                    text += f"\n{sentence}\n"
                else:
                    text += f" {sentence}" if text else sentence
            if index < len(pieces):
                text += " " if index == 0 and text and not text.endswith("\n") else ""
                text += pieces[index]
        return text

    def _question(self, rng: random.Random, fact: Fact) -> str:
        if rng.random() < self.mixture.plain_question:
            return fact.questions[0]
        return rng.choice(fact.questions)

    def _needles(self, rng: random.Random, room: int) -> list[int]:
        facts = self._facts(rng)
        count = min(rng.randint(1, self.mixture.questions), len(facts))
        return self._asked(rng, room, facts, count, copies=1)

    def _twice(self, rng: random.Random, room: int) -> list[int]:
        return self._asked(rng, room, self._facts(rng), 1, copies=2)

    def _asked(self, rng: random.Random, room: int, facts: list[Fact], count: int, copies: int) -> list[int]:
        """A document that asks for the first `count` facts; empty if there is no room for one.

        The prompt (with `copies` of context and question) is tokenized as one text. The answer follows the
        trailing space of the prompt and so begins without a space; each ends with ``<eos>``.
        """
        m = self.mixture
        asked = [(self._question(rng, fact), fact) for fact in facts[:count]]
        rounds = [
            self.encode(f"{self.frame.again}{question}{self.frame.answer}") + self.encode(fact.sentence) + [self._eos]
            for question, fact in asked
        ]
        # White space around a fact on its own line and around the blocks costs a few tokens more.
        sizes = [len(self.encode(f"\n{fact.sentence}\n")) + 1 for fact in facts]
        frame = len(self.encode(self.frame.start + CONTEXT)) + 4
        if copies == 2:
            frame += len(self.encode(f"{QUESTION}{asked[0][0]}"))
        while True:
            most = (room - 1 - sum(map(len, rounds))) // copies - frame
            if copies == 2:
                most = min(most, m.longest_twice)
            if most >= max(m.shortest_context, sizes[0]):
                break
            if len(rounds) == 1:
                return []
            rounds.pop()
        least = max(m.shortest_context, sizes[0])
        size = most if rng.random() < m.full_context else rng.randint(least, most)
        kept = 1
        while kept < len(facts) and sum(sizes[: kept + 1]) <= size:
            kept += 1
        context = self._context(rng, rng.sample(facts[:kept], kept), size - sum(sizes[:kept]))
        block = f"{CONTEXT}{context}{QUESTION}{asked[0][0]}"
        prompt = self.frame.start + "\n\n".join([block] * copies) + self.frame.answer
        ids = [self._bos, *self.encode(prompt), *self.encode(asked[0][1].sentence), self._eos]
        for extra in rounds[1:kept]:
            ids += extra
        return ids
