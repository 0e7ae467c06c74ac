"""Interventions on attention: frozen values that hold their fields, their label, what they need, and their arithmetic.

A value is equal to another with the same fields, hashable, and its ``repr`` is its key in the result files. An
intervention of your own is a class like those below: a `KeyMask` says which keys stay visible, a `Reweight` changes the
weights in any other way. Nothing else in hybret has to know of it.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from hybret.errors import Count, HybretError, checked

if TYPE_CHECKING:
    from hybret.engine.keys import Keys, Question, Spans, StreamedLayer
    from hybret.hybrid import Hybrid
    from hybret.recipe import Recipe

Phase = Literal["prefill", "generation"]
During = Literal["prefill", "generation", "both"]
Also = Literal["self", "first", "question", "answer"]
PHASES: tuple[Phase, ...] = get_args(Phase)


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
        raise NotImplementedError

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

    def check(self, model: Hybrid) -> None:
        """Refuse what does not fit a model."""
        if wrong := set(self.layers or ()) - set(model.attention_layers):
            layers = ", ".join(map(str, model.attention_layers))
            raise HybretError(f"layer {min(wrong)} is no attention layer of this model; choose some of {layers}")
        if unknown := set(self.needs) - {"needle", "question"}:
            raise HybretError(f"{self!r} needs {unknown.pop()!r}; what a prompt may have is needle and question")

    def changes(self, model: Hybrid, recipe: Recipe) -> bool:
        """Whether it changes anything in this model: the authors' code never applies manipulations to Jamba."""
        return recipe.jamba_manipulation == "acts" or model.family != "jamba"

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

    @property
    def keeps_self(self) -> bool:
        """Whether each query's own position stays visible, too."""
        return False

    def visible(self, keys: Keys) -> Tensor:
        raise NotImplementedError

    def weights(self, weights: Tensor, unmodified: Tensor, keys: Keys) -> Tensor:
        left = weights.masked_fill(~self.visible(keys)[:, None, None], 0.0)
        if self.keeps_self:
            offset = weights.shape[3] - weights.shape[2]  # the last query is the last key
            diagonal = torch.ones(weights.shape[2:], dtype=torch.bool, device=weights.device).tril(offset).triu(offset)
            left = left.where(~diagonal, weights)
        return _normalised(left) if self.renormalise else left

    def streamed(self, layer: StreamedLayer, keys: Keys) -> Tensor | None:
        if not (self.keeps_self or self.renormalise):
            return None
        return layer.masked(self.visible(keys), self.keeps_self, self.renormalise)


@checked
class Keep(Intervention):
    """Leave the attention weights alone (the paper's *Keep*)."""

    @property
    def label(self) -> str:
        return "keep"

    def parts(self, phases: Sequence[Phase] = PHASES) -> Iterator[tuple[Elementary, Sequence[Phase]]]:
        yield from ()


@checked
class KeepHeads(Elementary):
    """Keep the `k` most focused heads of every attention layer, for each query token separately (Section 2.2).

    The other heads' outputs are multiplied by 0 before the output projection; nothing is renormalised. Scores come from
    the untouched weights. ``k`` = 0 silences every head (RecurrentGemma's output bias survives).

    Parameters
    ----------
    metric : {"entropy", "l2"}
        ``"entropy"``: lowest entropy in bits of the post-softmax weights, the paper's Equation 1. ``"l2"``: largest
        Euclidean norm of the head's output, the magnitude criterion of contextual sparsity (Liu et al., 2023).
    during : {"prefill", "generation", "both"}
        The paper's *generation version* is ``"generation"``, its *prefill version* ``"both"``.
    """

    k: Count
    metric: Literal["entropy", "l2"] = "entropy"
    during: During = "both"

    @property
    def label(self) -> str:
        metric = "" if self.metric == "entropy" else f", {self.metric}"
        return f"k={self.k}{metric} ({'prefill + generation' if self.during == 'both' else self.during})"

    def check(self, model: Hybrid) -> None:
        if self.layers is not None:
            raise HybretError(f"{self!r} names layers, and heads are chosen in all of them; leave `layers` out")
        if self.k > model.heads:
            raise HybretError(
                f"k is {self.k}, but this model has {model.heads} heads per attention layer; choose k from 0 to "
                f"{model.heads}"
            )

    def changes(self, model: Hybrid, recipe: Recipe) -> bool:
        return self.k < model.heads


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
    renormalise : bool
        Divide what is left by its sum. Off in the paper; the arm that separates lost context from lost attention mass.
    also : tuple of {"self", "first", "question", "answer"}
        What stays visible beside the needle; nothing in the paper. ``"self"``: the query's own position.
        ``"first"``: the prompt's first token (BOS). ``"question"``: from the start of the question (its last copy in a
        JRT prompt) on, generated tokens included. ``"answer"``: the same from the end of the question on.
    layers : tuple of int, optional
        Indices of the attention layers in which it acts; all by default.
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

    @property
    def keeps_self(self) -> bool:
        return "self" in self.also

    def visible(self, keys: Keys) -> Tensor:
        left = keys.needle
        for name in self.also:
            left = left if name == "self" else left | keys.stands(name)
        return left


