"""Which heads of a layer go on (Section 2.2): what gates get to see of them, and the entropy that they choose by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hybret.engine.context import ForwardContext
    from hybret.recipe import Recipe

IN_CACHE = 1 << 18
"""Weights on a CPU whose entropies are taken at one time: what is computed on the way then stays in its cache."""
Measure = Callable[[Tensor, str], Tensor]
"""Of some rows and a measure's name: ``(rows, heads, queries)``."""


@dataclass
class Heads:
    """The heads of one layer, on some rows, and their unmodified attention."""

    layer: int
    count: int
    k: Tensor  # (rows,): how many are to be kept, for a gate that counts
    position: Tensor  # (rows, queries): absolute, of the queries
    recipe: Recipe
    measured: Callable[[str], Tensor]  # by a measure's name, norms perhaps as logarithms: (rows, heads, queries)

    def lowest(self, scores: Tensor) -> Tensor:
        """bool like `scores` ``(rows, heads, queries)``: the `k` heads with the lowest, for each query."""
        return keep_lowest(scores, self.k, self.recipe)

    def drawn(self, seed: int) -> Tensor:
        """Integers ``(rows, heads, queries)`` without a pattern, of seed, layer, position and head alone."""
        mixed = torch.tensor(seed, device=self.k.device)
        head = torch.arange(self.count, device=self.k.device)[None, :, None]
        for part in (self.layer, self.position[:, None], head):
            mixed = (mixed ^ part) + 0x9E3779B9 & 0xFFFFFFFF
            for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):  # MurmurHash3's finaliser, 32 bits
                mixed = (mixed ^ mixed >> shift) * factor & 0xFFFFFFFF
        return mixed


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


def gated(output: Tensor, context: ForwardContext, layer: int, measure: Measure) -> tuple[Tensor, Tensor]:
    """`output` ``(rows, heads, queries, head_dim)`` with heads silenced, and which were kept.

    Of several gates each looks at all heads, not at what the one before it left.
    """
    kept = torch.ones(output.shape[:3], dtype=torch.bool, device=output.device)
    gates = [gate for gate in context.gates if gate[0].acts_in(layer)]
    for gate, rows, k in gates:
        position = context.last[rows, None] + torch.arange(1 - output.shape[2], 1, device=output.device)
        heads = Heads(layer, output.shape[1], k, position, context.recipe, partial(measure, rows))
        kept = kept.index_copy(0, rows, kept[rows] & gate.kept(heads))
    output = output * kept[..., None] if gates else output
    for gate, rows, _ in gates:
        if gate.instead is not None:
            mean = gate.instead.heads[layer].to(output)[:, None]
            output = output.index_copy(0, rows, torch.where(kept[rows][..., None], output[rows], mean))
    return output, kept
