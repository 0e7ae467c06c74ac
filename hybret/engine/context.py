"""What a forward pass is, as its loop declares it: phase, each row's interventions, and where the rows stand."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hybret.engine.keys import Keys, Question, Spans, needle_of
from hybret.errors import HybretError
from hybret.families import attention_layers
from hybret.interventions import Actions, Gate, Mix, Phase, Reweight

if TYPE_CHECKING:
    from hybret.engine.attach import Attached, Trace
    from hybret.hybrid import Hybrid
    from hybret.recipe import Recipe


@dataclass
class ForwardContext:
    """One forward pass. Needle and question are half-open intervals of absolute positions in the row's own prompt."""

    phase: Phase
    rows: Sequence[Actions]  # for each row of the batch, what acts on it in this phase
    spans: Sequence[Spans]
    last: Tensor  # (rows,): absolute position of each row's last query token
    recipe: Recipe
    trace: Trace | None = None
    # Let a prefill without padding run without forming the weights (`hybret.engine.streaming`), where it can.
    streaming: bool = False
    # The one query of each row is its last token, and key columns before the row's first token are padding: the mask
    # follows from `last`, and transformers need not make one at every step.
    right_aligned: bool = False
    questions: Sequence[Question] = ()
    outputs: Tensor | None = field(init=False, default=None)  # of the layer that streamed last, for all rows
    calls: Counter[int] = field(init=False, default_factory=Counter)  # of attention, by layer
    gates: list[tuple[Gate, Tensor, Tensor]] = field(init=False, default_factory=list)  # on which rows, with which k
    mixes: list[tuple[Mix, Tensor]] = field(init=False, default_factory=list)  # on which rows
    mixed: Counter[int] = field(init=False, default_factory=Counter)  # calls of mixers in which any of them acted
    changes: list[tuple[Reweight, Tensor]] = field(init=False, default_factory=list)  # in order, and on which rows
    needle_bounds: Tensor = field(init=False)  # (rows, copies, 2)
    question_bounds: Tensor = field(init=False)  # (rows, 2)
    streams: bool = field(init=False)

    def __post_init__(self) -> None:
        # Once per phase, not once per layer and step.
        device = self.last.device
        gates: dict[Gate, dict[int, int]] = {}
        changes: dict[tuple[int, Reweight], list[int]] = {}
        mixes: dict[Mix, list[int]] = {}
        self.questions = self.questions or [None] * len(self.rows)
        for row, (actions, question) in enumerate(zip(self.rows, self.questions, strict=True)):
            for order, action in enumerate(actions):
                if question is None and "question" in action.needs:
                    raise HybretError(
                        f"{action.label} needs the question, and a row does not say where its question is"
                    )
                if isinstance(action, Gate):
                    ks = gates.setdefault(action.group, {})
                    ks[row] = min(action.k, ks.get(row, action.k))
                elif isinstance(action, Mix):
                    mixes.setdefault(action, []).append(row)
                elif isinstance(action, Reweight):
                    changes.setdefault((order, action), []).append(row)
        self.gates = [
            (gate, torch.tensor(list(ks), device=device), torch.tensor(list(ks.values()), device=device))
            for gate, ks in gates.items()
        ]
        self.mixes = [(action, torch.tensor(rows, device=device)) for action, rows in mixes.items()]
        self.changes = [
            (action, torch.tensor(rows, device=device))
            for (_, action), rows in sorted(changes.items(), key=lambda item: item[0][0])
        ]
        # Rows that do not need their question may not have one.
        self.question_bounds = torch.tensor([q or (0, 0) for q in self.questions], device=device).reshape(-1, 2)
        needles = [needle_of(spans, self.recipe) for spans in self.spans]
        copies = max(map(len, needles), default=0)
        padded = [[*spans, *[(0, 0)] * (copies - len(spans))] for spans in needles]
        self.needle_bounds = torch.tensor(padded, device=device).reshape(len(padded), copies, 2)
        # The weights need not be formed if nobody records them, and no row's outputs change twice.
        once = [row for rows in changes.values() for row in rows]
        once += [row for gate, ks in gates.items() if gate.measure == "output-norm" for row in ks]  # unmodified ones
        streams = len(set(once)) == len(once) and all(action.streams for action, _ in self.changes)
        self.streams = streams and self.streaming and self.phase == "prefill" and self.trace is None

    @property
    def acts(self) -> bool:
        return bool(self.gates or self.changes or self.mixes or self.trace)

    def on(self, device: torch.device) -> ForwardContext:
        """The same for a layer on another device, where a model is spread over several."""
        if self.last.device == device:
            return self
        moved = copy.copy(self)  # it counts its calls in the same place
        for name in ("last", "needle_bounds", "question_bounds"):
            setattr(moved, name, getattr(self, name).to(device))
        moved.gates = [(gate, rows.to(device), k.to(device)) for gate, rows, k in self.gates]
        moved.changes = [(action, rows.to(device)) for action, rows in self.changes]
        return moved

    def keys(self, keys: int, rows: Tensor | slice = slice(None), unmasked: Tensor | None = None) -> Keys:
        """What is in the key columns of all rows, or some."""
        bounds = self.needle_bounds[rows], self.question_bounds[rows]
        return Keys(keys, self.last[rows], *bounds, self.recipe, unmasked)

    def binned(self, weights: Tensor, bins: Tensor) -> Tensor:
        """`weights` ``(rows, heads, queries, keys)``, in bins of positions: ``(rows, heads, bins, queries)``."""
        position = self.keys(weights.shape[-1]).position
        index = bins.to(weights.device)[position.clamp_min(0)][:, None, None]  # padding has no weight in any bin
        sums = weights.new_zeros((*weights.shape[:3], int(bins.max()) + 1))
        return sums.scatter_add_(-1, index.expand_as(weights), weights).transpose(2, 3)

    def enter(self, module: Any) -> int:
        """Count a call of attention; the layer that it serves. Zamba's layers share their modules and come in order."""
        layer = module.layer_idx
        if layer is None or layer < 0:
            layers, _ = attention_layers(module.config, module.config.model_type)
            layer = layers[self.calls.total() % len(layers)]
        self.calls[int(layer)] += 1
        return int(layer)


