"""Where a model comes from: shipped with hybret, a folder, or the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig

from .errors import HybretError
from .families import FAMILIES
from .presets import PAPER_MODELS, RANDOM_MODELS

CHECKPOINTS = Path(__file__).parent / "organisms" / "checkpoints"


def organisms() -> list[str]:
    """Names of the embedded models that this installation ships."""
    return sorted(p.parent.name for p in CHECKPOINTS.glob("*/config.json"))


def source_of(name: str) -> str:
    """Folder or Hugging Face id that `name` stands for, if it is no random model.

    Raises
    ------
    HybretError
        If it stands for nothing.
    """
    if name in organisms():
        return str(CHECKPOINTS / name)
    if (Path(name) / "config.json").is_file():
        return name
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists():
        return name
    known = ", ".join([*organisms(), *RANDOM_MODELS, *PAPER_MODELS])
    raise HybretError(
        f"unknown model {name!r}; give one of {known}, another Hugging Face id (owner/name), "
        f"a folder that holds config.json, or a family ({', '.join(FAMILIES)}) for a tiny random model"
    )


def tokenizer_folder() -> Path:
    """Any organism's folder: the random models borrow its tokenizer."""
    if not organisms():
        raise HybretError(f"no organism is installed in {CHECKPOINTS}, and random models need its tokenizer")
    return CHECKPOINTS / organisms()[0]


def read_config(name: str, source: str) -> Any:
    """The configuration of a model that has weights."""
    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as problem:
        raise HybretError(f"cannot read the configuration of {name!r}: {str(problem).splitlines()[0]}") from problem
