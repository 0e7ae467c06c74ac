"""How fast the engine is: whole sweeps against transformers' own path, in one run, with the tokens compared.

`hybret bench` prints what `bench` returns. Ratios compare two times of the same run on the same machine; the stock
path is timed on a stated part of the prompts and conditions and scaled up by its mean time per prompt.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from hybret import niah
from hybret.bench.measuring import Memory, flops_per_token, machine, matmul_rate, wait
from hybret.bench.stock import answer
from hybret.engine import generation, streaming
from hybret.engine.batches import Stages, budget_of, does, longest_prompt
from hybret.engine.entropy import keep_lowest
from hybret.engine.scan import parallel_scans
from hybret.engine.tracing import implementation
from hybret.errors import HybretError
from hybret.fitting import effective
from hybret.interventions import Intervention, KeepHeads, table1_conditions
from hybret.models import Model
from hybret.prompts import Prompt
from hybret.recipe import CORRECTED
from hybret.sweeping import sweep


def figure2_conditions(model: Model) -> dict[str, Intervention]:
    """Both versions of the paper's Figure 2, every k."""
    return {c.label: c for during in ("generation", "both") for c in (KeepHeads(k, during=during) for k in _ks(model))}


def _ks(model: Model) -> range:
    return range(model.heads + 1)


SWEEPS: dict[str, Callable[[Model], Mapping[str, Intervention]]] = {
    "figure2": figure2_conditions,
    "manipulation": lambda _: table1_conditions(),
}


