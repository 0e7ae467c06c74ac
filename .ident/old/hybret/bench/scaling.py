"""Time and memory of one attention layer in a prefill, against the length of the prompt.

The layer is transformers' own, with random weights, in the shape of one of the paper's models, so lengths that no
whole model of that size would fit on one device can be measured.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.models.jamba.modeling_jamba import JambaAttention

from hybret.bench.measuring import GIB, machine_of
from hybret.engine import attention
from hybret.engine.frame import Frame, frame
from hybret.errors import HybretError
from hybret.interventions import KeepHeads
from hybret.presets import PAPER_MODELS, paper_config
from hybret.recipe import CORRECTED

PATHS = ("sparsified", "plain", "eager")
LENGTHS = tuple(1024 * 2**i for i in range(9))


def scaling(
    lengths: Sequence[int] = LENGTHS,
    device: str = "cuda",
    dtype: str = "bfloat16",
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure an attention layer of Jamba-Mini's shape, whose attention has no window.

    Three paths: ``sparsified`` (half of the heads kept, through a streaming prefill), ``plain`` (every head, SDPA)
    and ``eager`` (sparsified through the queries x keys weights, up to where they no longer fit).

    Parameters
    ----------
    lengths : prompt lengths in tokens.
    device, dtype : where, and in which precision.
    seed : of weights and inputs.
    say : called with a line of progress.

    Returns
    -------
    dict : ready for JSON. `rows` have `path`, `tokens`, `seconds` (median) and `extra_gib`, the peak memory beyond the
        layer's weights and input (CUDA; None on the CPU). `slopes` are exponents of the length, fitted over the longer
        half of the lengths of each path. `eager_gib_at_longest` extrapolates the eager path's memory.

    Raises
    ------
    HybretError
        Without lengths, or if the sparsified path does not fit.
    """
    if not lengths or min(lengths) < 2:
        raise HybretError("scaling needs lengths of at least 2 tokens")
    config = paper_config("ai21labs/AI21-Jamba-Mini-1.6")
    config._attn_implementation = attention.NAME
    torch.manual_seed(seed)
    with torch.device(device):
        layer = JambaAttention(config, layer_idx=0).to(getattr(torch, dtype)).eval()
    kept = config.num_attention_heads // 2
    rows: list[dict[str, Any]] = []
    for path in PATHS:
        for length in sorted(lengths):
            hidden = torch.randn(1, length, config.hidden_size, device=device, dtype=layer.q_proj.weight.dtype)
            try:
                seconds, extra = _measure(partial(_run, layer, hidden, path, kept), device)
            except torch.OutOfMemoryError as problem:
                if path == "sparsified":
                    raise HybretError(
                        f"{length} tokens do not fit on {device} even without the weights; give shorter lengths"
                    ) from problem
                say(f"{path}: {length} tokens do not fit")
                break
            rows.append({"path": path, "tokens": length, "seconds": seconds, "extra_gib": extra})
            say(f"{path}: {length} tokens, {seconds:.4f} s, {extra} GiB")
    found = {path: [row for row in rows if row["path"] == path] for path in PATHS}
    slopes = {
        path: {key: _slope(part, key) for key in ("seconds", "extra_gib")} for path, part in found.items() if part
    }
    largest = found["eager"][-1] if found["eager"] else None
    eager = largest and largest["extra_gib"] and largest["extra_gib"] * (max(lengths) / largest["tokens"]) ** 2
    return {
        "machine": machine_of(f"attention layer of {PAPER_MODELS['ai21labs/AI21-Jamba-Mini-1.6']}", device, dtype),
        "shape": {
            "heads": config.num_attention_heads,
            "key_value_heads": config.num_key_value_heads,
            "head_dim": config.hidden_size // config.num_attention_heads,
            "hidden": config.hidden_size,
        },
        "kept": kept,
        "rows": rows,
        "slopes": slopes,
        "eager_gib_at_longest": eager and round(eager, 1),
    }


def _run(layer: Any, hidden: Tensor, path: str, kept: int) -> None:
    length = hidden.shape[1]
    if path == "plain":
        layer.config._attn_implementation = "sdpa"
        with torch.inference_mode():
            layer(hidden, attention_mask=None, past_key_values=None)
        return
    layer.config._attn_implementation = attention.NAME
    last = torch.tensor([length - 1], device=hidden.device)
    now = Frame("prefill", [(KeepHeads(kept),)], [()], last, CORRECTED, streaming=path == "sparsified")
    mask = None
    with torch.inference_mode(), frame(now):
        if path == "eager":
            mask = torch.full((length, length), torch.finfo(hidden.dtype).min, device=hidden.device, dtype=hidden.dtype)
            mask = mask.triu_(1)[None, None]
        layer(hidden, attention_mask=mask, past_key_values=None)


def _measure(run: Callable[[], None], device: str, repeats: int = 3) -> tuple[float, float | None]:
    """Median seconds and, on a GPU, peak GiB beyond what was allocated before."""
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    extra = round((torch.cuda.max_memory_allocated() - before) / GIB, 4) if cuda else None
    return round(statistics.median(times[1:]), 6), extra


def _slope(rows: Sequence[dict[str, Any]], key: str) -> float | None:
    """Exponent b of value = a * tokens ** b by least squares of logarithms, over the longer half of the lengths."""
    points = [(math.log(r["tokens"]), math.log(r[key])) for r in rows if r[key]][-max(2, (len(rows) + 1) // 2) :]
    if len(points) < 2:
        return None
    x, y = (statistics.mean(values) for values in zip(*points, strict=True))
    return round(sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points), 3)
