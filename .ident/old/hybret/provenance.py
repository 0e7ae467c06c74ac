"""Where rows come from: what made them, and how two runs differ in it."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from . import __version__
from .commits import commit
from .engine.placing import Elsewhere
from .models import Model
from .prompts import Prompt

HERE = Path(__file__).parent
LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pandas", "pyarrow")
# Read once, with the code: a module edited while a run goes on does not change what the run is called.
PACKAGE_DIGEST = hashlib.sha256(b"".join(p.read_bytes() for p in sorted(HERE.rglob("*.py")))).hexdigest()[:12]


def name_of(facts: Any) -> str:
    """12 hex digits of the SHA-256 of anything that JSON can hold: what notes and folders are called by."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def facts(model: Model) -> dict[str, Any]:
    """What computes here and now, beside what decides whose rows a folder holds (`hybret.sweeping.identity`).

    Batches of one run may be made by several: it may be interrupted and go on after an update. On Ray it is the driver
    that is described; workers are held to the same engine, torch and transformers.

    Returns
    -------
    dict : ready for JSON, without times, so that the same command writes the same bytes.
    """
    return {
        "code": {"version": __version__, "package": PACKAGE_DIGEST, **commit(HERE)},
        "libraries": {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()},
        "hardware": _hardware(model),
        "threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        # Of a model of the hub: the commit that its name stood for when it was loaded.
        "revision": getattr(model.net.config, "_commit_hash", None),
    }


def _hardware(model: Model) -> str:
    if model.device.type == "cuda":
        return "GPUs of Ray" if isinstance(model.net, Elsewhere) else torch.cuda.get_device_name(model.device)
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def texts_of(prompts: Iterable[Prompt]) -> dict[str, Any]:
    """12 hex digits of the SHA-256 of every haystack, and of every needle with its question."""
    found: dict[str, dict[str, str]] = {"haystacks": {}, "needles": {}}
    for p in prompts:
        found["haystacks"][f"{p.haystack}, seed {p.haystack_seed}"] = p.haystack_sha256[:12]
        if not p.control:  # whose name is no needle's; its rows say in `asked` which one it leaves out
            found["needles"][p.needle] = p.target.digest
    return found


def merged(notes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The notes of several tables (``rows.attrs``) as one: what is held by name is collected, the last one wins."""
    together: dict[str, Any] = {}
    for note in notes:
        for key, value in note.items():
            together[key] = {**together.get(key, {}), **value} if isinstance(value, dict) else value
    return together


def flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested facts on one level, as ``{"code.commit": ...}``."""
    found: dict[str, Any] = {}
    for key, value in facts.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The fields in which two runs differ with both values, in words; empty if there are none."""
    one, other = flat(there), flat(here)
    keys = [key for key in {**other, **one} if one.get(key) != other.get(key) or (key in one) != (key in other)]
    return ", ".join(f"{key}: {_shown(one, key)} there, {_shown(other, key)} here" for key in keys)


def _shown(facts: Mapping[str, Any], key: str) -> str:
    return json.dumps(facts[key]) if key in facts else "not recorded"
