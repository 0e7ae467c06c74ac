"""How fast the engine is: whole sweeps against transformers' own path, in one run, with the tokens compared.

`hybret bench` prints what `bench` returns. Ratios compare two times of the same run on the same machine; the stock
path is timed on a stated part of the prompts and conditions and scaled up by its mean time per prompt.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import transformers

from book.paper.chapter import keep_heads
from book.speed.stock import answer
from hybret import __version__
from hybret.devices import GIB, budget_of
from hybret.engine import decode
from hybret.engine.attach import implementation
from hybret.engine.scan import parallel_scans
from hybret.engine.schedule import Timings, answer_key
from hybret.errors import HybretError, one_of
from hybret.interventions import Intervention
from hybret.interventions.heads import KeepHeads
from hybret.interventions.weights import Omit, table1_conditions
from hybret.models import Model
from hybret.prompts import Prompt
from hybret.recipe import CORRECTED
from hybret.resolving import resolve
from hybret.sweeping import sweep
from hybret.tasks import niah

REPEATS = 5  # of a prefill
Say = Callable[[str], None]
Conditions = Mapping[str, Intervention]

SWEEPS: dict[str, Callable[[Model], Conditions]] = {
    "figure2": lambda model: keep_heads(model, "generation", "both", ks=range(model.heads + 1)),
    "manipulation": lambda _: table1_conditions(),
}


def bench(
    model: Model,
    sweeps: Sequence[str] = ("figure2", "manipulation"),
    lengths: int | Sequence[int] = 10,
    depths: int | Sequence[float] = 10,
    max_new_tokens: int = decode.MAX_NEW_TOKENS,
    stock_prompts: int = 5,
    stock_conditions: int = 4,
    seed: int = 0,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Time whole sweeps (names of `SWEEPS`), the stock path, and one prefill; return a record ready for JSON.

    `lengths`, `depths` and `seed` are those of `hybret.tasks.niah.grid`. The stock path answers `stock_prompts` prompts
    under `stock_conditions` conditions, evenly spread. Seconds are wall clock, memory is peak GiB (on the CPU of the
    whole process).
    """
    sweeps = [one_of("sweep", name, SWEEPS) for name in sweeps]
    if stock_prompts < 1 or stock_conditions < 1:
        raise HybretError("the stock path must answer at least one prompt under at least one condition")
    prompts = niah.grid(model, lengths, depths, seed=seed)
    say("measuring the machine")
    peak = matmul_rate(model)
    longest = max(prompts, key=lambda p: len(p.ids))
    # A short and a long prompt, so that kernels are chosen and compiled before any clock starts.
    ends = list(dict.fromkeys([min(prompts, key=lambda p: len(p.ids)), longest]))
    sweep(model, ends, {"k": KeepHeads(1), "omit": Omit()}, max_new_tokens=3, progress=False)
    machine = machine_of(model.name, str(model.device), model.dtype)
    machine |= {"weights": model.digest, "parameters": model.parameters}
    record: dict[str, Any] = {"machine": machine, "matmul_tflops": round(peak / 1e12, 3)}
    for name in sweeps:
        conditions = SWEEPS[name](model)
        say(f"{name}: {len(prompts)} prompts x {len(conditions)} conditions")
        subset = product(_spread(prompts, stock_prompts), _spread(list(conditions.values()), stock_conditions))
        record[name] = _sweep(model, prompts, conditions, list(subset), max_new_tokens, peak)
        say(f"{name}: {record[name]['seconds']} s, the stock path {record[name]['stock']['seconds']} s")
    say("prefill")
    record["prefill"] = prefill_ratio(model, longest)
    return record


def _spread(items: Sequence[Any], n: int) -> list[Any]:
    """Return `n` items, from the middles of equal parts."""
    n = min(n, len(items))
    return [items[int((i + 0.5) * len(items) / n)] for i in range(n)]


def _sweep(
    model: Model,
    prompts: Sequence[Prompt],
    conditions: Conditions,
    subset: Sequence[tuple[Prompt, Intervention]],
    max_new_tokens: int,
    peak: float,
) -> dict[str, Any]:
    """Time one sweep, and the stock path on a subset of its answers; `peak` is the machine's rate of products."""
    timings = Timings()
    with Memory(model) as memory:
        began = time.perf_counter()
        rows = sweep(model, prompts, conditions, max_new_tokens=max_new_tokens, progress=False, stages=timings)
        seconds = round(time.perf_counter() - began, 3)
    same, times, tokens = 0, [], sum(len(p.ids) for p in prompts)
    with Memory(model) as stock_memory:
        answer(model, prompts[0], subset[0][1], 2)  # its own warm-up
        for prompt, condition in subset:
            took, answered = clock(model.device, partial(answer, model, prompt, condition, max_new_tokens))
            times.append(took)
            same += answered == timings.tokens[answer_key(prompt, resolve(condition, model, CORRECTED))]
    budget, stock, read = budget_of(model), statistics.mean(times) * len(rows), tokens * len(conditions)
    prefills = {resolve(condition, model, CORRECTED).prefill for condition in conditions.values()}
    return {
        "prompts": len(prompts),
        "conditions": len(conditions),
        "answers": len(rows),
        "seconds": seconds,
        "stages": {stage: round(value, 3) for stage, value in timings.seconds.items()},
        "memory_gib": memory.gib,
        "longest_prompt_tokens": max(len(p.ids) for p in prompts),
        "max_new_tokens": max_new_tokens,
        "budget": {"rows": budget.max_sequences, "tokens": budget.max_tokens},
        "prompt_tokens_per_second": round(read / seconds),
        "stock": {
            "answers": len(subset),
            "prompts": len({prompt.key for prompt, _ in subset}),
            "seconds_per_answer": round(statistics.mean(times), 4),
            "seconds": round(stock, 1),
            "memory_gib": stock_memory.gib,
            "prompt_tokens_per_second": round(read / stock),
        },
        "ratio": round(stock / seconds, 1),
        "tokens_identical": same == len(subset),
        "answers_identical": same,
        "answers_compared": len(subset),
        "limit": {
            "what": "matrix products of every distinct prefill at the measured rate, no prefix shared, no decoding",
            "distinct_prefills": len(prefills),
            "seconds": round(tokens * len(prefills) * flops_per_token(model.net) / peak, 3),
        },
    }


