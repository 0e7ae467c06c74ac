"""What a measurement rests on: the machine, its speed, the clock and the memory."""

from __future__ import annotations

import platform
import statistics
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers

from hybret import __version__
from hybret.models import Model

GIB = 2**30


def matmul_rate(model: Model, size: int | None = None) -> float:
    """Floating-point operations per second of a large matrix product in the model's dtype on its device."""
    size = size or (8192 if model.device.type == "cuda" else 1024)
    a, b = (torch.randn(size, size, device=model.device, dtype=model.net.dtype) for _ in range(2))
    times = []
    for _ in range(6):
        wait(model)
        began = time.perf_counter()
        a @ b
        wait(model)
        times.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(times[1:])


def flops_per_token(net: Any) -> float:
    """Two operations per weight that a token meets; embeddings are looked up, the head runs once per prompt, and of a
    mixture of experts only the chosen ones count."""
    config = net.config
    experts = getattr(config, "num_experts", 0) or getattr(config, "num_local_experts", 0) or 1
    chosen = getattr(config, "num_experts_per_tok", 1) or 1
    met = 0.0
    for name, weight in net.named_parameters():
        if "embed" not in name and "lm_head" not in name:
            met += weight.numel() * (chosen / experts if ".experts" in name else 1)
    return 2 * met


def machine(model: Model) -> dict[str, Any]:
    """What the figures were measured on."""
    found = machine_of(model.name, str(model.device), model.dtype)
    return {**found, "weights": model.digest, "parameters": model.parameters}


def machine_of(name: str, device: str, dtype: str) -> dict[str, Any]:
    """The same for something that is no whole model."""
    cuda, threads = torch.device(device).type == "cuda", torch.get_num_threads()
    return {
        "model": name,
        "dtype": dtype,
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU ({threads} thread{'s' if threads > 1 else ''})",
        "date": datetime.now(UTC).date().isoformat(),
        "hybret": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def wait(model: Model) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


class Memory:
    """Peak memory inside the block in GiB: of the fullest GPU, or of this process (Linux; None elsewhere)."""

    gib: float | None = None

    def __init__(self, model: Model) -> None:
        self.gpus = sorted({p.device.index for p in model.net.parameters() if p.device.type == "cuda"})

    def __enter__(self) -> Memory:
        if self.gpus:
            torch.cuda.empty_cache()
            for gpu in self.gpus:
                torch.cuda.reset_peak_memory_stats(gpu)
        else:
            with (
                open("/proc/self/clear_refs", "w") if Path("/proc/self/clear_refs").exists() else nullcontext() as file
            ):
                if file:
                    file.write("5")
        return self

    def __exit__(self, *_: object) -> None:
        if self.gpus:
            self.gib = round(max(map(torch.cuda.max_memory_allocated, self.gpus)) / GIB, 3)
        elif (status := Path("/proc/self/status")).exists():
            line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
            self.gib = round(int(line.split()[1]) * 1024 / GIB, 3)
