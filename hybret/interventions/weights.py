"""Interventions on attention weights: the paper's manipulations of the needle, and two that it has not."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from hybret.errors import HybretError, checked
from hybret.interventions import Also, During, Intervention, Keep, KeyMask, PerPhase, Reweight, normalised, shown

if TYPE_CHECKING:
    from hybret.engine.keys import Keys, StreamedLayer
    from hybret.recipe import Recipe


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
    later = ("also", "layers")

    def __post_init__(self) -> None:
        # Equal sets are equal values, in whatever order they are written.
        object.__setattr__(self, "also", tuple(name for name in get_args(Also) if name in self.also))
        super().__post_init__()

    __repr__ = shown

    @property
    def label(self) -> str:
        kept = "".join(f" + {name}" for name in self.also)
        return super().label + kept + self.where + (", renormalised" if self.renormalise else "")

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
            return normalised(weights) * (unmodified * keys.needle[:, None, None]).sum(-1, keepdim=True)
        return normalised(weights) * self.total


def table1_conditions() -> dict[str, PerPhase]:
    """The 20 combinations of Table 1, named "Generation-Prefill" as the paper names them."""
    generation: tuple[Intervention, ...] = (Keep(), Omit(), Only(), Binary())
    pairs = (PerPhase(generation=g, prefill=p) for p in (*generation, Null()) for g in generation)
    return {pair.label: pair for pair in pairs}
