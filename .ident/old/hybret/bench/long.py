"""Maps of prompts far beyond the paper's 4,096 tokens: how long they take, and how much memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from hybret import niah
from hybret.bench.measuring import Memory, machine
from hybret.engine import generation
from hybret.engine.batches import Stages, budget_of, longest_prompt
from hybret.errors import HybretError
from hybret.interventions import Intervention, KeepHeads
from hybret.models import Model
from hybret.sweeping import sweep
from hybret.tables import fraction


def long_maps(
    model: Model,
    lengths: Sequence[int] = (16384, 32768, 65536, 131072),
    depths: int | Sequence[float] = 5,
    max_new_tokens: int = generation.MAX_NEW_TOKENS,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """One column of a retrieval map after another: all heads, half of them and none while the answer is written, and
    half of them also while the prompt is read.

    Parameters
    ----------
    model : Model
    lengths : sequence of int
        Labels, in tokens, shortest first. The first that does not fit into memory ends the measurement.
    depths : as in `hybret.niah.grid`.
    max_new_tokens : tokens per answer.
    seed : of the haystack.
    say : called with a line of progress.

    Returns
    -------
    dict : ready for JSON. ``rows`` has one entry per length: length and tokens (label, and of the longest prompt),
        prompts, conditions, seconds (wall clock), stages (seconds of each), memory_gib (peak of the fullest GPU, or of
        the process), prompt_tokens_per_second (tokens of all answered prompts by the wall clock) and accuracy by
        condition; ``ended`` says why there are no more.

    Raises
    ------
    HybretError
        Lengths or depths that make no grid.
    """
    half = model.heads // 2
    conditions: dict[str, Intervention] = {
        c.label: c for c in (*(KeepHeads(k, during="generation") for k in (model.heads, half, 0)), KeepHeads(half))
    }
    found: dict[str, Any] = {
        "machine": machine(model),
        "budget": vars(budget_of(model, longest_prompt(model))),
        "rows": [],
        "ended": "all lengths were read",
    }
    template = "instruct" if model.instruct else "base"
    grids = [niah.grid(model, [length], depths, template, seed=seed) for length in lengths]
    sweep(model, grids[0][:1], conditions, max_new_tokens=3, progress=False)  # chooses kernels before any clock starts
    for length, prompts in zip(lengths, grids, strict=True):
        stages, longest = Stages(), max(len(p.ids) for p in prompts)
        say(f"{len(prompts)} prompts of up to {longest} tokens x {len(conditions)} conditions")
        with Memory(model) as memory:
            began = time.perf_counter()
            try:
                rows = sweep(
                    model, prompts, conditions, max_new_tokens=max_new_tokens,
                    budget=budget_of(model, longest), progress=False, stages=stages,
                )  # fmt: skip
            except HybretError as problem:
                found["ended"] = f"{longest} tokens: {problem}"
                break
            seconds = time.perf_counter() - began
        found["rows"].append(
            {
                "length": length,
                "tokens": longest,
                "prompts": len(prompts),
                "conditions": len(conditions),
                "answers": len(rows),
                "seconds": round(seconds, 3),
                "stages": {stage: round(value, 3) for stage, value in stages.seconds.items()},
                "memory_gib": memory.gib,
                "prompt_tokens_per_second": round(int(rows["tokens"].sum()) / seconds),
                "accuracy": {name: round(float(fraction(part).mean()), 4) for name, part in rows.groupby("condition")},
            }
        )
        say(f"{seconds:.1f} s, {memory.gib} GiB")
    return found
