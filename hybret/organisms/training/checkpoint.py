"""Checkpoints of a training run: the folder that ships, and what resuming needs beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from hybret.errors import HybretError
from hybret.organisms.training.recipes import Training

PARTS = ("remainder", "exp_avg", "exp_avg_sq")
"""Files of a checkpoint beside the model: weights minus the shipped ones, and Adam's moments, all in bf16."""


def ship(folder: Path, averaged: Any, tokenizer: Any) -> None:
    """Write the averaged weights, in bf16, and the tokenizer: an ordinary Hugging Face folder."""
    # A copy: the model itself goes on in fp32, and it holds states that cannot be copied.
    shipped: Any = type(averaged)(averaged.config)
    shipped.to(torch.bfloat16)
    shipped.load_state_dict(averaged.state_dict())
    shipped.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save(
    out: Path, model: Any, averaged: Any, tokenizer: Any, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """Write the shipped folder, with the averaged weights, and what resuming needs beside it."""
    ship(out / "model", averaged, tokenizer)
    (out / "resume").mkdir(parents=True, exist_ok=True)
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for (name, p), mean in zip(model.named_parameters(), averaged.parameters(), strict=True):
        parts["remainder"][name] = p.detach() - mean.detach().bfloat16()
        for moment in PARTS[1:]:
            parts[moment][name] = optimizer.state[p][moment]
    for part, tensors in parts.items():
        tensors = {name: t.bfloat16().cpu().contiguous() for name, t in tensors.items()}
        save_file(tensors, out / "resume" / f"{part}.safetensors", {"state": json.dumps(dict(state))})


def saved_state(folder: Path, training: Training) -> dict[str, Any]:
    """The `state` that `save` wrote, after checking that the folder holds this model."""
    files = [folder / "model" / "model.safetensors", *(folder / "resume" / f"{part}.safetensors" for part in PARTS)]
    if missing := [str(f) for f in files if not f.is_file()]:
        raise HybretError(f"Cannot resume from {folder}: {missing[0]} is missing; give the --out of an earlier run.")
    state = json.loads(safe_open(files[-1], "pt").metadata()["state"])
    if state["name"] != training.name:
        raise HybretError(f"Cannot resume {training.name} from {folder}: it holds {state['name']}.")
    return state


def load(folder: Path, step: int, model: Any, averaged: Any, optimizer: torch.optim.Optimizer) -> None:
    """Read what `save` wrote into the models and the optimizer, the weights to about 16 bits of mantissa."""
    try:  # through transformers: in the file Jamba's experts have names of their own
        shipped = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16)
    except Exception as error:
        raise HybretError(f"Cannot resume from {folder}: its model cannot be loaded ({error}).") from error
    weights = dict(shipped.named_parameters())
    opened = [safe_open(folder / "resume" / f"{part}.safetensors", "pt") for part in PARTS]
    with torch.no_grad():
        for (name, p), ours in zip(model.named_parameters(), averaged.parameters(), strict=True):
            try:
                remainder, mean, square = (f.get_tensor(name).to(p) for f in opened)
                ours.copy_(weights[name])
                p.copy_(ours + remainder)
            except Exception as error:
                raise HybretError(f"Cannot resume from {folder}: {name} does not fit this model ({error}).") from error
            count = torch.tensor(float(step), device=p.device if optimizer.defaults["fused"] else "cpu")
            optimizer.state[p] = {"step": count, "exp_avg": mean, "exp_avg_sq": square}
