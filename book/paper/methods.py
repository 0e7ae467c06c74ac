"""One prompt from the inside: attention weights under each manipulation, and which heads are kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

import hybret as hb
from hybret.engine.attach import Trace


class FirstStep(NamedTuple):
    """What the head with most attention on the needle does when the answer begins."""

    layer: str
    head: int
    weights: dict[str, np.ndarray]  # float, (keys,), by the manipulation's name
    needle: tuple[int, int]  # half-open interval of the needle among the keys
    tokens: list[str]  # the keys as text
    shares: pd.DataFrame  # one line: attention on the needle, where it peaks, and the mean of all heads


def first_step(hybrid: hb.Model, prompt: hb.Prompt, kinds: Iterable[hb.Intervention], recipe: hb.Recipe) -> FirstStep:
    """Weights of the last prompt token under each of `kinds`, of which the first leaves them alone."""
    start, end = prompt.needle_spans[-1]
    if hybrid.window and len(prompt.ids) - 1 - start >= hybrid.window:
        raise hb.HybretError(
            f"the window of {hybrid.name}, {hybrid.window} tokens, hides the needle; take another model"
        )
    recorded: dict[str, dict[str, torch.Tensor]] = {}
    on_needle: dict[str, torch.Tensor] = {}
    for kind in kinds:
        with hb.attach(hybrid, kind, recipe=recipe, weights=True) as trace:
            hybrid.generate(prompt, max_new_tokens=2)
        recorded[type(kind).__name__] = {
            layer: _last(passes, len(prompt.ids)) for layer, passes in trace.weights.items()
        }
        on_needle = on_needle or {layer: mass[:, len(prompt.ids) - 1] for layer, mass in trace.needle_mass.items()}
    layer = max(on_needle, key=lambda name: float(on_needle[name].max()))
    head = int(on_needle[layer].argmax())
    weights = {name: layers[layer][head].numpy() for name, layers in recorded.items()}
    plain = next(iter(weights.values()))
    first = len(prompt.ids) - len(plain)  # the window may have dropped the first keys
    tokens = [str(hybrid.tokenizer.decode([i])) for i in prompt.ids[first:]]
    needle = (start - first, end - first)
    peak = needle[0] + int(plain[slice(*needle)].argmax())
    mean = float(torch.stack([*on_needle.values()]).mean())
    shares = {"needle": f"{plain[slice(*needle)].sum():.0%}", "largest": tokens[peak], "mean": f"{mean:.0%}"}
    return FirstStep(layer, head, weights, needle, tokens, pd.DataFrame([shares]))


def _last(passes: list[torch.Tensor], tokens: int) -> torch.Tensor:
    """``(heads, keys)`` of the pass in which the last prompt token is the last query."""
    read = torch.tensor([weights.shape[1] for weights in passes]).cumsum(0)
    return next(weights for weights, n in zip(passes, read, strict=True) if n >= tokens)[:, -1].float()


def answering(
    hybrid: hb.Model, prompt: hb.Prompt, kept: hb.KeepHeads, recipe: hb.Recipe, tokens: int
) -> tuple[Trace, list[str], slice]:
    """A trace of an answer, the tokens that its steps read, and the steps' place in the trace."""
    with hb.attach(hybrid, kept, recipe=recipe) as trace:
        answer = hybrid.tokenizer(hybrid.generate(prompt, tokens), add_special_tokens=False).input_ids
    begin = len(prompt.ids) - 1
    steps = next(iter(trace.entropy.values())).shape[1]
    read = [str(hybrid.tokenizer.decode([i])) for i in (*prompt.ids, *answer)[begin:steps]]
    return trace, read, slice(begin, begin + len(read))


def moving_peak(seen: hb.Look) -> dict[str, Any]:
    """At how many steps of the unmodified answer that write a token of the needle a head looks at this very token.

    A head looks at a token if the needle has more than half of its attention, and this token the most of it.
    """
    run, needle = seen.runs[0], [i for i, piece in enumerate(seen.bins) if piece.part == "needle"]
    tokens = np.array([seen.bins[i].text for i in needle])
    on = run.mass[..., needle]  # (layers, heads, steps, tokens)
    peak, looks = tokens[on.argmax(-1)], on.sum(-1) > 0.5
    steps = [step for step, token in enumerate(run.gives) if token in tokens]
    met = [step for step in steps if (looks[..., step] & (peak[..., step] == run.gives[step])).any()]
    return {"model": seen.model, "steps": len(steps), "met": len(met)}


def kept_and_silenced(trace: Trace, steps: slice) -> pd.DataFrame:
    """Mean entropy and attention on the needle of kept and of silenced heads, over layers and `steps`."""
    bits, gate, needle = (
        torch.stack([part[:, steps].float() for part in records.values()])
        for records in (trace.entropy, trace.kept, trace.needle_mass)
    )
    sides = {"kept": gate > 0, "silenced": gate == 0}
    return pd.DataFrame(
        {"heads": name, "entropy": float(bits[side].mean()), "needle": f"{float(needle[side].mean()):.0%}"}
        for name, side in sides.items()
    )
