"""A quick retrieval test for training: how much of an answer a model predicts, with and without its attention.

The answers are teacher-forced: prompt and answer go through the model together, in one pass and without a KV cache.
If the best token is right at every place of the answer, greedy decoding gives exactly this answer, so `exact` is the
rate of exact greedy answers. `tokens` is the share of right tokens; part of an answer repeats the question, so it is
above 0 long before anything is retrieved. Both are fractions (0 to 1).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from hybret.niah import PAPER_NEEDLE, Needle, Prompt, grid
from hybret.organisms.facts import HELD_OUT_TEMPLATES, random_words_fact

BUFFER = 40
"""Tokens of a length label that are neither haystack nor needle, as in the organisms' sweeps."""

CONDITIONS = ("all", "k=0 generation", "k=0 prefill")
"""Attention as it is; its output zeroed from the last prompt token on; zeroed everywhere."""


def probe(model: Any, tokenizer: PreTrainedTokenizerBase, full: bool = False) -> dict[str, dict[str, dict[str, float]]]:
    """Retrieval of the paper's needle inside and outside the attention window, and of unseen facts.

    Parameters
    ----------
    model : a RecurrentGemma of transformers, on any device; its training mode is restored.
    tokenizer : its tokenizer.
    full : more depths, and also unseen templates, a needle of random words and the prompt read twice.

    Returns
    -------
    dict : group of prompts -> condition (`CONDITIONS`) -> `exact`, `tokens` (fractions) and `n` (prompts).
    """
    groups = _prompts(tokenizer, model.config.attention_window_size, full)
    training = model.training
    model.eval()
    try:
        return {
            group: {condition: _measure(model, tokenizer, prompts, condition) for condition in CONDITIONS}
            for group, prompts in groups.items()
            if prompts
        }
    finally:
        model.train(training)


@lru_cache(maxsize=4)
def _prompts(tokenizer: Any, window: int, full: bool) -> dict[str, list[Prompt]]:
    """The groups of prompts, made once per tokenizer and window."""
    lengths = [window // 2, window, 2 * window]
    groups: dict[str, list[Prompt]] = {"inside": [], "outside": []}
    for prompt in _grid(tokenizer, lengths, 10 if full else 8, PAPER_NEEDLE):
        distance = len(prompt.ids) - prompt.needle_spans[-1][0]
        groups["inside" if distance < window else "outside"].append(prompt)
    if full:
        rng = random.Random("probe")
        facts = {f"template {t.name}": t.sample(rng) for t in HELD_OUT_TEMPLATES}
        facts["random words"] = random_words_fact(0)
        for name, fact in facts.items():
            needle = Needle(name, fact.sentence, fact.questions[0])
            groups[name] = _grid(tokenizer, lengths[:1], 5, needle)
        groups["jrt"] = _grid(tokenizer, lengths[:2], 5, PAPER_NEEDLE, "jrt")
    return groups


def _grid(tokenizer: Any, lengths: Sequence[int], depths: int, needle: Needle, template: str = "base") -> list[Prompt]:
    cost = len(tokenizer(needle.insertion, add_special_tokens=False)["input_ids"])
    lengths = sorted({max(length, BUFFER + cost + 1) for length in lengths})
    return grid(tokenizer, lengths, depths, template, needle=needle, buffer=BUFFER)


@torch.no_grad()
def _measure(model: Any, tokenizer: Any, prompts: Sequence[Prompt], condition: str) -> dict[str, float]:
    answers = [tokenizer(p.reference, add_special_tokens=False)["input_ids"] for p in prompts]
    rows = [[*p.ids, *answer] for p, answer in zip(prompts, answers, strict=True)]
    longest = max(map(len, rows))
    # Padding on the right cannot be seen from the answer, since every layer is causal.
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=model.device)
    starts = torch.tensor([len(p.ids) for p in prompts], device=model.device)
    at = torch.arange(longest, device=model.device)
    zeroed = at >= (starts[:, None] - 1 if condition == "k=0 generation" else 0)

    def silence(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0].masked_fill(zeroed[..., None], 0), *inputs[1:])

    hooks = []
    if condition != "all":
        hooks = [m.register_forward_pre_hook(silence) for n, m in model.named_modules() if n.endswith("o_proj")]
    try:
        best = model(ids, use_cache=False).logits[:, :-1].argmax(-1)
    finally:
        for hook in hooks:
            hook.remove()
    ends = torch.tensor([len(row) for row in rows], device=model.device)
    asked = (at[1:] >= starts[:, None]) & (at[1:] < ends[:, None])
    right = (best == ids[:, 1:]) & asked
    return {
        "exact": float((right == asked).all(1).float().mean()),
        "tokens": float(right.sum() / asked.sum()),
        "n": len(prompts),
    }
