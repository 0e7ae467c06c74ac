"""Conditions resolved for one model and recipe: what acts in each phase, and whether it can act on a prompt."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

from hybret.errors import HybretError
from hybret.files import digest
from hybret.interventions import PHASES, Actions, Elementary, Gate, Intervention, Mix, Reweight, require

if TYPE_CHECKING:
    from hybret.engine.keys import Question, Spans
    from hybret.hybrid import Hybrid
    from hybret.recipe import Recipe


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
            raise HybretError(f"{idle[0].label} would never act in prefill of a prompt of one token; give a longer one")
        if max_new_tokens <= (reading == tokens) and (idle := [a for a in self.generation if a not in self.prefill]):
            raise HybretError(
                f"{idle[0].label} would never act in generation: the first token of an answer comes from prefill under "
                "this recipe; give max_new_tokens of at least 2"
            )
        check_needs(self.prefill + self.generation, tokens, needle, question)


def resolve(condition: Intervention, model: Hybrid, recipe: Recipe) -> Resolved:
    """Check a condition against a model, and drop what changes nothing in it: computed once for each condition."""
    require(condition)
    for part, phases in condition.parts():
        if part.during not in ("both", *phases) or not phases:
            raise HybretError(f"{part!r} would never act in {condition!r}: its place is a phase that it leaves out")
        _check_fits(part, model)
    applied = recipe.jamba_manipulation == "acts" or model.family != "jamba"  # the authors' code never does so there
    prefill, generation = (
        tuple(a for a in condition.at(phase) if a.changes(model) and (applied or not isinstance(a, Reweight)))
        for phase in PHASES
    )
    for actions in (prefill, generation):
        gates = [a for a in actions if isinstance(a, Gate)]
        if len({a.instead for a in gates}) > 1:
            raise HybretError(f"{gates[0].label} and {gates[-1].label} replace heads differently; give one `instead`")
        mixes = [a for a in actions if isinstance(a, Mix)]
        for a, b in permutations(mixes, 2):
            if a.silences and set(a.layers or a.places(model)) & set(b.layers or b.places(model)):
                raise HybretError(f"{b.label} beside {a.label} would do nothing: its layers give nothing; leave it out")
    versions = sorted({_version(type(a)) for a in prefill + generation} - {""})
    return Resolved(prefill, generation, " @ ".join([f"{prefill!r} | {generation!r}", *versions]))


def _check_fits(part: Elementary, model: Hybrid) -> None:
    if part.layers is not None and not part.layers:
        raise HybretError(f"{part!r} names no layer, so it would never act; name some, or leave `layers` out")
    part.check(model)
    # The digest may be older than the weights.
    if (means := part.instead) and (means.weights != model.digest or model.altered):
        raise HybretError(f"{part.label} has means of another model; take them with hybret.mean_outputs")
    if wrong := set(part.layers or ()) - set(places := part.places(model)):
        kind = " or ".join(part.kinds) if isinstance(part, Mix) else "attention"
        layers = ", ".join(map(str, places))
        raise HybretError(f"layer {min(wrong)} is no {kind} layer of this model; choose some of {layers}")
    if unknown := set(part.needs) - {"needle", "question"}:
        raise HybretError(f"{part!r} needs {unknown.pop()!r}; what a prompt may have is needle and question")


def _version(kind: type) -> str:
    """A digest of the code of a class from outside hybret: stored answers must not outlive a change of it."""
    classes = [c for c in kind.__mro__ if not c.__module__.startswith(("hybret.", "builtins"))]
    code = "".join(_source(getattr(x, "fget", x)) for c in classes for x in vars(c).values())
    return digest(code, digits=8) if classes else ""


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
            raise HybretError(f"{action.label} acts on the needle, and {where}; use prompts of hybret.niah.grid")
        if "question" in action.needs and question is None:
            raise HybretError(f"{action.label} needs the question, and this prompt has none; use hybret.niah.grid")
