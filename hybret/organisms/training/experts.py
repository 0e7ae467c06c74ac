"""Jamba's mixture of experts as one product, for training.

transformers gathers the tokens of each expert, which has to ask the GPU how many there are. For few small experts it is
quicker to run all of them on every token and to weigh the others with 0: the same values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers.models.jamba.modeling_jamba import JambaExperts


def _forward(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Weighted sum of the experts' outputs, shape (tokens, hidden)."""
    experts, double, _ = self.gate_up_proj.shape
    weights = top_k_weights.new_zeros(len(hidden_states), experts).scatter(1, top_k_index, top_k_weights)
    both = F.linear(hidden_states, self.gate_up_proj.flatten(0, 1)).unflatten(-1, (experts, 2, double // 2))
    inner = self.act_fn(both[:, :, 0]) * both[:, :, 1] * weights[..., None]
    return F.linear(inner.flatten(1), self.down_proj.transpose(0, 1).flatten(1))


@contextmanager
def dense_experts() -> Iterator[None]:
    """Inside the block every expert sees every token."""
    stock = JambaExperts.forward
    JambaExperts.forward = _forward
    try:
        yield
    finally:
        JambaExperts.forward = stock