@checked
class Binary(Reweight):
    """Like `Only`, with the same average weight on every needle token (Section 2.5; the value: `Recipe.binary`)."""

    during: During = "both"
    needs = {"needle"}

    def looks_ahead(self, recipe: Recipe) -> bool:
        return recipe.binary == "scalar"  # the authors' mean over the whole prefill

    def weights(self, weights: Tensor, unmodified: Tensor, keys: Keys) -> Tensor:
        assert keys.unmasked is not None
        needle = keys.needle[:, None, None]
        mass = (weights * needle).float()
        if keys.recipe.binary == "per-row":
            seen = needle & keys.unmasked
            mean = mass.sum(-1, keepdim=True) / seen.sum(-1, keepdim=True).clamp_min(1)
            return torch.where(seen, mean.to(weights.dtype), 0.0)
        # The authors' scalar: one value per prompt, also on keys that a query should not see yet.
        mean = mass.sum((1, 2, 3)) / weights.shape[1] / keys.needle_tokens.clamp_min(1)
        return (mean[:, None, None, None] * needle).to(weights.dtype).expand_as(weights)

    def streamed(self, layer: StreamedLayer, keys: Keys) -> Tensor:
        columns = keys.needle.any(0).nonzero()[:, 0]
        on = keys.needle[:, columns]
        weights, seen = layer.weights(on, columns)
        values = layer.values(columns)
        if keys.recipe.binary == "per-row":
            mean = weights.sum(-1, keepdim=True) / seen.sum(-1, keepdim=True).clamp_min(1)
            return torch.matmul((mean * seen).to(values.dtype), values)
        heads, queries = weights.shape[1:3]
        mean = weights.sum((1, 2, 3)) / heads / keys.needle_tokens.clamp_min(1)
        every = (mean[:, None] * on).to(values.dtype)[:, None, None].expand(-1, heads, -1, -1)
        return torch.matmul(every, values).expand(-1, -1, queries, -1)


@checked
class Null(Reweight):
    """Set all attention weights to 0 (Section 2.5): the same as ``KeepHeads(0)``.

    Not so under `PAPER` during generation once the needle has left the window (`Recipe.out_of_window`): the authors'
    code then leaves the weights alone, in this mode as in the others.
    """

    during: During = "both"

    def weights(self, weights: Tensor, unmodified: Tensor, keys: Keys) -> Tensor:
        return torch.zeros_like(weights)

    def streamed(self, layer: StreamedLayer, keys: Keys) -> Tensor:
        return layer.value.new_zeros(())


