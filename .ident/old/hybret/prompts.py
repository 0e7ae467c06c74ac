"""What a needle is, and a prompt that may hide it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import asked
from .errors import HybretError
from .haystack import sha256

CONTROL = "none"  # what a prompt without a needle calls it
DIGITS = 6  # after the point, to which a depth is a depth: what differs by less differs by rounding alone


def normalise(text: str) -> str:
    """Lower case, no punctuation, single spaces."""
    return " ".join(re.sub(r"[^\w\s]", "", text.lower()).split())


@dataclass(frozen=True)
class Needle:
    """A sentence to hide, the question that asks for it, and the phrases that earn partial credit.

    `keywords` serve the generic rubric of `hybret.scoring.score`; the paper's needle has Table 2 instead. They are
    words of the sentence, one after another; case and punctuation do not matter.

    Raises
    ------
    HybretError
        If a text is empty, or a keyword does not stand in the sentence.
    """

    name: str
    sentence: str
    question: str
    keywords: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("name", "sentence", "question"):
            asked.text(f"the {field} of a needle", getattr(self, field))
        if not isinstance(self.keywords, tuple):
            raise HybretError(f"the keywords of a needle are {self.keywords!r}; give a tuple of texts")
        for word in self.keywords:
            asked.text("a keyword of a needle", word)
        stands = normalise(self.sentence)
        if absent := [word for word in self.keywords if not normalise(word) or normalise(word) not in stands]:
            raise HybretError(
                f"the keyword {absent[0]!r} does not stand in the sentence of the needle {self.name!r}, so a right "
                "answer would not earn it; give words of the sentence as they follow each other there"
            )

    @property
    def digest(self) -> str:
        """12 hex digits of a SHA-256 over all that answers are scored against: the name is no part of it."""
        return sha256(json.dumps([self.sentence, self.question, self.keywords]).encode())[:12]

    @property
    def insertion(self) -> str:
        """What goes into the haystack: the sentence on a line of its own, as in the authors' code."""
        return f"\n{self.sentence}\n"


PAPER_NEEDLE = Needle(
    name="paper",
    sentence=("The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day."),
    question="What is the best thing to do in San Francisco?",
    keywords=("eat a sandwich", "sit in Dolores Park", "sunny day"),
)


@dataclass(frozen=True)
class Prompt:
    """One cell of the grid, ready for a model.

    Attributes
    ----------
    text, ids : the prompt, and its token ids, with BOS once if the tokenizer writes one. ``len(ids)`` is the
        real length; `length` is the label.
    needle_spans : half-open token ranges of the needle's sentence in `ids`; its final full stop is included,
        the newlines around it are not (unless one token holds both). Two for JRT, none without a needle.
    length : label of the length, tokens. A JRT prompt keeps the label of its context read once.
    depth : label of the depth, per cent, 0 = start of context; NaN without a needle.
    needle, reference, question, keywords : the needle's name (``"none"`` in a control); what to score
        against, also in a control: the needle that it leaves out.
    key : first 12 hex digits of the SHA-256 of `ids`. Cells whose insertion fell back to one place share it.
    position : where the needle really is, as a fraction of the haystack's tokens; NaN without a needle.
    question_span : half-open token range of ``QUESTION: ...`` in `ids`, its last copy in JRT; what follows is the
        template's ending. None where it is not known.
    given : the beginning of the answer, where the prompt ends with one (`hybret.puzzle.begun`); it counts as answered.
    haystack_sha256 : of the whole haystack's text, in hex digits; empty where it is not known.
    reader : the tokenizer, and the chat template if one was used, that `ids` are from (`hybret.niah.reader`); empty
        where it is not known.
    """

    text: str
    ids: tuple[int, ...]
    needle_spans: tuple[tuple[int, int], ...]
    length: int
    depth: float
    template: str
    haystack: str
    haystack_seed: int
    needle: str
    reference: str
    question: str
    key: str
    keywords: tuple[str, ...] = ()
    position: float = math.nan
    question_span: tuple[int, int] | None = None
    given: str = ""
    haystack_sha256: str = ""
    reader: str = ""

    @property
    def control(self) -> bool:
        """Whether the needle was left out on purpose."""
        return self.needle == CONTROL

    @property
    def target(self) -> Needle:
        """The needle to score the answer against, also when the prompt leaves it out."""
        return Needle(self.needle, self.reference, self.question, self.keywords)


def prompt_key(ids: Sequence[int]) -> str:
    """What tells prompts apart: 12 hex digits of a hash of their tokens."""
    return sha256(np.asarray(ids, "<i8").tobytes())[:12]
