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

from hybret.hybrid import ORGANISM_BUFFER
from hybret.organisms.facts import HELD_OUT_TEMPLATES, OWN, random_words_fact
from hybret.organisms.skills import LETTERS, TASKS, items, rendered
from hybret.prompts import PAPER_NEEDLE, Needle, Prompt
from hybret.tasks.niah import grid

FACTS = 20  # of every held-out form, each at one depth
PAPER = ("inside", "outside", "jrt")  # groups of prompts with the paper's needle
CONDITIONS = ("all", "k=0 generation", "k=0 prefill")
"""Attention as it is; its output zeroed from the last prompt token on; zeroed everywhere (the paper's needle alone)."""


def probe(model: Any, tokenizer: PreTrainedTokenizerBase, full: bool = False) -> dict[str, dict[str, dict[str, float]]]:
    """Retrieval of the paper's needle: group of prompts -> condition -> `exact`, `tokens` (fractions), `n` (prompts).

    A `full` probe also has held-out forms, a person's own sentences, needles of random words and the prompt read twice;
    of a model with a chat template also the benchmark skills, as groups "skill ...".
    """
    cuda, training = model.device.type == "cuda", model.training
    # Of held-out forms, facts of each and own sentences: one of each on a CPU, which only tries the recipe out.
    numbers = (len(HELD_OUT_TEMPLATES), FACTS, len(OWN)) if cuda else (1, 1, 1)
    groups = _prompts(tokenizer, getattr(model.config, "attention_window_size", None), *numbers)
    groups = groups if full else {name: groups[name] for name in ("inside", "outside")}
    every = 1 if cuda else 8
    model.eval()
    try:
        measures = {
            group: {
                c: _measure(model, tokenizer, prompts[::every], c) for c in CONDITIONS[: 3 if group in PAPER else 2]
            }
            for group, prompts in groups.items()
            if prompts
        }
        if full and tokenizer.chat_template:
            tasks = list(TASKS) if cuda else ["sentiment"]
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
    lengths = sorted({max(length, ORGANISM_BUFFER + cost + 1) for length in lengths})
    asked = SimpleNamespace(tokenizer=tokenizer, instruct=chat)
    return grid(asked, lengths, depths, template, seed=seed, needle=needle, buffer=ORGANISM_BUFFER)


@torch.no_grad()
def _measure(model: Any, tokenizer: Any, prompts: Sequence[Prompt], condition: str) -> dict[str, float]:
    answers = [tokenizer(p.needle.sentence, add_special_tokens=False)["input_ids"] for p in prompts]
    rows = [[*p.ids, *answer] for p, answer in zip(prompts, answers, strict=True)]
    ids, ends = _padded(rows, model.device)
    starts = torch.tensor([len(p.ids) for p in prompts], device=model.device)
    at = torch.arange(ids.shape[1], device=model.device)
    first: Any = {"all": len(at), "k=0 generation": starts[:, None] - 1, "k=0 prefill": 0}[condition]
    with _zeroed(model, at >= first):
        best = model(ids, use_cache=False).logits[:, :-1].argmax(-1)
    asked = (at[1:] >= starts[:, None]) & (at[1:] < ends[:, None])
    right = (best == ids[:, 1:]) & asked
    return {
        "exact": float((right == asked).all(1).float().mean()),
        "tokens": float(right.sum() / asked.sum()),
        "n": len(prompts),
    }


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids, shape (rows, longest), and the rows' lengths; padding is on the right, where no token sees it."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    return ids, torch.tensor([len(row) for row in rows], device=device)


@contextmanager
def _zeroed(model: Any, tokens: Tensor) -> Iterator[None]:
    """Inside the block attention gives nothing at these tokens, shape (rows, tokens) or (tokens,)."""

    def silence(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].masked_fill(tokens[..., None], 0), *inputs[1:])

    hooks = [m.register_forward_pre_hook(silence) for n, m in model.named_modules() if n.endswith("o_proj")]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
