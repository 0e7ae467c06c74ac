"""The loss of a batch: what a token may attend to, which tokens belong to answers, and their weighted cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_mask(length: int, window: int, device: torch.device) -> Tensor:
    """What a token may attend to, shape (1, 1, length, length): itself and the window - 1 tokens before it.

    Made once per length: transformers would build it anew in every step, and wait for the GPU to do so.
    """
    at = torch.arange(length, device=device)
    distance = at[:, None] - at
    return ((distance >= 0) & (distance < window))[None, None]


def answer_tokens(ids: Tensor, marker: Sequence[int], eos: int) -> Tensor:
    """Whether a token belongs to an answer: after the marker of an assistant's turn up to its `eos`, shape of `ids`."""
    size, at = len(marker), torch.arange(ids.shape[1], device=ids.device)
    opened = torch.zeros_like(ids)
    matches = torch.stack([ids[:, i : ids.shape[1] - size + 1 + i] == token for i, token in enumerate(marker)]).all(0)
    opened[:, size - 1 :] = matches * at[size - 1 :]
    closed = (ids == eos) * at
    inside = opened.cummax(1).values > closed.cummax(1).values
    return F.pad(inside[:, :-1], (1, 0))


def loss_of(hidden: Tensor, head: Tensor, cap: float | None, ids: Tensor, weights: Tensor | None) -> Tensor:
    """Mean cross-entropy (nats) of each next token, weighted by the tokens' own weights, if any.

    The soft cap, if any, and the softmax are in fp32.
    """
    logits = F.linear(hidden[:, :-1], head).float()
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    if weights is None:
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()
