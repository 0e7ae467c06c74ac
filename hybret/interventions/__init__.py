"""Interventions: frozen values with their label, what they need of a prompt, and their arithmetic.

A value's ``repr`` is its key in the result files. An intervention of your own is a class like those of this package: a
`KeyMask` says which keys stay visible, a `Reweight` changes the weights in any other way, a `Gate` says which heads go
on. Nothing else has to know of it. What they are made of is here; hybret's own are in its modules.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from hybret.errors import HybretError, checked

if TYPE_CHECKING:
    from hybret.engine.gates import Heads
    from hybret.engine.keys import Keys, StreamedLayer
    from hybret.hybrid import Hybrid
    from hybret.recipe import Recipe

Phase = Literal["prefill", "generation"]
During = Literal["prefill", "generation", "both"]
Also = Literal["self", "first", "question", "answer"]
PHASES: tuple[Phase, ...] = get_args(Phase)
Actions = tuple["Elementary", ...]


class Intervention:
    """Base of all interventions: composition with ``&`` and the split by phase."""

    def __and__(self, other: Intervention) -> Compose:
        return Compose(tuple(x for one in (self, other) for x in (one.items if isinstance(one, Compose) else (one,))))

    @property
    def label(self) -> str:
        """Short name for a table row."""
        return repr(self)

    def parts(self, phases: Sequence[Phase] = PHASES) -> Iterator[tuple[Elementary, Sequence[Phase]]]:
        """The elementary interventions that this one is made of, and in which of `phases` each has its place."""
        yield from ()

    def at(self, phase: Phase) -> tuple[Elementary, ...]:
        """What acts in `phase`, each part normalised to ``during="both"``."""
        acting = (part for part, phases in self.parts() if phase in phases and part.during in ("both", phase))
        return tuple(x if x.during == "both" else replace(x, during="both") for x in acting)  # type: ignore[type-var]


class Elementary(Intervention):
    """One thing done to every attention layer, or to `layers`, during one phase or both."""

    during: During = "both"
    layers: tuple[int, ...] | None = None
    instead: Means | None = None  # what is put in place of an output of 0
    later: tuple[str, ...] = ()  # fields that `shown` leaves out at their default: keys of rows stay what they were

    @property
    def needs(self) -> Collection[str]:
        """What a prompt must have for this to mean anything: of ``"needle"`` and ``"question"``."""
        return ()

    @property
    def label(self) -> str:
        return type(self).__name__.lower() + ("" if self.during == "both" else f" ({self.during})")

    @property
    def where(self) -> str:
        """The layers that it names, and what it puts in place of 0, for a label."""
        means = "" if self.instead is None else f", mean {self.instead.digest}"
        return ("" if self.layers is None else f" in layer {', '.join(map(str, self.layers))}") + means

    def __post_init__(self) -> None:
        if self.layers is not None:  # equal sets of layers are equal values, in whatever order they are written
            if not self.layers:  # its rows would have the key of those that act in all layers
                raise HybretError("layers is (); give a tuple of layer indices, or None for all")
            object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))

    def parts(self, phases: Sequence[Phase] = PHASES) -> Iterator[tuple[Elementary, Sequence[Phase]]]:
        yield self, phases

    def looks_ahead(self, recipe: Recipe) -> bool:
        """Whether what it does to a token depends on later ones, so that prompts cannot share a beginning under it."""
        return False

    def acts_in(self, layer: int) -> bool:
        """Whether `layer` is among its layers."""
        return self.layers is None or layer in self.layers

    def places(self, model: Hybrid) -> tuple[int, ...]:
        """The layers of a model in which it can act."""
        return model.attention_layers

    def check(self, model: Hybrid) -> None:
        """Refuse a model in which it cannot act."""

    def changes(self, model: Hybrid) -> bool:
        """Whether it does anything in a model: all heads kept is nothing."""
        return True


def shown(value: Any) -> str:
    """The ``repr`` of an intervention that has got more fields than it had: `Elementary.later` where they differ."""
    pairs = ((f, getattr(value, f.name)) for f in fields(value))
    told = (f"{f.name}={x!r}" for f, x in pairs if f.name not in value.later or x != f.default)
    return f"{type(value).__name__}({', '.join(told)})"


@dataclass(frozen=True)
class Means:
    """Mean outputs over a set of prompts (`hybret.mean_outputs`), in place of 0; equal where model and prompts are."""

    digest: str  # of the weights and of the tokens of the prompts
    weights: str = field(repr=False)
    heads: Mapping[int, Tensor] = field(repr=False, compare=False)  # by layer, (heads, head_dim)
    mixers: Mapping[int, Tensor] = field(repr=False, compare=False)  # by layer, (width,)


class Gate(Elementary):
    """Base of what silences heads: their outputs are multiplied by 0 before the output projection.

    Nothing is renormalised, and RecurrentGemma's output bias survives. What several gates keep, each by the unmodified
    attention, goes on.
    """

    k: int = 0

    @property
    def measure(self) -> str:
        """What it asks `Heads.measured` for: "entropy", "weight-norm", "output-norm" or "needle"."""
        return ""

    def kept(self, heads: Heads) -> Tensor:
        """bool ``(rows, heads, queries)``: which heads go on."""
        raise NotImplementedError

    @property
    def group(self) -> Gate:
        """The same for all gates that differ in `k` alone; their rows are gated together."""
        return self


class Mix(Elementary):
    """Base of what is done to the mixers that are not attention: `output` changes what they give.

    `reset` names what is reset at every token: "state" or "convolution", the engine's part.
    """

    kinds: tuple[str, ...] = ("recurrence",)
    reset: str = ""
    silences: bool = False  # whether nothing else that is done to the mixer can be seen in its output

    @property
    def label(self) -> str:
        return super().label + self.where

    def places(self, model: Hybrid) -> tuple[int, ...]:
        return model.layers_with(*self.kinds)

    def check(self, model: Hybrid) -> None:
        why = model.traits.refuses.get(type(self).__name__)
        if why or not self.places(model):
            why = why or f"it has no layer with {' or '.join(self.kinds)}"
            raise HybretError(f"{self.label} cannot act in {model.name} ({model.family}): {why}; leave it out")

    def output(self, output: Tensor, layer: int) -> Tensor:
        """What a mixer gives in place of its output ``(rows, tokens, width)``."""
        return output


class Reweight(Elementary):
    """Base of what changes attention weights, by any arithmetic: `weights` is enough; with `streamed` it streams."""

    def weights(self, weights: Tensor, unmodified: Tensor, keys: Keys) -> Tensor:
        """New weights, from those ``(rows, heads, queries, keys)`` of earlier interventions and of the model."""
        raise NotImplementedError

    def visible(self, keys: Keys) -> Tensor | None:
        """bool ``(rows, keys)``: the keys that every query keeps, besides its own; None for all."""
        return None

    def streamed(self, layer: StreamedLayer, keys: Keys) -> Tensor | None:
        """The output ``(rows, heads, queries, head_dim)``; None where mixing the `visible` keys is all."""
        raise NotImplementedError

    @property
    def streams(self) -> bool:
        """Whether `streamed` was written for these very `weights`, and not for those of a base class."""
        definers = (next(c for c in type(self).__mro__ if name in vars(c)) for name in ("streamed", "weights"))
        return issubclass(*definers)


class KeyMask(Reweight):
    """Base of what hides keys and leaves the others alone: `visible` says which stay; it streams."""

    renormalise: bool = False  # divide what is left by its sum
    also: tuple[Also, ...] = ()  # with "self", each query's own position stays visible, too

    def visible(self, keys: Keys) -> Tensor:
        raise NotImplementedError

    def weights(self, weights: Tensor, unmodified: Tensor, keys: Keys) -> Tensor:
        left = weights.masked_fill(~self.visible(keys)[:, None, None], 0.0)
        if "self" in self.also:
            offset = weights.shape[3] - weights.shape[2]  # the last query is the last key
            diagonal = torch.ones(weights.shape[2:], dtype=torch.bool, device=weights.device).tril(offset).triu(offset)
            left = left.where(~diagonal, weights)
        return normalised(left) if self.renormalise else left

    def streamed(self, layer: StreamedLayer, keys: Keys) -> Tensor | None:
        if self.renormalise or "self" in self.also:
            return layer.masked(self.visible(keys), "self" in self.also, self.renormalise)
        return None


def normalised(weights: Tensor) -> Tensor:
    """Each query's weights divided by their sum; where nothing is left, nothing."""
    return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


