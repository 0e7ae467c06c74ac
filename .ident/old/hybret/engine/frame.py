"""What the generation loop declares for a forward pass: phase, each row's intervention, and where the rows stand."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from hybret.anatomy import attention_layers
from hybret.engine.acting import Did
from hybret.errors import HybretError
from hybret.fitting import needs_question, no_question
from hybret.interventions import Intervention, KeepHeads, Mass, Only, Phase
from hybret.recipe import Recipe

ALL = slice(None)
Spans = tuple[tuple[int, int], ...]
Question = tuple[int, int] | None


class Recorder(Protocol):
    """What a frame may carry to have each layer's attention recorded (`hybret.engine.tracing.Trace`)."""

    keep_weights: bool
    bins: Tensor | None

    def add(self, layer: str, **records: Tensor) -> None: ...


@dataclass
class Frame:
    """What the generation loop declares for one forward pass.

    Parameters
    ----------
    phase : {"prefill", "generation"}
    rows : sequence of tuple of Intervention
        For each row of the batch, the elementary interventions of this phase.
    spans : sequence of Spans
        For each row, the needle's half-open token intervals, in absolute positions of its own prompt.
    last : Tensor
        Absolute position of the last query token of each row, shape ``(rows,)``.
    streaming : bool
        Let a prefill without padding run without forming the weights (`hybret.engine.streaming`), where it can.
    right_aligned : bool
        The one query of each row is its last token, and key columns before the row's first token are padding: the mask
        follows from `last`, and transformers need not make one at every step.
    questions : sequence of Question
        For each row, the question's half-open token interval, as `spans`; only interventions that keep it need it.
    """

    phase: Phase
    rows: Sequence[tuple[Intervention, ...]]
    spans: Sequence[Spans]
    last: Tensor
    recipe: Recipe
    trace: Recorder | None = None
    streaming: bool = False
    right_aligned: bool = False
    questions: Sequence[Question] = ()
    outputs: Tensor | None = field(init=False, default=None)
    calls: int = field(init=False, default=0)  # of attention modules that do not know which layer they serve
    acted: Did = field(init=False, default_factory=Counter)  # what this frame did; `settle` compares it
    due: Did = field(init=False, default_factory=Counter)  # with what one pass has to do
    keep_heads: dict[str, tuple[Tensor, Tensor]] = field(init=False, default_factory=dict)
    manipulations: list[tuple[Intervention, Tensor]] = field(init=False, default_factory=list)
    bounds: Tensor = field(init=False)  # of the needle's copies, (rows, copies, 2)
    asked: Tensor = field(init=False)  # bounds of the question, (rows, 2)
    streams: bool = field(init=False)  # no record of the weights is wanted, and no row's values change twice

    def __post_init__(self) -> None:
        # Once per phase, not once per layer and step: which rows are gated with which k, which are manipulated how.
        device = self.last.device
        gates: dict[str, dict[int, int]] = {}
        changed: dict[tuple[int, Intervention], list[int]] = {}
        for row, actions in enumerate(self.rows):
            for order, action in enumerate(actions):
                if isinstance(action, KeepHeads):
                    chosen = gates.setdefault(action.metric, {})
                    chosen[row] = min(action.k, chosen.get(row, action.k))
                else:
                    changed.setdefault((order, action), []).append(row)
        once = [row for rows in changed.values() for row in rows] + list(gates.get("l2", ()))
        plain = self.streaming and self.phase == "prefill" and not self.trace
        plain &= not any(isinstance(action, Mass) for _, action in changed)
        self.streams = plain and len(set(once)) == len(once)
        self.questions = self.questions or [None] * len(self.rows)
        # Rows that do not keep their question may not have one.
        self.asked = torch.tensor([question or (0, 0) for question in self.questions], device=device).reshape(-1, 2)
        if any(needs_question(row) and not question for row, question in zip(self.rows, self.questions, strict=True)):
            raise no_question()
        for metric, chosen in gates.items():
            self.keep_heads[metric] = (
                torch.tensor(list(chosen), device=device),
                torch.tensor(list(chosen.values()), device=device),
            )
        slots = max((len(spans) for spans in self.spans), default=0)
        padded = [[*spans, *[(0, 0)] * (slots - len(spans))] for spans in self.spans]
        shift = 1 if self.recipe.needle_span == "shifted" else 0
        self.bounds = torch.tensor(padded, device=device).reshape(len(padded), slots, 2) - shift
        for (_, action), rows in sorted(changed.items(), key=lambda item: item[0][0]):
            self.manipulations.append((action, torch.tensor(rows, device=device)))

    @property
    def acts(self) -> bool:
        return bool(self.keep_heads or self.manipulations or self.trace)

    def on(self, device: torch.device) -> Frame:
        """The same for a layer on another device, where a model is spread over several."""
        if self.last.device == device:
            return self
        moved = copy.copy(self)
        moved.last, moved.bounds, moved.asked = (x.to(device) for x in (self.last, self.bounds, self.asked))
        moved.keep_heads = {name: (rows.to(device), k.to(device)) for name, (rows, k) in self.keep_heads.items()}
        moved.manipulations = [(action, rows.to(device)) for action, rows in self.manipulations]
        return moved

    def position(self, keys: int, rows: Tensor | slice = ALL) -> Tensor:
        """Absolute position of each key column, ``(rows, keys)``; the last column is the last query's own."""
        return self.last[rows, None] - (keys - 1) + torch.arange(keys, device=self.last.device)

    def on_needle(self, keys: int, rows: Tensor | slice = ALL) -> Tensor:
        """bool ``(rows, keys)``: which key columns hold needle tokens, in all rows or some of them."""
        position = self.position(keys, rows)[:, None]
        first, end = self.bounds[rows].unbind(-1)
        return ((position >= first[..., None]) & (position < end[..., None])).any(1)

    def spared(self, action: Only, keys: int, rows: Tensor | slice = ALL) -> Tensor:
        """bool ``(rows, keys)``: the key columns that `action` leaves to every query, so all but its own position."""
        found, position = self.on_needle(keys, rows), self.position(keys, rows)
        if "first" in action.also:
            found |= position == 0
        if needs_question([action]):
            edge = 0 if "question" in action.also else 1
            found |= position >= self.asked[rows, edge, None]
        return found

    def binned(self, weights: Tensor, bins: Tensor) -> Tensor:
        """`weights` ``(rows, heads, queries, keys)``, in bins of positions: ``(rows, heads, bins, queries)``."""
        position = self.position(weights.shape[-1])
        index = bins.to(weights.device)[position.clamp_min(0)][:, None, None]  # padding has no weight in any bin
        sums = weights.new_zeros((*weights.shape[:3], int(bins.max()) + 1))
        return sums.scatter_add_(-1, index.expand_as(weights), weights).transpose(2, 3)

    def layer(self, module: Any) -> int:
        """Which layer of the model this call serves; Zamba's layers share their attention modules and come in order."""
        if module.layer_idx is not None and module.layer_idx >= 0:
            return int(module.layer_idx)
        layers, _ = attention_layers(module.config, module.config.model_type)
        self.calls += 1
        return layers[(self.calls - 1) % len(layers)]

    def manipulations_in(self, layer: int) -> list[tuple[Intervention, Tensor]]:
        """What acts on the weights in this layer, in order, and on which rows."""
        return [
            (action, rows)
            for action, rows in self.manipulations
            if not isinstance(action, Only) or action.layers is None or layer in action.layers
        ]


_FRAME: ContextVar[Frame | None] = ContextVar("hybret_frame", default=None)
# Configurations (by identity) of the models that have an intervention attached.
_ATTACHED: ContextVar[frozenset[int]] = ContextVar("hybret_attached", default=frozenset())


@contextmanager
def guarded(config: object) -> Iterator[None]:
    """Refuse forward passes without a declared phase, for models with this configuration, inside the block."""
    token = _ATTACHED.set(_ATTACHED.get() | {id(config)})
    try:
        yield
    finally:
        _ATTACHED.reset(token)


@contextmanager
def frame(value: Frame) -> Iterator[Frame]:
    """Declare what the forward passes inside the block are."""
    token = _FRAME.set(value)
    try:
        yield value
    finally:
        _FRAME.reset(token)


def declared_frame() -> Frame | None:
    """The frame of the block that runs now."""
    return _FRAME.get()


def declared_for(module: Any) -> Frame | None:
    """The frame of this forward pass; an attached model whose loop declared none is a mistake, not a plain run."""
    current = declared_frame()
    if current is None and id(module.config) in _ATTACHED.get():
        raise HybretError(
            "this forward pass has no declared phase; call model.generate, or wrap it in `with hybret.phase(...)`"
        )
    return current