@checked
class Mass(Reweight):
    """Rescale the weights of every head and query to the sum `total`; the paper has nothing like it.

    Alone it keeps the context and changes how much of it is read; after another manipulation, as in
    ``Only() & Mass(1.0)``, it gives back the attention mass that this one took. Weights of 0 stay 0.
    ``"needle"`` is the head's own untouched weight on the needle, so what `Only` would leave.
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
    """Several interventions at once: weights are manipulated in order, then heads are gated.

    Head scores always come from the untouched weights.
    """

    items: tuple[Intervention, ...]

    def __post_init__(self) -> None:
        _require(*self.items)

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
        _require(self.generation, self.prefill)

    @property
    def label(self) -> str:
        return "-".join(name[:1].upper() + name[1:] for name in (self.generation.label, self.prefill.label))

    def parts(self, phases: Sequence[Phase] = PHASES) -> Iterator[tuple[Elementary, Sequence[Phase]]]:
        for phase in PHASES:  # each member is meant for its phase, whatever it says of the other one
            yield from getattr(self, phase).parts([phase] if phase in phases else [])


def _require(*values: object) -> None:
    """Refuse what is no intervention, or none that is a value."""
    for value in values:
        params = vars(type(value)).get("__dataclass_params__")  # of the class itself, not of its base
        kinds = (KeepHeads, Reweight) if isinstance(value, Elementary) else Intervention
        if not isinstance(value, kinds) or params is None or not params.frozen:
            raise HybretError(
                f"{value!r} is not an intervention; use KeepHeads, Omit, Only, Binary, Null, Mass, Keep or PerPhase, "
                "or a frozen dataclass made from KeyMask or Reweight"
            )


Actions = tuple[Elementary, ...]


@dataclass(frozen=True)
class Resolved:
    """What a condition does to one model under one recipe."""

    prefill: Actions  # what acts in each phase, without what changes nothing
    generation: Actions
    key: str  # equal for conditions that do the same: they share their answers

    def check_prompt(
        self, tokens: int, reading: int, max_new_tokens: int, needle: Spans | None, question: Question
    ) -> None:
        """Refuse a prompt of so many `tokens`, `reading` of them in prefill, on which a part cannot act."""
        if not reading and (idle := [a for a in self.prefill if a not in self.generation]):
            raise HybretError(
                f"{idle[0].label} would never act in prefill: the prompt's only token belongs to generation; give a "
                "longer prompt"
            )
        if max_new_tokens <= (reading == tokens) and (idle := [a for a in self.generation if a not in self.prefill]):
            raise HybretError(
                f"{idle[0].label} would never act in generation: the first token of an answer comes from prefill under "
                "this recipe, and no other one is asked for; give max_new_tokens of at least 2"
            )
        check_needs(self.prefill + self.generation, tokens, needle, question)


def resolve(condition: Intervention, model: Hybrid, recipe: Recipe) -> Resolved:
    """Check a condition against a model, and drop what changes nothing in it: computed once for each condition."""
    _require(condition)
    for part, phases in condition.parts():
        if part.during not in ("both", *phases) or not phases:
            raise HybretError(
                f"{part!r} would never act in {condition!r}: it is in the place of a phase that it leaves out"
            )
        part.check(model)
    prefill, generation = (tuple(a for a in condition.at(phase) if a.changes(model, recipe)) for phase in PHASES)
    versions = sorted({_version(type(a)) for a in prefill + generation} - {""})
    return Resolved(prefill, generation, " @ ".join([f"{prefill!r} | {generation!r}", *versions]))


def _version(kind: type) -> str:
    """A digest of the code of a class from outside hybret: stored answers must not outlive a change of it."""
    classes = [c for c in kind.__mro__ if not c.__module__.startswith(("hybret.", "builtins"))]
    code = "".join(_source(getattr(x, "fget", x)) for c in classes for x in vars(c).values())
    return hashlib.sha256(code.encode()).hexdigest()[:8] if classes else ""


def _source(member: object) -> str:
    if not inspect.isfunction(member):
        return ""
    try:
        return inspect.getsource(member)
    except OSError:  # made without a file, as a dataclass does
        return member.__code__.co_code.hex()


def check_needs(actions: Actions, tokens: int, needle: Spans | None, question: Question) -> None:
    """Refuse actions on a needle or a question that a prompt does not have; as needle None if that is on purpose."""
    for action in actions:
        there = needle is None or (needle and all(0 <= first < end <= tokens for first, end in needle))
        if "needle" in action.needs and not there:
            where = f"its intervals {list(needle)} hold no token of the prompt" if needle else "this prompt has none"
            raise HybretError(
                f"{action.label} acts on the needle, and {where}; use prompts of hybret.niah.grid (control=True gives "
                "controls), or KeepHeads or Null"
            )
        if "question" in action.needs and question is None:
            raise HybretError(
                f"{action.label} needs the question, and this prompt does not say where its question is; use prompts "
                "of hybret.niah.grid, or an intervention without 'question' and 'answer'"
            )


def table1_conditions() -> dict[str, PerPhase]:
    """The 20 combinations of Table 1, named "Generation-Prefill" as the paper names them."""
    generation: tuple[Intervention, ...] = (Keep(), Omit(), Only(), Binary())
    pairs = (PerPhase(generation=g, prefill=p) for p in (*generation, Null()) for g in generation)
    return {pair.label: pair for pair in pairs}