@checked
class Keep(Intervention):
    """Leave the attention weights alone (the paper's *Keep*)."""

    label = "keep"


@checked
class Compose(Intervention):
    """Several interventions at once: weights are changed in order, then heads are gated by their unmodified weights."""

    items: tuple[Intervention, ...]

    def __post_init__(self) -> None:
        require(*self.items)

    @property
    def label(self) -> str:
        return " & ".join(item.label for item in self.items)

    def parts(self, phases: Sequence[Phase] = PHASES) -> Iterator[tuple[Elementary, Sequence[Phase]]]:
        for item in self.items:
            yield from item.parts(phases)


@checked
class PerPhase(Intervention):
    """A different intervention in each phase: the paper's "Generation-Prefill" pairs, e.g. *Only-Omit*."""

    generation: Intervention
    prefill: Intervention

    def __post_init__(self) -> None:
        require(self.generation, self.prefill)

    @property
    def label(self) -> str:
        return "-".join(name[:1].upper() + name[1:] for name in (self.generation.label, self.prefill.label))

    def parts(self, phases: Sequence[Phase] = PHASES) -> Iterator[tuple[Elementary, Sequence[Phase]]]:
        for phase in PHASES:  # each member is meant for its phase, whatever it says of the other one
            yield from getattr(self, phase).parts([phase] if phase in phases else [])


def require(*values: object) -> None:
    """Refuse what is no intervention, or none that is a value."""
    for value in values:
        params = vars(type(value)).get("__dataclass_params__")  # of the class itself, not of its base
        kinds = (Gate, Mix, Reweight) if isinstance(value, Elementary) else (Keep, Compose, PerPhase)
        if not isinstance(value, kinds) or params is None or not params.frozen:
            raise HybretError(f"{value!r} is not an intervention; use hybret's, or a frozen dataclass of Reweight")
