"""`parallel_scans` routes the recurrences of transformers' models through `hybret.engine.recurrences`.

The stock PyTorch path runs one Python iteration per token, nearly all of the time of a prefill.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.jamba import modeling_jamba
from transformers.models.recurrent_gemma import modeling_recurrent_gemma

from hybret.engine.recurrences import linear_scan, selective_scan, selective_step

_lock = threading.Lock()
_depth = 0
_originals: list[tuple[Any, str, Callable[..., Any]]] = []
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
        if hidden_states.shape[1] == 1:
            return stock_rnn(self, hidden_states, recurrent_gate, reset, recurrent_states, acc_dtype)
        decay = recurrent_gate * ~reset
        h, last = linear_scan(decay.to(acc_dtype), hidden_states.to(acc_dtype), recurrent_states)
        return h.type(hidden_states.dtype), last

    def block_forward(self, input_states, position_ids, attention_mask, use_cache=True, **kwargs):
        rows, time, _ = input_states.shape
        before = self.conv1d_state if use_cache else None
        if time == 1 or before is None:
            return stock_block(self, input_states, position_ids, attention_mask, use_cache, **kwargs)
        x = self.linear_x(input_states).transpose(1, 2)
        if before.shape[0] != rows:
            before, self.rg_lru.recurrent_states = x.new_zeros(rows, x.shape[1], self.conv1d_width - 1), None
        # A text that begins here sees nothing of what the module read before.
        x = torch.cat([(before * (position_ids[:, :1, None] != 0)).to(x.dtype), x], -1)
        self.conv1d_state = x[..., 1 - self.conv1d_width :].contiguous()
        x = F.conv1d(x, self.conv_1d.weight, self.conv_1d.bias, groups=x.shape[1]).transpose(1, 2)
        x = self.rg_lru(x, position_ids)
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
        _originals.append((owner, name, getattr(owner, name)))
        setattr(owner, name, ours)
