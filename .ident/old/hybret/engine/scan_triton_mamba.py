"""Mamba's selective scan of `hybret.engine.recurrences` as Triton kernels, forward and backward, for CUDA.

As in `scan_triton`, one program owns a few channels of one batch row and walks through time with their states in
registers. Decays and inputs of the states are formed on the way and never written: in plain PyTorch they are the size
of the states, state_size times as large as everything that is read here. For the backward pass the states before every
step are kept in bfloat16 (relative error 0.4 %, below that of bfloat16 activations).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

CHANNELS = 16
"""Channels of one program (one warp)."""

UNROLL = 8
"""Steps whose loads are issued together, to hide the latency of memory."""


@triton.jit
def _forward(
    x, dt, A, B, C, h0, y, before, last, time, channels,
    n: tl.constexpr, width: tl.constexpr, unroll: tl.constexpr, keep: tl.constexpr,
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


@triton.jit
def _backward(
    x, dt, A, B, C, before, dy, dlast, dx, ddt, dA, dB, dC, dh0, time, channels,
    n: tl.constexpr, width: tl.constexpr, unroll: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(0) * width + tl.arange(0, width)
    s = tl.arange(0, n)
    inside = c < channels
    both = inside[:, None] & (s >= 0)[None]
    row = tl.program_id(1).to(tl.int64)
    rate = tl.load(A + c[:, None] * n + s[None], mask=both, other=0.0)
    grad = tl.load(dlast + (row * channels + c)[:, None] * n + s[None], mask=both, other=0.0)
    drate = tl.zeros((width, n), tl.float32)
    for t0 in range(0, time, unroll):
        for u in tl.static_range(unroll):
            t = time - 1 - t0 - u
            at = row * time + t
            ok = inside & (c * 0 + t >= 0)
            real = s * 0 + t >= 0
            step = tl.load(dt + at * channels + c, mask=ok, other=0.0).to(tl.float32)
            value = tl.load(x + at * channels + c, mask=ok, other=0.0).to(tl.float32)
            g = tl.load(dy + at * channels + c, mask=ok, other=0.0).to(tl.float32)
            b = tl.load(B + at * n + s, mask=real, other=0.0).to(tl.float32)
            out = tl.load(C + at * n + s, mask=real, other=0.0).to(tl.float32)
            where = (at * channels + c)[:, None] * n + s[None]
            held = tl.load(before + where, mask=ok[:, None] & real[None], other=0.0).to(tl.float32)
            decay = tl.exp(step[:, None] * rate)
            state = decay * held + (step * value)[:, None] * b[None]
            tl.atomic_add(dC + at * n + s, tl.sum(g[:, None] * state, 0), mask=real)
            grad += g[:, None] * out[None]
            moved = grad * decay * held
            ingoing = tl.sum(grad * b[None], 1)
            tl.store(ddt + at * channels + c, tl.sum(moved * rate, 1) + ingoing * value, mask=ok)
            tl.store(dx + at * channels + c, ingoing * step, mask=ok)
            tl.atomic_add(dB + at * n + s, tl.sum(grad * (step * value)[:, None], 0), mask=real)
            drate += moved * step[:, None]
            grad = grad * decay
    tl.atomic_add(dA + c[:, None] * n + s[None], drate, mask=both)
    tl.store(dh0 + (row * channels + c)[:, None] * n + s[None], grad, mask=both)


def _grid(x: Tensor) -> tuple[int, int]:
    return triton.cdiv(x.shape[2], CHANNELS), x.shape[0]


@torch.library.custom_op("hybret::selective_scan", mutates_args=())
def _scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    x, dt, A, B, C, h0 = (t.contiguous() for t in (x, dt, A, B, C, h0))
    n = A.shape[1]
    y = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    before = torch.empty((*x.shape, n) if keep else (0,), dtype=torch.bfloat16, device=x.device)
    last = torch.empty_like(h0)
    with torch.cuda.device(x.device):  # Triton launches on the current GPU, whichever the tensors are on
        _forward[_grid(x)](
            x, dt, A, B, C, h0, y, before, last, x.shape[1], x.shape[2],
            n=n, width=CHANNELS, unroll=UNROLL, keep=keep, num_warps=1,
        )  # fmt: skip
    return y, last, before


@torch.library.custom_op("hybret::selective_scan_backward", mutates_args=())
def _scan_backward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, before: Tensor, dy: Tensor, dlast: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    x, dt, A, B, C, dy, dlast = (t.contiguous() for t in (x, dt, A, B, C, dy, dlast))
    dx, ddt = (torch.empty(x.shape, dtype=torch.float32, device=x.device) for _ in range(2))
    sums = [torch.zeros(t.shape, dtype=torch.float32, device=x.device) for t in (A, B, C)]
    dh0 = torch.empty_like(dlast)
    with torch.cuda.device(x.device):
        _backward[_grid(x)](
            x, dt, A, B, C, before, dy, dlast, dx, ddt, *sums, dh0, x.shape[1], x.shape[2],
            n=A.shape[1], width=CHANNELS, unroll=UNROLL, num_warps=1,
        )  # fmt: skip
    return dx, ddt, sums[0], sums[1], sums[2], dh0


@_scan.register_fake
def _(x, dt, A, B, C, h0, keep):
    y = x.new_empty(x.shape, dtype=torch.float32)
    return y, torch.empty_like(h0), x.new_empty((*x.shape, A.shape[1]) if keep else (0,), dtype=torch.bfloat16)


@_scan_backward.register_fake
def _(x, dt, A, B, C, before, dy, dlast):
    fresh = [t.new_empty(t.shape, dtype=torch.float32) for t in (x, dt, A, B, C)]
    return (*fresh, torch.empty_like(dlast))


def _save(ctx, inputs, output) -> None:
    x, dt, A, B, C, _, keep = inputs
    assert keep, "the states are needed for the backward pass"
    ctx.save_for_backward(x, dt, A, B, C, output[2])
    ctx.mark_non_differentiable(output[2])


def _gradients(ctx, dy: Tensor, dlast: Tensor, _):
    x, dt, A, B, C, before = ctx.saved_tensors
    dx, ddt, dA, dB, dC, dh0 = torch.ops.hybret.selective_scan_backward(x, dt, A, B, C, before, dy, dlast)
    return dx.to(x.dtype), ddt.to(dt.dtype), dA, dB.to(B.dtype), dC.to(C.dtype), dh0, None


_scan.register_autograd(_gradients, setup_context=_save)


def scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor | None = None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Outputs and last state of the selective scan, differentiable.

    Parameters
    ----------
    x, dt : Tensor, shape (batch, time, channels)
        Inputs and time steps (after softplus), any float type; the arithmetic is fp32.
    A : Tensor, shape (channels, state), fp32
    B, C : Tensor, shape (batch, time, state)
    h0 : Tensor, shape (batch, channels, state), fp32, optional
        State before the first step; zeros if left out. The state size must be a power of two.

    Returns
    -------
    y : Tensor, shape (batch, time, channels), fp32
    last : Tensor, shape (batch, channels, state), fp32
    """
    if h0 is None:
        h0 = torch.zeros(x.shape[0], *A.shape, dtype=torch.float32, device=x.device)
    inputs = (x, dt, A, B, C, h0)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    y, last, _ = torch.ops.hybret.selective_scan(*inputs, keep)
    return y, last
