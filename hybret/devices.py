"""Where a model runs: which devices there are, whether the weights fit, and how much may run at one time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM

from hybret.errors import HybretError, Positive, checked, one_of
from hybret.hybrid import Hybrid

GIB = 2**30
RESERVE = GIB // 2  # bytes kept free beside the weights: the runtime's own memory and the smallest batch
MOST_SEQUENCES = {"cpu": 640, "cuda": 1024}
# On the CPU a few rows stay in the caches; a GPU wants large passes.
MOST_TOKENS = {"cpu": 2400, "cuda": 32768}
STATE_SHARE = 0.15
"""Share of a GPU's memory, or of what is free for the CPU, for the keys and values of the rows that decode together;
merging them takes it twice, a sweep up to 3.5 times (measured on the CPU)."""
ROOM_SHARE = 0.25
"""The same of what the weights leave, where that is less: of 139 GiB the 96 of Jamba-Mini leave 43."""


def skeleton(config: Any) -> Any:
    """The model of a configuration on the device ``meta``: names and shapes without memory."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def weight_bytes(config: Any, dtype: str) -> int:
    """Bytes of a model's weights in a dtype; tied weights count once."""
    return sum(p.numel() for p in skeleton(config).parameters()) * getattr(torch, dtype).itemsize


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
                raise HybretError(f"device_map={device_map!r} spreads a model over GPUs, and there is none; omit it")
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
            free = f"{sum(map(self.free, devices)) / GIB:.1f} GiB are free on {' and '.join(devices)}"
            raise HybretError(
                f"{name} does not fit: its weights take {needed / GIB:.1f} GiB in {dtype}, and {free}; use a larger "
                'machine, dtype="bfloat16", device_map="auto", or accelerate, which reads weights straight onto a GPU'
            )
        return place


def check_on_gpus(name: str, net: Any) -> None:
    """Refuse a model of which accelerate left a part off the GPUs: states would be lost, and it would take hours."""
    away = [part for part, device in getattr(net, "hf_device_map", {}).items() if device in ("cpu", "disk")]
    if away:
        part = away[0] or "all of it"
        raise HybretError(f"{name} does not fit on the GPUs: accelerate left {part} in slower memory; use more GPUs")


@checked
class Budget:
    """How much runs at one time. In fp32 it does not change an answer; in bf16 it may, so it is part of a run."""

    max_sequences: Positive  # rows (prompt x condition) that decode together
    max_tokens: Positive  # of a prefill pass, over all its rows

    def half(self) -> Budget:
        return Budget(max(1, self.max_sequences // 2), max(1, self.max_tokens // 2))


def budget_of(model: Hybrid, longest: int | None = None) -> Budget:
    """What fits on the model's device, from its memory, for prompts of up to `longest` tokens.

    The default is made for the longest prompt of the model's grid, read twice.
    """
    kind, longest = model.device.type, longest or 2 * max(model.lengths)
    sequences = MOST_SEQUENCES.get(kind, 1)
    if kind == "cuda":
        memory = torch.cuda.get_device_properties(model.device).total_memory
        weights = sum(p.numel() * p.element_size() for p in model.net.parameters() if p.device == model.device)
        room = int(min(STATE_SHARE * memory, ROOM_SHARE * max(0, memory - weights)))
        sequences = max(1, min(sequences, room // row_bytes(model, longest)))
    return Budget(sequences, MOST_TOKENS.get(kind, 1))


def within_memory(model: Hybrid, budget: Budget, longest: int) -> Budget:
    """The budget, on the CPU with its rows halved until those of `longest` tokens fit into what is free.

    A GPU says that its memory is full, and the budget is halved then (`hybret.engine.schedule.run`); a process that
    fills the CPU's is killed. Only halves: a little more or less free memory mostly makes no other batches.
    """
    sequences = budget.max_sequences
    if model.device.type == "cpu":
        room = STATE_SHARE * free_bytes("cpu")
        while sequences > 1 and sequences * row_bytes(model, longest) > room:
            sequences //= 2
    return Budget(sequences, budget.max_tokens)


def row_bytes(model: Hybrid, tokens: int) -> int:
    """Bytes of the keys and values of one row after `tokens` tokens; a window bounds them."""
    config = model.net.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = min(tokens, getattr(config, "sliding_window", None) or tokens)
    return int(2 * len(model.attention_layers) * config.num_key_value_heads * width * keys * model.net.dtype.itemsize)