def bench(
    model: Model,
    sweeps: Sequence[str] = ("figure2", "manipulation"),
    lengths: int | Sequence[int] = 10,
    depths: int | Sequence[float] = 10,
    max_new_tokens: int = generation.MAX_NEW_TOKENS,
    stock_prompts: int = 5,
    stock_conditions: int = 4,
    seed: int = 0,
    prefill: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Time whole sweeps and the stock path.

    Parameters
    ----------
    model : Model
    sweeps : names of `SWEEPS`.
    lengths, depths : of the prompts' grid, as in `hybret.niah.grid`.
    max_new_tokens : tokens per answer.
    stock_prompts, stock_conditions : how many prompts (evenly spread over the grid, so over its lengths) and conditions
        (evenly spread) the stock path answers.
    seed : of the haystack.
    prefill : also time a sparsified prefill against a plain one.
    say : called with a line of progress.

    Returns
    -------
    dict : ready for JSON. Seconds are wall clock, memory is peak GiB (on the CPU of the whole process).

    Raises
    ------
    HybretError
        On an unknown sweep or a part of no prompts, before the model runs.
    """
    if unknown := [name for name in sweeps if name not in SWEEPS]:
        raise HybretError(f"unknown sweep {unknown[0]!r}; choose from {', '.join(SWEEPS)}")
    if stock_prompts < 1 or stock_conditions < 1:
        raise HybretError("the stock path must answer at least one prompt under at least one condition")
    prompts = niah.grid(model, lengths, depths, seed=seed)
    say("measuring the machine")
    peak = matmul_rate(model)
    _warm(model, prompts)
    found: dict[str, Any] = {"machine": machine(model), "matmul_tflops": round(peak / 1e12, 3)}
    for name in sweeps:
        conditions = SWEEPS[name](model)
        found[name] = _sweep(
            model, prompts, conditions, max_new_tokens, stock_prompts, stock_conditions, peak, name, say
        )
    if prefill:
        say("prefill")
        longest = max(prompts, key=lambda p: len(p.ids))
        found["prefill"] = {**prefill_ratio(model, longest), "kept_as_in_fp32": kept_share(model, longest)}
    return found


def _warm(model: Model, prompts: Sequence[Prompt]) -> None:
    """One short and one long prompt: kernels are chosen and compiled before any clock starts."""
    ends = [min(prompts, key=lambda p: len(p.ids)), max(prompts, key=lambda p: len(p.ids))]
    sweep(
        model,
        list(dict.fromkeys(ends)),
        {"k": KeepHeads(1), "omit": table1_conditions()["Omit-Omit"]},
        max_new_tokens=3,
        progress=False,
    )


def _sweep(
    model: Model,
    prompts: Sequence[Prompt],
    conditions: Mapping[str, Intervention],
    max_new_tokens: int,
    stock_prompts: int,
    stock_conditions: int,
    peak: float,
    name: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    say(f"{name}: {len(prompts)} prompts x {len(conditions)} conditions")
    stages = Stages()
    with Memory(model) as memory:
        began = time.perf_counter()
        sweep(model, prompts, conditions, max_new_tokens=max_new_tokens, progress=False, stages=stages)
        seconds = time.perf_counter() - began
    answers = len(prompts) * len(conditions)
    some_prompts = _spread(prompts, stock_prompts)
    some = [(p, conditions[c]) for p, c in product(some_prompts, _spread(list(conditions), stock_conditions))]
    say(f"{name}: {seconds:.1f} s; the stock path on {len(some)} of {answers} answers")
    same, times = 0, []
    with Memory(model) as stock_memory:
        answer(model, prompts[0], some[0][1], 2)  # its own warm-up
        for prompt, condition in some:
            wait(model)
            began = time.perf_counter()
            tokens = answer(model, prompt, condition, max_new_tokens)
            wait(model)
            times.append(time.perf_counter() - began)
            same += tokens == stages.tokens[prompt.key, does(model, CORRECTED, condition)]
    stock = statistics.mean(times) * answers
    read = sum(len(p.ids) for p in prompts) * len(conditions)
    passes = {effective([c.at("prefill")], model.family, model.heads, CORRECTED)[0] for c in conditions.values()}
    flops = flops_per_token(model.net)
    least = sum(len(p.ids) for p in prompts) * len(passes) * flops / peak
    return {
        "prompts": len(prompts),
        "longest_prompt_tokens": max(len(p.ids) for p in prompts),
        "conditions": len(conditions),
        "answers": answers,
        "max_new_tokens": max_new_tokens,
        "budget": vars(budget_of(model, longest_prompt(model))),
        "seconds": round(seconds, 3),
        "stages": {stage: round(value, 3) for stage, value in stages.seconds.items()},
        "memory_gib": memory.gib,
        "prompt_tokens_per_second": round(read / seconds),
        "stock": {
            "answers": len(some),
            "prompts": len(some_prompts),
            "seconds_per_answer": round(statistics.mean(times), 4),
            "seconds": round(stock, 1),
            "memory_gib": stock_memory.gib,
            "prompt_tokens_per_second": round(read / stock),
        },
        "ratio": round(stock / seconds, 1),
        "tokens_identical": same == len(some),
        "answers_identical": same,
        "answers_compared": len(some),
        "limit": {
            "what": "matrix products of every distinct prefill at the measured rate, no prefix shared, no decoding",
            "distinct_prefills": len(passes),
            "seconds": round(least, 3),
        },
    }


def prefill_ratio(model: Model, prompt: Prompt, repeats: int = 5) -> dict[str, Any]:
    """Median seconds of a sparsified prefill (half of the heads kept) and of a plain one through SDPA.

    Of as many tokens as the longest length label of the prompt's grid says, the prompt's own over and over.
    """
    again = -(-prompt.length // len(prompt.ids))
    ids = torch.tensor([list(prompt.ids) * again], device=model.device)[:, : prompt.length + 1]
    position = torch.arange(prompt.length, device=model.device)[None]
    action = [(KeepHeads(model.heads // 2),)]

    def sparse() -> None:
        with implementation(model.net):
            generation.prefill(model, ids[0].tolist(), action, prompt.needle_spans, CORRECTED, streaming=True)

    def plain() -> None:
        model.net.set_attn_implementation("sdpa")
        with torch.inference_mode():
            if hasattr(model.net, "_setup_cache"):
                model.net._setup_cache(model.net.config, 1, model.device, model.net.dtype)
            model.net(ids[:, :-1], position_ids=position, use_cache=True, logits_to_keep=1)

    before = model.net.config._attn_implementation
    times: dict[Callable[[], None], list[float]] = {sparse: [], plain: []}
    try:
        with parallel_scans():
            for _ in range(repeats + 1):  # by turns; the first of each warms up
                for run, taken in times.items():
                    wait(model)
                    began = time.perf_counter()
                    run()
                    wait(model)
                    taken.append(time.perf_counter() - began)
    finally:
        model.net.set_attn_implementation(before)
    sparse_seconds, plain_seconds = (statistics.median(taken[1:]) for taken in times.values())
    return {
        "tokens": prompt.length,
        "sparsified_seconds": round(sparse_seconds, 5),
        "plain_seconds": round(plain_seconds, 5),
        "ratio": round(sparse_seconds / plain_seconds, 3),
    }


def kept_share(model: Model, prompt: Prompt) -> float:
    """Share of (token, attention layer) whose kept heads are those of fp32 entropies of the same queries and keys.

    Half of the heads are kept. In fp32 it is 1.0 but for rounding among ties.
    """
    shares, original = [], streaming.attend

    def watched(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        found = original(query, key, value, *args, **kwargs)
        exact = original(query.float(), key.float(), value.float(), *args, **kwargs)
        k = torch.full((len(query),), model.heads // 2, device=query.device)
        assert found[2] is not None and exact[2] is not None  # KeepHeads asks for entropies
        same = keep_lowest(found[2], k) == keep_lowest(exact[2], k)
        shares.append(float(same.all(1).float().mean()))
        return found

    streaming.attend = watched
    try:
        with parallel_scans(), implementation(model.net):
            action = [(KeepHeads(model.heads // 2),)]
            generation.prefill(model, prompt.ids, action, prompt.needle_spans, CORRECTED, streaming=True)
    finally:
        streaming.attend = original
    return round(statistics.mean(shares), 5)


def _spread(items: Sequence[Any], n: int) -> list[Any]:
    """`n` of them, in the middles of equal parts."""
    n = min(n, len(items))
    return [items[int((i + 0.5) * len(items) / n)] for i in range(n)]
