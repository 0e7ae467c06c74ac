"""Which heads of a layer go on: what gates get to see of them, in passes that form the weights or do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybret.engine.entropy import keep_lowest

if TYPE_CHECKING:
    from hybret.engine.context import ForwardContext
    from hybret.recipe import Recipe

Measure = Callable[[Tensor, str], Tensor]
"""Of some rows and a measure's name: ``(rows, heads, queries)``."""


@dataclass
class Heads:
    """The heads of one layer, on some rows, and their untouched attention."""

    layer: int
    count: int
    k: Tensor  # (rows,): how many are to be kept, for a gate that counts
    position: Tensor  # (rows, queries): absolute, of the queries
    recipe: Recipe
    measured: Callable[
        [str], Tensor
    ]  # entropy, norms (or their logarithms), mass on the needle: (rows, heads, queries)

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


def gated(output: Tensor, context: ForwardContext, layer: int, measure: Measure) -> tuple[Tensor, Tensor]:
    """`output` ``(rows, heads, queries, head_dim)`` with heads silenced, and which were kept.

    Of several gates each looks at all heads, not at what the one before it left.
    """
    kept = torch.ones(output.shape[:3], dtype=torch.bool, device=output.device)
    gates = context.gates_in(layer)
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
