"""The puzzle of Only-Keep: the arms that take `Only` apart, and where attention goes while an answer begins.

In Table 1 of the paper the best cell is Only-Keep, 85.7 %: seeing nothing but the needle during generation. Where a
model fails there, the arms say what it misses: each differs from `Only` in one thing, or in one pair of things.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch

from .engine import generation
from .engine.scan import parallel_scans
from .engine.tracing import Trace, implementation
from .errors import HybretError
from .interventions import Binary, Intervention, Keep, Mass, Null, Omit, Only
from .models import Model
from .prompts import Prompt, prompt_key
from .recipe import CORRECTED
from .scoring import normalise

PARTS = ("needle", "question", "answer", "first", "self", "context")
"""What a query attends to, each key counted once: the needle; the question; the template's ending and the answer so
far; the prompt's first token; the query's own position; everything else."""


def generation_arms(model: Model) -> dict[str, Intervention]:
    """What to do during generation, by row label; prefill is left alone.

    Arms that restrict `Only` to some attention layers are left out where there is only one.
    """
    first, *others = model.attention_layers
    by_layer: dict[str, Intervention] = {}
    if others:
        by_layer["Only, in the first attention layer alone"] = Only(layers=(first,))
        by_layer["Only, in all attention layers but the first"] = Only(layers=tuple(others))
    return {
        "Keep": Keep(),
        "Only": Only(),
        "Only + self": Only(also=("self",)),
        "Only + first token": Only(also=("first",)),
        "Only + self + first token": Only(also=("self", "first")),
        "Only + template's ending": Only(also=("answer",)),
        "Only + question": Only(also=("question",)),
        "Only + self + question": Only(also=("self", "question")),
        "Only, renormalised": Only(renormalise=True),
        "Only + self, renormalised": Only(renormalise=True, also=("self",)),
        "Only, mass 2": Only() & Mass(2.0),
        "Only + question, at Only's mass": Only(also=("question",)) & Mass("needle"),
        "Keep, at Only's mass": Mass("needle"),
        **by_layer,
        "Binary": Binary(),
        "Binary, renormalised": Binary() & Mass(1.0),
        "Omit": Omit(),
    }


def prefill_arms() -> dict[str, Intervention]:
    """What to do during prefill, by row label, each to be crossed with several generations."""
    return {
        "Keep": Keep(),
        "Omit": Omit(),
        "Only": Only(),
        "Only + self": Only(also=("self",)),
        "Only + question": Only(also=("question",)),
        "Only + self + question": Only(also=("self", "question")),
        "Only, renormalised": Only(renormalise=True),
        "Null": Null(),
    }


def begun(model: Model, prompt: Prompt, words: int) -> Prompt:
    """The same prompt with the first words of its needle written down already, as the beginning of the answer.

    Parameters
    ----------
    prompt : a prompt with a needle.
    words : how many; 0 gives the prompt itself. The tokens are those of the needle in the prompt.

    Raises
    ------
    HybretError
        Without a needle, or where no token ends with that word.
    """
    if words == 0:
        return prompt
    start, end = prompt.needle_spans[-1] if prompt.needle_spans else (0, 0)
    wanted = prompt.reference.split()[:words]
    for last in range(start + 1, end + 1):
        given = str(model.tokenizer.decode(list(prompt.ids[start:last]))).split()
        if given == wanted and len(wanted) == words:
            ids = (*prompt.ids, *prompt.ids[start:last])
            text = " ".join(wanted)
            return replace(prompt, text=prompt.text + text, ids=ids, key=prompt_key(ids), given=text)
    raise HybretError(
        f"an answer cannot begin with {words} words of the needle here; give fewer than its "
        f"{len(prompt.reference.split())}, and a prompt that holds it"
    )


def attention_parts(model: Model, prompts: Sequence[Prompt], steps: int) -> pd.DataFrame:
    """Where the untouched model's attention goes at its first generation steps.

    Parameters
    ----------
    model : Model
    prompts : sequence of Prompt
        With a needle and a known question. The first step reads the last prompt token (the split of `CORRECTED`).
    steps : int
        Generation steps; fewer where an answer ends.

    Returns
    -------
    DataFrame
        One row per layer, step and part of `PARTS`: mass (0 to 1, mean over heads and prompts; the parts of one step
        sum to 1), top (that of the head with most, mean over prompts), n (prompts).

    Raises
    ------
    HybretError
        If there is no prompt, or one without needle or question.
    """
    if not prompts or not all(p.needle_spans and p.question_span for p in prompts):
        raise HybretError("attention is measured on prompts with a needle and a question; build some with niah.grid")
    found: dict[tuple[str, int, str], list[torch.Tensor]] = defaultdict(list)
    for prompt in prompts:
        trace = Trace(keep_weights=True)
        with parallel_scans(), implementation(model.net):
            state = generation.prefill(model, prompt.ids, [()], prompt.needle_spans, CORRECTED, streaming=True)
            generation.decode(model, state, [()], [prompt.needle_spans], CORRECTED, steps, trace)
        for layer, passes in trace.weights.items():
            for step, weights in enumerate(passes):  # (heads, 1, keys)
                last = len(prompt.ids) - 1 + step
                key_parts = _parts(prompt, torch.arange(last - weights.shape[-1] + 1, last + 1))
                for i, part in enumerate(PARTS):
                    found[layer, step, part].append((weights[:, 0].float() * (key_parts == i)).sum(-1))
    return pd.DataFrame(
        [
            {
                "layer": layer,
                "step": step,
                "part": part,
                "mass": float(torch.stack(heads).mean()),
                "top": float(torch.stack(heads).amax(-1).mean()),
                "n": len(heads),
            }
            for (layer, step, part), heads in found.items()
        ]
    )


def _parts(prompt: Prompt, position: torch.Tensor) -> torch.Tensor:
    """The index in `PARTS` of every key, given its position; the last key is the query's own."""
    assert prompt.question_span is not None  # checked by the caller
    asked, ended = prompt.question_span
    part = torch.full_like(position, PARTS.index("context"))
    part[position == 0] = PARTS.index("first")
    part[(position >= asked) & (position < ended)] = PARTS.index("question")
    part[position >= ended] = PARTS.index("answer")
    for start, end in prompt.needle_spans:
        part[(position >= start) & (position < end)] = PARTS.index("needle")
    part[-1] = PARTS.index("self")
    return part


def words_right(answer: str, reference: str) -> int:
    """With how many words of the needle an answer begins, case and punctuation aside."""
    count = 0
    for said, wanted in zip(normalise(answer).split(), normalise(reference).split(), strict=False):
        if said != wanted:
            break
        count += 1
    return count


def words_asked(prompt: Prompt) -> int:
    """How many words of the needle, from its first one on, stand in the question too."""
    asked = set(normalise(prompt.question).split())
    words = normalise(prompt.reference).split()
    return next((i for i, word in enumerate(words) if word not in asked), len(words))
