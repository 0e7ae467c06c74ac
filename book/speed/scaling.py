"""Time and memory of one attention layer in a prefill, against the length of the prompt.

The layer is transformers' own, with random weights, in the shape of one of the paper's models, so lengths that no
whole model of that size would fit on one device can be measured.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.models.jamba.modeling_jamba import JambaAttention

from book.speed.bench import clock, machine_of
from hybret.devices import GIB
from hybret.engine import attention
from hybret.engine.context import ForwardContext, forward_context
from hybret.errors import HybretError
from hybret.families import PAPER_MODELS, paper_config
from hybret.interventions.heads import KeepHeads
from hybret.recipe import CORRECTED

SHAPE = "ai21labs/AI21-Jamba-Mini-1.6"
PATHS = ("sparsified", "plain", "eager")
REPEATS = 3
LENGTHS = tuple(1024 * 2**i for i in range(9))


def scaling(
    lengths: Sequence[int] = LENGTHS,
    device: str = "cuda",
    dtype: str = "bfloat16",
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure an attention layer of Jamba-Mini's shape, whose attention has no window; `lengths` are in tokens.

    Three paths: ``sparsified`` (half of the heads kept, through a streaming prefill), ``plain`` (every head, SDPA)
    and ``eager`` (sparsified through the queries x keys weights, up to where they no longer fit).

    Ready for JSON. `rows` have `path`, `tokens`, `seconds` (median) and `extra_gib`, the peak memory beyond
    the layer's weights and input (CUDA; None on the CPU). `slopes` are exponents of the length, fitted over the longer
    half of the lengths of each path.
    """
    if not lengths or min(lengths) < 2:
        raise HybretError("scaling needs lengths of at least 2 tokens")
    config = paper_config(SHAPE)
    config._attn_implementation = attention.NAME
    torch.manual_seed(0)
    with torch.device(device):
        layer = JambaAttention(config, layer_idx=0).to(getattr(torch, dtype)).eval()
    heads = config.num_attention_heads
    kept = heads // 2
    rows: list[dict[str, Any]] = []
    for path in PATHS:
        for length in sorted(lengths):
            hidden = torch.randn(1, length, config.hidden_size, device=device, dtype=layer.q_proj.weight.dtype)
            try:
                seconds, extra = _measure(partial(_run, layer, hidden, path, kept), device)
            except torch.OutOfMemoryError as problem:
                if path == "sparsified":
                    short = f"{length} tokens do not fit on {device} even without the weights"
                    raise HybretError(f"{short}; give shorter lengths") from problem
                say(f"{path}: {length} tokens do not fit")
                break
            rows.append({"path": path, "tokens": length, "seconds": seconds, "extra_gib": extra})
            say(f"{path}: {length} tokens, {seconds:.4f} s, {extra} GiB")
    by_path = {path: part for path in PATHS if (part := [row for row in rows if row["path"] == path])}
    slopes = {path: {key: _slope(part, key) for key in ("seconds", "extra_gib")} for path, part in by_path.items()}
    return {
        "machine": machine_of(f"attention layer of {PAPER_MODELS[SHAPE]}", device, dtype),
        "shape": {"heads": heads, "key_value_heads": config.num_key_value_heads,
                  "head_dim": config.hidden_size // heads, "hidden": config.hidden_size},
        "kept": kept,
        "rows": rows,
        "slopes": slopes,
    }  # fmt: skip


def _run(layer: Any, hidden: Tensor, path: str, kept: int) -> None:
    length, mask = hidden.shape[1], None
    layer.config._attn_implementation = "sdpa" if path == "plain" else attention.NAME
    last = torch.tensor([length - 1], device=hidden.device)
    context = ForwardContext("prefill", [(KeepHeads(kept),)], [()], last, CORRECTED, streaming=path == "sparsified")
    with torch.inference_mode(), nullcontext() if path == "plain" else forward_context(context):
        if path == "eager":
            mask = hidden.new_full((length, length), torch.finfo(hidden.dtype).min).triu_(1)[None, None]
        layer(hidden, attention_mask=mask, past_key_values=None)


def _measure(run: Callable[[], None], device: str) -> tuple[float, float | None]:
    """Median seconds and, on a GPU, peak GiB beyond what was allocated before."""
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    times = [clock(torch.device(device), run)[0] for _ in range(REPEATS + 1)]
    extra = round((torch.cuda.max_memory_allocated() - before) / GIB, 4) if cuda else None
    return round(statistics.median(times[1:]), 6), extra


def _slope(rows: Sequence[dict[str, Any]], key: str) -> float | None:
    """Exponent b of value = a * tokens ** b by least squares of logarithms, over the longer half of the lengths."""
    points = [(math.log(r["tokens"]), math.log(r[key])) for r in rows if r[key]][-max(2, (len(rows) + 1) // 2) :]
    return round(statistics.linear_regression(*zip(*points, strict=True)).slope, 3) if len(points) > 1 else None


if __name__ == "__main__":  # python -m book.speed.scaling > book/published/scaling-NAME.json
    print(json.dumps(scaling(say=partial(print, file=sys.stderr))))
