"""On which devices a model is built."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from hybret.engine.sizing import fits, skeleton
from hybret.errors import HybretError

MAPS = ("auto", "balanced")


@dataclass(frozen=True)
class Elsewhere:
    """In the place of a net that other processes hold (`hybret.Ray.load`): what plans and rows must know of it.

    Attributes
    ----------
    config : transformers.PretrainedConfig
    dtype : torch.dtype
    device : torch.device
    room : int
        Bytes of that device for the states of a batch (`batches.state_room`).
    """

    config: Any
    dtype: torch.dtype
    device: torch.device
    room: int


def device_of(device: str) -> str:
    """The device that this name stands for here; refuses what is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = torch.device("meta")
    gpus = max(1, torch.cuda.device_count()) if torch.cuda.is_available() else 0
    there = {"cpu": 1, "cuda": gpus}.get(found.type, 0)
    if not isinstance(device, str) or (found.index or 0) >= there:
        raise HybretError(f"device {device!r} is not available here; choose auto, cpu or a CUDA device that exists")
    return device


def spread(device_map: str) -> list[str]:
    """All GPUs, over which `device_map` spreads a model.

    Raises
    ------
    HybretError
        For another map, without a GPU, or without accelerate.
    """
    if not isinstance(device_map, str) or device_map not in MAPS:
        raise HybretError(f"unknown device_map {device_map!r}; choose {' or '.join(MAPS)}, or name one device")
    if not torch.cuda.is_available():
        raise HybretError(f"device_map={device_map!r} spreads a model over GPUs, and there is none; leave it out")
    if find_spec("accelerate") is None:
        raise HybretError(f"device_map={device_map!r} needs accelerate; pip install accelerate")
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())]


def several(config: Any, dtype: str) -> str | None:
    """The map that ``device="auto"`` takes: none where one device has room for the weights, or is all there is."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    alone = gpus < 2 or find_spec("accelerate") is None or fits(config, dtype, ["cuda"])
    return None if alone else "auto"


def placement(devices: list[str], device_map: str | None) -> str | dict[str, str] | None:
    """What transformers shall do with the weights that it reads: straight onto the GPU, if accelerate is there."""
    if device_map:
        return device_map
    return {"": devices[0]} if devices != ["cpu"] and find_spec("accelerate") else None


def random_net(config: Any, devices: list[str], device_map: str | None, seed: int, options: dict[str, Any]) -> Any:
    """A model with random weights, made where it runs."""
    torch.manual_seed(seed)
    if device_map is None:
        with torch.device(devices[0]):
            return AutoModelForCausalLM.from_config(config, **options)
    # A checkpoint without any weights: transformers spreads the layers, fills in all of them, and would list them as
    # missing.
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        net = type(skeleton(config))
        return net.from_pretrained(None, config=config, state_dict={}, device_map=device_map, **options)
    finally:
        logging.set_verbosity(level)


def require_on_gpus(name: str, net: Any) -> None:
    """Refuse a model of which accelerate left a part off the GPUs: states would be lost, and it would take hours.

    Raises
    ------
    HybretError
        Naming the part.
    """
    away = [part for part, device in getattr(net, "hf_device_map", {}).items() if device in ("cpu", "disk")]
    if away:
        raise HybretError(
            f"{name} does not fit on the GPUs: accelerate left {away[0] or 'all of it'} in slower memory; free some of "
            "theirs, or use more or larger ones"
        )
