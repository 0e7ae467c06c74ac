"""Thirty sentences of a person's own, written by hand before any training: what anyone tries first.

They belong to no form and to no word list. `own.txt` has each with a question as a person asks it and the words that
answer it.
"""

from __future__ import annotations

from hybret.organisms.words import blocks

OWN = tuple((sentence, question, answer) for sentence, question, answer in blocks("own.txt"))
"""Sentence, question, and the part of the sentence that answers it."""
