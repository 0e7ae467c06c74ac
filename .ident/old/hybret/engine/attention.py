"""The one attention function that hybret registers with transformers.

transformers routes every hybrid family through one attention interface, so one function (with a mask registered under
the same name: without it the model silently runs non-causal) reaches all of them and no model code is copied. The
function does what `eager` does, operation by operation; what else it does is declared by a *frame* (`frame`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from hybret.engine.acting import READ
from hybret.engine.entropy import head_entropy, keep_lowest
from hybret.engine.frame import declared_for, declared_frame
from hybret.engine.manipulating import manipulate
from hybret.engine.streaming import prefill as stream

NAME = "hybret"


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
    declared = declared_for(module)
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
    current = declared_frame()
    return None if current is not None and (current.streams or current.right_aligned) else eager_mask(*args, **kwargs)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, mask)
