"""Putting an intervention on a model, and recording what its attention did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from hybret.engine import attention, mixers
from hybret.engine.context import ATTACHED, ForwardContext, Spans, check_layers_called, forward_context
from hybret.engine.scan import parallel_scans
from hybret.errors import HybretError
from hybret.interventions import PHASES, Intervention, Keep, Mix, Phase
from hybret.recipe import CORRECTED, Recipe
from hybret.recipe import recipe as find_recipe
from hybret.resolving import Resolved, check_needs, resolve

if TYPE_CHECKING:
    from hybret.hybrid import Hybrid


@dataclass
class Trace:
    """What one run recorded, by attention layer.

    Queries are all tokens that the model read, in order, prompt first.

    Attributes
    ----------
    entropy : bits, ``(heads, queries)``
    needle_mass : attention on the needle before any manipulation, ``(heads, queries)``, 0 to 1
    kept : bool ``(heads, queries)``, heads whose output went on
    mass : with `bins`, attention on each bin before any manipulation, ``(heads, bins, queries)``, float32
    weights : with `keep_weights`, one ``(heads, queries, keys)`` per forward pass, as used (after manipulation)
    bins : which bin each position of the text belongs to, ``(positions,)``, from 0; long enough for the answer too
    """

    keep_weights: bool = False
    bins: Tensor | None = None
    entropy: dict[str, Tensor] = field(default_factory=dict)
    needle_mass: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)
    mass: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, layer: str, **records: Tensor) -> None:
        for name, value in records.items():
            if value.shape[0] != 1:
                raise HybretError("a trace records one prompt at a time; run one prompt inside `with attach(...)`")
            store: dict[str, Any] = getattr(self, name)
            if name == "weights":
                store.setdefault(layer, []).append(value[0].detach().cpu())
            else:
                store[layer] = torch.cat([*([store[layer]] if layer in store else []), value[0].detach().cpu()], -1)


@dataclass
class Attached:
    """What `attach` put on a model."""

    model: Hybrid
    intervention: Intervention
    resolved: Resolved
    recipe: Recipe
    trace: Trace
    ran: set[Phase] = field(default_factory=set)  # phases of which a forward pass was made


@contextmanager
def implementation(net: Any, function: Callable[..., Any] | None = None) -> Iterator[None]:
    """Run `net` through hybret's attention function inside the block, or another one, which gets the mask of eager."""
    before, name = net.config._attn_implementation, attention.NAME
    if function is not None:
        name = f"{name}-{function.__name__}"
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, eager_mask)
    net.set_attn_implementation(name)
    try:
        with mixers.listening(net) if name == attention.NAME != before else nullcontext():
            yield
    finally:
        net.set_attn_implementation(before)


@contextmanager
def attach(
    model: Hybrid, intervention: Intervention | None = None, recipe: Recipe | str = CORRECTED, weights: bool = False
) -> Iterator[Trace]:
    """Attach an intervention to a model and record its attention, until the end of the block.

    Inside the block ``model.generate(prompt)`` runs under the intervention. A direct ``model.net(...)`` needs its phase
    declared with `phase`. A block in which the model ran and the intervention never acted ends in a `HybretError`.

    Parameters
    ----------
    intervention : nothing (only recording) by default
    weights : also keep the attention weights themselves (memory: heads x queries x keys per layer)
    """
    if not hasattr(model, "attention_layers"):
        raise HybretError(f"model is {model!r}; give what hybret.load returns")
    recipe, intervention = find_recipe(recipe), Keep() if intervention is None else intervention
    resolved = resolve(intervention, model, recipe)
    current = Attached(model, intervention, resolved, recipe, Trace(keep_weights=weights))
    token = ATTACHED.set((*ATTACHED.get(), current))
    try:
        mixes = any(isinstance(action, Mix) for action in resolved.prefill + resolved.generation)
        with implementation(model.net), parallel_scans() if mixes else nullcontext():
            yield current.trace
    finally:
        ATTACHED.reset(token)
    acting = {name for name in PHASES if getattr(resolved, name)}
    if current.ran and acting and not acting & current.ran:
        raise HybretError(
            f"{intervention.label} was attached and never acted: the model ran in {' and '.join(current.ran)} alone; "
            "declare the phase in which it acts, or attach one that acts there"
        )


def attached(net: nn.Module) -> Attached | None:
    """What is attached to `net`, if anything."""
    return next((current for current in reversed(ATTACHED.get()) if current.model.net is net), None)


@contextmanager
def phase(name: Phase, last: Sequence[int], spans: Sequence[Spans] = ()) -> Iterator[None]:
    """Declare the phase of direct forward passes inside an `attach` block.

    Parameters
    ----------
    name : {"prefill", "generation"}
    last : absolute position of the last token of each row of the batch
    spans : needle intervals per row; no needle by default
    """
    if not ATTACHED.get():
        raise HybretError("no intervention is attached; use `with attach(model, intervention):` around `phase(...)`")
    if name not in PHASES:
        raise HybretError(f"unknown phase {name!r}; declare one of {', '.join(PHASES)}")
    current = ATTACHED.get()[-1]
    model, actions = current.model, getattr(current.resolved, name)
    spans = list(spans) or [()] * len(last)
    for needle, end in zip(spans, last, strict=True):
        check_needs(actions, end + 1, needle, None)
    positions = torch.tensor(list(last), device=model.device)
    trace = current.trace if len(last) == 1 else None
    context = ForwardContext(name, [actions] * len(last), spans, positions, current.recipe, trace)
    passes: list[object] = []
    with model.net.register_forward_pre_hook(lambda net, _: passes.append(net)), forward_context(context):
        yield
    # What is below `model.net` may be called without it.
    if ran := max(len(passes), context.calls[model.attention_layers[0]]):
        check_layers_called(context, model, ran)
        current.ran.add(name)
