"""What a manipulation makes of the attention weights of one layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybret.interventions import Binary, Intervention, Mass, Omit, Only

if TYPE_CHECKING:
    from hybret.engine.frame import Frame


def manipulate(
    action: Intervention, weights: Tensor, untouched: Tensor, visible: Tensor, rows: Tensor, current: Frame
) -> Tensor:
    """New weights of some rows of a batch under one intervention.

    Parameters
    ----------
    action : Intervention
    weights, untouched : Tensor
        ``(n, heads, queries, keys)``: as interventions before this one left them, and as the model made them.
    visible : Tensor
        bool ``(n, 1, queries, keys)``: what the mask lets a query see.
    rows : Tensor
        ``(n,)``: which rows of `current` these are.
    current : Frame
    """
    changed = torch.zeros_like(weights)  # Null; the others replace it
    needle = current.on_needle(weights.shape[-1], rows)[:, None, None, :]
    seen = needle & visible
    if isinstance(action, Omit):
        changed = weights.masked_fill(needle, 0.0)
    elif isinstance(action, Only):
        changed = weights * current.spared(action, weights.shape[-1], rows)[:, None, None, :]
        if "self" in action.also:
            changed = changed.where(~own(weights.shape[2], weights.shape[3], weights.device), weights)
        if action.renormalise:
            changed = _to_one(changed)
    elif isinstance(action, Mass):
        total = (untouched * needle).sum(-1, keepdim=True) if action.total == "needle" else action.total
        changed = _to_one(weights) * total
    elif isinstance(action, Binary):
        mass = (weights * needle).float()
        if current.recipe.binary == "per-row":
            mean = mass.sum(-1, keepdim=True) / seen.sum(-1, keepdim=True).clamp_min(1)
            changed = torch.where(seen, mean.to(weights.dtype), 0.0)
        else:
            # The authors' scalar: one value per prompt, also on keys that a query should not see yet.
            length = torch.tensor([sum(b - a for a, b in current.spans[row]) for row in rows.tolist()])
            mean = mass.sum((1, 2, 3)) / weights.shape[1] / length.clamp_min(1).to(mass.device)
            changed = (mean[:, None, None, None] * needle).to(weights.dtype).expand_as(weights)
    if current.recipe.out_of_window == "untouched" and current.phase == "generation":
        gone = ~seen.flatten(1).any(1)
        changed = torch.where(gone[:, None, None, None], weights, changed)
    return changed


def _to_one(weights: Tensor) -> Tensor:
    """Each query's weights divided by their sum; where nothing is left, nothing."""
    return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


def own(queries: int, keys: int, device: torch.device) -> Tensor:
    """bool ``(queries, keys)``: each query's own position, the last query's being the last key."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries).triu(keys - queries)
