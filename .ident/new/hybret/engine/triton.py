"""The scans of `hybret.engine.recurrences` as Triton kernels for CUDA.

One program owns a few channels of one batch row and walks through time with their states in registers: decays and
inputs are read once. Mamba's are formed on the way and never written; in plain PyTorch they take state_size times the
memory of everything that is read here. Importing this module needs Triton. The kernels are PyTorch operators, which
torch.compile treats as opaque; `hybret.organisms.training.scan_gradients` adds their backward passes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LINEAR = {"width": 32, "unroll": 16, "num_warps": 1}
"""Channels of one program (one warp), and steps whose loads are issued together to hide the latency of memory."""
SELECTIVE = {"width": 16, "unroll": 8, "num_warps": 1}
DIFFERENTIABLE = False
"""Whether the backward passes are registered."""


@triton.jit
def _linear(a, b, h0, h, time, channels, width: tl.constexpr, unroll: tl.constexpr):
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
def _selective(
    x, dt, A, B, C, h0, y, before, last, time, channels,
    n: tl.constexpr, keep: tl.constexpr, width: tl.constexpr, unroll: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(0) * width + tl.arange(0, width)
    s = tl.arange(0, n)
    inside = c < channels
    both = inside[:, None] & (s >= 0)[None]
    row = tl.program_id(1).to(tl.int64)
    rate = tl.load(A + c[:, None] * n + s[None], mask=both, other=0.0)
    state = tl.load(h0 + (row * channels + c)[:, None] * n + s[None], mask=both, other=0.0)
    for t0 in range(0, time, unroll):
        for u in tl.static_range(unroll):
            at = row * time + t0 + u
            ok = inside & (c * 0 + t0 + u < time)
            real = s * 0 + t0 + u < time
            step = tl.load(dt + at * channels + c, mask=ok, other=0.0).to(tl.float32)
            value = tl.load(x + at * channels + c, mask=ok, other=0.0).to(tl.float32)
            b = tl.load(B + at * n + s, mask=real, other=0.0).to(tl.float32)
            out = tl.load(C + at * n + s, mask=real, other=0.0).to(tl.float32)
            if keep:
                where = (at * channels + c)[:, None] * n + s[None]
                tl.store(before + where, state.to(before.dtype.element_ty), mask=ok[:, None] & real[None])
            state = tl.exp(step[:, None] * rate) * state + (step * value)[:, None] * b[None]
            tl.store(y + at * channels + c, tl.sum(state * out[None], 1), mask=ok)
    tl.store(last + (row * channels + c)[:, None] * n + s[None], state, mask=both)


def grid(x: Tensor, width: int) -> tuple[int, int]:
    """Programs of a kernel over ``(batch, time, channels)``."""
    return triton.cdiv(x.shape[2], width), x.shape[0]


@torch.library.custom_op("hybret::linear_scan", mutates_args=())
def linear_op(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """States of h_t = a_t * h_{t-1} + b_t in fp32; shapes as in `recurrences.linear_scan`."""
    a, b, h0 = a.contiguous(), b.contiguous(), h0.contiguous()
    h = torch.empty_like(b)
    with torch.cuda.device(b.device):  # Triton launches on the current GPU, whichever the tensors are on
        _linear[grid(b, LINEAR["width"])](a, b, h0, h, b.shape[1], b.shape[2], **LINEAR)
    return h


@linear_op.register_fake
def _(a, b, h0):
    return b.new_empty(b.shape)


@torch.library.custom_op("hybret::selective_scan", mutates_args=())
def selective_op(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, last state and, to `keep` for the backward pass, the state before every step in bfloat16.

    Inputs `x`, time steps `dt` (after softplus), `B` and `C` are (batch, time, ...) of any float type, `A` (channels,
    states), a power of two of them, and `h0` (batch, channels, states) fp32, as the arithmetic is.
    """
    x, dt, A, B, C, h0 = (t.contiguous() for t in (x, dt, A, B, C, h0))
    n = A.shape[1]
    y = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    before = torch.empty((*x.shape, n) if keep else (0,), dtype=torch.bfloat16, device=x.device)
    last = torch.empty_like(h0)
    with torch.cuda.device(x.device):
        _selective[grid(x, SELECTIVE["width"])](
            x, dt, A, B, C, h0, y, before, last, x.shape[1], x.shape[2], n=n, keep=keep, **SELECTIVE
        )
    return y, last, before


@selective_op.register_fake
def _(x, dt, A, B, C, h0, keep):
    y = x.new_empty(x.shape, dtype=torch.float32)
    return y, torch.empty_like(h0), x.new_empty((*x.shape, A.shape[1]) if keep else (0,), dtype=torch.bfloat16)
