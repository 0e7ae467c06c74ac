"""What a network holds at the moment: the identity of its weights, and what else would change its answers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hybret.errors import HybretError
from hybret.files import digest as digest_of

if TYPE_CHECKING:
    from hybret.hybrid import Hybrid

Sums = tuple[dict[str, Any], dict[str, Any]]
WIDTH = 4096  # words of a row of `checksum`
ODD = (-7046029254386353131, -4658895280553007687)


def window(net: Any) -> int | None:
    """Keys that a query sees, as the network's attention has it: a field that its family does not use says nothing."""
    windows = {
        m.sliding_window for m in net.modules() if hasattr(m, "num_key_value_groups") and hasattr(m, "sliding_window")
    }
    return windows.pop() if len(windows) == 1 else None


def digest(weights: Mapping[str, Tensor]) -> str:
    """First 12 hex digits of the SHA-256 over the weights, by name."""
    total = hashlib.sha256()
    for key, value in sorted(weights.items()):
        total.update(key.encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:12]


def checksum(net: Any) -> Sums:
    """What changes with any value of the weights, and of the buffers that no file holds: faster than `digest`.

    Versions of tensors would not do: writing to ``.data`` does not count.
    """
    weights = net.state_dict()
    buffers = {name: value for name, value in net.named_buffers() if name not in weights}
    return _sums(weights), _sums(buffers)


def _sums(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Of each tensor, weighted sums over the rows and columns of its 64-bit words: places count as values do."""
    sums = {}
    for name, value in tensors.items():
        raw = value.detach().contiguous().flatten().view(torch.uint8)
        whole = raw.numel() // 8 * 8
        words = (raw[:whole] if raw.storage_offset() % 8 == 0 else raw[:whole].clone()).view(torch.int64)
        square = words[: words.numel() // WIDTH * WIDTH].view(-1, WIDTH)
        parts = square.sum(1), square.sum(0), words[square.numel() :], raw[whole:].long()
        sums[name] = value.dtype, tuple(value.shape), *(int((part * _factors(part)).sum()) for part in parts)
    return sums


def _factors(part: Tensor) -> Tensor:
    """An odd number for each place, without order: a change of one word never vanishes."""
    mixed = torch.arange(1, part.numel() + 1, device=part.device) * ODD[0]
    return (mixed ^ (mixed >> 29)) * ODD[1] | 1


def check_state(model: Hybrid) -> None:
    """Give a model that was changed after loading a digest of its own; refuse what rows would not name.

    Called before rows are made or looked up: what answers is what they are stored under.
    """
    if torch.is_autocast_enabled(model.device.type):
        raise HybretError(
            f"torch.autocast is on, and rows would say {model.dtype}; leave its block, or load the model in that dtype"
        )
    for name, module in model.net.named_modules():
        if name and (module._forward_hooks or module._forward_pre_hooks):
            raise HybretError(
                f"{name} of {model.name} has a forward hook, which rows would not name; remove it, or write what it "
                "does as an intervention"
            )
    if (now := checksum(model.net)) != model.checksum:
        changed = digest(model.net.state_dict())
        if now[1] != model.checksum[1]:
            changed = digest_of(changed, repr(now[1]))
        model.digest = f"random{changed[:6]}" if model.digest.startswith("random") else changed
        model.checksum, model.changed = now, True
