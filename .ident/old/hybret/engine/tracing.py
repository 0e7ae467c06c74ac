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
from hybret.engine.acting import acts, require_needle, settle
from hybret.engine.frame import Frame, Spans, frame, guarded
from hybret.errors import HybretError
from hybret.fitting import validate
from hybret.interventions import PHASES, Intervention, Keep, Phase
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
    mass : dict of str to Tensor
        Only with `bins`: attention on each bin before any manipulation, ``(heads, bins, queries)``, float32.
    weights : dict of str to list of Tensor
        Only with ``weights=True``: one ``(heads, queries, keys)`` per forward pass, as used (after manipulation).
    keep_weights : bool
        Whether `weights` are recorded.
    bins : Tensor, optional
        Which bin each position of the text belongs to, ``(positions,)``, from 0; long enough for the answer too.
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
    """The intervention that `attach` put on a model."""

    model: Model
    intervention: Intervention
    recipe: Recipe
    trace: Trace
    ran: set[Phase] = field(default_factory=set)  # phases of which a forward pass was made


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
        If the intervention does not fit the model; at the end of the block, if the model ran and it never acted.
    """
    chosen = intervention if intervention is not None else Keep()
    if not hasattr(model, "attention_layers"):
        raise HybretError(f"model is {model!r}; give what hybret.load returns")
    validate(chosen, model.heads, model.attention_layers)
    trace = Trace(keep_weights=weights)
    on = Attached(model, chosen, find_recipe(recipe), trace)
    token = _ATTACHED.set(on)
    try:
        with implementation(model.net), guarded(model.net.config):
            yield trace
    finally:
        _ATTACHED.reset(token)
    meant = {name for name in PHASES if acts(model, on.recipe, chosen, name)}
    if on.ran and meant and not meant & on.ran:
        raise HybretError(
            f"{chosen.label} was attached and never acted: the model ran in {' and '.join(on.ran)} alone; declare the "
            "phase in which it acts, or attach one that acts there"
        )


def attached(net: nn.Module) -> Attached | None:
    """What is attached to `net` now, if anything."""
    current = _ATTACHED.get()
    return current if current is not None and current.model.net is net else None


@contextmanager
def phase(name: Phase, last: Sequence[int], spans: Sequence[Spans] = ()) -> Iterator[None]:
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
        Outside an `attach` block, for a phase of another name, or without the needle that the intervention is about; at
        the end of the block, if a forward pass did not do what was declared.
    """
    current = _ATTACHED.get()
    if current is None:
        raise HybretError("no intervention is attached; use `with attach(model, intervention):` around `phase(...)`")
    if name not in PHASES:
        raise HybretError(f"unknown phase {name!r}; declare one of {', '.join(PHASES)}")
    model = current.model
    rows = [acts(model, current.recipe, current.intervention, name)] * len(last)
    spans = list(spans) or [()] * len(last)
    for row, needles, end in zip(rows, spans, last, strict=True):
        require_needle(row, needles, end + 1)
    declared = Frame(
        name,
        rows,
        spans,
        torch.tensor(list(last), device=model.device),
        current.recipe,
        current.trace if len(last) == 1 else None,
    )
    with frame(declared):
        yield
    if declared.acted:
        settle(declared, model, passes=None)
        current.ran.add(name)
