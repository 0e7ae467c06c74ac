"""Prefill attention without the queries x keys weights: memory grows linearly with the prompt.

Attention kernels return each query's output and the logarithm of its softmax denominator, never the weights. That is
enough. With scores s and weights p = exp(s - lse), the entropy of a head is lse - sum(p * s); and since s is the
scaled product of the query with the keys, sum(p * s) is the scaled product of the query with sum(p * key): the same
kernel once more, with the keys in the place of the values. Manipulations need the weights on the needle alone, which
are exp(s - lse) of its few columns; leaving the needle out is the same attention over values that are zero there.

`hybret.engine.attention` uses this for prefills of a sweep; its own path, which forms the weights, is the reference.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybret.engine.gates import gated, head_entropy
from hybret.engine.keys import StreamedLayer, hidden

if TYPE_CHECKING:
    from hybret.engine.context import ForwardContext
    from hybret.recipe import Recipe

BLOCK = {"cpu": 32, "cuda": 256}
"""Queries whose scores exist at one time on the path without a fused kernel."""

IN_CACHE = 1 << 19
"""Scores of several rows that exist at one time on a CPU: what is computed from them then stays in its cache."""

HIDDEN = -1e30
"""Score of a key that a query must not see: below every other one."""

CHUNK = 8192
"""Queries whose fp32 product with the mean key exists at one time."""


def attend(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, recipe: Recipe, entropy: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Causal attention of the last tokens of a text, and the entropy of every head.

    Parameters
    ----------
    query : ``(rows, heads, queries, head_dim)``, the last `queries` of the `keys` tokens
    key, value : ``(rows, key-value heads, keys, head_dim)``, without padding
    window : keys that a query sees, itself included; None for all
    recipe : of other precisions or guards than `CORRECTED`'s the weights are formed, a block of queries at a time
    entropy : whether entropies are wanted; they cost as much as the attention

    Returns
    -------
    output : ``(rows, heads, queries, head_dim)``
    lse : natural logarithm of the softmax denominators, float32, ``(rows, heads, queries)``
    entropy : bits, float32, ``(rows, heads, queries)``: in fp32 within 1e-4 (measured: 4e-5) of
        `hybret.engine.gates.head_entropy`, in bf16 about 6e-3 apart on average
    """
    of_weights = entropy and (recipe.entropy_dtype != "float32" or bool(recipe.entropy_eps))
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and not of_weights:
        output, lse, bits = _flash(query, key, value, scaling, window, entropy)
    else:
        output, lse, bits = _blocked(query, key, value, scaling, window, recipe, entropy, of_weights)
    if bits is not None and not of_weights and query.shape[2] == key.shape[2]:
        bits[..., 0] = 0  # the text's first token sees one key: all heads tie, and rounding must not choose among them
    return output, lse, bits


