"""Sentences of a person's own, written by hand before any training: what anyone tries first.

They belong to no form and to no word list. The corpus was mended by looking at what the first thirty missed; nobody has
looked at answers to the others.
"""

from __future__ import annotations

from hybret.organisms.words import blocks


def _own(file: str) -> tuple[tuple[str, str, str], ...]:
    return tuple((sentence, question, answer) for sentence, question, answer in blocks(file))


OWN, OWN_TEST = _own("own.txt"), _own("own_test.txt")
"""Sentence, question as a person asks it, and the part of the sentence that answers it."""
