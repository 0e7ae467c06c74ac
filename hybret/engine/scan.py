"""`parallel_scans` routes the recurrences of transformers' models through `hybret.engine.recurrences`.

The stock PyTorch path runs one Python iteration per token, nearly all of the time of a prefill.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.jamba import modeling_jamba
from transformers.models.recurrent_gemma import modeling_recurrent_gemma

from hybret.engine.recurrences import linear_scan, selective_scan, selective_step

_lock = threading.Lock()
_depth = 0
_originals: list[tuple[Any, str, Callable[..., Any]]] = []
SCANS: dict[str, tuple[int, dict[str, Any]]] = {
    "mamba_selective_scan": (2, {}),
    "mamba2_chunk_scan": (1, {"chunk_size": 1}),
    "torch_chunk_gated_delta_rule": (1, {"chunk_size": 1}),
    "chunk_kimi_delta_attention": (1, {"chunk_size": 1}),
}
"""transformers' scans of whole texts: the dimension of time in all that has three or more, and how one token is one."""


class Forgetting(NamedTuple):
    """What the mixer that runs now resets at every token, "state" or "convolution", in which rows, and what it has."""

    rows: dict[str, Tensor]
    done: set[str]


FORGETTING: ContextVar[Forgetting | None] = ContextVar("hybret_forgetting", default=None)
_mamba_state: ContextVar[Tensor | None] = ContextVar("mamba_state", default=None)


@contextmanager
def parallel_scans() -> Iterator[None]:
    """Inside the block transformers' RecurrentGemma and Jamba run their recurrences through this module.

    Values agree with the stock code to fp32 rounding. A pass of several tokens starts from the state that the model
    carries; stock Jamba would start its scan from zero, and stock RecurrentGemma its convolution. Padding is read like
    text, as in the stock code. The originals are back when the last of nested or concurrent blocks is left.
    """
    global _depth
    with _lock:
        if _depth == 0:
            _patch()
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                while _originals:
                    owner, name, original = _originals.pop()
                    setattr(owner, name, original)


def _forgetting(what: str) -> Tensor | None:
    if (now := FORGETTING.get()) is None:
        return None
    now.done.add(what)
    return now.rows.get(what)


def _last_tap(out: Tensor, x: Tensor, conv: Callable[..., Tensor], weight: Tensor, *args: Any) -> Tensor:
    """The output of a causal convolution of `x`, in the rows that forget of its last weight alone."""
    if (rows := _forgetting("convolution")) is None:
        return out
    last = torch.cat([torch.zeros_like(weight[..., :-1]), weight[..., -1:]], -1)
    return out.index_copy(0, rows, conv(x[rows], last, *args)[..., : out.shape[-1]].to(out.dtype))


