"""Interventions on attention: frozen values with their label, what they need of a prompt, and their arithmetic.

A value's ``repr`` is its key in the result files. An intervention of your own is a class like those below: a `KeyMask`
says which keys stay visible, a `Reweight` changes the weights in any other way. Nothing else has to know of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from hybret.errors import Count, HybretError, checked

if TYPE_CHECKING:
    from hybret.engine.keys import Keys, StreamedLayer
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

    @property
    def needs(self) -> Collection[str]:
        """What a prompt must have for this to mean anything: of ``"needle"`` and ``"question"``."""
        return ()

    @property
    def label(self) -> str:
        return type(self).__name__.lower() + ("" if self.during == "both" else f" ({self.during})")

    def parts(self, phases: Sequence[Phase] = PHASES) -> Iterator[tuple[Elementary, Sequence[Phase]]]:
        yield self, phases

    def looks_ahead(self, recipe: Recipe) -> bool:
        """Whether what it does to a token depends on later ones, so that prompts cannot share a beginning under it."""
        return False


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
        return _normalised(left) if self.renormalise else left

    def streamed(self, layer: StreamedLayer, keys: Keys) -> Tensor | None:
        if self.renormalise or "self" in self.also:
            return layer.masked(self.visible(keys), "self" in self.also, self.renormalise)
        return None


@checked
class Keep(Intervention):
    """Leave the attention weights alone (the paper's *Keep*)."""

    label = "keep"


@checked
class KeepHeads(Elementary):
    """Keep the `k` most focused heads of every attention layer, for each query token separately (Section 2.2).

    The other heads' outputs are multiplied by 0 before the output projection, and nothing is renormalised; ``k`` = 0
    silences every head (RecurrentGemma's output bias survives). Kept are those whose unmodified weights have the lowest
    entropy (``metric="entropy"``, in bits, Equation 1) or the largest Euclidean norm (``"weight-norm"``, l2 in the
    authors' code), or whose output has the largest (``"output-norm"``; contextual sparsity, Liu et al., 2023). The
    paper's *generation version* is ``during="generation"``, its *prefill version* ``"both"``.
    """

    k: Count
    metric: Literal["entropy", "weight-norm", "output-norm"] = "entropy"
    during: During = "both"

    @property
    def label(self) -> str:
        metric = "" if self.metric == "entropy" else f", {self.metric}"
        return f"k={self.k}{metric} ({'prefill + generation' if self.during == 'both' else self.during})"


@checked
class Omit(KeyMask):
    """Set the attention weights on the needle tokens to 0 (Section 2.5)."""

    during: During = "both"
    needs = {"needle"}

    def visible(self, keys: Keys) -> Tensor:
        return ~keys.needle


@checked
class Only(KeyMask):
    """Set all attention weights to 0 except those on the needle tokens (Section 2.5).

    Parameters
    ----------
    renormalise : divide what is left by its sum; off in the paper. It tells lost context from lost attention weight.
    also : what stays visible beside the needle; nothing in the paper. ``"self"``: the query's own position.
        ``"first"``: the prompt's first token (BOS). ``"question"``: from the start of the question (its last copy in a
        JRT prompt) on, generated tokens included. ``"answer"``: the same from the end of the question on.
    layers : indices of the attention layers in which it acts; all by default.
    """

    during: During = "both"
    renormalise: bool = False
    also: tuple[Also, ...] = ()
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        # Equal sets are equal values, in whatever order they are written.
        object.__setattr__(self, "also", tuple(name for name in get_args(Also) if name in self.also))
        if self.layers is not None:
            if not self.layers:  # its rows would have the key of those that act in all layers
                raise HybretError("layers is (); give a tuple of layer indices, or None for all")
            object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))

    def __repr__(self) -> str:
        """The paper's fields always, the others where they differ: the keys of rows stay what they were."""
        more = "".join(f", {name}={value!r}" for name in ("also", "layers") if (value := getattr(self, name)))
        return f"{type(self).__name__}(during={self.during!r}, renormalise={self.renormalise!r}{more})"

    @property
    def label(self) -> str:
        kept = "".join(f" + {name}" for name in self.also)
        where = "" if self.layers is None else f" in layer {', '.join(map(str, self.layers))}"
        return super().label + kept + where + (", renormalised" if self.renormalise else "")

    @property
    def needs(self) -> Collection[str]:
        return {"needle", "question"} if {"question", "answer"} & set(self.also) else {"needle"}

    def visible(self, keys: Keys) -> Tensor:
        left = keys.needle
        for name in self.also:
            left = left if name == "self" else left | keys.stands(name)
        return left


