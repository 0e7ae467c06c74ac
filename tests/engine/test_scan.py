"""The parallel scans against the loops that define them, and their routing into transformers."""

import pytest
import torch
from transformers.models.jamba import modeling_jamba
from transformers.models.recurrent_gemma import modeling_recurrent_gemma

import hybret as hb
from hybret.engine.recurrences import linear_scan, selective_scan
from hybret.engine.scan import parallel_scans

TOKENS = 37
PATCHED = (
    (modeling_recurrent_gemma.RecurrentGemmaRglru, "_rnn_scan"),
    (modeling_recurrent_gemma.RecurrentGemmaRecurrentBlock, "forward"),
    (modeling_jamba, "mamba_selective_scan"),
    (modeling_jamba, "mamba_selective_state_update"),
    (modeling_jamba.JambaMambaMixer, "forward"),
)


def loop(a, b, h0=None):
    h = torch.zeros_like(b[:, 0]) if h0 is None else h0
    states = []
    for t in range(b.shape[1]):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    return torch.stack(states, 1), h


def example(time, with_state, dtype, batch=3, channels=40):
    generator = torch.Generator().manual_seed(time)
    a = torch.rand(batch, time, channels, generator=generator)
    a[0, time // 2] = 0  # a reset in the middle, and decays small enough to underflow in a product
    a[1] *= 1e-3
    b = torch.randn(batch, time, channels, generator=generator)
    state = torch.randn(batch, channels, generator=generator) if with_state else None
    return [None if t is None else t.to(dtype) for t in (a, b, state)]


def gradients(scan, tensors, seed=0):
    leaves = [t.clone().requires_grad_() for t in tensors if t is not None]
    h, last = scan(*leaves)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(h.shape, generator=generator).to(h)
    loss = (h * weight).sum() + last.square().sum()
    return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("time", [1, 3, 257])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_scan_is_the_loop(time, with_state, dtype, tolerance):
    tensors = example(time, with_state, dtype)
    originals = [None if t is None else t.clone() for t in tensors]
    expected, expected_last = loop(*tensors)
    h, last = linear_scan(*tensors)
    assert h.dtype == dtype
    torch.testing.assert_close(h, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(last, expected_last, atol=tolerance, rtol=tolerance)
    for before, after in zip(originals, tensors, strict=True):
        assert before is None or torch.equal(before, after)  # the in-place variant works on copies
    for ours, theirs in zip(gradients(linear_scan, tensors), gradients(loop, tensors), strict=True):
        torch.testing.assert_close(ours, theirs, atol=20 * tolerance, rtol=20 * tolerance)


def test_scan_slices_large_batches_and_refuses_shapes_that_do_not_fit():
    large = example(257, True, torch.float32, batch=20, channels=320)
    torch.testing.assert_close(linear_scan(*large)[0], loop(*large)[0], atol=1e-5, rtol=1e-5)
    a, b, state = example(5, True, torch.float32)
    for wrong in ((a[:, :4], b), (a[:, :0], b[:, :0]), (a, b, state[:, :3])):
        with pytest.raises(hb.HybretError, match=r"linear_scan got shapes \(3, "):
            linear_scan(*wrong)


def drawn(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator)


@pytest.mark.parametrize("time", [1, 3, 31, 257])
def test_selective_scan_is_the_stock_loop(time):
    draw = drawn(time)
    x, dt, z = draw(2, 12, time), draw(2, 12, time), draw(2, 12, time)
    rates, b, c, skip, bias = -draw(12, 5).exp(), draw(2, 5, time), draw(2, 5, time), draw(12), draw(12)
    options = {"D": skip, "z": z, "delta_bias": bias, "delta_softplus": True, "return_last_state": True}
    expected, expected_state = modeling_jamba.mamba_selective_scan(x, dt, rates, b, c, **options)
    y, state = selective_scan(x, dt, rates, b, c, **options)
    torch.testing.assert_close(y, expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(state, expected_state, atol=2e-5, rtol=1e-5)
    half = time // 2
    if half:  # two halves, the second from the state of the first
        parts, carried = [], None
        for part in (slice(0, half), slice(half, None)):
            given = (x[..., part], dt[..., part], rates, b[..., part], c[..., part])
            out, carried = selective_scan(*given, initial_state=carried, **options | {"z": z[..., part]})
            parts.append(out)
        torch.testing.assert_close(torch.cat(parts, -1), expected, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(carried, expected_state, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 70])  # states of 70 rows are more than one slice of the cache
@pytest.mark.parametrize("gated", [False, True])
def test_one_token_of_the_selective_scan_is_the_stock_step(rows, gated):
    draw, channels, states = drawn(rows), 512, 8
    state, x, dt, b, c = draw(rows, channels, states), *(draw(rows, n) for n in (channels, channels, states, states))
    options = {"D": draw(channels), "z": draw(rows, channels), "dt_bias": draw(channels), "dt_softplus": True}
    options, rates = options if gated else {}, -draw(channels, states).exp()
    dt = dt if gated else dt.abs()
    wanted_state, found_state = state.clone(), state.clone()
    stock = modeling_jamba.mamba_selective_state_update
    wanted = stock(wanted_state, x, dt, rates, b, c, **options)
    with torch.inference_mode(), parallel_scans():
        assert modeling_jamba.mamba_selective_state_update is not stock
        found = modeling_jamba.mamba_selective_state_update(found_state, x, dt, rates, b, c, **options)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found_state, wanted_state, atol=2e-5, rtol=1e-5)


@pytest.fixture(scope="module", params=["random-griffin", "random-jamba"])
def model(request):
    return hb.load(request.param, device="cpu").net


def token_ids(batch=2):
    return torch.randint(3, 2000, (batch, TOKENS), generator=torch.Generator().manual_seed(1))


def test_models_agree_with_the_stock_code(model):
    ids = token_ids()

    def run():
        model.zero_grad()
        out = model(ids, use_cache=False, labels=ids)
        out.loss.backward()
        return [out.logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    stock = run()
    with parallel_scans():
        ours = run()
        with torch.no_grad():
            ours.append(model(ids, use_cache=False).logits)
    assert not torch.equal(ours[0], stock[0])  # it is another order of operations, so our code did run
    for mine, theirs in zip(ours, [*stock, stock[0]], strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-3)
    assert len(stock) > 11


def test_transformers_is_restored():
    originals = [getattr(owner, name) for owner, name in PATCHED]

    def restored():
        return [getattr(owner, name) is original for (owner, name), original in zip(PATCHED, originals, strict=True)]

    with parallel_scans():
        assert not any(restored())
        with parallel_scans():
            assert not any(restored())
        assert not any(restored())
    assert all(restored())
    with pytest.raises(RuntimeError, match="inside"), parallel_scans():
        raise RuntimeError("inside")
    assert all(restored())


# Triton launches on the current GPU: on the second one of a spread model its kernels read what was not there yet.
