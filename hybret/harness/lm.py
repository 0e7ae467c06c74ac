"""A hybrid as lm-evaluation-harness sees it: a model that answers requests, here under several conditions at once.

How lm-eval 0.4.13 writes a multiple-choice question for a chat model, from its code: shots are turns of the chat, the
blank before an answer is dropped, and the last turn ends with the generation prompt, such as the line ``ASSISTANT:``
with its line break. `TemplateLM._encode_pair` then moves white space at the end of the context into the continuation
(the line break, then ``A``), and tokenises both as one text. So the model reads exactly the tokens that a training
document has there; and where the line break is a token of its own, its log-probability is added to every choice alike,
which changes no ranking. Base models read ``Answer:`` and `` A``, shots joined by blank lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

import jinja2
import torch
from lm_eval.api.model import TemplateLM

from hybret.devices import Budget, budget_of
from hybret.engine.likelihood import Answer, log_likelihoods
from hybret.errors import HybretError
from hybret.interventions import Intervention
from hybret.models import Model
from hybret.recipe import Recipe


class Hybrid(TemplateLM):
    """What lm-eval gets are the answers under the first condition; `scores` has those under all.

    lm-eval's own ``HFLM`` would do, at a price: it needs two more packages (accelerate, peft), forms the logits of
    every position, reads the shots again for every document, and runs the layers below the first attention layer again
    for every condition. What it computes is the same (measured on three small models: log-likelihoods within 2e-5).
    """

    def __init__(
        self,
        model: Model,
        conditions: Mapping[str, Intervention],
        recipe: Recipe,
        max_length: int | None = None,
        budget: Budget | None = None,
        bar: Any = None,
    ) -> None:
        super().__init__()
        self.hybrid, self.conditions, self.recipe = model, dict(conditions), recipe
        self.tokenizer, self.max_length, self.budget, self.bar = model.tokenizer, max_length, budget, bar
        self.shots: dict[str, tuple[int, ...] | None] = {}
        # lm-eval asks for each context again with every choice.
        self._ids = lru_cache(maxsize=16)(
            lambda text, special: tuple(self.tokenizer.encode(text, add_special_tokens=special))
        )
        self.scores: dict[tuple[str, str], dict[str, Answer]] = {}  # by context and continuation, then by condition
        self.tokens: dict[str, int] = {}  # of each context, as long as it was before anything was cut

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        return self.hybrid.name

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        # A chat template writes BOS itself.
        bos = self.tokenizer.bos_token
        if add_special_tokens is None:
            add_special_tokens = not (bos and string.startswith(bos))
        # The shots of a chat end with EOS, and tokenisers cut a text at its special tokens before anything else: the
        # shots are tokenised once. That this tokeniser does so is checked with the first text behind them.
        shots, eos, rest = string.rpartition(self.tokenizer.eos_token) if self.tokenizer.eos_token else ("", "", string)
        shots += eos
        if shots not in self.shots:
            ids = self._ids(shots, add_special_tokens)
            apart = bool(eos) and ids + self._ids(rest, False) == self._ids(string, add_special_tokens)
            self.shots[shots] = ids if apart else None
        before = self.shots[shots]
        return [*self._ids(string, add_special_tokens)] if before is None else [*before, *self._ids(rest, False)]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": add_generation_prompt}
        options["continue_final_message"] = not add_generation_prompt
        write: Any = partial(self.tokenizer.apply_chat_template, **options)
        try:
            return str(write(chat_history))
        except jinja2.exceptions.TemplateError as problem:
            if not any(turn["role"] == "system" for turn in chat_history):
                raise HybretError(f"the chat template of {self.hybrid.name} fails: {problem}") from problem
            # A template without a system turn; so does lm-eval's HFLM.
            return self.apply_chat_template(
                [turn for turn in chat_history if turn["role"] != "system"], add_generation_prompt
            )

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Answer]:
        return list(super().loglikelihood(requests, disable_tqdm=True))

    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[Answer]:
        texts, pairs = [strings for strings, _, _ in requests], []
        for strings, context, continuation in requests:
            self.tokens[strings[0]] = len(context)
            if self.max_length is not None:
                context = context[max(0, len(context) + len(continuation) - self.max_length - 1) :]
            pairs.append((tuple(context), tuple(continuation)))
        budget = self.budget or budget_of(self.hybrid, max(len(a) + len(b) for a, b in pairs))
        while True:
            try:
                answers = log_likelihoods(self.hybrid, pairs, list(self.conditions.values()), self.recipe, budget)
                break
            except torch.OutOfMemoryError as problem:
                if budget == budget.half():
                    fault = f"{self.hybrid.name} does not fit on {self.hybrid.device} even one text at a time"
                    remedy = "use a larger device or a smaller dtype (finished tasks are kept)"
                    raise HybretError(f"{fault}; {remedy}") from problem
                budget = budget.half()
                torch.cuda.empty_cache()
        for strings, *scores in zip(texts, *answers, strict=True):
            self.scores[strings] = dict(zip(self.conditions, scores, strict=True))
        if self.bar is not None:
            self.bar.update(len(texts) * len(self.conditions))
        return [next(iter(self.scores[strings].values())) for strings in texts]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        raise HybretError("a benchmark that asks for the likelihood of whole texts is not one of multiple choice")

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        raise HybretError("a benchmark that asks for generated text is not one of multiple choice")
