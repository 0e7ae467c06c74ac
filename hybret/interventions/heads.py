"""Interventions on heads: how many are kept and by what they are chosen, or which by name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from hybret.errors import Count, HybretError, checked
from hybret.interventions import During, Gate, Means, shown

if TYPE_CHECKING:
    import pandas as pd

    from hybret.engine.gates import Heads
    from hybret.hybrid import Hybrid

Names = tuple[tuple[int, ...], ...]
"""Heads as pairs (layer, head)."""
SURE = 1 - 1e-5
"""Weight on the needle from which on heads are alike: rounding must not choose among those that see nothing else."""


@checked
class KeepHeads(Gate):
    """Keep `k` heads of every attention layer, chosen for each query token separately (Section 2.2).

    ``k`` = 0 silences every head. All choices look at the unmodified attention. The paper's *generation version* is
    ``during="generation"``, its *prefill version* ``"both"``.

    Parameters
    ----------
    metric : ``"entropy"``, the paper's: of the weights, in bits, the lowest (Equation 1); ``"highest entropy"``;
        ``"weight-norm"``: the largest Euclidean norm of the weights (l2 in the authors' code); ``"output-norm"``: the
        largest of the output (contextual sparsity, Liu et al., 2023); ``"needle"``: the most weight on the needle, an
        oracle (where a token sees no needle, the first heads); ``"random"``: drawn anew for each layer and position,
        the same in all prompts.
    layers : indices of the attention layers in which it acts; all by default.
    seed : of ``"random"``.
    instead : the means that silenced heads give in place of 0.
    """

    k: Count
    metric: Literal["entropy", "weight-norm", "output-norm", "highest entropy", "needle", "random"] = "entropy"
    during: During = "both"
    layers: tuple[int, ...] | None = None
    seed: Count = 0
    instead: Means | None = None
    later = ("layers", "seed", "instead")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed and self.metric != "random":
            raise HybretError(f"seed is {self.seed}, and nothing is drawn; leave it out, or choose metric 'random'")

    __repr__ = shown

    @property
    def label(self) -> str:
        metric = "" if self.metric == "entropy" else f", {self.metric}"
        metric += f" {self.seed}" if self.metric == "random" else ""
        return f"k={self.k}{metric} ({'prefill + generation' if self.during == 'both' else self.during}){self.where}"

    @property
    def needs(self) -> set[str]:
        return {"needle"} if self.metric == "needle" else set()

    def check(self, model: Hybrid) -> None:
        if self.k > model.heads:
            raise HybretError(
                f"k is {self.k}, but this model has {model.heads} heads; choose k from 0 to {model.heads}"
            )

    def changes(self, model: Hybrid) -> bool:
        return self.k < model.heads

    @property
    def group(self) -> Gate:
        return replace(self, k=0)

    @property
    def measure(self) -> str:
        return {"highest entropy": "entropy", "random": ""}.get(self.metric, self.metric)

    def kept(self, heads: Heads) -> Tensor:
        score = heads.measured(self.measure) if self.measure else heads.drawn(self.seed)
        if self.metric == "needle":
            score = score.clamp_max(SURE)
        return heads.lowest(score if self.metric in ("entropy", "random") else -score)


class _Named(Gate):
    """Base of what names its heads, as pairs (layer, head)."""

    heads: Names

    def __post_init__(self) -> None:
        super().__post_init__()
        if wrong := [pair for pair in self.heads if len(pair) != 2]:
            raise HybretError(f"heads holds {wrong[0]}; give pairs of a layer's index and a head's number, from 0")
        object.__setattr__(self, "heads", tuple(sorted(set(self.heads))))

    @property
    def label(self) -> str:
        few = ", ".join(f"{layer}.{head}" for layer, head in self.heads[:4]) or "none"
        more = f", ... ({len(self.heads)})" if len(self.heads) > 4 else ""
        return f"{super().label} {few}{more}{self.where}"

    def check(self, model: Hybrid) -> None:
        layers = model.attention_layers if self.layers is None else self.layers
        if wrong := [(i, h) for i, h in self.heads if i not in layers or not 0 <= h < model.heads]:
            raise HybretError(
                f"{self.label} names {wrong[0]}, which is no head here; give pairs (layer, head) with heads from 0 to "
                f"{model.heads - 1} of the attention layers {', '.join(map(str, layers))}"
            )

    def named(self, heads: Heads) -> Tensor:
        """bool ``(1, heads, 1)``."""
        mine = [(heads.layer, head) in self.heads for head in range(heads.count)]
        return torch.tensor(mine, device=heads.k.device)[None, :, None]


@checked
class OnlyHeads(_Named):
    """Keep these heads, pairs ``(layer, head)``, and silence all others of the attention layers, or of `layers`.

    `instead` as of `KeepHeads`.
    """

    heads: Names
    during: During = "both"
    layers: tuple[int, ...] | None = None
    instead: Means | None = None
    later = ("instead",)
    __repr__ = shown

    def changes(self, model: Hybrid) -> bool:
        return len(self.heads) < model.heads * len(model.attention_layers if self.layers is None else self.layers)

    def kept(self, heads: Heads) -> Tensor:
        return self.named(heads)


@checked
class OmitHeads(_Named):
    """Silence these heads, pairs ``(layer, head)``; `instead` as of `KeepHeads`."""

    heads: Names
    during: During = "both"
    instead: Means | None = None
    later = ("instead",)
    __repr__ = shown

    def check(self, model: Hybrid) -> None:
        if not self.heads:
            raise HybretError("heads is (), so nothing would be silenced; name some heads, or use Keep")
        super().check(model)

    def kept(self, heads: Heads) -> Tensor:
        return ~self.named(heads)


def top_heads(table: pd.DataFrame, n: int, per_layer: bool = False) -> Names:
    """The `n` heads of the highest value, of all or of each layer: what `OnlyHeads` and `OmitHeads` take.

    `table` has one row for each head, with columns layer, head and value; ties go to the first layer and head.
    """
    if missing := {"layer", "head", "value"} - set(table.columns):
        raise HybretError(f"the table of scores has no column {min(missing)!r}; give layer, head and value")
    if table.duplicated(["layer", "head"]).any() or table["value"].isna().any():
        raise HybretError("the table of scores has a head twice or without a value; give one row for each head")
    ranked = table.sort_values(["layer", "head"]).sort_values("value", ascending=False, kind="stable")
    best = ranked.groupby("layer").head(n) if per_layer else ranked.head(n)
    return tuple(sorted((int(layer), int(head)) for layer, head in zip(best["layer"], best["head"], strict=True)))