@checked
class Binary(Reweight):
    """Like `Only`, with one weight on all needle tokens that a query sees: the mean of theirs (Section 2.5).

    Needle tokens that it does not see neither count nor get any. The authors take another mean (`Recipe.binary`).
    """

    during: During = "both"
    needs = {"needle"}

    def looks_ahead(self, recipe: Recipe) -> bool:
        return recipe.binary == "scalar"  # the authors' mean over the whole prefill

    def weights(self, weights: Tensor, unmodified: Tensor, keys: Keys) -> Tensor:
        assert keys.unmasked is not None
        needle = keys.needle[:, None, None]
        return self._spread(weights * needle, needle, keys.unmasked & needle, keys.recipe).expand_as(weights)

    def streamed(self, layer: StreamedLayer, keys: Keys) -> Tensor:
        columns = keys.needle.any(0).nonzero()[:, 0]
        needle, values = keys.needle[:, columns], layer.values(columns)
        weights, seen = layer.weights(needle, columns)
        spread = self._spread(weights, needle[:, None, None], seen, keys.recipe).to(values.dtype)
        return torch.matmul(spread.expand(-1, weights.shape[1], -1, -1), values).expand(*weights.shape[:3], -1)

    @staticmethod
    def _spread(weights: Tensor, needle: Tensor, seen: Tensor, recipe: Recipe) -> Tensor:
        """The new weights, from those on the `needle`; ``(rows, 1, 1, keys)`` where all heads and queries get one."""
        if recipe.binary == "per-row":
            mean = weights.float().sum(-1, keepdim=True) / seen.sum(-1, keepdim=True).clamp_min(1)
            return torch.where(seen, mean.to(weights.dtype), 0.0)
        # Also on keys that a query should not see yet; those that no query sees have left the window.
        tokens = seen.any(2, keepdim=True).sum(-1, keepdim=True).clamp_min(1)
        mean = weights.float().sum((1, 2, 3), keepdim=True) / weights.shape[1] / tokens
        return torch.where(needle, mean.to(weights.dtype), 0.0)


@checked
class Null(Reweight):
    """Set all attention weights to 0 (Section 2.5): the same as ``KeepHeads(0)``, but for `Recipe.out_of_window`."""

    during: During = "both"

    def weights(self, weights: Tensor, unmodified: Tensor, keys: Keys) -> Tensor:
        return torch.zeros_like(weights)

    def streamed(self, layer: StreamedLayer, keys: Keys) -> Tensor:
        return layer.value.new_zeros(())


@checked
class Mass(Reweight):
    """Rescale the weights of every head and query to the sum `total`; the paper has nothing like it.

    After another manipulation, as in ``Only() & Mass(1.0)``, it gives back the weight that this one took. Weights of 0
    stay 0. ``"needle"`` is the head's unmodified weight on the needle, so what `Only` would leave.
    """

    total: float | Literal["needle"]
    during: During = "both"

    def __post_init__(self) -> None:
        if self.total != "needle" and self.total < 0:
            raise HybretError(f"total is {self.total}; the attention mass must be at least 0")

    @property
    def label(self) -> str:
        amount = "that on the needle" if self.total == "needle" else f"{self.total:g}"
        return super().label.replace("mass", f"mass {amount}", 1)

    @property
    def needs(self) -> Collection[str]:
        return {"needle"} if self.total == "needle" else ()

    def weights(self, weights: Tensor, unmodified: Tensor, keys: Keys) -> Tensor:
        if self.total == "needle":
            return _normalised(weights) * (unmodified * keys.needle[:, None, None]).sum(-1, keepdim=True)
        return _normalised(weights) * self.total


def _normalised(weights: Tensor) -> Tensor:
    """Each query's weights divided by their sum; where nothing is left, nothing."""
    return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


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
        kinds = (KeepHeads, Reweight) if isinstance(value, Elementary) else (Keep, Compose, PerPhase)
        if not isinstance(value, kinds) or params is None or not params.frozen:
            raise HybretError(f"{value!r} is not an intervention; use hybret's, or a frozen dataclass of Reweight")


def table1_conditions() -> dict[str, PerPhase]:
    """The 20 combinations of Table 1, named "Generation-Prefill" as the paper names them."""
    generation: tuple[Intervention, ...] = (Keep(), Omit(), Only(), Binary())
    pairs = (PerPhase(generation=g, prefill=p) for p in (*generation, Null()) for g in generation)
    return {pair.label: pair for pair in pairs}
