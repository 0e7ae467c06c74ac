"""Putting an intervention on a model, and recording what its attention did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hybret.engine import attention
from hybret.errors import HybretError
from hybret.interventions import PHASES, Intervention, Keep, Phase, effective, validate
from hybret.recipe import CORRECTED, Recipe
from hybret.recipe import recipe as find_recipe

if TYPE_CHECKING:
    from hybret.models import Model


@dataclass
class Trace:
    """What one run recorded, by attention layer.

    Attributes
    ----------
    entropy : dict of str to Tensor
        Bits, ``(heads, queries)``; queries are all tokens the model read, in order, prompt first.
    needle_mass : dict of str to Tensor
        Attention on the needle tokens before any manipulation, ``(heads, queries)``, 0 to 1.
    kept : dict of str to Tensor
        bool ``(heads, queries)``: heads whose output went on.
    weights : dict of str to list of Tensor
        Only with ``weights=True``: one ``(heads, queries, keys)`` per forward pass, as used (after manipulation).
    """

    keep_weights: bool = False
    entropy: dict[str, Tensor] = field(default_factory=dict)
    needle_mass: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)
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
    """The intervention that `attach` put on a model."""

    model: Model
    intervention: Intervention
    recipe: Recipe
    trace: Trace


_ATTACHED: ContextVar[Attached | None] = ContextVar("hybret_attached", default=None)


@contextmanager
def implementation(net: Any) -> Iterator[None]:
    """Run `net` through hybret's attention function inside the block; its own choice comes back in `finally`."""
    before = net.config._attn_implementation
    net.set_attn_implementation(attention.NAME)
    try:
        yield
    finally:
        net.set_attn_implementation(before)


@contextmanager
def attach(
    model: Model, intervention: Intervention | None = None, recipe: Recipe | str = CORRECTED, weights: bool = False
) -> Iterator[Trace]:
    """Attach an intervention to a model and record its attention, until the end of the block.

    Inside the block ``model.generate(prompt)`` runs under the intervention. A direct ``model.net(...)`` needs its phase
    declared with `phase`.

    Parameters
    ----------
    model : Model
    intervention : Intervention, optional
        Nothing (only recording) by default.
    recipe : Recipe or str
    weights : bool
        Also keep the attention weights themselves (memory: heads x queries x keys per layer).

    Yields
    ------
    Trace

    Raises
    ------
    HybretError
        If the intervention does not fit the model.
    """
    chosen = intervention if intervention is not None else Keep()
    if not hasattr(model, "attention_layers"):
        raise HybretError(f"model is {model!r}; give what hybret.load returns")
    validate(chosen, model.heads, model.attention_layers)
    trace = Trace(keep_weights=weights)
    token = _ATTACHED.set(Attached(model, chosen, find_recipe(recipe), trace))
    try:
        with implementation(model.net), attention.guarded(model.net.config):
            yield trace
    finally:
        _ATTACHED.reset(token)


def attached(net: nn.Module) -> Attached | None:
    """What is attached to `net` now, if anything."""
    current = _ATTACHED.get()
    return current if current is not None and current.model.net is net else None


@contextmanager
def phase(name: Phase, last: Sequence[int], spans: Sequence[attention.Spans] = ()) -> Iterator[None]:
    """Declare the phase of direct forward passes inside an `attach` block.

    Parameters
    ----------
    name : {"prefill", "generation"}
    last : sequence of int
        Absolute position of the last token of each row of the batch.
    spans : sequence of Spans, optional
        Needle intervals per row; no needle by default.

    Raises
    ------
    HybretError
        Outside an `attach` block, or for a phase of another name.
    """
    current = _ATTACHED.get()
    if current is None:
        raise HybretError("no intervention is attached; use `with attach(model, intervention):` around `phase(...)`")
    if name not in PHASES:
        raise HybretError(f"unknown phase {name!r}; declare one of {', '.join(PHASES)}")
    model = current.model
    rows = effective([current.intervention.at(name)] * len(last), model.family, model.heads, current.recipe)
    declared = attention.Frame(
        name,
        rows,
        list(spans) or [()] * len(last),
        torch.tensor(list(last), device=model.device),
        current.recipe,
        current.trace if len(last) == 1 else None,
    )
    with attention.frame(declared):
        yield
