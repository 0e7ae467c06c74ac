"""The one attention function that hybret registers with transformers, and the frame that tells it what to do.

transformers routes every hybrid family through one attention interface, so one function (with a mask registered under
the same name: without it the model silently runs non-causal) reaches all of them and no model code is copied. The
function does what `eager` does, operation by operation; what else it does is declared by a *frame* that the
generation loop sets around each forward pass: the phase, each row's intervention, and where the rows stand.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from hybret.anatomy import attention_layers
from hybret.engine.acting import READ, Did
from hybret.engine.entropy import head_entropy, keep_lowest
from hybret.engine.manipulating import manipulate
from hybret.engine.streaming import prefill as stream
from hybret.errors import HybretError
from hybret.fitting import needs_question, no_question
from hybret.interventions import Intervention, KeepHeads, Mass, Only, Phase
from hybret.recipe import Recipe

NAME = "hybret"

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


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor | None]:
    """Eager attention, with the current frame's interventions.

    Parameters
    ----------
    query : Tensor
        ``(rows, heads, queries, head_dim)``.
    key, value : Tensor
        ``(rows, key-value heads, keys, head_dim)``.
    attention_mask : Tensor or None
        Additive, ``(rows, 1, queries, keys)``.

    Returns
    -------
    output : Tensor
        ``(rows, queries, heads, head_dim)``.
    weights : Tensor or None
        ``(rows, heads, queries, keys)``, as used; None where they were not formed.
    """
    declared = _current(module)
    layer = -1 if declared is None else declared.layer(module)
    current = None if declared is None else declared.on(query.device)
    if declared is not None:
        declared.acted[layer, READ] += 1
    if declared is not None and current is not None and current.streams:
        window = getattr(module, "sliding_window", None)
        output = stream(query, key, value, scaling, window, current, layer)
        declared.outputs = output.transpose(1, 2)
        return declared.outputs[: query.shape[0]], None
    if current is not None and current.right_aligned and attention_mask is None:
        padding = current.position(key.shape[2])[:, None, None] < 0
        attention_mask = torch.zeros(padding.shape, dtype=query.dtype, device=query.device)
        attention_mask.masked_fill_(padding, torch.finfo(query.dtype).min)
    acts = current is not None and current.acts
    if query.shape[2] > 1 or not acts:
        # Operation by operation what eager does, so that a run that changes nothing is bit-identical to it.
        key, value = (_per_head(x, module.num_key_value_groups) for x in (key, value))
    scores = _grouped_matmul(query, key.transpose(2, 3)).mul_(scaling)  # in place: fewer passes over memory
    if attention_mask is not None:
        scores.add_(attention_mask)
    exact = nn.functional.softmax(scores, dim=-1, dtype=torch.float32)
    weights = nn.functional.dropout(exact.to(query.dtype), p=dropout, training=module.training)
    if current is None or not acts:
        return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights
    used = weights
    if manipulations := current.manipulations_in(layer):
        used = weights.clone()
        visible = torch.ones_like(weights[:, :1], dtype=torch.bool)
        if attention_mask is not None:
            visible &= attention_mask == 0  # one mask may serve all rows
        for action, rows in manipulations:
            used[rows] = manipulate(action, used[rows], weights[rows], visible[rows], rows, current)
            current.acted[layer, action] += len(rows)
    output = _grouped_matmul(used, value)
    kept = torch.ones(output.shape[:3], dtype=torch.bool, device=output.device)
    for metric, (rows, k) in current.keep_heads.items():
        if metric == "entropy":
            score = head_entropy(exact if len(rows) == len(exact) else exact[rows], current.recipe)
        else:
            score = -_grouped_matmul(weights[rows], value[rows]).float().norm(dim=-1)
        kept = kept.index_copy(0, rows, kept[rows] & keep_lowest(score, k, current.recipe))
        current.acted[layer, metric] += len(rows)
    if current.keep_heads:
        output = output * kept[..., None]
    if current.trace is not None:
        needle = current.on_needle(key.shape[2])[:, None, None, :]
        current.trace.add(
            f"layer {layer}",
            entropy=head_entropy(exact, current.recipe),
            needle_mass=(exact * needle).sum(-1),
            kept=kept,
            **({"weights": used * kept[..., None]} if current.trace.keep_weights else {}),
            **({} if current.trace.bins is None else {"mass": current.binned(exact, current.trace.bins)}),
        )
    return output.transpose(1, 2).contiguous(), used


def _current(module: Any) -> Frame | None:
    """The frame of this forward pass; an attached model whose loop declared none is a mistake, not a plain run."""
    current = _FRAME.get()
    if current is None and id(module.config) in _ATTACHED.get():
        raise HybretError(
            "this forward pass has no declared phase; call model.generate, or wrap it in `with hybret.phase(...)`"
        )
    return current


def _per_head(x: Tensor, groups: int) -> Tensor:
    """Repeat each key-value head for its query heads: ``(rows, kv, keys, d)`` to ``(rows, kv * groups, keys, d)``."""
    return x if groups == 1 else x[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)


def _grouped_matmul(x: Tensor, y: Tensor) -> Tensor:
    """``x @ y`` where heads of `x` share those of `y`; decoding many rows spends its time copying keys otherwise."""
    if x.shape[1] == y.shape[1]:
        return torch.matmul(x, y)
    return torch.matmul(x.unflatten(1, (y.shape[1], -1)).flatten(2, 3), y).unflatten(2, (-1, x.shape[2])).flatten(1, 2)


def mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """The additive mask of eager attention; none for a pass of which hybret knows what each query may see."""
    current = _FRAME.get()
    return None if current is not None and (current.streams or current.right_aligned) else eager_mask(*args, **kwargs)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, mask)
