"""Parallel scans: the recurrences of RecurrentGemma and Mamba without a Python loop over time.

The stock PyTorch path of transformers runs one Python iteration per token, nearly all of the time of a prefill. Both
recurrences are h_t = a_t * h_{t-1} + b_t, elementwise, and two steps compose to one of the same form, so the odd-even
recursion needs only log2(time) rounds. Products of the decays are the only thing it multiplies (never their logarithms,
never a quotient), so a decay of exactly 0, which RecurrentGemma uses to reset its state, stays exact.

Nothing is patched on import: `parallel_scans` routes transformers through this module inside a `with` block only.
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

from hybret.errors import HybretError

try:
    from hybret import scan_triton
except ImportError:  # no Triton on this machine (every CPU-only install): plain PyTorch does the work
    scan_triton = None  # type: ignore[assignment]

ROWS_IN_CACHE = 1 << 20
"""Elements of a batch slice on the CPU: decays and states of one slice (8 MB in fp32) stay in the processor's cache."""
BLOCK = 128
"""Tokens of a block of `selective_scan`; it bounds the memory for states to batch x BLOCK x channels x state size."""


def linear_scan(a: Tensor, b: Tensor, h0: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """All states of the recurrence h_t = a_t * h_{t-1} + b_t.

    Computed in fp32, or in fp64 if an argument is fp64; differentiable in every argument.

    Parameters
    ----------
    a : Tensor, shape (batch, time, channels)
        Decays. Zeros (resets of the state) are exact.
    b : Tensor, shape (batch, time, channels)
        Inputs.
    h0 : Tensor, shape (batch, channels), optional
        State before the first step; zeros if left out.

    Returns
    -------
    h : Tensor, shape (batch, time, channels)
        State after every step.
    last : Tensor, shape (batch, channels)
        State after the last step.

    Raises
    ------
    HybretError
        If the shapes do not fit together or there is no time step.
    """
    if a.shape != b.shape or b.dim() != 3 or b.shape[1] == 0:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise HybretError(
            f"linear_scan needs decays and inputs of one shape (batch, time >= 1, channels), got {shapes}."
        )
    if h0 is not None and h0.shape != (b.shape[0], b.shape[2]):
        wanted = (b.shape[0], b.shape[2])
        raise HybretError(f"linear_scan needs an initial state of shape {wanted}, got {tuple(h0.shape)}.")
    dtype = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
    a, b = a.to(dtype), b.to(dtype)
    h0 = None if h0 is None else h0.to(dtype)
    if scan_triton is not None and b.is_cuda and dtype == torch.float32:
        h = scan_triton.scan(a, b, h0)
    elif torch.is_grad_enabled() and (a.requires_grad or b.requires_grad or (h0 is not None and h0.requires_grad)):
        if h0 is not None:
            b = torch.cat([b[:, :1] + a[:, :1] * h0[:, None], b[:, 1:]], 1)
        h = _odd_even(a, b)
    else:
        h = _odd_even_sliced(a, b, h0)
    return h, h[:, -1]


def _odd_even(a: Tensor, b: Tensor) -> Tensor:
    """States of a scan from zero, differentiable: pair up the steps, scan the pairs, fill in the states between."""
    if (time := b.shape[1]) == 1:
        return b
    if time % 2:
        h = _odd_even(a[:, :-1], b[:, :-1])
        return torch.cat([h, a[:, -1:] * h[:, -1:] + b[:, -1:]], 1)
    a_even, a_odd, b_even, b_odd = a[:, 0::2], a[:, 1::2], b[:, 0::2], b[:, 1::2]
    odd = _odd_even(a_even * a_odd, torch.addcmul(b_odd, a_odd, b_even))
    even = torch.cat([b_even[:, :1], torch.addcmul(b_even[:, 1:], a_even[:, 1:], odd[:, :-1])], 1)
    return torch.stack([even, odd], 2).flatten(1, 2)


def _odd_even_sliced(a: Tensor, b: Tensor, h0: Tensor | None) -> Tensor:
    """The same without autograd, in place, a few batch rows at a time on the CPU so that they stay in its cache."""
    batch, time, channels = b.shape
    rows = batch if b.is_cuda else max(1, ROWS_IN_CACHE // (time * channels))
    out = torch.empty(b.shape, dtype=b.dtype, device=b.device)
    for first in range(0, batch, rows):
        part = slice(first, first + rows)
        h, decay = out[part].copy_(b[part]), a[part].clone(memory_format=torch.contiguous_format)
        if h0 is not None:
            h[:, 0].addcmul_(decay[:, 0], h0[part])
        step = 1
        while 2 * step <= time:  # up: position i (from 1) ends with the composition of its last 2^j steps, 2^j | i
            pairs = time // (2 * step)
            left, right = slice(step - 1, None, 2 * step), slice(2 * step - 1, None, 2 * step)
            decay_right = decay[:, right][:, :pairs]
            h[:, right][:, :pairs].addcmul_(decay_right, h[:, left][:, :pairs])
            decay_right.mul_(decay[:, left][:, :pairs])
            step *= 2
        while step > 1:  # down: states that are already final complete the ones between them
            step //= 2
            between = h[:, 3 * step - 1 :: 2 * step]
            final = h[:, 2 * step - 1 :: 2 * step][:, : between.shape[1]]
            between.addcmul_(decay[:, 3 * step - 1 :: 2 * step], final)
    return out


def selective_scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,  # noqa: N803 (the names of the stock function, which passes D by name)
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    D: Tensor | None = None,  # noqa: N803
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    initial_state: Tensor | None = None,
    **_: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba's selective scan, with the calling convention of transformers' `mamba_selective_scan`.

    Parameters
    ----------
    hidden_states, dt, z : Tensor, shape (batch, channels, time)
        Inputs, time steps (before `delta_bias` and softplus) and the optional output gate.
    A : Tensor, shape (channels, state)
        Continuous decay rates, negative.
    B, C : Tensor, shape (batch, state, time)
        Input and output projections of the state.
    D, delta_bias : Tensor, shape (channels,), optional
        Skip connection; what is added to `dt`.
    delta_softplus, return_last_state : bool
        Apply softplus to `dt`; also return the state after the last token.
    initial_state : Tensor, shape (batch, channels, state), optional
        State before the first token; zeros if left out. The stock function has no such argument.
    **_
        Switches between the stock function's own implementations; they change no values and are ignored.

    Returns
    -------
    Tensor, shape (batch, channels, time), or a tuple of it and the last state, shape (batch, channels, state)
    """
    if delta_bias is not None:
        dt = dt + delta_bias.to(dt.dtype)[..., None]
    if delta_softplus:
        dt = F.softplus(dt)
    dtype = torch.float64 if hidden_states.dtype == torch.float64 else torch.float32
    x, step, b, c = (t.transpose(1, 2).to(dtype) for t in (hidden_states, dt, B, C))
    state = None if initial_state is None else initial_state.to(dtype).flatten(1)
    outputs = []
    for first in range(0, x.shape[1], BLOCK):
        block = slice(first, first + BLOCK)
        decay = torch.exp(step[:, block, :, None] * A.to(dtype))
        inputs = (step[:, block] * x[:, block])[..., None] * b[:, block, None]
        states, state = linear_scan(decay.flatten(2), inputs.flatten(2), state)
        outputs.append((states.view(decay.shape) @ c[:, block, :, None]).squeeze(-1))
    y = torch.cat(outputs, 1).transpose(1, 2).to(hidden_states.dtype)
    if D is not None:
        y = y + hidden_states * D[None, :, None]
    if z is not None:
        y = y * F.silu(z)
    if not return_last_state:
        return y
    assert state is not None  # there is at least one token
    return y, state.view(-1, *A.shape)


_lock = threading.Lock()
_depth = 0
_originals: list[tuple[Any, str, Callable[..., Any]]] = []
_mamba_state: ContextVar[Tensor | None] = ContextVar("mamba_state", default=None)


@contextmanager
def parallel_scans() -> Iterator[None]:
    """Inside the block transformers' RecurrentGemma and Jamba run their recurrences through this module.

    Values agree with the stock code to fp32 rounding (the order of the operations differs). A pass of several tokens
    starts from the state that the model carries, if there is one; stock Jamba would start its scan from zero, and stock
    RecurrentGemma its convolution. Left padding is invisible to RecurrentGemma's recurrent layers; the stock ones read
    it like text. The originals are back when the last of nested or concurrent blocks is left, also by an exception.
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


def _not_padding(mask: Tensor | None, time: int) -> Tensor | None:
    """bool ``(rows, time)``: which tokens may attend to themselves, so are no padding; None where all are."""
    if mask is None or time == 1:
        return None
    if mask.ndim == 4:
        mask = mask[:, 0].diagonal(mask.shape[-1] - time, -2, -1)
        mask = mask if mask.dtype == torch.bool else mask == 0
    real = mask[:, -time:].bool()
    return None if bool(real.all()) else real


def _patch() -> None:
    rglru = modeling_recurrent_gemma.RecurrentGemmaRglru
    block, mixer = modeling_recurrent_gemma.RecurrentGemmaRecurrentBlock, modeling_jamba.JambaMambaMixer
    stock_rnn, stock_mamba, stock_forward = rglru._rnn_scan, modeling_jamba.mamba_selective_scan, mixer.forward
    stock_block, stock_rglru = block.forward, rglru.forward

    def rglru_forward(self: Any, activations: Tensor, position_ids: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return stock_rglru(self, activations, position_ids)  # type: ignore[return-value]
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

    def rnn_scan(
        self: Any,
        hidden_states: Tensor,
        recurrent_gate: Tensor,
        reset: Tensor,
        recurrent_states: Tensor | None,
        acc_dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, Tensor]:
        if hidden_states.shape[1] == 1:
            return stock_rnn(self, hidden_states, recurrent_gate, reset, recurrent_states, acc_dtype)
        decay = recurrent_gate * ~reset
        h, last = linear_scan(decay.to(acc_dtype), hidden_states.to(acc_dtype), recurrent_states)
        return h.type(hidden_states.dtype), last

    def block_forward(
        self: Any,
        input_states: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor | None,
        use_cache: bool = True,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        rows, time, _ = input_states.shape
        real = _not_padding(attention_mask, time)
        before = self.conv1d_state if use_cache else None
        if time == 1 or (real is None and before is None):
            return stock_block(self, input_states, position_ids, attention_mask, use_cache, **kwargs)  # type: ignore[arg-type]

        def unpadded(x: Tensor) -> Tensor:
            return x if real is None else x * real[..., None].to(x.dtype)

        x = unpadded(self.linear_x(input_states)).transpose(1, 2)
        if before is None or before.shape[0] != rows:
            before, self.rg_lru.recurrent_states = x.new_zeros(rows, x.shape[1], self.conv1d_width - 1), None
        # A text that begins here sees nothing of what the module read before.
        x = torch.cat([(before * (position_ids[:, :1, None] != 0)).to(x.dtype), x], -1)
        self.conv1d_state = x[..., 1 - self.conv1d_width :].contiguous() if use_cache else None
        x = F.conv1d(x, self.conv_1d.weight, self.conv_1d.bias, groups=x.shape[1]).transpose(1, 2)
        x = self.rg_lru(unpadded(x), position_ids)  # unpadded again: the convolution's bias would be read as text
        return self.linear_out(x * self.act_fn(self.linear_y(input_states))), None

    def mamba_scan(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if hidden_states.shape[-1] == 1:
            return stock_mamba(hidden_states, *args, **kwargs)
        return selective_scan(hidden_states, *args, **{**kwargs, "initial_state": _mamba_state.get()})

    def forward(self: Any, hidden_states: Tensor, cache_params: Any = None, *args: Any, **kwargs: Any) -> Any:
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
        (mixer, "forward", forward),
    ):
        _originals.append((owner, name, getattr(owner, name)))
        setattr(owner, name, ours)
