"""What a batch of rows has read so far: keys, values and recurrent states, and how such states fork and merge."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

if TYPE_CHECKING:
    from hybret.hybrid import Hybrid


@dataclass
class State:
    """Rows that are ready for their next one-token step.

    A tensor of the cache or of `recurrent` that has one row belongs to all rows.
    """

    cache: DynamicCache  # keys and values (and Jamba's recurrent states), left-padded to the longest row
    recurrent: list[Tensor]  # RecurrentGemma's recurrent and convolution states, which it keeps on its modules
    token: Tensor  # (rows, 1): what each row reads next
    position: Tensor  # (rows,): its absolute position, so the number of tokens already read
    answered: bool  # whether `token` is part of the answer (the whole prompt was prefilled) or the last prompt token

    def select(self, rows: Tensor) -> State:
        """The rows `rows` (repeats allowed) as a state of their own: a fork or a subset."""
        shareable = len(self.token) > 1

        def pick(x: Tensor) -> Tensor:
            # (A model may be spread over several devices, and its state with it.)
            return x if shareable and len(x) == 1 else x.index_select(0, rows.to(x.device))

        return replace(self.map(pick), token=self.token[rows], position=self.position[rows])

    def map(self, change: Callable[[Tensor], Tensor], finish: Callable[[Tensor], Tensor] = lambda x: x) -> State:
        """The same with every tensor of the cache and of `recurrent` changed; `finish` as in `map_caches`."""
        cache = map_caches([self.cache], lambda parts: change(parts[0]), finish)
        return replace(self, cache=cache, recurrent=[change(x) for x in self.recurrent])

    def unshared(self, finish: Callable[[Tensor], Tensor] = lambda x: x) -> State:
        """The same with every tensor in all rows; `finish` as in `map_caches`."""
        return self.map(lambda x: x.expand(len(self.token), *x.shape[1:]) if len(x) == 1 else x, finish)

    def preallocate(self, steps: int) -> State:
        """The same with nothing shared, and room for `steps` more tokens."""
        state, kinds = self.unshared(torch.clone), (DynamicLayer, DynamicSlidingWindowLayer)
        state.cache.layers = [
            PreallocatedLayer(layer, steps)
            if isinstance(layer, kinds) and type(layer) in kinds and layer.is_initialized
            else layer
            for layer in state.cache.layers
        ]
        return state

    def fork(self) -> State:
        """A copy: reading on with either leaves the other as it is."""
        # Keys, values and RecurrentGemma's states are replaced by new tensors; Jamba's states are written in place.
        return self.map(lambda x: x, torch.clone)


class PreallocatedLayer(DynamicLayer):
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
        """The keys and values that this token sees, itself included."""
        self.key_room[:, :, self.end : self.end + 1] = key_states
        self.value_room[:, :, self.end : self.end + 1] = value_states
        self.end, self.read = self.end + 1, self.read + 1
        seen = slice(max(0, self.end - self.window) if self.window else 0, self.end)
        return self.key_room[:, :, seen], self.value_room[:, :, seen]

    def get_seq_length(self) -> int:
        return self.read

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        keys = min(self.end + query_length, self.window or self.end + query_length)
        return keys, self.read + query_length - keys


def empty_state(model: Hybrid, rows: int) -> State:
    """The state of `rows` rows that have read nothing."""
    weights = [m.conv_1d.weight for m in recurrent_modules(model.net)]
    # (transformers' own `_setup_cache` gives the convolution state the wrong width when `lru_width` differs from
    # `hidden_size`. A state that an earlier prompt left on the modules would corrupt a one-token prompt, and a NaN in
    # it poison the next one.)
    recurrent = [
        x for w in weights for x in (w.new_zeros(1, len(w), w.shape[-1] - 1), torch.zeros(1, len(w), device=w.device))
    ]
    special = getattr(sys.modules[type(model.net).__module__], model.traits.cache or "", None)
    cache = special() if special else DynamicCache(config=model.net.config)
    zeros = torch.zeros(rows, 1, dtype=torch.long, device=model.device)
    return State(cache, recurrent, zeros, zeros[:, 0], False)


def merge(states: Sequence[State]) -> State:
    """A ragged batch out of several states: keys and values are left-padded to the longest row."""
    states = [state.unshared() for state in states]

    def join(parts: list[Tensor]) -> Tensor:
        # Only keys and values have lengths that differ between states; they are (rows, heads, keys, head_dim).
        keys = max(x.shape[-2] for x in parts) if parts[0].ndim == 4 else 0
        if any(x.ndim == 4 and x.shape[-2] < keys for x in parts):
            parts = [nn.functional.pad(x, (0, 0, keys - x.shape[-2], 0)) for x in parts]
        return torch.cat(parts)

    cache = map_caches([s.cache for s in states], join)
    for layer in cache.layers:
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length = max(int(s.position.max()) for s in states)
    return State(
        cache,
        [join(list(parts)) for parts in zip(*(s.recurrent for s in states), strict=True)],
        torch.cat([s.token for s in states]),
        torch.cat([s.position for s in states]),
        states[0].answered,
    )


def recurrent_modules(net: nn.Module) -> list[Any]:
    return [m for m in net.modules() if hasattr(m, "conv1d_state") and hasattr(m, "rg_lru")]


def recurrent(net: nn.Module) -> list[Tensor]:
    return [x for m in recurrent_modules(net) for x in (m.conv1d_state, m.rg_lru.recurrent_states)]


def restore_recurrent(net: nn.Module, states: Sequence[Tensor]) -> None:
    pairs = iter(states)
    for m in recurrent_modules(net):
        m.conv1d_state, m.rg_lru.recurrent_states = next(pairs), next(pairs)


def map_caches(
    caches: Sequence[DynamicCache],
    join: Callable[[list[Tensor]], Tensor],
    finish: Callable[[Tensor], Tensor] = lambda x: x,
) -> DynamicCache:
    """A cache whose every per-row tensor is `join` of those of `caches`; `finish` gets those written in place."""
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
