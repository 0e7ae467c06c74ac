"""How much memory a model's weights take, and how much there is: asked before anything is built or downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from hybret.errors import HybretError

GIB = 2**30
RESERVE = GIB // 2
"""Kept free beside the weights: the runtime's own memory and the smallest batch."""


def skeleton(config: Any) -> Any:
    """The model of a configuration without memory behind its weights: shapes and names, on the device ``meta``."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def weight_bytes(config: Any, dtype: str) -> int:
    """Bytes of the weights of a model in a dtype; tied weights count once."""
    return sum(p.numel() for p in skeleton(config).parameters()) * getattr(torch, dtype).itemsize


def cache_bytes(config: Any, attention_layers: int, tokens: int, item: int) -> int:
    """Bytes of the keys and values of one row after `tokens` tokens, `item` bytes each; a window bounds them."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = min(tokens, getattr(config, "sliding_window", None) or tokens)
    return int(2 * attention_layers * config.num_key_value_heads * width * keys * item)


def free_bytes(device: str) -> int:
    """Bytes that can be taken on a device: of a GPU, or of this process's memory (Linux; unbounded elsewhere)."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    bounds = []
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        bounds.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError):
        pass
    try:  # a container's bound; what is cached of files makes room
        group = Path("/sys/fs/cgroup")
        most, taken = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
        bounds.append(most - taken + int(cached))
    except (OSError, ValueError, KeyError):
        pass
    return min(bounds, default=2**62)


def fits(config: Any, dtype: str, devices: Sequence[str]) -> bool:
    """Whether the free memory of these devices has room for the weights."""
    return weight_bytes(config, dtype) + RESERVE <= sum(map(free_bytes, devices))


def require_room(name: str, config: Any, dtype: str, devices: Sequence[str]) -> None:
    """Refuse a model whose weights do not fit.

    Parameters
    ----------
    name, config, dtype : of the model.
    devices : what the weights are spread over.

    Raises
    ------
    HybretError
        Saying what is needed, what there is, and what to do.
    """
    if fits(config, dtype, devices):
        return
    needed, free = weight_bytes(config, dtype), sum(map(free_bytes, devices))
    remedies = ["use a larger machine"]
    if list(devices) == ["cpu"] and torch.cuda.is_available():
        remedies.insert(0, "install accelerate, which reads weights straight onto the GPU")
    elif len(devices) == 1 and torch.cuda.device_count() > 1:
        remedies.insert(0, 'spread it over the GPUs with device_map="auto"')
    if dtype == "float32":
        half = "needs half as much" if needed / 2 + RESERVE <= free else "still would not fit, and needs half as much"
        remedies.append(f'dtype="bfloat16" {half}')
    raise HybretError(
        f"{name} does not fit: its weights take {needed / GIB:.1f} GiB in {dtype}, and {' and '.join(devices)} "
        f"{'has' if len(devices) == 1 else 'have'} {free / GIB:.1f} GiB free; {'; '.join(remedies)}"
    )
