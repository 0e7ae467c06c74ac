"""A quick retrieval test for training: how much of an answer a model predicts, with and without its attention.

The answers are teacher-forced: prompt and answer go through the model together, in one pass and without a KV cache.
If the best token is right at every place of the answer, greedy decoding gives exactly this answer, so `exact` is the
rate of exact greedy answers. `tokens` is the share of right tokens; part of an answer repeats the question, so it is
above 0 long before anything is retrieved. Both are fractions (0 to 1).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hybret.organisms.facts import HELD_OUT_TEMPLATES, random_words_fact
from hybret.organisms.own import OWN
from hybret.organisms.skills import LETTERS, TASKS, items, rendered
from hybret.prompts import PAPER_NEEDLE, Needle, Prompt
from hybret.tasks.niah import grid

BUFFER = 40
"""Tokens of a length label that are neither haystack nor needle, as in the organisms' sweeps."""

PAPER = ("inside", "outside", "jrt")
"""Groups of prompts with the paper's needle; the others are not probed with attention zeroed from the start."""
FACTS = 20
"""Facts of every held-out form, each at one depth."""

CONDITIONS = ("all", "k=0 generation", "k=0 prefill")
"""Attention as it is; its output zeroed from the last prompt token on; zeroed everywhere."""


def probe(model: Any, tokenizer: PreTrainedTokenizerBase, full: bool = False) -> dict[str, dict[str, dict[str, float]]]:
    """Retrieval of the paper's needle inside and outside the attention window, and of facts of unseen forms.

    Parameters
    ----------
    model : a RecurrentGemma or Jamba of transformers, on any device; its training mode is restored.
    tokenizer : its tokenizer.
    full : also held-out forms, sentences of a person's own, needles of random words and the prompt read twice; of a
        model with a chat template also the benchmark skills, as groups "skill ...".

    Returns
    -------
    dict : group of prompts -> condition (`CONDITIONS`) -> `exact`, `tokens` (fractions) and `n` (prompts).
    """
    groups = _prompts(tokenizer, getattr(model.config, "attention_window_size", None), *_numbers(model))
    groups = groups if full else {name: groups[name] for name in ("inside", "outside")}
    training = model.training
    model.eval()
    try:
        measures = {
            group: {
                c: _measure(model, tokenizer, prompts, c) for c in (CONDITIONS if group in PAPER else CONDITIONS[:2])
            }
            for group, prompts in groups.items()
            if prompts
        }
        if full and tokenizer.chat_template:
            tasks = list(TASKS) if model.device.type == "cuda" else ["sentiment"]
            measures |= {f"skill {task}": _skill(model, tokenizer, task) for task in tasks}
        return measures
    finally:
        model.train(training)


@torch.no_grad()
def _skill(model: Any, tokenizer: Any, task: str, n: int = 48) -> dict[str, dict[str, float]]:
    """Rate of right answers to a benchmark task (`exact`), zero-shot or with three shots, attention on and zeroed."""
    glue = TASKS[task].group == "glue"
    shots = [] if glue else items(task, "dev", 3)
    tested = items(task, "test", n, seed=99)
    rows = []
    for made in tested:
        messages = []
        for shown in (*shots, made):
            question = shown["question"] if glue else rendered(shown["question"], shown["choices"])
            answer = shown["choices"][shown["answer"]] if glue else LETTERS[shown["answer"]]
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
        rows.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    words = tested[0]["choices"] if glue else LETTERS
    choices = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words]
    ids, lengths = _padded(rows, model.device)
    right = torch.tensor([made["answer"] for made in tested], device=model.device)
    measures = {}
    for condition in ("all", "k=0 prefill"):
        with _zeroed(model, torch.full(ids.shape, condition != "all", device=model.device)):
            logits = model(ids, use_cache=False).logits
        best = logits[torch.arange(len(rows)), lengths - 1][:, choices].argmax(-1)
        measures[condition] = {"exact": float((best == right).float().mean()), "n": n}
    return measures


@torch.no_grad()
def answers(model: Any, tokenizer: Any) -> list[dict[str, str]]:
    """Free greedy answers to all prompts of `probe`: group, question, fact and answer (a few tokens of it on a CPU)."""
    most = 48 if model.device.type == "cuda" else 2
    groups = _prompts(tokenizer, getattr(model.config, "attention_window_size", None), *_numbers(model))
    asked = [(group, prompt) for group, prompts in groups.items() for prompt in prompts]
    made = []
    training = model.training
    model.eval()
    for first in range(0, len(asked), 64):
        part = asked[first : first + 64]
        ids, lengths = _padded([[*prompt.ids, *[0] * most] for _, prompt in part], model.device)
        at, lengths = torch.arange(len(part), device=model.device), lengths - most
        begun = lengths.clone()
        for _ in range(most):
            hidden = model.model(ids[:, : int(lengths.max())], use_cache=False).last_hidden_state
            ids[at, lengths] = model.lm_head(hidden[at, lengths - 1]).argmax(-1)
            lengths = lengths + 1
        for (group, prompt), row, start in zip(part, ids.tolist(), begun.tolist(), strict=True):
            answer = tokenizer.decode(row[start : start + most]).split(tokenizer.eos_token)[0].strip()
            made.append(
                {"group": group, "question": prompt.needle.question, "fact": prompt.needle.sentence, "answer": answer}
            )
    model.train(training)
    return made


