"""What a batch of rows has read so far: keys, values and recurrent states, and how such states fork and merge."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

if TYPE_CHECKING:
    from hybret.models import Model


GROWABLE = (DynamicLayer, DynamicSlidingWindowLayer)


@dataclass
class State:
    """Rows that are ready for their next one-token step.

    Attributes
    ----------
    cache : DynamicCache
        Keys and values (and Jamba's recurrent states), left-padded to the longest row.
    recurrent : list of Tensor
        RecurrentGemma keeps its recurrent and convolution states on its modules; these are they, in module order.
    token : Tensor
        ``(rows, 1)``: the token that each row reads next.
    position : Tensor
        ``(rows,)``: its absolute position, so the number of tokens already read.
    answered : bool
        Whether `token` is already an answer token (the whole prompt was prefilled) or the last prompt token.

    A tensor of the cache or of `recurrent` that has one row belongs to all rows.
    """

    cache: DynamicCache
    recurrent: list[Tensor]
    token: Tensor
    position: Tensor
    answered: bool

    def select(self, rows: Tensor) -> State:
        """The rows `rows` (repeats allowed), as a state of their own: a fork or a subset."""
        many = len(self.token) > 1

        def pick(x: Tensor) -> Tensor:
            # (A model may be spread over several devices, and its state with it.)
            return x if many and len(x) == 1 else x.index_select(0, rows.to(x.device))

        return State(
            map_cache([self.cache], lambda parts: pick(parts[0])),
            [pick(x) for x in self.recurrent],
            self.token[rows],
            self.position[rows],
            self.answered,
        )

    def grow(self, steps: int) -> State:
        """A state of the same rows, none of them shared, with room for `steps` more tokens."""
        rows = len(self.token)
        cache = map_cache([self.cache], lambda parts: all_rows(parts[0], rows), torch.clone)
        cache.layers = [
            Growing(layer, steps) if type(layer) in GROWABLE and getattr(layer, "is_initialized", False) else layer
            for layer in cache.layers
        ]
        return State(cache, [all_rows(x, rows) for x in self.recurrent], self.token, self.position, self.answered)

    def fork(self) -> State:
        """The same state once more: reading on with one leaves the other as it is."""
        # Keys, values and RecurrentGemma's states are replaced by new tensors; Jamba's states are written in place.
        cache = map_cache([self.cache], lambda parts: parts[0], torch.clone)
        return State(cache, list(self.recurrent), self.token, self.position, self.answered)


class Growing(DynamicLayer):
    """Keys and values of one attention layer with room for the answer: a new token is written, nothing is copied.

    transformers' own layers concatenate at every step, a third of the time of decoding 300 rows on a CPU.
    """

    def __init__(self, layer: Any, steps: int) -> None:
        super().__init__()
        self.is_sliding = layer.is_sliding
        self.window = getattr(layer, "sliding_window", None)
        self.end = layer.keys.shape[2]
        self.read = getattr(layer, "cumulative_length", self.end)
        self.key_room, self.value_room = (nn.functional.pad(x, (0, 0, 0, steps)) for x in (layer.keys, layer.values))
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The keys and values that this one token sees, itself included."""
        self.end, self.read = self.end + 1, self.read + 1
        seen = slice(max(0, self.end - self.window) if self.window else 0, self.end)
        self.key_room[:, :, self.end - 1 : self.end] = key_states
        self.value_room[:, :, self.end - 1 : self.end] = value_states
        return self.key_room[:, :, seen], self.value_room[:, :, seen]

    def get_seq_length(self) -> int:
        return self.read

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        keys = min(self.end + query_length, self.window or self.end + query_length)
        return keys, self.read + query_length - keys


def start(model: Model, rows: int) -> State:
    """The state of `rows` rows that have read nothing."""
    weights = [m.conv_1d.weight for m in recurrent_modules(model.net)]
    # (transformers' own `_setup_cache` gives the convolution state the wrong width when `lru_width` differs from
    # `hidden_size`. A state left on the modules by another prompt would corrupt a one-token prompt, and a NaN in it
    # poison the next one.)
    recurrent = [
        x for w in weights for x in (w.new_zeros(1, len(w), w.shape[-1] - 1), torch.zeros(1, len(w), device=w.device))
    ]
    zeros = torch.zeros(rows, 1, dtype=torch.long, device=model.device)
    return State(_empty_cache(model.net), recurrent, zeros, zeros[:, 0], False)


def _empty_cache(net: Any) -> DynamicCache:
    """MiniMax alone has a class of its own."""
    own = getattr(sys.modules[type(net).__module__], "MiniMaxCache", None)
    return own() if own else DynamicCache(config=net.config)


def merge(states: Sequence[State]) -> State:
    """One ragged batch out of several states: keys and values are left-padded to the longest row."""
    longest = max(int(s.position.max()) for s in states)
    counts = [len(s.token) for s in states]

    def join(parts: list[Tensor]) -> Tensor:
        parts = [all_rows(x, n) for x, n in zip(parts, counts, strict=True)]
        # Only keys and values have lengths that differ between states; they are (rows, heads, keys, head_dim).
        keys = max(x.shape[-2] for x in parts) if parts[0].ndim == 4 else 0
        if any(x.ndim == 4 and x.shape[-2] < keys for x in parts):
            parts = [nn.functional.pad(x, (0, 0, keys - x.shape[-2], 0)) for x in parts]
        return torch.cat(parts)

    cache = map_cache([s.cache for s in states], join)
    for layer in cache.layers:
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length = longest
    return State(
        cache,
        [join(list(parts)) for parts in zip(*(s.recurrent for s in states), strict=True)],
        torch.cat([s.token for s in states]),
        torch.cat([s.position for s in states]),
        states[0].answered,
    )


def all_rows(x: Tensor, rows: int) -> Tensor:
    """A tensor of a state with its one row repeated for all of them."""
    return x.expand(rows, *x.shape[1:]) if len(x) == 1 else x


def recurrent_modules(net: nn.Module) -> list[Any]:
    return [m for m in net.modules() if hasattr(m, "conv1d_state") and hasattr(m, "rg_lru")]


def recurrent(net: nn.Module) -> list[Tensor]:
    return [x for m in recurrent_modules(net) for x in (m.conv1d_state, m.rg_lru.recurrent_states)]


def restore_recurrent(net: nn.Module, states: Sequence[Tensor]) -> None:
    pairs = iter(states)
    for m in recurrent_modules(net):
        m.conv1d_state, m.rg_lru.recurrent_states = next(pairs), next(pairs)


def map_cache(
    caches: Sequence[DynamicCache],
    join: Callable[[list[Tensor]], Tensor],
    finish: Callable[[Tensor], Tensor] = lambda x: x,
) -> DynamicCache:
    """A cache whose every per-row tensor is `join` of those of `caches`, whatever kinds of layers it has.

    `finish` is applied to the tensors that layers write in place.
    """
    merged: Any = copy.copy(caches[0])
    merged.layers = []
    for parts in zip(*(c.layers for c in caches), strict=True):
        layer = copy.copy(parts[0])
        for name, value in vars(layer).items():
            if isinstance(value, Tensor) and value.ndim >= 2:
                setattr(layer, name, join([getattr(p, name) for p in parts]))
            elif isinstance(value, dict):
                joined = {
                    key: finish(join([getattr(p, name)[key] for p in parts])) if isinstance(item, Tensor) else item
                    for key, item in value.items()
                }
                setattr(layer, name, joined)
        merged.layers.append(layer)
    if hasattr(merged, "linear_cache"):  # MiniMax: a state for each linear layer, an empty list for the others
        states = zip(*(vars(c)["linear_cache"] for c in caches), strict=True)
        merged.linear_cache = [join(list(x)) if isinstance(x[0], Tensor) else [] for x in states]
    return merged
