"""Entropy of attention heads and the choice of the heads to keep (Section 2.2, Equation 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hybret.recipe import Recipe

IN_CACHE = 1 << 18
"""Weights on a CPU whose entropies are taken at one time: what is computed on the way then stays in its cache."""


def head_entropy(weights: Tensor, recipe: Recipe) -> Tensor:
    """Entropy of each attention row, in bits.

    Post-softmax `weights` ``(..., keys)`` give float32 ``(...)``: 0 where one key has all the weight, log2(n) where n
    share it. `Recipe.entropy_dtype` is the precision, `entropy_eps` the guard against log 0.
    """
    if weights.device.type == "cpu" and weights.numel() > IN_CACHE and len(weights) > 1:
        rows = max(1, IN_CACHE * len(weights) // weights.numel())
        return torch.cat([head_entropy(part, recipe) for part in weights.split(rows)])
    w = weights.to(getattr(torch, recipe.entropy_dtype))
    if recipe.entropy_eps:
        w = w + recipe.entropy_eps
        return -(w * w.log2()).sum(-1).float()
    # 0 log 0 = 0, since the logarithm of the smallest normal number is finite; several times faster than xlogy.
    return -(w * w.clamp_min(torch.finfo(w.dtype).tiny).log2()).sum(-1).float()


def keep_lowest(scores: Tensor, k: Tensor, recipe: Recipe) -> Tensor:
    """Which heads have the `k` lowest scores, for each token.

    Of `scores` ``(rows, heads, queries)`` and `k` ``(rows,)``: bool like `scores`, exactly ``k[row]`` True per token.
    `Recipe.tie_break`: equal scores go to the lowest head index (stable sort) or are left to ``torch.topk``.
    """
    if recipe.tie_break == "topk":
        # One call per k: with ties, the first k of a longer topk need not be those of topk(k).
        kept = torch.zeros_like(scores, dtype=torch.bool)
        for count in k.unique().tolist():
            rows = (k == count).nonzero()[:, 0]
            chosen = scores[rows].topk(count, dim=1, largest=False).indices
            kept[rows] = kept[rows].scatter(1, chosen, True)
        return kept
    order = scores.argsort(dim=1, stable=True)
    kept_in_order = torch.arange(scores.shape[1], device=scores.device)[None, :, None] < k.view(-1, 1, 1)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, kept_in_order.expand_as(order))
