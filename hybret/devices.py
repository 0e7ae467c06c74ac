"""Where a model runs: which devices there are, how much memory they have free, and whether the weights fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM

from hybret.errors import HybretError, one_of

GIB = 2**30
RESERVE = GIB // 2  # bytes kept free beside the weights: the runtime's own memory and the smallest batch


def skeleton(config: Any) -> Any:
    """The model of a configuration on the device ``meta``: names and shapes without memory."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def weight_bytes(config: Any, dtype: str) -> int:
    """Bytes of a model's weights in a dtype; tied weights count once."""
    return sum(p.numel() for p in skeleton(config).parameters()) * getattr(torch, dtype).itemsize


def cache_bytes(config: Any, attention_layers: int, tokens: int, item: int) -> int:
    """Bytes of the keys and values of one row after `tokens` tokens, `item` bytes per number; a window bounds them."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = min(tokens, getattr(config, "sliding_window", None) or tokens)
    return int(2 * attention_layers * config.num_key_value_heads * width * keys * item)


def free_bytes(device: str) -> int:
    """Bytes that are free on a GPU, or for this process within its container's limit."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free, group = psutil.virtual_memory().available, Path("/sys/fs/cgroup")
    try:  # cached files make room
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
        return min(free, limit - used + int(cached))
    except (OSError, ValueError, KeyError):
        return free


@dataclass(frozen=True)
class Placement:
    """Devices for a model, and the ``device_map`` of ``from_pretrained``: a text if layers are spread over them."""

    devices: list[str]
    device_map: str | dict[str, str] | None

    @property
    def spread(self) -> bool:
        return isinstance(self.device_map, str)


@dataclass(frozen=True)
class Machine:
    """What models are placed by; default this machine as it is at the moment."""

    gpus: int = field(default_factory=lambda: torch.cuda.device_count() if torch.cuda.is_available() else 0)
    accelerate: bool = field(default_factory=lambda: find_spec("accelerate") is not None)  # spreads layers over GPUs
    free: Callable[[str], int] = free_bytes  # by a device's name

    def placement(self, device: str = "auto", device_map: str | None = None) -> Placement:
        """What these two arguments of `hybret.load` mean; refuses what this machine lacks."""
        if device_map is not None:
            one_of("device_map", device_map, ("auto", "balanced"))
            if not self.gpus:
                raise HybretError(
                    f"device_map={device_map!r} spreads a model over GPUs, and there is none; leave it out"
                )
            if not self.accelerate:
                raise HybretError(f"device_map={device_map!r} needs accelerate; pip install accelerate")
            return Placement([f"cuda:{i}" for i in range(self.gpus)], device_map)
        if device == "auto":
            device = "cuda" if self.gpus else "cpu"
        try:
            wanted = torch.device(device)
        except (RuntimeError, TypeError):
            wanted = torch.device("meta")
        if not isinstance(device, str) or (wanted.index or 0) >= {"cpu": 1, "cuda": self.gpus}.get(wanted.type, 0):
            raise HybretError(f"device {device!r} is not available; choose auto, cpu or a CUDA device that exists")
        return Placement([device], {"": device} if device != "cpu" and self.accelerate else None)

    def fitted(self, name: str, config: Any, dtype: str, place: Placement, auto: bool, read: bool) -> Placement:
        """`place`, or with `auto` all GPUs where the first is too small; refuses weights that do not fit.

        With `read` the weights are read, and not made there: without accelerate they pass through the CPU's memory.
        """
        needed = weight_bytes(config, dtype)

        def lacking(devices: list[str]) -> bool:
            return needed + RESERVE > sum(map(self.free, devices))

        if auto and self.accelerate and self.gpus > 1 and lacking(["cuda"]):
            place = self.placement(device_map="auto")
        through = [["cpu"]] if read and place.device_map is None else []
        for devices in filter(lacking, [place.devices, *through]):
            remedies = ["use a larger machine"]
            if devices == ["cpu"] and self.gpus:
                remedies.insert(0, "install accelerate, which reads weights straight onto the GPU")
            elif len(devices) == 1 and self.gpus > 1:
                remedies.insert(0, 'spread it over the GPUs with device_map="auto"')
            if dtype == "float32":
                remedies.append('dtype="bfloat16" needs half as much')
            free = f"{'has' if len(devices) == 1 else 'have'} {sum(map(self.free, devices)) / GIB:.1f} GiB free"
            raise HybretError(
                f"{name} does not fit: its weights take {needed / GIB:.1f} GiB in {dtype}, and {' and '.join(devices)} "
                f"{free}; {'; '.join(remedies)}"
            )
        return place


def check_on_gpus(name: str, net: Any) -> None:
    """Refuse a model of which accelerate left a part off the GPUs: states would be lost, and it would take hours."""
    away = [part for part, device in getattr(net, "hf_device_map", {}).items() if device in ("cpu", "disk")]
    if away:
        raise HybretError(
            f"{name} does not fit on the GPUs: accelerate left {away[0] or 'all of it'} in slower memory; free some of "
            "theirs, or use more or larger ones"
        )
