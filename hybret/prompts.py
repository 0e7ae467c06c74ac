"""What a needle is, and a prompt that may hide it."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hybret.errors import HybretError, checked
from hybret.files import digest

if TYPE_CHECKING:
    from hybret.tasks import Task

Span = tuple[int, int]  # half-open range of tokens
CONTROL = "none"  # the label "needle" of a prompt without one
DIGITS = 6  # of a depth, after the point: smaller differences are rounding

# Scripts that part no words: each of their characters is a word of its own.
_UNSPACED = re.compile("([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|[*`~]+")
_BEFORE, _AFTER = "\"'“”‘’«»„([{¿¡_,;:!?…–—", "\"'“”‘’«»)]}_.,;:!?…。，、！？：；」』।॥؟۔–—"


def normalise(text: str) -> str:
    """Lower case, no punctuation, single spaces: the authors' rule, for their rubrics."""
    return " ".join(re.sub(r"[^\w\s]", "", text.lower()).split())


def words(sentence: str) -> list[str]:
    """The words of a text, without case, markup and the punctuation around them.

    What is inside a word stays, and so do symbols: ``4.5``, ``-7``, ``1:15``, ``C++``, an emoji, marks on letters.
    """
    parts = _UNSPACED.sub(r" \1 ", _MARKUP.sub(" ", unicodedata.normalize("NFC", sentence).casefold())).split()
    bare = (re.sub(r"^[-.](?!\d)", "", part.lstrip(_BEFORE)).rstrip(_AFTER) for part in parts)
    return [word for word in bare if word]


def contains(answer: str, phrase: str) -> bool:
    """Whether the words of `phrase` are in `answer`, whole and one after another."""
    inside, wanted = words(answer), words(phrase)
    return any(inside[i : i + len(wanted)] == wanted for i in range(len(inside) - len(wanted) + 1))


@checked
class Needle:
    """A sentence to hide, the question that asks for it, and keywords that earn partial credit.

    Keywords are words of the sentence, one after another, compared as `words`. The paper's needle is scored by its
    Table 2 instead (`hybret.scoring`).
    """

    name: str
    sentence: str
    question: str
    keywords: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not words(self.sentence):
            raise HybretError(f"the needle {self.name!r} is {self.sentence!r}, which holds no word; give a sentence")
        for word in self.keywords:
            if not words(word) or not contains(self.sentence, word):
                raise HybretError(f"the keyword {word!r} is not in the needle {self.name!r}; give words of it")

    @property
    def digest(self) -> str:
        """12 hex digits of a SHA-256 over all that answers are scored against: the name is no part of it."""
        return digest(json.dumps([self.sentence, self.question, self.keywords]))

    @property
    def insertion(self) -> str:
        """What goes into the haystack: the sentence on a line of its own."""
        return f"\n{self.sentence}\n"


PAPER_NEEDLE = Needle(
    name="paper",
    sentence="The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day.",
    question="What is the best thing to do in San Francisco?",
    keywords=("eat a sandwich", "sit in Dolores Park", "sunny day"),
)


@dataclass(frozen=True)
class Prompt:
    """A prompt of a task, ready for a model. Each label is an attribute too (``prompt.depth``).

    Attributes
    ----------
    text, ids : the prompt and its token ids, with BOS once if the tokenizer writes one.
    needle : what to score the answer against, also in a control, which leaves it out.
    labels : columns of the prompt's rows. Those of the grid: template, haystack, haystack_seed, needle (its name, or
        ``"none"``), asked (its digest), length (nominal tokens), depth (per cent from the start; NaN in a control).
    spans : token ranges by name. Interventions act on ``"needle"``: every copy, without the line breaks around it;
        ``"question"`` is ``QUESTION: ...``, its last copy, without those after it. A token that holds both a full stop
        or question mark and a line break belongs to them. A task may add others.
    position : the needle's real place, as a fraction of the haystack's tokens; NaN without a needle.
    answer_prefix : beginning of the answer with which the prompt ends; it counts as answered.
    haystack_sha256 : of the haystack's whole text; empty where unknown.
    tokenizer_key : of the tokenizer and chat template that made `ids` (`hybret.tasks.encoding`); empty where unknown.
    insertion : how the needle was put in (`Recipe.insertion`); empty where no recipe had a say.
    task : scores the answers; None scores them against `needle`, as `hybret.niah` does.
    """

    text: str
    ids: tuple[int, ...]
    needle: Needle
    labels: Mapping[str, Any] = field(default_factory=dict, hash=False)
    spans: Mapping[str, tuple[Span, ...]] = field(default_factory=dict, hash=False)
    position: float = math.nan
    answer_prefix: str = ""
    haystack_sha256: str = ""
    tokenizer_key: str = ""
    insertion: str = ""
    task: Task | None = None

    @cached_property
    def key(self) -> str:
        """12 hex digits of a SHA-256 over `ids` and `spans`; cells whose needles fell to one place share it."""
        return digest(np.asarray(self.ids, "<i8").tobytes(), json.dumps(sorted(self.spans.items())))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in (labels := vars(self).get("labels", {})):
            raise AttributeError(f"a prompt has no attribute {name!r}")
        return labels[name]

    @property
    def control(self) -> bool:
        """Whether the needle was left out on purpose."""
        return bool(self.labels.get("needle") == CONTROL)

    @property
    def needle_spans(self) -> tuple[Span, ...]:
        """Token ranges of the needle's copies."""
        return self.spans.get("needle", ())

    @property
    def question_span(self) -> Span | None:
        """Token range of the question, None where unknown."""
        return next(reversed(self.spans.get("question", ())), None)