def _numbers(model: Any) -> tuple[int, int, int]:
    """Held-out forms, facts of each, and own sentences; one of each on a CPU, which only tries the recipe out."""
    return (len(HELD_OUT_TEMPLATES), FACTS, len(OWN)) if model.device.type == "cuda" else (1, 1, 1)


@lru_cache(maxsize=4)
def _prompts(tokenizer: Any, window: int | None, forms: int, facts: int, own: int) -> dict[str, list[Prompt]]:
    """The groups of prompts, made once per tokenizer and window; with global attention all are "inside"."""
    groups = paper_prompts(tokenizer, window)
    rng = random.Random("probe")
    needles = [(f"form {t.name}", t.sample(rng)) for t in HELD_OUT_TEMPLATES[:forms] for _ in range(facts)]
    needles += [("random words", random_words_fact(i)) for i in range(facts)]
    asked = [(name, fact.sentence, fact.questions[0]) for name, fact in needles]
    asked += [("own", sentence, question) for sentence, question, _ in OWN[:own] for _ in range(3)]
    for i, (name, sentence, question) in enumerate(asked):
        length, depth, needle = 4 * (window or 256) // 5, (0, 33, 67, 100)[i % 4], Needle(name, sentence, question)
        groups.setdefault(name, []).extend(_grid(tokenizer, [length], [depth], needle, seed=i % FACTS))
    return groups


def paper_prompts(tokenizer: Any, window: int | None) -> dict[str, list[Prompt]]:
    """Prompts with the paper's needle: "inside" the window and "outside" of it, read once, and "jrt", read twice."""
    lengths = [128, 256, 512] if window is None else [window // 2, window, 2 * window]
    groups: dict[str, list[Prompt]] = {"inside": [], "outside": []}
    for prompt in _grid(tokenizer, lengths, 10, PAPER_NEEDLE):
        distance = len(prompt.ids) - prompt.needle_spans[-1][0]
        groups["inside" if window is None or distance < window else "outside"].append(prompt)
    groups["jrt"] = _grid(tokenizer, lengths[:2], 5, PAPER_NEEDLE, "jrt")
    return groups


def _grid(
    tokenizer: Any, lengths: Sequence[int], depths: Any, needle: Needle, template: str = "", seed: int = 0
) -> list[Prompt]:
    chat = bool(tokenizer.chat_template)
    template = template or ("instruct" if chat else "base")
    cost = len(tokenizer(needle.insertion, add_special_tokens=False)["input_ids"])
    lengths = sorted({max(length, BUFFER + cost + 1) for length in lengths})
    asked = SimpleNamespace(tokenizer=tokenizer, instruct=chat)
    return grid(asked, lengths, depths, template, seed=seed, needle=needle, buffer=BUFFER)


@torch.no_grad()
def _measure(model: Any, tokenizer: Any, prompts: Sequence[Prompt], condition: str) -> dict[str, float]:
    answers = [tokenizer(p.needle.sentence, add_special_tokens=False)["input_ids"] for p in prompts]
    rows = [[*p.ids, *answer] for p, answer in zip(prompts, answers, strict=True)]
    ids, ends = _padded(rows, model.device)
    starts = torch.tensor([len(p.ids) for p in prompts], device=model.device)
    at = torch.arange(ids.shape[1], device=model.device)
    if condition == "all":
        zeroed = torch.zeros(ids.shape, dtype=torch.bool, device=model.device)
    else:
        zeroed = at >= (starts[:, None] - 1 if condition == "k=0 generation" else torch.zeros_like(starts[:, None]))
    with _zeroed(model, zeroed):
        best = model(ids, use_cache=False).logits[:, :-1].argmax(-1)
    asked = (at[1:] >= starts[:, None]) & (at[1:] < ends[:, None])
    right = (best == ids[:, 1:]) & asked
    return {
        "exact": float((right == asked).all(1).float().mean()),
        "tokens": float(right.sum() / asked.sum()),
        "n": len(prompts),
    }


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids, shape (rows, longest), and the rows' lengths.

    Padding on the right cannot be seen from what stands before it, since every layer is causal.
    """
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    return ids, torch.tensor([len(row) for row in rows], device=device)


@contextmanager
def _zeroed(model: Any, tokens: Tensor) -> Iterator[None]:
    """Inside the block attention gives nothing at these tokens, shape (rows, tokens)."""

    def silence(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].masked_fill(tokens[..., None], 0), *inputs[1:])

    hooks = [m.register_forward_pre_hook(silence) for n, m in model.named_modules() if n.endswith("o_proj")]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
