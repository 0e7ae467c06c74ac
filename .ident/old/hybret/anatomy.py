"""What a configuration and weights say of a hybrid: where its attention sits, what ends its answers, its hash."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from .errors import HybretError


def attention_layers(config: Any, name: str) -> tuple[tuple[int, ...], int]:
    """Indices of the attention layers and the number of query heads in each.

    Raises
    ------
    HybretError
        If the model has no attention layers.
    """
    # transformers 5.23 says "sliding_attention", "full_attention" and "linear_attention"; 5.17 "attention" and
    # "recurrent".
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    if not kinds and hasattr(config, "num_attention_heads"):
        kinds = ["full_attention"] * config.num_hidden_layers
    # "hybrid" (Zamba, Falcon-H1): attention and a recurrence in one layer.
    layers = tuple(
        i for i, k in enumerate(kinds or ()) if k == "hybrid" or ("attention" in k and not k.startswith("linear"))
    )
    if not layers:
        raise HybretError(f"{name!r} has no attention layers; hybret intervenes on attention, so it needs a hybrid")
    if not config.num_attention_heads:
        raise HybretError(f"{name!r} has attention layers without heads; give num_attention_heads in its config.json")
    return layers, int(config.num_attention_heads)


def ends(*declared: int | list[int] | None) -> frozenset[int]:
    """Every token that ends an answer: chat models name their end of turn in the generation config alone."""
    return frozenset(i for ids in declared if ids is not None for i in (ids if isinstance(ids, list) else [ids]))


def digest(net: Any) -> str:
    """Hash of the weights as they are: 12 hex digits."""
    total = hashlib.sha256()
    for key, value in sorted(net.state_dict().items()):
        total.update(key.encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:12]
