"""Interventions on attention, as frozen values.

A value is equal to another with the same fields, hashable, and its ``repr`` is its key in the result files. What it
does to one attention layer is in `hybret.engine.attention`; when it acts is decided by `during` and by the phase that
the generation loop declares.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from . import asked
from .errors import HybretError

Phase = Literal["prefill", "generation"]
During = Literal["prefill", "generation", "both"]
PHASES: tuple[Phase, ...] = ("prefill", "generation")
DURING: tuple[During, ...] = ("prefill", "generation", "both")
METRICS = ("entropy", "l2")
ALSO = ("self", "first", "question", "answer")


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
        if not isinstance(self.during, str) or self.during not in DURING:
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
        asked.one_of("head metric", self.metric, METRICS)

    @property
    def label(self) -> str:
        metric = "" if self.metric == "entropy" else f", {self.metric}"
        return f"k={self.k}{metric} ({'prefill + generation' if self.during == 'both' else self.during})"


@dataclass(frozen=True)
class Omit(Elementary):
    """Set the attention weights on the needle tokens to 0 (Section 2.5)."""

    during: During = "both"


@dataclass(frozen=True, repr=False)
class Only(Elementary):
    """Set all attention weights to 0 except those on the needle tokens (Section 2.5).

    Parameters
    ----------
    during : {"prefill", "generation", "both"}
    renormalise : bool
        Divide what is left by its sum. Off in the paper; the arm that separates lost context from lost attention mass.
    also : tuple of {"self", "first", "question", "answer"}
        What stays visible beside the needle; nothing in the paper. ``"self"``: the query's own position.
        ``"first"``: the prompt's first token (BOS). ``"question"``: from the start of the question (its last copy in a
        JRT prompt) to the end of the prompt, and what has been generated. ``"answer"``: the same from the end of the
        question on, so the template's ending and what has been generated.
    layers : tuple of int, optional
        Indices of the attention layers in which it acts; all by default.
    """

    during: During = "both"
    renormalise: bool = False
    also: tuple[str, ...] = ()
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        names = self.also if isinstance(self.also, tuple | list) else [self.also]
        unknown = [name for name in names if name not in ALSO]
        if names is not self.also or unknown:
            wrong = unknown[0] if unknown else self.also
            raise HybretError(f"Only cannot keep {wrong!r}; also is a tuple of some of {', '.join(ALSO)}")
        # One value for one set, in whatever order it was given.
        object.__setattr__(self, "also", tuple(name for name in ALSO if name in self.also))
        if not isinstance(self.renormalise, bool):
            raise HybretError(f"renormalise is {self.renormalise!r}; give True or False")
        if self.layers is not None:
            # None at all would be called as all are: the key of its rows shows layers only where there are some.
            if not isinstance(self.layers, tuple | list) or not self.layers:
                raise HybretError(f"layers is {self.layers!r}; give a tuple of layer indices, or None for all")
            for layer in self.layers:
                asked.whole("a layer", layer)
            object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))

    def __repr__(self) -> str:
        """The paper's fields always, the others where they differ: the keys of rows stay what they were."""
        more = "".join(f", {name}={value!r}" for name in ("also", "layers") if (value := getattr(self, name)))
        return f"Only(during={self.during!r}, renormalise={self.renormalise!r}{more})"

    @property
    def label(self) -> str:
        kept = "".join(f" + {name}" for name in self.also)
        where = "" if self.layers is None else f" in layer {', '.join(map(str, self.layers))}"
        return super().label + kept + where + (", renormalised" if self.renormalise else "")


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
class Mass(Elementary):
    """Rescale the weights of every head and query to a given sum; the paper has nothing like it.

    Alone it keeps the context and changes how much of it is read; after another manipulation, as in
    ``Only() & Mass(1.0)``, it gives back the attention mass that this one took. Weights of 0 stay 0.

    Parameters
    ----------
    total : float or "needle"
        The sum. ``"needle"``: the head's own untouched weight on the needle, so what `Only` would leave.
    during : {"prefill", "generation", "both"}
    """

    total: float | Literal["needle"]
    during: During = "both"

    def __post_init__(self) -> None:
        super().__post_init__()
        number = isinstance(self.total, int | float) and not isinstance(self.total, bool)
        if self.total != "needle" and not (number and 0 <= float(self.total) < math.inf):
            raise HybretError(f"the attention mass is {self.total!r}; it must be a number from 0 on, or 'needle'")
        if number:
            object.__setattr__(self, "total", float(self.total))

    @property
    def label(self) -> str:
        amount = "that on the needle" if self.total == "needle" else f"{self.total:g}"
        return super().label.replace("mass", f"mass {amount}", 1)


@dataclass(frozen=True)
class Compose(Intervention):
    """Several interventions at once: weights are manipulated in order, then heads are gated.

    Head scores always come from the untouched weights.
    """

    items: tuple[Intervention, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.items, tuple):
            raise HybretError(f"a composition is made of a tuple of interventions, not of {self.items!r}")
        require(*self.items)

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

    def __post_init__(self) -> None:
        require(self.generation, self.prefill)

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


def require(*interventions: object) -> None:
    """Refuse what is no intervention, with a `HybretError`."""
    for one in interventions:
        if not isinstance(one, Intervention) or type(one) in (Intervention, Elementary):
            raise HybretError(
                f"{one!r} is not an intervention; use KeepHeads, Omit, Only, Binary, Null, Mass, Keep or PerPhase"
            )


def table1_conditions() -> dict[str, PerPhase]:
    """The 20 combinations of Table 1, named "Generation-Prefill" as the paper names them."""
    generation: tuple[Intervention, ...] = (Keep(), Omit(), Only(), Binary())
    pairs = (PerPhase(generation=g, prefill=p) for p in (*generation, Null()) for g in generation)
    return {pair.label: pair for pair in pairs}
