"""Backward passes of the scans in `hybret.engine.triton`; importing this module registers them.

The selective scan keeps the states before every step in bfloat16 (relative error 0.4 %, below that of bfloat16
activations).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hybret.engine import triton as forward
from hybret.engine.triton import LINEAR, SELECTIVE, grid


@triton.jit
def _linear(a, h, h0, dh, da, db, dh0, time, channels, width: tl.constexpr, unroll: tl.constexpr):
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


@triton.jit
def _selective(
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


@torch.library.custom_op("hybret::linear_scan_backward", mutates_args=())
def _linear_op(a: Tensor, h: Tensor, h0: Tensor, dh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, h, h0, dh = a.contiguous(), h.contiguous(), h0.contiguous(), dh.contiguous()
    da, db, dh0 = torch.empty_like(h), torch.empty_like(h), torch.empty_like(h0)
    with torch.cuda.device(h.device):
        _linear[grid(h, LINEAR["width"])](a, h, h0, dh, da, db, dh0, h.shape[1], h.shape[2], **LINEAR)
    return da, db, dh0


@_linear_op.register_fake
def _(a, h, h0, dh):
    return h.new_empty(h.shape), h.new_empty(h.shape), h0.new_empty(h0.shape)


@torch.library.custom_op("hybret::selective_scan_backward", mutates_args=())
def _selective_op(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, before: Tensor, dy: Tensor, dlast: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, dt, A, B, C, dy, dlast = (t.contiguous() for t in (x, dt, A, B, C, dy, dlast))
    dx, ddt = (torch.empty(x.shape, dtype=torch.float32, device=x.device) for _ in range(2))
    sums = [torch.zeros(t.shape, dtype=torch.float32, device=x.device) for t in (A, B, C)]
    dh0 = torch.empty_like(dlast)
    with torch.cuda.device(x.device):
        _selective[grid(x, SELECTIVE["width"])](
            x, dt, A, B, C, before, dy, dlast, dx, ddt, *sums, dh0, x.shape[1], x.shape[2], n=A.shape[1], **SELECTIVE
        )
    return dx, ddt, sums[0], sums[1], sums[2], dh0


@_selective_op.register_fake
def _(x, dt, A, B, C, before, dy, dlast):
    fresh = [t.new_empty(t.shape, dtype=torch.float32) for t in (x, dt, A, B, C)]
    return (*fresh, torch.empty_like(dlast))


def _save_linear(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(inputs[0], output, inputs[2])


def _save_selective(ctx: Any, inputs: Any, output: Any) -> None:
    assert inputs[6], "the states are needed for the backward pass"
    ctx.save_for_backward(*inputs[:5], output[2])
    ctx.mark_non_differentiable(output[2])


def _selective_gradients(ctx: Any, dy: Tensor, dlast: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    x, dt, A, B, C, before = ctx.saved_tensors
    dx, ddt, dA, dB, dC, dh0 = _selective_op(x, dt, A, B, C, before, dy, dlast)
    return dx.to(x.dtype), ddt.to(dt.dtype), dA, dB.to(B.dtype), dC.to(C.dtype), dh0, None


forward.linear_op.register_autograd(lambda ctx, dh: _linear_op(*ctx.saved_tensors, dh), setup_context=_save_linear)
forward.selective_op.register_autograd(_selective_gradients, setup_context=_save_selective)
forward.DIFFERENTIABLE = True