def prefill_ratio(model: Model, prompt: Prompt) -> dict[str, Any]:
    """Time a sparsified prefill (half of the heads kept) and a plain one through SDPA; medians in seconds.

    Both read as many tokens as the prompt's nominal length, the prompt's own tokens over and over.
    """
    again = -(-prompt.length // len(prompt.ids))
    ids = torch.tensor([list(prompt.ids) * again], device=model.device)[:, : prompt.length + 1]
    position = torch.arange(prompt.length, device=model.device)[None]

    def sparse() -> None:
        half = (KeepHeads(model.heads // 2),)
        with implementation(model.net):
            decode.prefill(model, ids[0].tolist(), [half], prompt.needle_spans, CORRECTED, streaming=True)

    def plain() -> None:
        model.net.set_attn_implementation("sdpa")
        with torch.inference_mode():
            if hasattr(model.net, "_setup_cache"):
                model.net._setup_cache(model.net.config, 1, model.device, model.net.dtype)
            model.net(ids[:, :-1], position_ids=position, use_cache=True, logits_to_keep=1)

    before = model.net.config._attn_implementation
    try:
        with parallel_scans():  # by turns; the first of each warms up
            times = [(clock(model.device, sparse)[0], clock(model.device, plain)[0]) for _ in range(REPEATS + 1)][1:]
    finally:
        model.net.set_attn_implementation(before)
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    seconds = {"sparsified_seconds": round(ours, 5), "plain_seconds": round(theirs, 5)}
    return {"tokens": prompt.length, **seconds, "ratio": round(ours / theirs, 3)}


def matmul_rate(model: Model) -> float:
    """Floating-point operations per second of a large matrix product in the model's dtype on its device."""
    size = 8192 if model.device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=model.device, dtype=model.net.dtype) for _ in range(2))
    times = [clock(model.device, lambda: a @ b)[0] for _ in range(6)]
    return 2 * size**3 / statistics.median(times[1:])


def flops_per_token(net: Any) -> float:
    """Two operations per weight that a token meets.

    Embeddings are looked up, the head runs once per prompt, and of a mixture of experts only the chosen ones count.
    """
    experts = getattr(net.config, "num_experts", 0) or getattr(net.config, "num_local_experts", 0) or 1
    share = (getattr(net.config, "num_experts_per_tok", 1) or 1) / experts
    met = [(name, w.numel()) for name, w in net.named_parameters() if "embed" not in name and "lm_head" not in name]
    return 2 * sum(count * (share if ".experts" in name else 1) for name, count in met)


def machine_of(name: str, device: str, dtype: str) -> dict[str, Any]:
    """What the figures were measured on; `name` is that of a model or of a part of one."""
    cuda, threads = torch.device(device).type == "cuda", torch.get_num_threads()
    cpu = f"CPU ({threads} thread{'s' if threads > 1 else ''})"
    where = {"model": name, "dtype": dtype, "device": torch.cuda.get_device_name(device) if cuda else cpu}
    when = {"date": datetime.now(UTC).date().isoformat(), "hybret": __version__, "python": platform.python_version()}
    return {**where, **when, "torch": torch.__version__, "transformers": transformers.__version__}


def clock(device: torch.device, function: Callable[[], Any]) -> tuple[float, Any]:
    """Call a function; return the seconds until the device has finished, and the result."""
    synchronise = torch.cuda.synchronize if device.type == "cuda" else nullcontext
    synchronise(device)
    began = time.perf_counter()
    result = function()
    synchronise(device)
    return time.perf_counter() - began, result


class Memory:
    """Peak memory inside the block in GiB: of the fullest GPU, or of this process (Linux; None elsewhere)."""

    gib: float | None = None

    def __init__(self, model: Model) -> None:
        self.gpus = sorted({p.device.index for p in model.net.parameters() if p.device.type == "cuda"})

    def __enter__(self) -> Memory:
        for gpu in self.gpus:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(gpu)
        if not self.gpus and (peak := Path("/proc/self/clear_refs")).exists():
            peak.write_text("5")
        return self

    def __exit__(self, *_: object) -> None:
        if self.gpus:
            self.gib = round(max(map(torch.cuda.max_memory_allocated, self.gpus)) / GIB, 3)
        elif (status := Path("/proc/self/status")).exists():
            line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
            self.gib = round(int(line.split()[1]) * 1024 / GIB, 3)
