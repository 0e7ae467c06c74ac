"""Retrieval tasks: how prompts are built and answers scored.

`hybret.niah` is the first task. Another one is a file beside it (several needles, key-value look-ups): a class with the
two methods of `Task`, whose prompts name their task, label their rows, and say where interventions find the needle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import lazy_loader

if TYPE_CHECKING:
    from hybret.prompts import Prompt
    from hybret.scoring import Rubric

__getattr__, __dir__, _ = lazy_loader.attach(__name__, ["haystack", "language", "niah"])


class Task(Protocol):
    """What `hybret.sweep` needs of a task; any class with these methods is one."""

    def prompts(self, model: Any) -> list[Prompt]:
        """The task's prompts for a `Model`, or for a tokenizer alone."""
        ...

    def score(self, answer: str, prompt: Prompt, rubric: Rubric) -> dict[str, Any]:
        """Columns of an answer's row: score (0 to ``rubric.maximum``), exact (bool), and further ones of the task."""
        ...
