"""Names that need no checkpoint: tiny random hybrids, and the paper's models at full size with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

PAPER_MODELS = {
    "google/recurrentgemma-2b": "RecurrentGemma-2B",
    "google/recurrentgemma-9b": "RecurrentGemma-9B",
    "ai21labs/AI21-Jamba-Mini-1.6": "Jamba-Mini-1.6",
}
RANDOM_MODELS = ("random-griffin", "random-jamba")
RANDOM = "random:"
"""Before a model's name: that model with random weights."""
CONFIGS = Path(__file__).parent / "configs"


def paper_config(name: str) -> Any:
    """The configuration of one of `PAPER_MODELS`, without asking the network; its file says where it is from."""
    from transformers import AutoConfig  # here: figures need the names in this module, and not transformers

    fields = json.loads((CONFIGS / f"{PAPER_MODELS[name].lower()}.json").read_text())
    return AutoConfig.for_model(**{key: value for key, value in fields.items() if key != "_source"})


def made_up(model: pd.Series, weights: pd.Series) -> pd.Series:
    """bool: which rows are of random weights, by their columns "model" and "weights"; what they say means nothing."""
    return model.isin(RANDOM_MODELS) | weights.astype(str).str.startswith("random")


def tiny_config(name: str, vocabulary: int) -> Any:
    """The configuration of one of `RANDOM_MODELS`; its window (32 tokens) is shorter than any prompt."""
    from transformers import JambaConfig, RecurrentGemmaConfig

    special: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": vocabulary}
    if name == "random-griffin":
        return RecurrentGemmaConfig(
            hidden_size=80,
            intermediate_size=160,
            num_hidden_layers=6,
            num_attention_heads=10,
            num_key_value_heads=1,
            attention_window_size=32,
            **special,
        )
    return JambaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        num_experts=4,
        initializer_range=0.1,
        **special,
    )


def head_counts(heads: int, embedded: bool) -> tuple[int, ...]:
    """Numbers of heads to keep in the book's curves, rising from 0 to all: every one, but for embedded models.

    Of those every one up to 8, every fourth up to 16, every eighth up to 32: they turn at k < 8.
    """
    steps = {k: 2 ** ((k - 1).bit_length() - 2) if embedded and k > 8 else 1 for k in range(heads + 1)}
    return tuple(k for k, step in steps.items() if k % step == 0 or k == heads)