def _forgetful(modeling: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The functions of a modeling module through which its mixers reset what `FORGETTING` says."""
    conv, update = modeling.causal_conv1d_fn, modeling.causal_conv1d_update

    def conv_fn(hidden_states, weight, bias=None, activation=None, **kwargs):
        out = conv(hidden_states, weight, bias, activation, **kwargs)
        return _last_tap(out, hidden_states, conv, weight, bias, activation)

    def conv_update(hidden_states, conv_state, weight, bias=None, activation=None):
        out = update(hidden_states, conv_state, weight, bias, activation)
        return _last_tap(out, hidden_states, conv, weight, bias, activation)

    yield from (("causal_conv1d_fn", conv_fn), ("causal_conv1d_update", conv_update))
    for name in SCANS.keys() & vars(modeling).keys():
        yield name, _resetting(getattr(modeling, name), *SCANS[name])


def _resetting(scan: Callable[..., Any], time: int, short: dict[str, Any]) -> Callable[..., Any]:
    """The same scan; the rows that forget are read a second time, with each token a text of its own."""

    def both(*args, **kwargs):
        found = scan(*args, **kwargs)
        if (rows := _forgetting("state")) is None:
            return found

        def alone(x):
            if not isinstance(x, Tensor) or x.ndim < 3:
                return x
            return x[rows].movedim(time, 1).flatten(0, 1).unsqueeze(time)

        named = {key: None if key.startswith("initial") else alone(x) for key, x in kwargs.items()}
        apart = scan(*map(alone, args), **named | short)
        (out, state), (single, last) = (x if isinstance(x, tuple) else (x, None) for x in (found, apart))
        single = single.squeeze(time).unflatten(0, (len(rows), -1)).movedim(1, time)
        out = out.index_copy(0, rows, single.to(out.dtype))
        if state is not None:
            state = state.index_copy(0, rows, last.unflatten(0, (len(rows), -1))[:, -1].to(state.dtype))
        return (out, state) if isinstance(found, tuple) else out

    return both


def _patch() -> None:
    rglru = modeling_recurrent_gemma.RecurrentGemmaRglru
    block, mixer = modeling_recurrent_gemma.RecurrentGemmaRecurrentBlock, modeling_jamba.JambaMambaMixer
    stock_rnn, stock_mamba, stock_forward = rglru._rnn_scan, modeling_jamba.mamba_selective_scan, mixer.forward
    stock_block, stock_rglru = block.forward, rglru.forward
    stock_step = modeling_jamba.mamba_selective_state_update

    def rglru_forward(self, activations, position_ids):
        if torch.is_grad_enabled():
            return stock_rglru(self, activations, position_ids)
        # The stock operations, in place and in the layout of the gates: half of the passes over memory.
        rows, time, width = activations.shape
        x = activations.reshape(rows * time, self.num_attention_heads, self.block_width).transpose(0, 1)
        inputs = torch.baddbmm(self.input_gate_bias[:, None], x, self.input_gate_weight).sigmoid_().mul_(x)
        gate = torch.baddbmm(self.recurrent_gate_bias[:, None], x, self.recurrent_gate_weight).sigmoid_()
        rate = F.softplus(self.recurrent_param).view(self.num_attention_heads, 1, -1)
        gate = gate.mul_(-8).mul_(rate)
        decay = gate.exp()
        scale = gate.mul_(2).exp_().neg_().add_(1).sqrt_()
        decay, inputs, scale = (y.transpose(0, 1).reshape(rows, time, width) for y in (decay, inputs, scale))
        reset = position_ids[:, :, None] == 0
        if scale.is_cuda or bool(reset.any()):  # asking a GPU would mean waiting for it
            scale = torch.where(reset, 1, scale)
        states, self.recurrent_states = self._rnn_scan(
            hidden_states=inputs.mul_(scale), recurrent_gate=decay, reset=reset, recurrent_states=self.recurrent_states
        )
        return states

    def rnn_scan(self, hidden_states, recurrent_gate, reset, recurrent_states, acc_dtype=torch.float32):
        if (rows := _forgetting("state")) is not None:
            reset = reset.expand(len(hidden_states), -1, -1).index_fill(0, rows, True)
        if hidden_states.shape[1] == 1:
            return stock_rnn(self, hidden_states, recurrent_gate, reset, recurrent_states, acc_dtype)
        decay = recurrent_gate * ~reset
        h, last = linear_scan(decay.to(acc_dtype), hidden_states.to(acc_dtype), recurrent_states)
        return h.type(hidden_states.dtype), last

    def block_forward(self, input_states, position_ids, attention_mask, use_cache=True, **kwargs):
        rows, time, _ = input_states.shape
        before = self.conv1d_state if use_cache else None
        forgetting = FORGETTING.get()
        if (time == 1 or before is None) and (forgetting is None or "convolution" not in forgetting.rows):
            return stock_block(self, input_states, position_ids, attention_mask, use_cache, **kwargs)
        present = x = self.linear_x(input_states).transpose(1, 2)
        if before is None or before.shape[0] != rows:
            before, self.rg_lru.recurrent_states = x.new_zeros(rows, x.shape[1], self.conv1d_width - 1), None
        # A text that begins here sees nothing of what the module read before.
        x = torch.cat([(before * (position_ids[:, :1, None] != 0)).to(x.dtype), x], -1)
        self.conv1d_state = x[..., 1 - self.conv1d_width :].contiguous() if use_cache else None
        conv, weights = partial(F.conv1d, groups=x.shape[1]), (self.conv_1d.weight, self.conv_1d.bias)
        x = _last_tap(conv(x, *weights), present, partial(conv, padding=self.conv1d_width - 1), *weights)
        x = self.rg_lru(x.transpose(1, 2), position_ids)
        return self.linear_out(x * self.act_fn(self.linear_y(input_states))), None

    def mamba_scan(hidden_states, *args, **kwargs):
        if hidden_states.shape[-1] == 1:
            return stock_mamba(hidden_states, *args, **kwargs)
        return selective_scan(hidden_states, *args, **{**kwargs, "initial_state": _mamba_state.get()})

    def mamba_step(state, hidden_states, dt, A, B, C, D=None, dt_bias=None, dt_softplus=False, z=None, **kwargs):
        if state.is_cuda or torch.is_grad_enabled() or {state.dtype, hidden_states.dtype} != {torch.float32}:
            return stock_step(state, hidden_states, dt, A, B, C, D, dt_bias, dt_softplus, z, **kwargs)
        dt = dt if dt_bias is None else dt + dt_bias
        out = selective_step(state, hidden_states, F.softplus(dt) if dt_softplus else dt, A, B, C)
        out = out if D is None else out.addcmul_(hidden_states, D)
        return out if z is None else out.mul_(F.silu(z))

    def mixer_forward(self, hidden_states, cache_params=None, *args, **kwargs):
        state = None  # the mixer does not hand its cached state to the scan, so it is passed beside it
        if cache_params is not None and cache_params.has_previous_state(self.layer_idx):
            state = cache_params.layers[self.layer_idx].recurrent_states[0]
        token = _mamba_state.set(state)
        try:
            return stock_forward(self, hidden_states, cache_params, *args, **kwargs)
        finally:
            _mamba_state.reset(token)

    for owner, name, ours in (
        (rglru, "_rnn_scan", rnn_scan),
        (rglru, "forward", rglru_forward),
        (block, "forward", block_forward),
        (modeling_jamba, "mamba_selective_scan", mamba_scan),
        (modeling_jamba, "mamba_selective_state_update", mamba_step),
        (mixer, "forward", mixer_forward),
    ):
        _replace(owner, name, ours)
    for modeling in [m for n, m in sys.modules.items() if n.startswith("transformers.models.")]:
        if "causal_conv1d_fn" in vars(modeling):
            for name, ours in _forgetful(modeling):
                _replace(modeling, name, ours)


def _replace(owner: Any, name: str, ours: Callable[..., Any]) -> None:
    _originals.append((owner, name, getattr(owner, name)))
    setattr(owner, name, ours)
