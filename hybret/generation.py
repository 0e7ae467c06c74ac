"""Prefill, fork, merge and batched greedy decoding, with the phase declared at every step.

One prefill serves every condition that does the same in prefill; its state is then forked to one row per condition,
rows of many prompts are merged into one ragged batch, and each row decodes under its own intervention.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from .attention import Frame, Spans, frame
from .interventions import Intervention, effective
from .models import Model
from .recipe import Recipe
from .tracing import Trace

MAX_NEW_TOKENS = 40

Actions = tuple[Intervention, ...]


@dataclass
class State:
    """Rows that are ready for their next one-token step.

    Attributes
    ----------
    cache : DynamicCache
        Keys and values (and Jamba's recurrent states), left-padded to the longest row.
    recurrent : list of Tensor
        RecurrentGemma keeps its recurrent and convolution states on its modules; these are they, in module order.
    token : Tensor
        ``(rows, 1)``: the token that each row reads next.
    position : Tensor
        ``(rows,)``: its absolute position, so the number of tokens already read.
    answered : bool
        Whether `token` is already an answer token (the whole prompt was prefilled) or the last prompt token.
    """

    cache: DynamicCache
    recurrent: list[Tensor]
    token: Tensor
    position: Tensor
    answered: bool

    def select(self, rows: Tensor) -> State:
        """The rows `rows` (repeats allowed), as a state of their own: a fork or a subset."""
        return State(
            _map_cache([self.cache], lambda parts: parts[0].index_select(0, rows)),
            [x.index_select(0, rows) for x in self.recurrent],
            self.token[rows],
            self.position[rows],
            self.answered,
        )


def prefill(
    model: Model,
    ids: Sequence[int],
    rows: Sequence[Actions],
    spans: Spans,
    recipe: Recipe,
    trace: Trace | None = None,
) -> State:
    """Read one prompt, once for each of `rows`.

    Parameters
    ----------
    model : Model
    ids : sequence of int
        Token ids of the prompt, BOS included.
    rows : sequence of tuple of Intervention
        What acts during prefill, for each row; all rows read the same prompt.
    spans : Spans
        Needle intervals in `ids`.
    recipe : Recipe
        `prompt_split` decides whether the last prompt token still belongs to prefill.
    trace : Trace, optional

    Returns
    -------
    State
        With ``len(rows)`` rows.
    """
    net, device = model.net, model.device
    whole = recipe.prompt_split == "family" and model.family == "jamba"
    read = len(ids) if whole else len(ids) - 1
    prompt = torch.tensor([list(ids)], device=device).expand(len(rows), -1)
    cache = DynamicCache(config=net.config)
    _reset_recurrent(net, len(rows))
    token, position = prompt[:, -1:], torch.full((len(rows),), read, device=device)
    if read:
        now = Frame(
            "prefill",
            effective(rows, model.family, model.heads, recipe),
            [spans] * len(rows),
            position - 1,
            recipe,
            trace,
        )
        with torch.inference_mode(), frame(now):
            logits = net(
                input_ids=prompt[:, :read],
                position_ids=torch.arange(read, device=device).expand(len(rows), -1),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
        if whole:
            token = logits[:, -1].argmax(-1, keepdim=True)
    return State(cache, [x.clone() for x in _recurrent(net)], token, position, whole)


def merge(states: Sequence[State]) -> State:
    """One ragged batch out of several states: keys and values are left-padded to the longest row."""
    longest = max(int(s.position.max()) for s in states)

    def join(parts: list[Tensor]) -> Tensor:
        # Only keys and values have lengths that differ between states; they are (rows, heads, keys, head_dim).
        keys = max(x.shape[-2] for x in parts) if parts[0].ndim == 4 else 0
        if any(x.ndim == 4 and x.shape[-2] < keys for x in parts):
            parts = [nn.functional.pad(x, (0, 0, keys - x.shape[-2], 0)) for x in parts]
        return torch.cat(parts)

    cache = _map_cache([s.cache for s in states], join)
    for layer in cache.layers:
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length = longest
    return State(
        cache,
        [torch.cat(parts) for parts in zip(*(s.recurrent for s in states), strict=True)],
        torch.cat([s.token for s in states]),
        torch.cat([s.position for s in states]),
        states[0].answered,
    )


def decode(
    model: Model,
    state: State,
    rows: Sequence[Actions],
    spans: Sequence[Spans],
    recipe: Recipe,
    max_new_tokens: int = MAX_NEW_TOKENS,
    trace: Trace | None = None,
) -> list[list[int]]:
    """Greedy one-token steps for every row at once, each under its own interventions.

    Parameters
    ----------
    model : Model
    state : State
    rows : sequence of tuple of Intervention
        What acts during generation, for each row of `state`.
    spans : sequence of Spans
        Needle intervals for each row.
    recipe : Recipe
    max_new_tokens : int
        Tokens per answer at most (the authors' 40).
    trace : Trace, optional

    Returns
    -------
    list of list of int
        Answer tokens of each row, before EOS. A row stops at EOS and leaves the batch soon after.
    """
    device = model.device
    acting = effective(rows, model.family, model.heads, recipe)
    answers: list[list[int]] = [[] for _ in rows]
    alive = list(range(len(rows)))
    # Columns before each row's first token: the keys stay as wide as the longest row, also when that row has ended.
    padding = int(state.position.max()) - state.position
    if state.answered and (going := _collect(answers, alive, state.token, model.eos)) != alive:
        keep = torch.tensor(going, dtype=torch.long, device=device)
        state, padding, alive = state.select(keep), padding[keep], going
    now = _generation_frame(acting, spans, alive, state, recipe, trace)
    steps = max_new_tokens - int(state.answered)
    for _ in range(steps):
        if not alive:
            break
        now.last = state.position
        width = int(state.position[0] + padding[0]) + 1
        mask = (torch.arange(width, device=device) >= padding[:, None]).long()
        _restore_recurrent(model.net, state.recurrent)
        with torch.inference_mode(), frame(now):
            logits = model.net(
                input_ids=state.token,
                position_ids=state.position[:, None],
                attention_mask=mask,
                past_key_values=state.cache,
                use_cache=True,
            ).logits
        state.recurrent = _recurrent(model.net)
        state.token = logits[:, -1].argmax(-1, keepdim=True)
        state.position = state.position + 1
        going = _collect(answers, alive, state.token, model.eos)
        # Dropping rows copies the state, so it waits until a quarter of the batch has ended; rows that have ended
        # but are still in the batch keep decoding and their tokens are ignored.
        if len(going) <= 0.75 * len(alive):
            keep = torch.tensor([alive.index(row) for row in going], dtype=torch.long, device=device)
            state, padding, alive = state.select(keep), padding[keep], going
            now = _generation_frame(acting, spans, alive, state, recipe, trace)
    return [_before_eos(answer, model.eos) for answer in answers]


def generate(
    model: Model,
    ids: Sequence[int],
    intervention: Intervention,
    spans: Spans,
    recipe: Recipe,
    max_new_tokens: int = MAX_NEW_TOKENS,
    trace: Trace | None = None,
) -> list[int]:
    """Answer one prompt under one intervention, the slow obvious way: one prefill, one row.

    The caller provides hybret's attention implementation (`hybret.tracing.implementation`).
    """
    state = prefill(model, ids, [intervention.at("prefill")], spans, recipe, trace)
    return decode(model, state, [intervention.at("generation")], [spans], recipe, max_new_tokens, trace)[0]


def _generation_frame(
    rows: Sequence[Actions],
    spans: Sequence[Spans],
    alive: Sequence[int],
    state: State,
    recipe: Recipe,
    trace: Trace | None,
) -> Frame:
    return Frame("generation", [rows[i] for i in alive], [spans[i] for i in alive], state.position, recipe, trace)


def _collect(answers: list[list[int]], alive: Sequence[int], token: Tensor, eos: frozenset[int]) -> list[int]:
    """Append each row's token; the rows that have not met EOS."""
    going = []
    for row, new in zip(alive, token[:, 0].tolist(), strict=True):
        ended = bool(answers[row]) and answers[row][-1] in eos
        if not ended:
            answers[row].append(new)
            ended = new in eos
        if not ended:
            going.append(row)
    return going


def _before_eos(answer: list[int], eos: frozenset[int]) -> list[int]:
    return answer[:-1] if answer and answer[-1] in eos else answer


def _recurrent_modules(net: nn.Module) -> list[Any]:
    return [m for m in net.modules() if hasattr(m, "conv1d_state") and hasattr(m, "rg_lru")]


def _reset_recurrent(net: nn.Module, rows: int) -> None:
    """Zero the states that RecurrentGemma keeps on its modules: a stale one corrupts a one-token prompt, and a NaN in
    it poisons the next prompt. (transformers' own `_setup_cache` gives the convolution state the wrong width when
    `lru_width` differs from `hidden_size`.)"""
    for m in _recurrent_modules(net):
        weight = m.conv_1d.weight
        m.conv1d_state = weight.new_zeros(rows, weight.shape[0], m.conv1d_width - 1)
        m.rg_lru.recurrent_states = torch.zeros(rows, weight.shape[0], device=weight.device)


def _recurrent(net: nn.Module) -> list[Tensor]:
    return [x for m in _recurrent_modules(net) for x in (m.conv1d_state, m.rg_lru.recurrent_states)]


def _restore_recurrent(net: nn.Module, states: Sequence[Tensor]) -> None:
    pairs = iter(states)
    for m in _recurrent_modules(net):
        m.conv1d_state, m.rg_lru.recurrent_states = next(pairs), next(pairs)


def _map_cache(caches: Sequence[DynamicCache], join: Callable[[list[Tensor]], Tensor]) -> DynamicCache:
    """A cache whose every per-row tensor is `join` of those of `caches`, whatever kinds of layers it has."""
    merged = copy.copy(caches[0])
    merged.layers = []
    for parts in zip(*(c.layers for c in caches), strict=True):
        layer = copy.copy(parts[0])
        for name, value in vars(layer).items():
            if isinstance(value, Tensor) and value.ndim >= 2:
                setattr(layer, name, join([getattr(p, name) for p in parts]))
            elif isinstance(value, dict):
                joined = {
                    key: join([getattr(p, name)[key] for p in parts]) if isinstance(item, Tensor) else item
                    for key, item in value.items()
                }
                setattr(layer, name, joined)
        merged.layers.append(layer)
    return merged
