"""Attention without its weights against attention with them; `test_matrix` has the answers of every intervention."""

import pytest
import torch
from conftest import random_ids

from hybret import CORRECTED, Binary, KeepHeads, Mass, Null, Omit, Only
from hybret.engine.attach import implementation
from hybret.engine.context import ForwardContext, forward_context
from hybret.engine.gates import head_entropy
from hybret.engine.scan import parallel_scans
from hybret.engine.streaming import attend


def whole(model, rows, recipe=CORRECTED, streaming=True):
    """Logits of one prompt under each of `rows` in one pass, far past the window, and whether it streamed."""
    length, spans, question = 150, ((60, 70), (90, 95)), (100, 120)
    ids = torch.tensor([random_ids(model, length)]).expand(len(rows), -1)
    last, asked = torch.full((len(rows),), length - 1), [question] * len(rows)
    now = ForwardContext("prefill", rows, [spans] * len(rows), last, recipe, streaming=streaming, questions=asked)
    with parallel_scans(), implementation(model.net), torch.inference_mode(), forward_context(now):
        return model.net(input_ids=ids, use_cache=False).logits, now.streams


L2 = KeepHeads(4, metric="output-norm")


@pytest.mark.parametrize(
    "twice", [(Only(renormalise=True), Omit()), (Binary(), Omit()), (Omit(), L2), (L2, Null()), (Mass(0.5),)], ids=repr
)
def test_a_row_that_cannot_stream_keeps_its_batch_from_it(model, twice):
    once = [(Omit(),), (KeepHeads(3), Only()), (KeepHeads(5, metric="output-norm"),), ()]
    slow, _ = whole(model, [twice, *once], streaming=False)
    for rows, order in (([twice], [0]), ([*once, twice], [1, 2, 3, 4, 0])):
        fast, streamed = whole(model, rows)
        assert not streamed
        torch.testing.assert_close(fast, slow[order], atol=3e-5, rtol=0)
    fast, streamed = whole(model, once)
    assert streamed
    torch.testing.assert_close(fast, slow[1:], atol=3e-5, rtol=0)


@pytest.mark.parametrize("action", [Binary(), Only()], ids=repr)
def test_weights_of_sharp_heads_do_not_overflow(model, monkeypatch, action):
    """Keys to come may score more than e^88 times what a query sees: they are hidden before the exponential."""
    for module in model.net.modules():
        if hasattr(module, "scaling"):
            monkeypatch.setattr(module, "scaling", 150.0)
    fast, streamed = whole(model, [(action,)])
    slow, _ = whole(model, [(action,)], streaming=False)
    assert streamed and fast.isfinite().all()
    torch.testing.assert_close(fast, slow, atol=1e-2, rtol=0)


@pytest.mark.parametrize("window", [None, 37, 400])
@pytest.mark.parametrize(("queries", "keys"), [(300, 300), (50, 300), (1, 20), (129, 129)])
def test_attend_gives_outputs_denominators_and_entropies(queries, keys, window):
    generator = torch.Generator().manual_seed(keys)
    q, k, v = (torch.randn(2, n, t, 16, generator=generator) for n, t in ((6, queries), (2, keys), (2, keys)))
    output, lse, bits = attend(3 * q, k, v, 0.3, window, CORRECTED, entropy=True)
    at, column = torch.arange(keys - queries, keys)[:, None], torch.arange(keys)
    hidden = (column > at) | (column <= at - (window or keys))
    scores = (3 * q @ k.repeat_interleave(3, 1).mT * 0.3).masked_fill(hidden, -torch.inf)
    weights = scores.softmax(-1)
    torch.testing.assert_close(output, weights @ v.repeat_interleave(3, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(lse, scores.logsumexp(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(bits, head_entropy(weights, CORRECTED), atol=1e-4, rtol=0)


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@cuda
@pytest.mark.parametrize(("heads", "shared", "width", "window"), [(10, 1, 256, 300), (32, 8, 128, None)])
def test_flash_attention_is_the_blocked_one(heads, shared, width, window):
    """bf16 through the fused kernel against fp32 a block at a time, in one piece and continued from a cache."""
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (
        torch.randn(1, n, 1000, width, device="cuda", dtype=torch.bfloat16, generator=generator)
        for n in (heads, shared, shared)
    )
    exact = attend(q.float(), k.float(), v.float(), width**-0.5, window, CORRECTED, entropy=True)
    for queries in (1000, 400):
        output, lse, bits = attend(q[:, :, -queries:], k, v, width**-0.5, window, CORRECTED, entropy=True)
        expected = [x[:, :, -queries:] for x in exact]
        torch.testing.assert_close(output.float(), expected[0], atol=0.02, rtol=0.02)
        torch.testing.assert_close(lse, expected[1], atol=1e-3, rtol=0)
        torch.testing.assert_close(bits, expected[2], atol=0.05, rtol=0)
        assert (bits - expected[2]).abs().mean() < 0.01
