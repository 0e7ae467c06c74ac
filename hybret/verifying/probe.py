"""A model under test: a prompt of random tokens, and runs of it that give logits, for the checks of `hybret.verify`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hybret.engine.attach import Trace, implementation
from hybret.engine.context import ForwardContext, Question, Spans, forward_context
from hybret.engine.decode import decode, prefill, prefill_chunk, prompt_tokens
from hybret.engine.scan import parallel_scans
from hybret.engine.state import State, empty_state, restore_recurrent
from hybret.interventions import Actions, During, Elementary
from hybret.interventions.heads import KeepHeads
from hybret.models import Model
from hybret.recipe import CORRECTED, Recipe
from hybret.resolving import resolve

STEPS = 6
"""Tokens of an answer."""
LONGEST = 8192
"""Tokens up to which a turn is passed by default: weights of attention are formed, and take the square of them."""
TURNS = ("attention_chunk_size", "block_size", "chunk_size", "mamba_chunk_size", "original_max_position_embeddings")


def turns(model: Model) -> dict[str, int]:
    """Lengths, in tokens, past which a model reads in another way than before: by their names in its configuration."""
    config = model.net.config.to_dict()
    rope = config.get("rope_parameters") or {}
    places = [config, rope, *(part for part in rope.values() if isinstance(part, dict))]
    found = {name: part[name] for part in places for name in TURNS if isinstance(part.get(name), int)}
    if any(part.get("rope_type") == "dynamic" for part in places):
        found["max_position_embeddings"] = config["max_position_embeddings"]
    # 64: the chunks of the gated delta rule, which no configuration names
    return {"chunks of a scan": 64, "window": model.window or 0} | found


class Probe:
    """A model under test, its prompt, and runs that give logits; `tokens` default to 16 past every turn (`turns`)."""

    def __init__(self, model: Model, tokens: int | None = None) -> None:
        self.model = replace(model, eos=frozenset())  # nothing ends an answer
        self.net = model.net
        self.generator = torch.Generator().manual_seed(0)
        self.turns = turns(model)
        self.ids = self.prompt(tokens or 16 + max(n for n in self.turns.values() if n + 16 <= LONGEST))
        self.plain = self.plainly(self.ids)
        self.scale = float(self.plain.std())

    def prompt(self, length: int) -> tuple[int, ...]:
        vocabulary, first = self.net.config.vocab_size, self.net.config.bos_token_id
        ids = torch.randint(3, vocabulary, (length,), generator=self.generator).tolist()
        return (ids[0] if first is None else first, *ids[1:])

    def error(self, a: Tensor, b: Tensor) -> float:
        return float((a.float() - b.float()).abs().max()) / self.scale

    def plainly(self, *rows: Sequence[int], cache: Any = None, **inputs: Tensor | None) -> Tensor:
        """Logits ``(rows, tokens, vocabulary)``, of one prompt without rows, in one pass of transformers' own code.

        Positions count from 0 unless `inputs` has them.
        """
        ids = torch.tensor([list(row) for row in rows], device=self.model.device)
        inputs = inputs or {"position_ids": torch.arange(ids.shape[1], device=ids.device)[None]}
        cache = self.fresh(len(rows)) if cache is None else cache
        with torch.inference_mode():
            logits: Tensor = self.net(input_ids=ids, past_key_values=cache, use_cache=True, **inputs).logits
        return logits[0] if len(rows) == 1 else logits

    def fresh(self, rows: int = 1) -> Any:
        """A cache of transformers before the first token."""
        state = empty_state(self.model, 1)
        restore_recurrent(self.net, [x.expand(rows, *x.shape[1:]) for x in state.recurrent])
        return state.cache

    def in_parts(self, *cuts: int, positions: bool = True) -> float:
        """The error of transformers' own code that reads the prompt in parts, each ending at a cut."""
        cache, parts = self.fresh(), []
        for a, b in pairwise((0, *cuts)):
            at = torch.arange(a, b, device=self.model.device)[None] if positions else None
            parts.append(self.plainly(self.ids[a:b], cache=cache, position_ids=at))
        return self.error(torch.cat(parts), self.plain)

    def under(self, *actions: Elementary, ids: Sequence[int] | None = None) -> Tensor:
        """Logits ``(2, tokens, vocabulary)`` with `actions` in every layer: forming the weights, and streaming."""
        ids = self.ids if ids is None else ids
        last, passes = torch.tensor([len(ids) - 1], device=self.model.device), []
        for streaming in (False, True):
            context = ForwardContext("prefill", [actions], [()], last, CORRECTED, None, streaming)
            with parallel_scans(), implementation(self.net), forward_context(context):
                passes.append(self.plainly(ids))
        return torch.stack(passes)

    @contextmanager
    def logits(self) -> Iterator[list[Tensor]]:
        """As hybret runs a model; the logits ``(rows, vocabulary)`` after the last token of every pass in the block."""
        passes: list[Tensor] = []
        watched = self.net.register_forward_hook(lambda _, __, out: passes.append(out.logits[:, -1]))
        with watched, parallel_scans(), implementation(self.net):
            yield passes

    def read(
        self, ids: Sequence[int], *cuts: int, rows: Sequence[Actions] = ((),), state: Any = None, streaming: bool = True
    ) -> tuple[State, Tensor]:
        """The state after a prompt, and the logits at every cut at which a chunk of it ends (default: one for all)."""
        state, (spans, question) = state or empty_state(self.model, len(rows)), places(ids)
        with self.logits() as passes:
            for end in cuts or [prompt_tokens(self.model, ids, CORRECTED)]:
                state = prefill_chunk(self.model, state, ids, end, rows, spans, CORRECTED, streaming, question=question)
        return state, torch.cat(passes)

    def decode(
        self, state: State, rows: Sequence[Actions] = ((),), prompts: Sequence[Sequence[int]] | None = None
    ) -> tuple[list[list[int]], Tensor]:
        """Answers, and the logits ``(steps, rows, vocabulary)`` behind them."""
        spans, questions = zip(*map(places, prompts or [self.ids] * len(rows)), strict=True)
        with self.logits() as passes:
            answers = decode(self.model, state, rows, spans, CORRECTED, STEPS, questions=questions)
        return answers, torch.stack(passes)

    def recorded(
        self, during: During = "both", recipe: Recipe = CORRECTED, k: int | None = None, weights: bool = False
    ) -> tuple[Trace, Tensor]:
        """An answer with `k` heads (all) kept in one phase, traced, and the logits that prefill leaves."""
        trace = Trace(keep_weights=weights)
        action = resolve(KeepHeads(self.model.heads if k is None else k, during=during), self.model, recipe)
        with self.logits() as passes:
            state = prefill(self.model, self.ids, [action.prefill], (), recipe, trace)
            decode(self.model, state, [action.generation], [()], recipe, STEPS, trace)
        return trace, passes[0][0]


def places(ids: Sequence[int]) -> tuple[Spans, Question]:
    """Tokens of a prompt that stand for its needle and its question."""
    return ((len(ids) // 3, len(ids) // 2 + 1),), (len(ids) - 1, len(ids))
