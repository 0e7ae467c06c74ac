"""What a model must be before anything is measured on it: whole, finite, and of one size with its tokenizer."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from .errors import HybretError
from .sources import CHECKPOINTS


def require_fit(name: str, config: Any) -> None:
    """Refuse a configuration that contradicts itself, where transformers would build something else in silence.

    Raises
    ------
    HybretError
        Naming the field.
    """
    for field in ("num_attention_heads", "num_key_value_heads", "sliding_window", "vocab_size", "num_hidden_layers"):
        value = getattr(config, field, None)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise HybretError(f"the configuration of {name!r} says {field} = {value!r}; it must be at least 1")
    heads, groups = config.num_attention_heads, getattr(config, "num_key_value_heads", None) or 1
    if heads % groups:
        raise HybretError(
            f"the configuration of {name!r} says {heads} heads and {groups} key-value heads; the first must be a "
            "multiple of the second"
        )
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    if kinds and len(kinds) != config.num_hidden_layers:
        raise HybretError(
            f"the configuration of {name!r} names the kinds of {len(kinds)} layers, and num_hidden_layers is "
            f"{config.num_hidden_layers}; they must agree"
        )
    experts, chosen = getattr(config, "num_experts", None), getattr(config, "num_experts_per_tok", None)
    if isinstance(experts, int) and isinstance(chosen, int) and chosen > max(1, experts):
        raise HybretError(
            f"the configuration of {name!r} asks for {chosen} of {experts} experts; it must be as many at most"
        )


def require_whole(name: str, info: dict[str, Any]) -> None:
    """Refuse weights that do not fill the model: transformers would make random ones up for what is missing.

    Parameters
    ----------
    name : of the model.
    info : what transformers tells of loading (``output_loading_info``).

    Raises
    ------
    HybretError
        Naming a tensor.
    """
    remedy = "config.json and the weights belong to different models, or the download is incomplete; get both again"
    if wrong := sorted(map(str, info.get("mismatched_keys") or ())):
        raise HybretError(f"the weights of {name!r} have another shape than its configuration ({wrong[0]}); {remedy}")
    if missing := sorted(info.get("missing_keys") or ()):
        raise HybretError(
            f"the weights of {name!r} lack {len(missing)} of the tensors that its configuration names, such as "
            f"{missing[0]}; {remedy}"
        )
    if over := sorted(info.get("unexpected_keys") or ()):
        raise HybretError(
            f"the weights of {name!r} hold {len(over)} tensors that its configuration has no place for, such as "
            f"{over[0]}; {remedy}"
        )


def require_finite(name: str, net: Any) -> None:
    """Refuse weights that hold NaN or an infinity; one pass over each tensor where it is, without a copy.

    Raises
    ------
    HybretError
        Naming the tensor.
    """
    for key, value in net.state_dict().items():
        if value.is_floating_point() and value.numel():
            low, high = value.aminmax()  # NaN goes through both
            if not (math.isfinite(low) and math.isfinite(high)):
                raise HybretError(
                    f"the weights of {name!r} are not finite: {key} holds NaN or an infinity, so the file is damaged "
                    "or its training failed; get it again, or use another checkpoint"
                )


def require_vocabulary(name: str, net: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer that knows tokens which the model does not.

    Raises
    ------
    HybretError
        With both numbers.
    """
    rows = net.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise HybretError(
            f"the tokenizer of {name!r} has {len(tokenizer)} tokens and its model {rows}; they must be of one model"
        )


def require_tokens(model: Any, prompts: Iterable[Sequence[int]], max_new_tokens: int) -> None:
    """Refuse prompts that a model cannot read, or not together with an answer; nothing runs.

    Parameters
    ----------
    model : Model
    prompts : token ids of each.
    max_new_tokens : of an answer.

    Raises
    ------
    HybretError
        Naming the length, or the token.
    """
    config = model.net.config
    most, vocabulary = getattr(config, "max_position_embeddings", None), config.vocab_size
    for ids in prompts:
        if not ids:
            raise HybretError("a prompt without a token cannot be answered; give a text that is not empty")
        if not 0 <= min(ids) <= max(ids) < vocabulary:
            raise HybretError(
                f"a prompt holds the token {max(ids)}, and {model.name} has {vocabulary}; build the prompts with this "
                "model's tokenizer"
            )
        if most and len(ids) + max_new_tokens > most:
            raise HybretError(
                f"a prompt of {len(ids)} tokens and an answer of {max_new_tokens} are more than the {most} positions "
                f"of {model.name}; give shorter lengths"
            )


def warn_beyond(model: Any, prompts: Iterable[Sequence[int]]) -> None:
    """Warn of prompts that are longer than any document that an organism was trained on; its training log says so.

    The text and the place are always the same, so Python shows it once.
    """
    log = CHECKPOINTS / model.name / "training_log.jsonl"
    if not model.embedded or not log.is_file():
        return
    with log.open() as lines:
        most = max(length for length, _ in json.loads(next(lines))["training"]["lengths"])
    if max(map(len, prompts)) > most:
        warnings.warn(
            f"some prompts have more than {most} tokens, and {model.name} was trained on no longer ones, so its wrong "
            "answers to them say nothing about its heads; give shorter lengths",
            stacklevel=1,
        )
