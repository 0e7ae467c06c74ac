"""The path that hybret is measured against: transformers' own `generate`, one condition at a time.

A registered eager attention function gates or changes the weights of every pass; nothing is shared, batched or patched.
It is written without hybret's engine, so its answers are also a second opinion on them. The recipe is `CORRECTED`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from hybret.interventions import Intervention
from hybret.interventions.heads import SURE, KeepHeads, OmitHeads, OnlyHeads
from hybret.interventions.weights import Binary, Mass, Null, Omit, Only
from hybret.models import Model
from hybret.prompts import Prompt

NAME = "hybret-stock"


@dataclass
class _Pass:
    prefill: tuple[Intervention, ...]
    generation: tuple[Intervention, ...]
    needle: Sequence[tuple[int, int]]
    question: tuple[int, int]
    read: int = 0
    layer: int = -1


def _attention(
    state: _Pass,
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Eager attention; the prompt's last token already belongs to generation (`Recipe.prompt_split`)."""
    if state.layer in (-1, module.layer_idx):  # the first attention layer of a pass
        state.layer, state.read = module.layer_idx, state.read + query.shape[2]
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32)
    visible = weights > 0 if attention_mask is None else (attention_mask == 0).expand_as(weights)
    position = torch.arange(state.read - key.shape[2], state.read, device=key.device)
    needle = torch.zeros_like(position, dtype=torch.bool)
    for start, end in state.needle:
        needle |= (position >= start) & (position < end)
    keys = {"needle": needle, "first": position == 0}
    keys |= {"question": position >= state.question[0], "answer": position >= state.question[1]}
    itself = position == position[-query.shape[2] :, None]
    last = query.shape[2] - 1
    outputs = []
    for part, actions in ((slice(0, last), state.prefill), (slice(last, last + 1), state.generation)):
        if part.stop > part.start:
            shown, layer = keys | {"self": itself[part]}, module.layer_idx
            active = [a for a in actions if module.layer_idx in (getattr(a, "layers", None) or [module.layer_idx])]
            outputs.append(_act(layer, active, weights[:, :, part], visible[:, :, part], shown, value))
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), weights


def _act(
    layer: int,
    actions: Sequence[Intervention],
    weights: Tensor,
    visible: Tensor,
    keys: dict[str, Tensor],
    value: Tensor,
) -> Tensor:
    used, kept, needle = weights, None, keys["needle"]
    for action in actions:
        if isinstance(action, KeepHeads):
            entropy, mass = -torch.special.xlogy(weights, weights).sum(-1), (weights * needle).sum(-1)
            score = {"entropy": entropy, "highest entropy": -entropy, "needle": -mass.clamp_max(SURE)}[action.metric]
            rank = score.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
            kept = rank < action.k
        elif isinstance(action, OnlyHeads | OmitHeads):
            named = [(layer, head) in action.heads for head in range(weights.shape[1])]
            kept = (torch.tensor(named, device=weights.device) == isinstance(action, OnlyHeads))[:, None]
        elif isinstance(action, Omit):
            used = used * ~needle
        elif isinstance(action, Only):
            left = needle
            for name in action.also:
                left = left | keys[name]
            used = used * left
            used = used / used.sum(-1, keepdim=True).clamp_min(1e-38) if action.renormalise else used
        elif isinstance(action, Mass):
            total = (weights * needle).sum(-1, keepdim=True) if action.total == "needle" else action.total
            used = total * used / used.sum(-1, keepdim=True).clamp_min(1e-38)
        elif isinstance(action, Null):
            used = used * 0
        elif isinstance(action, Binary):
            shown = needle & visible
            used = shown * ((used * shown).sum(-1, keepdim=True) / shown.sum(-1, keepdim=True).clamp_min(1))
    output = torch.matmul(used.to(value.dtype), value)
    return output if kept is None else output * kept[..., None]


def answer(model: Model, prompt: Prompt, condition: Intervention, max_new_tokens: int) -> list[int]:
    """Greedy answer tokens before EOS."""
    ids = torch.tensor([list(prompt.ids)], device=model.device)
    question = prompt.question_span or (len(prompt.ids), len(prompt.ids))
    state = _Pass(condition.at("prefill"), condition.at("generation"), prompt.needle_spans, question)
    AttentionInterface.register(NAME, partial(_attention, state))
    AttentionMaskInterface.register(NAME, eager_mask)
    before = model.net.config._attn_implementation
    model.net.set_attn_implementation(NAME)
    try:
        with torch.inference_mode():
            if hasattr(model.net, "_setup_cache"):  # generate() itself leaves the state of the prompt before
                model.net._setup_cache(model.net.config, 1, model.device, model.net.dtype)
            mask, stop = torch.ones_like(ids), sorted(model.eos) or None
            options = {"max_new_tokens": max_new_tokens, "do_sample": False, "eos_token_id": stop, "pad_token_id": 0}
            output = model.net.generate(ids, attention_mask=mask, **options)
    finally:
        model.net.set_attn_implementation(before)
    new = output[0, ids.shape[1] :].tolist()
    return new[:-1] if new and new[-1] in model.eos else new
