"""What an intervention gets to see of a pass: the keys that queries attend to, and, where it streams, a layer."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import repeat_kv

if TYPE_CHECKING:
    from hybret.recipe import Recipe

Spans = tuple[tuple[int, int], ...]
Question = tuple[int, int] | None


def needle_of(spans: Spans, recipe: Recipe) -> Spans:
    """The intervals that count as the needle (`Recipe.needle_span`, `Recipe.needle_copies`), of those in a prompt."""
    early = recipe.needle_span == "shifted"
    copies = sorted(spans)[:1] if recipe.needle_copies == "first" else spans
    return tuple((max(0, first - early), max(0, end - early)) for first, end in copies)


class Keys:
    """The key columns that some rows of a batch attend to in a pass, and what is there.

    Attributes
    ----------
    position : absolute, ``(rows, keys)``; below 0 is padding, and the last column is the last query's own
    unmasked : bool ``(rows, 1, queries, keys)``, what the mask lets queries see; None where weights are not formed
    """

    def __init__(
        self, keys: int, last: Tensor, needle: Tensor, question: Tensor, recipe: Recipe, unmasked: Tensor | None
    ) -> None:
        self._needle, self._question, self.recipe, self.unmasked = needle, question, recipe, unmasked
        self.position = last[:, None] - (keys - 1) + torch.arange(keys, device=last.device)

    @cached_property
    def needle(self) -> Tensor:
        """bool ``(rows, keys)``: the needle's tokens."""
        position = self.position[:, None]
        first, end = self._needle.unbind(-1)  # (rows, copies)
        return ((position >= first[..., None]) & (position < end[..., None])).any(1)

    def stands(self, name: Literal["first", "question", "answer"]) -> Tensor:
        """bool ``(rows, keys)``: the first token (BOS); all from the question's start on; all from its end on."""
        if name == "first":
            return self.position == 0
        return self.position >= self._question[:, 0 if name == "question" else 1, None]


class StreamedLayer(NamedTuple):
    """One attention layer in a prefill: what an intervention may use for its output on `rows`."""

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor  # what mixing the visible keys gave, (rows, heads, queries, head_dim)
    lse: Tensor
    scaling: float
    window: int | None
    rows: Tensor

    def values(self, columns: Tensor | slice) -> Tensor:
        """Values of some keys, ``(n, heads, columns, head_dim)``."""
        return self._per_head(self.value[self.rows][:, :, columns])

    def weights(self, on: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Weights on the keys `columns`, and which of them count: `on` ``(n, columns)`` says, where they are seen."""
        query, keys = self.query[self.rows], self.key.shape[2]
        at = torch.arange(keys - query.shape[2], keys, device=on.device)[:, None]
        seen = on[:, None, None] & ~hidden(at, columns, self.window)
        key = self._per_head(self.key[self.rows][:, :, columns])
        scores = torch.matmul(query, key.transpose(2, 3)).float() * self.scaling
        # Hidden before the exponential: a key that a query must not see may score 88 nats above all that it sees.
        return (scores - self.lse[self.rows][..., None]).masked_fill(~seen, -torch.inf).exp(), seen

    def masked(self, visible: Tensor, keeps_self: bool, renormalise: bool) -> Tensor:
        """Output over the `visible` keys ``(n, keys)`` and perhaps each query's own, perhaps divided by their sum."""
        output, lse, query = (x[self.rows] for x in (self.output, self.lse, self.query))
        queries = slice(self.key.shape[2] - query.shape[2], self.key.shape[2])
        columns = visible.any(0).nonzero()[:, 0]
        mixed, mass = output.float(), self.weights(visible[:, columns], columns)[0].sum(-1, keepdim=True)
        if keeps_self:
            diagonal = self._per_head(self.key[self.rows][:, :, queries])
            score = (query.float() * diagonal.float()).sum(-1) * self.scaling
            weight = ((score - lse).exp() * ~visible[:, None, queries])[..., None]
            mixed, mass = mixed + weight * self.values(queries).float(), mass + weight
        if renormalise:
            mixed = mixed / mass.clamp_min(torch.finfo(torch.float32).tiny)
        return mixed.to(output.dtype)

    def _per_head(self, x: Tensor) -> Tensor:
        return repeat_kv(x, self.query.shape[1] // x.shape[1])


def hidden(query_at: Tensor, key_at: Tensor, window: int | None) -> Tensor:
    """Which keys a query must not see, by their positions: those after it, and those that have left the window."""
    hidden = key_at > query_at
    return hidden if window is None else hidden | (key_at <= query_at - window)
