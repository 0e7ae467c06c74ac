"""The linear scan of `hybret.engine.recurrences` as Triton kernels, forward and backward, for CUDA.

One program owns a few channels of one batch row and walks through time with the state in registers, so decays and
inputs are read once and states written once. Importing this module needs Triton. The kernels are wrapped as a PyTorch
operator, which torch.compile treats as opaque.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

CHANNELS = 32
"""Channels of one program (one warp)."""

UNROLL = 16
"""Steps whose loads are issued together, to hide the latency of memory."""


@triton.jit
def _forward(a, b, h0, h, time, channels, width: tl.constexpr, unroll: tl.constexpr):
    c = tl.program_id(0) * width + tl.arange(0, width)
    inside = c < channels
    row = tl.program_id(1)
    start = row.to(tl.int64) * time * channels
    state = tl.load(h0 + row * channels + c, mask=inside, other=0.0)
    for t in range(0, time, unroll):
        for u in tl.static_range(unroll):
            ok = inside & (t + u < time)
            at = start + (t + u) * channels + c
            state = tl.load(a + at, mask=ok, other=1.0) * state + tl.load(b + at, mask=ok, other=0.0)
            tl.store(h + at, state, mask=ok)


@triton.jit
def _backward(a, h, h0, dh, da, db, dh0, time, channels, width: tl.constexpr, unroll: tl.constexpr):
    c = tl.program_id(0) * width + tl.arange(0, width)
    inside = c < channels
    row = tl.program_id(1)
    start = row.to(tl.int64) * time * channels
    carried = tl.zeros((width,), tl.float32)  # a_{t+1} * g_{t+1}
    initial = tl.load(h0 + row * channels + c, mask=inside, other=0.0)
    for s in range(0, time, unroll):
        for u in tl.static_range(unroll):
            t = time - 1 - s - u
            ok = inside & (t >= 0)
            at = start + t * channels + c
            g = tl.load(dh + at, mask=ok, other=0.0) + carried
            before = tl.load(h + at - channels, mask=ok & (t > 0), other=0.0)
            before = tl.where(t > 0, before, initial)
            tl.store(da + at, g * before, mask=ok)
            tl.store(db + at, g, mask=ok)
            carried = tl.where(ok, tl.load(a + at, mask=ok, other=0.0) * g, carried)
    tl.store(dh0 + row * channels + c, carried, mask=inside)


def _grid(b: Tensor) -> tuple[int, int]:
    return triton.cdiv(b.shape[2], CHANNELS), b.shape[0]


@torch.library.custom_op("hybret::linear_scan", mutates_args=())
def _scan(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    a, b, h0 = a.contiguous(), b.contiguous(), h0.contiguous()
    h = torch.empty_like(b)
    with torch.cuda.device(b.device):  # Triton launches on the current GPU, whichever the tensors are on
        _forward[_grid(b)](a, b, h0, h, b.shape[1], b.shape[2], width=CHANNELS, unroll=UNROLL, num_warps=1)
    return h


@torch.library.custom_op("hybret::linear_scan_backward", mutates_args=())
def _scan_backward(a: Tensor, h: Tensor, h0: Tensor, dh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, h, h0, dh = a.contiguous(), h.contiguous(), h0.contiguous(), dh.contiguous()
    da, db, dh0 = torch.empty_like(h), torch.empty_like(h), torch.empty_like(h0)
    with torch.cuda.device(h.device):
        _backward[_grid(h)](
            a, h, h0, dh, da, db, dh0, h.shape[1], h.shape[2], width=CHANNELS, unroll=UNROLL, num_warps=1
        )
    return da, db, dh0


@_scan.register_fake
def _(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    return b.new_empty(b.shape)


@_scan_backward.register_fake
def _(a: Tensor, h: Tensor, h0: Tensor, dh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return h.new_empty(h.shape), h.new_empty(h.shape), h0.new_empty(h0.shape)


def _save(ctx, inputs, output) -> None:
    a, _, h0 = inputs
    ctx.save_for_backward(a, output, h0)


def _gradients(ctx, dh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, h, h0 = ctx.saved_tensors
    return torch.ops.hybret.linear_scan_backward(a, h, h0, dh)


_scan.register_autograd(_gradients, setup_context=_save)


def scan(a: Tensor, b: Tensor, h0: Tensor | None = None) -> Tensor:
    """States of h_t = a_t * h_{t-1} + b_t in fp32, differentiable; shapes as in `recurrences.linear_scan`."""
    if h0 is None:
        h0 = b.new_zeros(b.shape[0], b.shape[2])
    return torch.ops.hybret.linear_scan(a, b, h0)