def _flash(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, entropy: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """PyTorch's own flash attention kernel, which its public function does not let return the denominators."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    bounds = {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}

    def kernel(values: Tensor) -> tuple[Tensor, Tensor]:
        result = torch.ops.aten._flash_attention_forward(
            q, k, values, None, None, q.shape[1], k.shape[1], 0.0, True, False, scale=scaling, **bounds
        )
        return result[0].transpose(1, 2), result[1]

    output, lse = kernel(v)
    if not entropy:
        return output, lse, None
    mean_key, _ = kernel(k)
    bits = torch.empty_like(lse)
    for first in range(0, query.shape[2], CHUNK):  # the fp32 products are larger than anything else here
        part = slice(first, first + CHUNK)
        product = (query[:, :, part].float() * mean_key[:, :, part].float()).sum(-1)
        bits[:, :, part] = (lse[:, :, part] - scaling * product) / math.log(2)
    return output, lse, bits.clamp_min_(0)


def _blocked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    window: int | None,
    recipe: Recipe,
    entropy: bool,
    of_weights: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same in plain PyTorch, a block of queries at a time, over the keys that the block can see."""
    rows, heads, queries, _ = query.shape
    shared, keys = key.shape[1:3]
    block = BLOCK.get(query.device.type, 32)
    together = max(1, IN_CACHE // (heads * min(block, queries) * keys))
    if query.device.type == "cpu" and rows > together:
        parts = zip(query.split(together), key.split(together), value.split(together), strict=True)
        done = zip(*(_blocked(*part, scaling, window, recipe, entropy, of_weights) for part in parts), strict=True)
        output, lse, *rest = (torch.cat(x) for x in done if x[0] is not None)
        return output, lse, rest[0] if rest else None
    before = keys - queries
    query = (query * scaling).unflatten(1, (shared, heads // shared))
    output = torch.empty((rows, heads, queries, value.shape[-1]), dtype=value.dtype, device=value.device)
    lse = torch.empty((rows, heads, queries), device=query.device)
    bits = torch.empty_like(lse) if entropy else None
    for first in range(0, queries, block):
        last = min(first + block, queries)
        # The authors add a constant to every weight, also to those of hidden keys, so all of them count.
        low = 0 if window is None or of_weights else max(0, first + before - window + 1)
        high = keys if of_weights else last + before
        part = query[:, :, :, first:last].flatten(2, 3)
        scores = torch.matmul(part, key[:, :, low:high].transpose(2, 3)).float().unflatten(2, (-1, last - first))
        at = torch.arange(first + before, last + before, device=query.device)[:, None]
        # With global attention all of these queries see the keys before the first of them.
        edge = first + before + 1 if window is None else low
        seen = (~hidden(at, torch.arange(edge, high, device=query.device), window)).float()
        # A bias and a factor are several times faster than filling by a mask, and so are operations in place.
        scores[..., edge - low :].add_((1 - seen) * HIDDEN)
        top = scores.amax(-1, keepdim=True)
        # Weights below 2e-35 of the largest change nothing, but denormal numbers are ten times slower to handle.
        weights = scores.sub_(top).clamp_min_(-80).exp()
        weights[..., edge - low :].mul_(seen)
        total = weights.sum(-1, keepdim=True)
        place = (slice(None), slice(None), slice(first, last))
        lse[place] = (top + total.log()).squeeze(-1).flatten(1, 2)
        if bits is not None and of_weights:
            bits[place] = head_entropy(weights / total, recipe).flatten(1, 2)
        elif bits is not None:
            nats = total.log() - scores.mul_(weights).sum(-1, keepdim=True) / total
            bits[place] = nats.squeeze(-1).flatten(1, 2).clamp_min(0) / math.log(2)
        mixed = torch.matmul(weights.flatten(2, 3).to(value.dtype), value[:, :, low:high])
        output[place] = (mixed.unflatten(2, (-1, last - first)) / total.to(value.dtype)).flatten(1, 2)
    return output, lse, bits


def prefill(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, context: ForwardContext, layer: int
) -> Tensor:
    """Output of one attention layer in a prefill under the interventions of `context`; shapes as in `attend`.

    Every row reads the same tokens without padding, and its outputs change at most once (`ForwardContext.streams`).
    Queries, keys and values of one row serve all rows of the context, whose outputs then differ; those of several rows,
    without changes, serve as many rows one after another as the context has.
    """
    keys, rows_in_all = key.shape[2], len(context.rows)
    changes = [(a, rows, context.keys(keys, rows)) for a, rows in context.changes if a.acts_in(layer)]
    mixed = value
    if changes:
        query, key, value = (x.expand(rows_in_all, -1, -1, -1) for x in (query, key, value))
        mixed = value.clone()
    for action, rows, columns in changes:
        if (visible := action.visible(columns)) is not None:
            mixed[rows] = mixed[rows].masked_fill(~visible[:, None, :, None], 0)
    wanted = {gate.measure for gate, *_ in context.gates if gate.acts_in(layer)}
    output, lse, bits = attend(query, key, mixed, scaling, window, context.recipe, "entropy" in wanted)
    for action, rows, columns in changes:
        streamed = action.streamed(StreamedLayer(query, key, value, output, lse, scaling, window, rows), columns)
        if streamed is not None:
            output[rows] = streamed
    output = _for_rows(output, rows_in_all)

    def measure(rows: Tensor, name: str) -> Tensor:
        if name == "output-norm":
            return output[rows].float().norm(dim=-1)
        if name == "needle":
            needle = context.keys(keys, rows).needle
            columns = needle.any(0).nonzero()[:, 0]
            q, k, v, nats = (_for_rows(x, rows_in_all) for x in (query, key, value, lse))
            whole = StreamedLayer(q, k, v, output, nats, scaling, window, rows)
            return whole.weights(needle[:, columns], columns)[0].sum(-1)
        if name == "weight-norm":
            # sum(p * p) is exp(lse' - 2 lse), where lse' is that of the doubled scores; this is the logarithm's half.
            found = attend(query, key, value, 2 * scaling, window, context.recipe, False)[1] / 2 - lse
            found[..., : keys == query.shape[2]] = 0  # of one key, as the entropies in `attend`
        else:
            assert bits is not None  # entropies are wanted
            found = bits
        return _for_rows(found, rows_in_all)[rows]

    return gated(output, context, layer, measure)[0]


def _for_rows(x: Tensor, rows: int) -> Tensor:
    """`x` for `rows` rows; of one row or of as many it is no copy."""
    same = [-1] * (x.ndim - 1)
    return x.expand(rows, *same) if len(x) in (1, rows) else x.repeat(rows // len(x), *(1 for _ in same))
