"""A model under test, as `hybret.verify` runs it: its prompt, runs that give logits, and a look at its attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor
from transformers import DynamicCache

from hybret.engine.frame import Frame, frame
from hybret.engine.generation import decode, prefill
from hybret.engine.scan import parallel_scans
from hybret.engine.states import State, restore_recurrent, start
from hybret.engine.tracing import implementation
from hybret.interventions import During, Intervention, KeepHeads
from hybret.models import Model
from hybret.recipe import CORRECTED, Recipe

Actions = tuple[Intervention, ...]

STEPS = 6
"""Tokens of an answer."""


@dataclass
class Record:
    """What the attention function reports of one run (`hybret.engine.frame.Recorder`), reduced at once.

    Attributes
    ----------
    kept : dict of str to list of Tensor
        By layer, for each forward pass: bool ``(queries,)``, whether any head's output went on.
    keep_weights, bins
        What is asked of the function: weights, and not in bins.
    wrong : int
        Keys that a query saw and should not have, or the reverse: of the last query and the middle one of every pass.
    """

    window: int | None
    keep_weights: bool = True
    bins: Tensor | None = None
    kept: dict[str, list[Tensor]] = field(default_factory=dict)
    wrong: int = 0

    def add(self, layer: str, **records: Tensor) -> None:
        weights = records["weights"][0]  # (heads, queries, keys)
        queries, keys = weights.shape[1:]
        before = sum(len(x) for x in self.kept.get(layer, ()))
        for query in {queries // 2, queries - 1}:
            seen = (weights[:, query] > 0).any(0)
            own = keys - queries + query  # the column of the query itself
            first = 0 if self.window is None else max(0, own - self.window + 1)
            should = torch.zeros_like(seen)
            should[first : own + 1] = True
            hidden = min(before + query + 1, self.window or before + queries) - int(should.sum())  # not in the cache
            self.wrong += int((seen != should).sum()) + abs(hidden)
        self.kept.setdefault(layer, []).append(records["kept"][0].any(0).cpu())


class Bench:
    """A model under test, its prompt, and runs that give logits.

    Parameters
    ----------
    model : Model
    tokens : int, optional
        Length of the prompt; default the window and 16 more, or 48.
    """

    def __init__(self, model: Model, tokens: int | None = None) -> None:
        self.model = replace(model, eos=frozenset())  # nothing ends an answer
        self.net = model.net
        self.generator = torch.Generator().manual_seed(0)
        self.ids = self.prompt(tokens or (48 if model.window is None else model.window + 16))
        self.scale = 1.0
        self.scale = float(self.plain.std())

    def prompt(self, length: int) -> tuple[int, ...]:
        vocabulary, first = self.net.config.vocab_size, self.net.config.bos_token_id
        ids = torch.randint(3, vocabulary, (length,), generator=self.generator).tolist()
        return (ids[0] if first is None else first, *ids[1:])

    def error(self, a: Tensor, b: Tensor) -> float:
        return float((a.float() - b.float()).abs().max()) / self.scale

    def under(self, actions: Actions, ids: Sequence[int] | None = None, streaming: bool = False) -> Tensor:
        """Logits ``(tokens, vocabulary)`` of one pass through hybret, with `actions` in every attention layer."""
        ids = self.ids if ids is None else ids
        last = torch.tensor([len(ids) - 1], device=self.model.device)
        now = Frame("prefill", [actions], [()], last, CORRECTED, None, streaming)
        with self.engine(), frame(now):
            return self.plainly(ids)

    def plainly(self, ids: Sequence[int], cache: DynamicCache | None = None, read: int = 0) -> Tensor:
        """The same of transformers' own code, after `read` tokens that are in the cache."""
        if cache is None:
            state = start(self.model, 1)
            restore_recurrent(self.net, state.recurrent)
            cache = state.cache
        device = self.model.device
        with torch.inference_mode():
            return self.net(
                input_ids=torch.tensor([list(ids)], device=device),
                position_ids=torch.arange(read, read + len(ids), device=device)[None],
                past_key_values=cache,
                use_cache=True,
            ).logits[0]

    @contextmanager
    def engine(self) -> Iterator[None]:
        """As hybret runs a model."""
        with parallel_scans(), implementation(self.net):
            yield

    @contextmanager
    def logits(self) -> Iterator[list[Tensor]]:
        """The logits ``(rows, vocabulary)`` after the last token of every pass inside the block."""
        found: list[Tensor] = []
        hook = self.net.register_forward_hook(lambda _, __, out: found.append(out.logits[:, -1]))
        try:
            yield found
        finally:
            hook.remove()

    @cached_property
    def plain(self) -> Tensor:
        return self.plainly(self.ids)

    def prefill(self, rows: Sequence[Actions] = ((),), ids: Sequence[int] | None = None) -> State:
        with self.engine():
            return prefill(self.model, self.ids if ids is None else ids, rows, (), CORRECTED, streaming=True)

    def decode(self, state: State, rows: Sequence[Actions] = ((),)) -> tuple[list[list[int]], Tensor]:
        """Answers, and the logits ``(steps, rows, vocabulary)`` behind them."""
        with self.engine(), self.logits() as found:
            answers = decode(self.model, state, rows, [()] * len(rows), CORRECTED, STEPS)
        return answers, torch.stack(found)

    def recorded(self, during: During, recipe: Recipe, k: int) -> tuple[Record, list[Tensor]]:
        """A whole answer with `k` heads kept in one phase, watched, and the logits after each of its passes."""
        record, action = Record(self.model.window), KeepHeads(k, during=during)
        with self.engine(), self.logits() as found:
            state = prefill(self.model, self.ids, [action.at("prefill")], (), recipe, record)  # type: ignore[arg-type]
            decode(self.model, state, [action.at("generation")], [()], recipe, STEPS, record)  # type: ignore[arg-type]
        return record, found
