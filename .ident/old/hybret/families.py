"""The hybrid families of transformers that `hybret.verify` knows, each with a tiny configuration.

Every one has at least two attention layers and two recurrent ones. `initializer_range` is large, since freshly
initialised layers write almost nothing into the residual stream, so that no mistake in them would show.
"""

from __future__ import annotations

from typing import Any

import transformers
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .errors import HybretError

_HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2}
_SMALL: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "initializer_range": 0.1, **_HEADS}
_MAMBA2: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
_DELTA: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
_KINDS = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
_LAYERS: dict[str, Any] = {"num_hidden_layers": 4, "layer_types": _KINDS}

FAMILIES: dict[str, dict[str, Any]] = {
    "recurrent_gemma": {
        "hidden_size": 80,
        "intermediate_size": 160,
        "num_hidden_layers": 6,
        "num_attention_heads": 10,
        "num_key_value_heads": 1,
        "attention_window_size": 32,
        "w_init_variance_scale": 1.0,
    },
    "jamba": {**_SMALL, "num_hidden_layers": 8, "attn_layer_period": 4, "attn_layer_offset": 2, "num_experts": 4},
    "bamba": {**_SMALL, **_MAMBA2, "num_hidden_layers": 4, "attn_layer_indices": [1, 3]},
    "zamba": {
        **_SMALL,
        "initializer_range": 0.2,
        "num_hidden_layers": 6,
        "num_key_value_heads": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "mamba", "hybrid", "mamba"],
    },
    "zamba2": {
        **_SMALL,
        "num_hidden_layers": 6,
        "num_key_value_heads": 4,
        "mamba_d_state": 16,
        "mamba_headdim": 16,
        "chunk_size": 8,
        "use_mem_rope": True,
        "layers_block_type": ["mamba", "hybrid", "mamba", "mamba", "hybrid", "mamba"],
    },
    "falcon_h1": {**_SMALL, **_MAMBA2, "num_hidden_layers": 3, "mamba_d_ssm": 128},
    "granitemoehybrid": {**_SMALL, **_MAMBA2, **_LAYERS, "shared_intermediate_size": 96, "num_local_experts": 4},
    "nemotron_h": {
        **_SMALL,
        "head_dim": 16,
        "layers_block_type": ["mamba", "attention", "mlp", "mamba", "attention", "mlp"],
        "ssm_state_size": 16,
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "n_groups": 1,
        "chunk_size": 8,
    },
    "qwen3_next": {
        **_SMALL,
        **_DELTA,
        **_LAYERS,
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
    "qwen3_5": {**_SMALL, **_DELTA, **_LAYERS, "head_dim": 16},
    "lfm2": {
        **_SMALL,
        "num_hidden_layers": 4,
        "layer_types": ["conv", "full_attention"] * 2,
        "block_auto_adjust_ff_dim": False,
    },
    "lfm2_moe": {
        **_SMALL,
        "num_hidden_layers": 4,
        "layer_types": ["conv", "full_attention"] * 2,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "num_dense_layers": 1,
    },
    "olmo_hybrid": {**_SMALL, **_DELTA, **_LAYERS},
    "kimi_linear": {
        **_SMALL,
        **_LAYERS,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 32,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "linear_head_dim": 16,
        "linear_num_heads": 4,
    },
    "minimax": {
        **_SMALL,
        **_LAYERS,
        "layer_types": _KINDS[::-1],
        "head_dim": 16,
        "num_local_experts": 4,
        "block_size": 8,
    },
}
_TYPES = {"qwen3_5": "qwen3_5_text"}  # model type of the language model, where it is not the family's name

KNOWN_DEFECTS = {
    ("recurrent_gemma", "own_continuation"): "its convolution starts from zero; hybret starts it from the state",
    ("recurrent_gemma", "own_padding"): "its recurrent layers read padding like text; hybret does not let them",
    ("jamba", "own_continuation"): "its scan starts from zero; hybret starts it from the state",
    ("bamba", "own_positions"): "it counts positions from 0 in every pass; hybret always gives them",
    ("zamba", "own_continuation"): "its scan starts from zero",
    ("zamba", "reading_on"): "its scan starts from zero; hybret reads every prompt in one pass, so it shares none",
}
"""Family and check (a function of `hybret.verifying`) to what is wrong in transformers, and what hybret does about it.

Found in 5.23.0; a version in which one is gone passes the check.
"""


def family_config(family: str, vocabulary: int) -> Any:
    """The tiny configuration of a family, with the organisms' special tokens.

    Parameters
    ----------
    family : one of `FAMILIES`.
    vocabulary : number of tokens.

    Raises
    ------
    HybretError
        If the installed transformers does not have the family.
    """
    kind = _TYPES.get(family, family)
    if kind not in CONFIG_MAPPING:
        raise HybretError(f"transformers {transformers.__version__} has no family {family!r}; install a newer one")
    special = {"vocab_size": vocabulary, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(kind, **FAMILIES[family], **special)
    if family == "recurrent_gemma":
        config.final_w_init_variance_scale = 8.0  # of what layers write; a field that its __init__ sets by itself
    return config
