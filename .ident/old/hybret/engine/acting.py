"""Whether an intervention can act, and whether it did: one that silently does nothing gives the untouched numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hybret.errors import HybretError
from hybret.fitting import effective
from hybret.interventions import METRICS, PHASES, Binary, Intervention, KeepHeads, Mass, Omit, Only, Phase
from hybret.recipe import Recipe

if TYPE_CHECKING:
    from hybret.engine.frame import Frame
    from hybret.models import Model

Actions = tuple[Intervention, ...]
Spans = tuple[tuple[int, int], ...]
Did = Counter[tuple[int, Any]]
"""By layer: on how many rows an intervention acted (`KeepHeads`: its metric), and how often attention ran (`READ`)."""
READ = "attention"


def acts(model: Model, recipe: Recipe, condition: Intervention, phase: Phase) -> Actions:
    """What a condition does to this model in a phase; nothing where it keeps all heads, or the recipe ignores it."""
    return effective([condition.at(phase)], model.family, model.heads, recipe)[0]


def require(
    model: Model, recipe: Recipe, condition: Intervention, tokens: int, reading: int, most: int, spans: Spans | None
) -> None:
    """Refuse a condition of which a part cannot act on a prompt.

    Parameters
    ----------
    model, recipe, condition
    tokens, reading : int
        Tokens of the prompt, and how many of them belong to prefill (`hybret.engine.generation.prompt_tokens`).
    most : int
        Tokens of an answer.
    spans : Spans or None
        The needle's intervals; None if there is none on purpose (a control).

    Raises
    ------
    HybretError
        A part acts in prefill alone and the prompt is one token, in generation alone and the only token of an answer
        comes from prefill, or on a needle that is not there.
    """
    prefill, generation = (acts(model, recipe, condition, phase) for phase in PHASES)
    if not reading and (idle := [a for a in prefill if a not in generation]):
        raise HybretError(
            f"{idle[0].label} would never act in prefill: the prompt has one token, and that one belongs to "
            "generation; give a longer prompt"
        )
    if most <= (reading == tokens) and (idle := [a for a in generation if a not in prefill]):
        raise HybretError(
            f"{idle[0].label} would never act in generation: the first token of an answer comes from prefill under "
            "this recipe, and no other one is asked for; give max_new_tokens of at least 2"
        )
    if spans is not None:
        require_needle(prefill + generation, spans, tokens)


def require_needle(actions: Iterable[Intervention], spans: Spans, tokens: int) -> None:
    """Refuse a manipulation of attention on a needle that is not there.

    Parameters
    ----------
    actions : elementary interventions.
    spans : the needle's half-open token intervals.
    tokens : of the prompt.

    Raises
    ------
    HybretError
        An action is about the needle, and there is no interval, or one that holds no token of the prompt.
    """
    for action in actions:
        about = isinstance(action, Omit | Only | Binary) or (isinstance(action, Mass) and action.total == "needle")
        if about and not (spans and all(0 <= first < end <= tokens for first, end in spans)):
            where = f"its intervals {list(spans)} hold no token of the prompt" if spans else "this prompt has none"
            raise HybretError(
                f"{action.label} acts on the needle, and {where}; use prompts of hybret.niah.grid (control=True gives "
                "controls), or KeepHeads or Null"
            )


def settle(frame: Frame, model: Model, passes: int | None = 1) -> None:
    """After a forward pass: see that all that was declared was done, in every attention layer; nothing may be declared.

    Parameters
    ----------
    frame : Frame
    model : Model
    passes : int, optional
        Forward passes since the last call. None: any number, the same in all layers.

    Raises
    ------
    HybretError
        If not: what the pass gave is then not what was asked for.
    """
    if not frame.acts:
        return
    if not frame.due:
        frame.due.update(_due(frame.rows, model.attention_layers))
    passes = frame.acted[model.attention_layers[0], READ] if passes is None else passes
    for key in {**frame.due, **frame.acted}:
        if frame.acted[key] != passes * frame.due[key]:
            layer, what = key
            what = f"the choice of heads by {what}" if what in METRICS else getattr(what, "label", what)
            raise HybretError(
                f"in {frame.phase}, {what} acted {frame.acted[key]} times instead of {passes * frame.due[key]} in "
                f"layer {layer} of {model.name}, so nothing measured here would mean anything; see `hybret verify`, "
                "and report the model and the version of transformers"
            )
    frame.acted.clear()


def _due(rows: Iterable[Actions], layers: Iterable[int]) -> Did:
    """What one pass has to do for these rows, straight from what was declared."""
    due: Did = Counter({(layer, READ): 1 for layer in layers})
    for actions, many in Counter(rows).items():
        for what in (*{a.metric for a in actions if isinstance(a, KeepHeads)}, *actions):
            named = what.layers if isinstance(what, Only) else None
            for layer in () if isinstance(what, KeepHeads) else layers if named is None else named:
                due[layer, what] += many
    return due
