"""The mixers that are not attention, and what is done to them: hooks while hybret runs a model.

A mixer tells the functions that it calls (`hybret.engine.scan`) which rows forget; afterwards its output is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hybret.engine.context import current_context
from hybret.engine.scan import FORGETTING, Forgetting
from hybret.errors import HybretError
from hybret.families import mixers

NAMES = ("mamba", "linear_attn", "conv", "mixer", "temporal_block", "self_attn")
"""What families call the mixer of a layer; where two are there, attention is the later one."""


def mixers_of(net: Any) -> Iterator[tuple[int, Any]]:
    """The recurrent or convolutional mixer of every layer that has one, and the layer's index."""
    layers = getattr(getattr(net, "model", None), "layers", ())
    for i, (kind, layer) in enumerate(zip(mixers(net.config), layers, strict=False)):
        inside = {name.rpartition(".")[2]: m for name, m in reversed(list(layer.named_modules()))}  # outer ones win
        mixer = next((inside[name] for name in NAMES if name in inside), None)
        if mixer is not None and ("recurrence" in kind or "convolution" in kind):
            yield i, mixer


@contextmanager
def listening(net: Any) -> Iterator[None]:
    """Let what a `ForwardContext` declares act on the mixers of `net` inside the block."""
    with ExitStack() as hooks:
        for i, mixer in mixers_of(net):
            hooks.enter_context(mixer.register_forward_pre_hook(partial(_before, i), with_kwargs=True))
            hooks.enter_context(mixer.register_forward_hook(partial(_after, i), always_call=True))
        yield


def _before(layer: int, module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
    context = current_context()
    if context is None or not (found := [mix for mix in context.mixes if mix[0].acts_in(layer)]):
        return
    hidden, *rest = (*args, *named.values())
    if len(hidden) != len(context.rows):
        raise HybretError(
            f"the mixer of layer {layer} got {len(hidden)} rows of a batch of {len(context.rows)}, so nothing measured "
            "here would mean anything; report the model and the version of transformers"
        )
    rows = {
        what: torch.cat(forget).to(hidden.device)
        for what in ("state", "convolution")
        if (forget := [rows for action, rows in found if action.reset == what])
    }
    FORGETTING.set(now := Forgetting(rows, set()))
    cache = next((x for x in rest if "state" in rows and hasattr(x, "layers")), None)
    states = {} if cache is None else getattr(cache.layers[layer], "recurrent_states", {})
    for key, state in states.items():
        if isinstance(state, Tensor):  # a new tensor: forks of a state may share the old one
            states[key] = state.index_fill(0, rows["state"], 0)
            if hidden.shape[1] == 1:
                now.done.add("state")


def _after(layer: int, module: Any, _: Any, output: Any) -> Any:
    now, context = FORGETTING.get(), current_context()
    FORGETTING.set(None)
    if context is None or now is None or output is None:
        return None
    if missed := now.rows.keys() - now.done:
        raise HybretError(
            f"the {missed.pop()} of layer {layer} was to be reset, and {type(module).__name__} did not ask for it, so "
            "nothing measured here would mean anything; report the model and the version of transformers"
        )
    context.mixed[layer] += 1
    first = output[0] if isinstance(output, tuple) else output
    for action, rows in (mix for mix in context.mixes if mix[0].acts_in(layer)):
        rows = rows.to(first.device)
        new = action.output(first[rows], layer).expand(len(rows), *first.shape[1:])
        first = first.index_copy(0, rows, new.to(first.dtype))
    return (first, *output[1:]) if isinstance(output, tuple) else first