def check_layers_called(context: ForwardContext, model: Hybrid, passes: int = 1) -> None:
    """After `passes` forward passes: each went through this context in every attention layer, once.

    A layer whose attention ran elsewhere, or without the context, gave the unmodified model's numbers in silence.
    """
    if not context.acts:
        return
    mixing = {layer for action, _ in context.mixes for layer in action.layers or action.places(model)}
    for what, calls, layers in (
        ("attention", context.calls, {*model.attention_layers}),
        ("the recurrent mixer", context.mixed, mixing),
    ):
        for layer in {*layers, *calls}:
            if calls[layer] != (expected := passes if layer in layers else 0):
                raise HybretError(
                    f"in {context.phase}, {what} acted {calls[layer]} times instead of {expected} in layer {layer} of "
                    f"{model.name}, so nothing measured here would mean anything; see `hybret verify`, and report the "
                    "model and the version of transformers"
                )
        calls.clear()


_CONTEXT: ContextVar[ForwardContext | None] = ContextVar("hybret_context", default=None)
ATTACHED: ContextVar[tuple[Attached, ...]] = ContextVar("hybret_attached", default=())
"""What is attached to models, by nested blocks of `hybret.attach`."""


@contextmanager
def forward_context(context: ForwardContext) -> Iterator[ForwardContext]:
    """Declare what the forward passes inside the block are."""
    token = _CONTEXT.set(context)
    try:
        yield context
    finally:
        _CONTEXT.reset(token)


def current_context(module: Any = None) -> ForwardContext | None:
    """The context of the block that runs; a `module` of an attached model without one is a mistake, not a plain run."""
    context = _CONTEXT.get()
    if context is None and module is not None and any(module.config is on.model.net.config for on in ATTACHED.get()):
        raise HybretError(
            "this forward pass has no declared phase; call model.generate, or wrap it in `with hybret.phase(...)`"
        )
    return context
