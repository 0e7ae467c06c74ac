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
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from hybret.engine.entropy import head_entropy, keep_lowest
from hybret.interventions import Binary, Null, Omit, Only

if TYPE_CHECKING:
    from hybret.engine.frame import Frame
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
    query : Tensor
        ``(rows, heads, queries, head_dim)``: the last `queries` of the `keys` tokens.
    key, value : Tensor
        ``(rows, key-value heads, keys, head_dim)``, without padding.
    scaling : float
        Factor of the scores.
    window : int or None
        Keys that a query sees, itself included; None for all.
    recipe : Recipe
        `entropy_dtype` and `entropy_eps`. Other values than `CORRECTED`'s are about the weights themselves, which are
        then formed for a block of queries at a time.
    entropy : bool
        Whether entropies are wanted; they cost as much as the attention.

    Returns
    -------
    output : Tensor
        ``(rows, heads, queries, head_dim)``.
    lse : Tensor
        Natural logarithm of the softmax denominators, float32, ``(rows, heads, queries)``.
    entropy : Tensor or None
        Bits, float32, ``(rows, heads, queries)``. In fp32 within 1e-4 bits of `hybret.engine.entropy.head_entropy`
        (measured: 4e-5), in bf16 about 6e-3 bits apart on average.
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
        found = torch.ops.aten._flash_attention_forward(
            q, k, values, None, None, q.shape[1], k.shape[1], 0.0, True, False, scale=scaling, **bounds
        )
        return found[0].transpose(1, 2), found[1]

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
    some = max(1, IN_CACHE // (heads * min(block, queries) * keys))
    if query.device.type == "cpu" and rows > some:
        parts = zip(query.split(some), key.split(some), value.split(some), strict=True)
        done = zip(*(_blocked(*part, scaling, window, recipe, entropy, of_weights) for part in parts), strict=True)
        output, lse, *own = (torch.cat(x) for x in done if x[0] is not None)
        return output, lse, own[0] if own else None
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
        seen = (~_hidden(at, torch.arange(edge, high, device=query.device), window)).float()
        # A bias and a factor are several times faster than filling by a mask, and so are operations in place.
        scores[..., edge - low :].add_((1 - seen) * HIDDEN)
        top = scores.amax(-1, keepdim=True)
        # Weights below 2e-35 of the largest change nothing, but denormal numbers are ten times slower to handle.
        weights = scores.sub_(top).clamp_min_(-80).exp()
        weights[..., edge - low :].mul_(seen)
        total = weights.sum(-1, keepdim=True)
        here = (slice(None), slice(None), slice(first, last))
        lse[here] = (top + total.log()).squeeze(-1).flatten(1, 2)
        if bits is not None and of_weights:
            bits[here] = head_entropy(weights / total, recipe).flatten(1, 2)
        elif bits is not None:
            nats = total.log() - scores.mul_(weights).sum(-1, keepdim=True) / total
            bits[here] = nats.squeeze(-1).flatten(1, 2).clamp_min(0) / math.log(2)
        mixed = torch.matmul(weights.flatten(2, 3).to(value.dtype), value[:, :, low:high])
        output[here] = (mixed.unflatten(2, (-1, last - first)) / total.to(value.dtype)).flatten(1, 2)
    return output, lse, bits


def _hidden(query_at: Tensor, key_at: Tensor, window: int | None) -> Tensor:
    """Which keys a query must not see, by their positions: those after it, and those that have left the window."""
    hidden = key_at > query_at
    return hidden if window is None else hidden | (key_at <= query_at - window)


def prefill(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    window: int | None,
    frame: Frame,
    layer: int,
) -> Tensor:
    """Output of one attention layer in a prefill under the interventions of `frame`; shapes as in `attend`.

    Every row reads the same tokens without padding, and its values are changed at most once (`Frame.streams`). Queries,
    keys and values of one row serve all rows of the frame, whose outputs then differ; those of several rows, without
    manipulations, serve as many rows one after another as the frame has.
    """
    keys, many = key.shape[2], len(frame.rows)
    used, manipulations = value, frame.manipulations_in(layer)
    if manipulations:
        query, key, value = (x.expand(many, -1, -1, -1) for x in (query, key, value))
        used = value.clone()
        for action, rows in manipulations:
            if isinstance(action, Omit | Only):
                gone = frame.on_needle(keys, rows) if isinstance(action, Omit) else ~frame.spared(action, keys, rows)
                used[rows] = used[rows].masked_fill(gone[:, None, :, None], 0)
                frame.acted[layer, action] += len(rows)
    output, lse, bits = attend(query, key, used, scaling, window, frame.recipe, "entropy" in frame.keep_heads)
    for action, rows in manipulations:
        if isinstance(action, Null | Binary):
            frame.acted[layer, action] += len(rows)
        if isinstance(action, Null):
            output[rows] = 0
        elif isinstance(action, Binary) or (isinstance(action, Only) and (action.renormalise or "self" in action.also)):
            left = frame.spared(action, keys, rows) if isinstance(action, Only) else frame.on_needle(keys, rows)
            columns = left.any(0).nonzero()[:, 0]
            part = _Layer(query[rows], key[rows], value[rows], lse[rows], scaling, window)
            if isinstance(action, Only):
                output[rows] = _only(action, part, output[rows], left, columns)
            else:
                output[rows] = _binary(part, left[:, columns], columns, frame.recipe)
    output = gated = _for_rows(output, many)
    for metric, (rows, k) in frame.keep_heads.items():
        # Of several choices each looks at all heads, not at what the one before it left.
        score = bits if metric == "entropy" else -output.float().norm(dim=-1)
        assert score is not None  # entropies were asked for
        kept = torch.ones(output.shape[:3], dtype=torch.bool, device=output.device)
        kept[rows] = keep_lowest(_for_rows(score, many)[rows], k, frame.recipe)
        gated = gated * kept[..., None]
        frame.acted[layer, metric] += len(rows)
    return gated


def _for_rows(x: Tensor, many: int) -> Tensor:
    """`x` for `many` rows; of one row or of as many it is no copy."""
    same = [-1] * (x.ndim - 1)
    return x.expand(many, *same) if len(x) in (1, many) else x.repeat(many // len(x), *(1 for _ in same))


class _Layer(NamedTuple):
    """One attention layer's tensors for some rows, and what `attend` found."""

    query: Tensor
    key: Tensor
    value: Tensor
    lse: Tensor
    scaling: float
    window: int | None

    def per_head(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.query.shape[1] // x.shape[1], 1)

    def weights(self, on: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Weights on the keys `columns`, and which of them count: `on` ``(n, columns)`` says, where they are seen."""
        queries, keys = self.query.shape[2], self.key.shape[2]
        at = torch.arange(keys - queries, keys, device=on.device)[:, None]
        seen = on[:, None, None] & ~_hidden(at, columns, self.window)
        key = self.per_head(self.key[:, :, columns])
        scores = torch.matmul(self.query, key.transpose(2, 3)).float() * self.scaling
        return (scores - self.lse[..., None]).exp() * seen, seen


def _only(action: Only, layer: _Layer, output: Tensor, left: Tensor, columns: Tensor) -> Tensor:
    """Output of rows under `Only` with the queries' own positions, renormalised, or both.

    `output` mixes the values of the key columns `left`, ``(n, keys)``; some row has them in `columns`.
    """
    queries, keys = layer.query.shape[2], layer.key.shape[2]
    here = slice(keys - queries, keys)
    mixed, mass = output.float(), layer.weights(left[:, columns], columns)[0].sum(-1, keepdim=True)
    if "self" in action.also:
        own_key, own_value = (layer.per_head(x[:, :, here]) for x in (layer.key, layer.value))
        score = (layer.query.float() * own_key.float()).sum(-1) * layer.scaling
        own = ((score - layer.lse).exp() * ~left[:, None, here])[..., None]
        mixed, mass = mixed + own * own_value.float(), mass + own
    if action.renormalise:
        mixed = mixed / mass.clamp_min(torch.finfo(torch.float32).tiny)
    return mixed.to(output.dtype)


def _binary(layer: _Layer, on: Tensor, columns: Tensor, recipe: Recipe) -> Tensor:
    """Output of rows under `Binary`; `on`, ``(n, columns)``, says which of the key columns are needle in each row."""
    weights, seen = layer.weights(on, columns)
    heads = weights.shape[1]
    values = layer.per_head(layer.value[:, :, columns])
    if recipe.binary == "per-row":
        mean = weights.sum(-1, keepdim=True) / seen.sum(-1, keepdim=True).clamp_min(1)
        return torch.matmul((mean * seen).to(values.dtype), values)
    mean = weights.sum((1, 2, 3)) / heads / on.sum(-1).clamp_min(1)
    every = (mean[:, None] * on).to(values.dtype)[:, None, None].expand(-1, heads, -1, -1)
    return torch.matmul(every, values).expand(-1, -1, layer.query.shape[2], -1)
