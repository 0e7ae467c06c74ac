"""The one attention function that hybret registers with transformers.

transformers routes every hybrid family through one attention interface, so one function (with a mask registered under
the same name: without it the model silently runs non-causal) reaches all of them and no model code is copied. The
function does what `eager` does, operation by operation; what else it does, a `ForwardContext` declares.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from hybret.engine import streaming
from hybret.engine.context import ForwardContext, current_context
from hybret.engine.gates import gated, head_entropy
from hybret.errors import HybretError

NAME = "hybret"


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor | None]:
    """Eager attention, with the interventions of the current context.

    Parameters
    ----------
    query : ``(rows, heads, queries, head_dim)``
    key, value : ``(rows, key-value heads, keys, head_dim)``
    attention_mask : additive, ``(rows, 1, queries, keys)``

    Returns
    -------
    output : ``(rows, queries, heads, head_dim)``
    weights : ``(rows, heads, queries, keys)``, as used; None where they were not formed
    """
    if sliding_window not in (None, getattr(module, "sliding_window", None)):
        raise HybretError(
            f"{module.config.model_type} gives its attention a window of {sliding_window} tokens that its layers do "
            "not declare, and hybret does not know it; set sliding_window to null in config.json"
        )
    declared = current_context(module)
    layer = -1 if declared is None else declared.enter(module)
    context = None if declared is None else declared.on(query.device)
    if declared is not None and context is not None and context.streams:
        window = getattr(module, "sliding_window", None)
        declared.outputs = streaming.prefill(query, key, value, scaling, window, context, layer).transpose(1, 2)
        return declared.outputs[: query.shape[0]], None
    if context is not None and context.right_aligned and attention_mask is None:
        padding = context.keys(key.shape[2]).position[:, None, None] < 0
        attention_mask = torch.zeros(padding.shape, dtype=query.dtype, device=query.device)
        attention_mask.masked_fill_(padding, torch.finfo(query.dtype).min)
    acts = context is not None and context.acts
    if query.shape[2] > 1 or not acts:
        # Operation by operation what eager does, so that a run that changes nothing is bit-identical to it.
        key, value = (repeat_kv(x, module.num_key_value_groups) for x in (key, value))
    scores = _grouped_matmul(query, key.transpose(2, 3)).mul_(scaling)  # in place: fewer passes over memory
    if attention_mask is not None:
        scores.add_(attention_mask)
    exact = nn.functional.softmax(scores, dim=-1, dtype=torch.float32)
    weights = nn.functional.dropout(exact.to(query.dtype), p=dropout, training=module.training)
    if context is None or not acts:
        return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights
    used = _reweighted(weights, attention_mask, context, layer)
    output = _grouped_matmul(used, value)

    def measure(rows: Tensor, name: str) -> Tensor:
        if name == "entropy":
            return head_entropy(exact if len(rows) == len(exact) else exact[rows], context.recipe)
        if name == "needle":
            return (exact[rows] * context.keys(key.shape[2], rows).needle[:, None, None]).sum(-1)
        normed = weights[rows] if name == "weight-norm" else _grouped_matmul(weights[rows], value[rows])
        return normed.float().norm(dim=-1)

    output, kept = gated(output, context, layer, measure)
    if context.trace is not None:
        needle = context.keys(key.shape[2]).needle[:, None, None, :]
        context.trace.add(
            f"layer {layer}",
            entropy=head_entropy(exact, context.recipe),
            needle_mass=(exact * needle).sum(-1),
            kept=kept,
            **({"weights": used * kept[..., None]} if context.trace.keep_weights else {}),
            **({} if context.trace.bins is None else {"mass": context.binned(exact, context.trace.bins)}),
        )
    return output.transpose(1, 2).contiguous(), used


def _reweighted(weights: Tensor, mask: Tensor | None, context: ForwardContext, layer: int) -> Tensor:
    """The weights as the interventions on this layer leave them, one after another."""
    changes = [(action, rows) for action, rows in context.changes if action.acts_in(layer)]
    if not changes:
        return weights
    used = weights.clone()
    unmasked = torch.ones_like(weights[:, :1], dtype=torch.bool)
    if mask is not None:
        unmasked &= mask == 0  # one mask may serve all rows
    for action, rows in changes:
        keys, before = context.keys(weights.shape[-1], rows, unmasked[rows]), used[rows]
        changed = action.weights(before, weights[rows], keys)
        if changed.shape != before.shape:
            raise HybretError(f"{action!r} makes weights {tuple(changed.shape)} of weights {tuple(before.shape)}")
        if context.recipe.out_of_window == "untouched" and context.phase == "generation":
            in_sight = (keys.needle[:, None, None] & unmasked[rows]).flatten(1).any(1)
            changed = torch.where(in_sight[:, None, None, None], changed, before)
        used[rows] = changed
    return used


def _grouped_matmul(x: Tensor, y: Tensor) -> Tensor:
    """``x @ y`` where heads of `x` share those of `y`; decoding many rows spends its time copying keys otherwise."""
    if x.shape[1] == y.shape[1]:
        return torch.matmul(x, y)
    return torch.matmul(x.unflatten(1, (y.shape[1], -1)).flatten(2, 3), y).unflatten(2, (-1, x.shape[2])).flatten(1, 2)


def mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """The additive mask of eager attention; none for a pass of which hybret knows what each query may see."""
    context = current_context()
    return None if context is not None and (context.streams or context.right_aligned) else eager_mask(*args, **kwargs)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, mask)
