"""Interventions on attention, as frozen values.

A value is equal to another with the same fields, hashable, and its ``repr`` is its key in the result files. What it
does to one attention layer is in `hybret.attention`; when it acts is decided by `during` and by the phase that the
generation loop declares.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .errors import HybretError
from .recipe import Recipe

Phase = Literal["prefill", "generation"]
During = Literal["prefill", "generation", "both"]
PHASES: tuple[Phase, ...] = ("prefill", "generation")
DURING: tuple[During, ...] = ("prefill", "generation", "both")
METRICS = ("entropy", "l2")


@dataclass(frozen=True)
class Intervention:
    """Base of all interventions: composition with ``&`` and the split by phase."""

    def __and__(self, other: Intervention) -> Compose:
        return Compose((*parts(self), *parts(other)))

    @property
    def label(self) -> str:
        """Short name for a table row."""
        return repr(self)

    def at(self, phase: Phase) -> tuple[Intervention, ...]:
        """The elementary interventions that act in `phase`, each normalised to ``during="both"``.

        Two conditions with equal ``at("prefill")`` can share one prefill.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Elementary(Intervention):
    """One thing done to every attention layer, during one phase or both."""

    def __post_init__(self) -> None:
        if self.during not in DURING:
            raise HybretError(f"unknown phase {self.during!r}; during is one of {', '.join(DURING)}")

    @property
    def during(self) -> During:
        raise NotImplementedError

    @property
    def label(self) -> str:
        return type(self).__name__.lower() + ("" if self.during == "both" else f" ({self.during})")

    def at(self, phase: Phase) -> tuple[Intervention, ...]:
        if self.during not in ("both", phase):
            return ()
        return (replace(self, **{"during": "both"}),)


@dataclass(frozen=True)
class Keep(Intervention):
    """Leave the attention weights alone (the paper's *Keep*)."""

    @property
    def label(self) -> str:
        return "keep"

    def at(self, phase: Phase) -> tuple[Intervention, ...]:
        return ()


@dataclass(frozen=True)
class KeepHeads(Elementary):
    """Keep the `k` most focused heads of every attention layer, for each query token separately (Section 2.2).

    The other heads' outputs are multiplied by 0 after mixing the values and before the output projection; nothing is
    renormalised. Scores come from the untouched weights. ``k`` = all heads changes nothing; ``k`` = 0 silences every
    head (RecurrentGemma's output bias survives).

    Parameters
    ----------
    k : int
        Heads kept per layer and token, 0 to the model's head count (checked when a model is known).
    metric : {"entropy", "l2"}
        ``"entropy"``: lowest entropy in bits of the post-softmax weights, the paper's Equation 1. ``"l2"``: largest
        Euclidean norm of the head's output before the projection, the magnitude criterion of contextual
        sparsity (Liu et al., 2023).
    during : {"prefill", "generation", "both"}
        The paper's *generation version* is ``"generation"``, its *prefill version* ``"both"``.
    """

    k: int
    metric: Literal["entropy", "l2"] = "entropy"
    during: During = "both"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 0:
            raise HybretError(f"k is {self.k!r}; it must be a whole number from 0 to the model's number of heads")
        if self.metric not in METRICS:
            raise HybretError(f"unknown head metric {self.metric!r}; choose one of {', '.join(METRICS)}")

    @property
    def label(self) -> str:
        metric = "" if self.metric == "entropy" else f", {self.metric}"
        return f"k={self.k}{metric} ({'prefill + generation' if self.during == 'both' else self.during})"


@dataclass(frozen=True)
class Omit(Elementary):
    """Set the attention weights on the needle tokens to 0 (Section 2.5)."""

    during: During = "both"


@dataclass(frozen=True)
class Only(Elementary):
    """Set all attention weights to 0 except those on the needle tokens (Section 2.5).

    Parameters
    ----------
    during : {"prefill", "generation", "both"}
    renormalise : bool
        Divide what is left by its sum. Off in the paper; the arm that separates lost context from lost attention mass.
    """

    during: During = "both"
    renormalise: bool = False

    @property
    def label(self) -> str:
        return super().label + (", renormalised" if self.renormalise else "")


@dataclass(frozen=True)
class Binary(Elementary):
    """Like `Only`, with the same average weight on every needle token (Section 2.5; the value: `Recipe.binary`)."""

    during: During = "both"


@dataclass(frozen=True)
class Null(Elementary):
    """Set all attention weights to 0 (Section 2.5): the same as ``KeepHeads(0)``.

    Not so under `PAPER` during generation once the needle has left the window (`Recipe.out_of_window`): the authors'
    code then leaves the weights alone, in this mode as in the others.
    """

    during: During = "both"


@dataclass(frozen=True)
class Compose(Intervention):
    """Several interventions at once: weights are manipulated in order, then heads are gated.

    Head scores always come from the untouched weights.
    """

    items: tuple[Intervention, ...]

    @property
    def label(self) -> str:
        return " & ".join(item.label for item in self.items)

    def at(self, phase: Phase) -> tuple[Intervention, ...]:
        return tuple(part for item in self.items for part in item.at(phase))


@dataclass(frozen=True)
class PerPhase(Intervention):
    """A different intervention in each phase: the paper's "Generation-Prefill" pairs, e.g. *Only-Omit*."""

    generation: Intervention
    prefill: Intervention

    @property
    def label(self) -> str:
        return f"{_name(self.generation)}-{_name(self.prefill)}"

    def at(self, phase: Phase) -> tuple[Intervention, ...]:
        # Each member is meant for its phase, whatever its own `during` says about the other one.
        return (self.generation if phase == "generation" else self.prefill).at(phase)


def _name(intervention: Intervention) -> str:
    name = intervention.label
    return name[:1].upper() + name[1:]


def parts(intervention: Intervention) -> tuple[Intervention, ...]:
    """The members of a composition; anything else is its own single member."""
    return intervention.items if isinstance(intervention, Compose) else (intervention,)


def elementary(intervention: Intervention) -> Iterator[Intervention]:
    """Every elementary intervention inside `intervention`, in either phase."""
    for phase in PHASES:
        yield from intervention.at(phase)


def effective(
    rows: Sequence[tuple[Intervention, ...]], family: str, heads: int, recipe: Recipe
) -> list[tuple[Intervention, ...]]:
    """Drop what changes nothing: all heads kept, and manipulations that the authors' code never applies to Jamba."""
    ignored = recipe.jamba_manipulation == "no-op" and family == "jamba"
    return [tuple(a for a in row if (a.k < heads if isinstance(a, KeepHeads) else not ignored)) for row in rows]


def validate(intervention: Intervention, heads: int) -> None:
    """Check an intervention against a model.

    Raises
    ------
    HybretError
        If it keeps more heads than the model has, or is not an intervention.
    """
    if not isinstance(intervention, Intervention):
        raise HybretError(
            f"{intervention!r} is not an intervention; use KeepHeads, Omit, Only, Binary, Null, Keep or PerPhase"
        )
    for part in elementary(intervention):
        if isinstance(part, KeepHeads) and part.k > heads:
            raise HybretError(
                f"k is {part.k}, but this model has {heads} heads per attention layer; choose k from 0 to {heads}"
            )


def table1_conditions() -> dict[str, PerPhase]:
    """The 20 combinations of Table 1, named "Generation-Prefill" as the paper names them."""
    generation: tuple[Intervention, ...] = (Keep(), Omit(), Only(), Binary())
    pairs = (PerPhase(generation=g, prefill=p) for p in (*generation, Null()) for g in generation)
    return {pair.label: pair for pair in pairs}
