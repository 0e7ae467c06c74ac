"""Whether interventions fit a model and its prompts, and what of them changes anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .errors import HybretError
from .interventions import PHASES, Compose, Intervention, Keep, KeepHeads, Only, PerPhase, Phase, elementary, require
from .recipe import Recipe


def effective(
    rows: Sequence[tuple[Intervention, ...]], family: str, heads: int, recipe: Recipe
) -> list[tuple[Intervention, ...]]:
    """Drop what changes nothing: all heads kept, and manipulations that the authors' code never applies to Jamba."""
    ignored = recipe.jamba_manipulation == "no-op" and family == "jamba"
    return [tuple(a for a in row if (a.k < heads if isinstance(a, KeepHeads) else not ignored)) for row in rows]


def needs_question(actions: Iterable[Intervention]) -> bool:
    """Whether some of these elementary interventions keep the question, so that its place must be known."""
    return any(isinstance(a, Only) and {"question", "answer"} & set(a.also) for a in actions)


def no_question() -> HybretError:
    """What to raise where `needs_question` meets a prompt that does not say where its question is."""
    return HybretError(
        "this prompt does not say where its question is, so it cannot be kept in sight; "
        "use prompts of hybret.niah.grid, or an Only without 'question' and 'answer'"
    )


def validate(intervention: Intervention, heads: int, layers: Sequence[int] | None = None) -> None:
    """Check an intervention against a model's head count and, where they are given, its attention layers.

    Raises
    ------
    HybretError
        If it keeps more heads than the model has, names a layer without attention, has a part that can never act, or is
        not an intervention.
    """
    require(intervention)
    if idle := next(_idle(intervention, PHASES), None):
        raise HybretError(
            f"{idle!r} would never act in {intervention!r}: it is in the place of a phase that it leaves out"
        )
    for part in elementary(intervention):
        if isinstance(part, KeepHeads) and part.k > heads:
            raise HybretError(
                f"k is {part.k}, but this model has {heads} heads per attention layer; choose k from 0 to {heads}"
            )
        if layers is not None and isinstance(part, Only) and (wrong := set(part.layers or ()) - set(layers)):
            raise HybretError(
                f"layer {min(wrong)} is no attention layer of this model; choose some of {', '.join(map(str, layers))}"
            )


def _idle(intervention: Intervention, phases: Sequence[Phase]) -> Iterator[Intervention]:
    """The parts of an intervention, other than `Keep`, that act in none of these phases."""
    if isinstance(intervention, PerPhase):
        for phase in PHASES:
            yield from _idle(getattr(intervention, phase), [phase] if phase in phases else [])
    elif isinstance(intervention, Compose):
        for item in intervention.items:
            yield from _idle(item, phases)
    elif not isinstance(intervention, Keep) and not any(intervention.at(phase) for phase in phases):
        yield intervention
