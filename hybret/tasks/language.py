"""How a model goes on with a given text under interventions: its loss, and the next tokens that stay the same.

Nothing is generated. The true continuation is fed in (teacher forcing), so that every condition predicts the same
tokens. The text before it is read in prefill and the continuation in generation, split as a prompt and its answer
are: the last token that is read belongs to generation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from hybret.devices import budget_of
from hybret.engine.attach import implementation
from hybret.engine.context import ForwardContext
from hybret.engine.decode import NotFiniteError, forward, prompt_tokens
from hybret.engine.keys import Question, Spans
from hybret.engine.scan import parallel_scans
from hybret.engine.schedule import read
from hybret.engine.state import State
from hybret.errors import HybretError, check_conditions, integer
from hybret.hybrid import Hybrid
from hybret.interventions import Intervention, Keep, Phase
from hybret.prompts import PAPER_NEEDLE, Prompt
from hybret.recipe import CORRECTED, Recipe
from hybret.recipe import recipe as find_recipe
from hybret.resolving import Resolved, resolve
from hybret.tasks.encoding import encode
from hybret.tasks.haystack import Haystack, load_haystack

AT_ONCE = 64  # tokens of a continuation: their logits are rows x tokens x vocabulary


@dataclass(frozen=True)
class Passage:
    """A text in two parts, as token ids: what is read, and what is predicted.

    Attributes
    ----------
    kind : a column of its rows: what the text is.
    spans, question : the needle's copies and the question, half-open intervals of `read`, for interventions on them.
    """

    kind: str
    read: tuple[int, ...]
    following: tuple[int, ...]
    spans: Spans = ()
    question: Question = None

    @property
    def prompt(self) -> Prompt:
        """What is read, as the engine reads prompts."""
        question = (self.question,) if self.question else ()
        return Prompt("", self.read, PAPER_NEEDLE, spans={"needle": self.spans, "question": question})


def prose(
    model: Hybrid, n: int = 8, tokens: int = 256, haystack: str | Path | Haystack = "embedded", seed: int = 0
) -> list[Passage]:
    """The first `n` stretches of a haystack, each of `tokens` tokens: half is read, half is predicted."""
    integer("n", n, 1)
    half = integer("tokens", tokens, 4) // 2
    text = load_haystack(haystack, seed, n * tokens).text
    ((_, ids, offsets),) = encode(model, [text], chat=False)
    bos = next(at for at, (_, end) in enumerate(offsets) if end)  # tokens that are no text
    if len(ids) < bos + n * tokens:
        raise HybretError(f"the haystack has {len(ids)} tokens, and {n} x {tokens} are needed; ask for fewer")
    starts = range(bos, bos + n * tokens, tokens)
    return [Passage("prose", ids[:bos] + ids[at : at + half], ids[at + half : at + tokens]) for at in starts]


def answers(model: Hybrid, prompts: Sequence[Prompt]) -> list[Passage]:
    """The right answer after each prompt of `hybret.niah`: the needle's sentence, without the end of the turn."""
    told = [model.tokenizer(p.needle.sentence, add_special_tokens=False)["input_ids"] for p in prompts]
    return [
        Passage("answer", p.ids, tuple(ids), p.needle_spans, p.question_span)
        for p, ids in zip(prompts, told, strict=True)
    ]


def predict(
    model: Hybrid,
    passages: Sequence[Passage],
    conditions: Mapping[str, Intervention],
    recipe: Recipe | str = CORRECTED,
) -> pd.DataFrame:
    """Predict every passage's continuation under every condition.

    Returns
    -------
    pandas.DataFrame
        One row per passage and condition: model, weights, recipe, condition, intervention, kind, passage (its number
        among those of its kind, from 0), tokens (predicted ones), `nats` per token, and `same`: the share of tokens (0
        to 1) whose likeliest next token is that of the unmodified model.
    """
    recipe = find_recipe(recipe)
    named = {label: resolve(condition, model, recipe) for label, condition in check_conditions(conditions).items()}
    if not passages:
        raise HybretError("there are no passages; make some with hybret.language.prose or hybret.language.answers")
    for passage in passages:
        if len(passage.read) < 2 or not passage.following:
            raise HybretError("a passage needs at least two tokens to read and one to predict; give a longer text")
        tokens, reading = len(passage.read), prompt_tokens(model, passage.read, recipe)
        for resolved in named.values():
            resolved.check_prompt(tokens, reading, len(passage.following), passage.spans, passage.question)
    model.check_state()
    distinct = list({r.key: r for r in (resolve(Keep(), model, recipe), *named.values())}.values())
    at = {resolved.key: row for row, resolved in enumerate(distinct)}
    prefills = list(dict.fromkeys(condition.prefill for condition in distinct))
    texts: dict[str, dict[Passage, None]] = {}  # the same one may be there as several kinds
    for passage in passages:
        texts.setdefault(passage.prompt.key, {})[replace(passage, kind="")] = None
    prompts = [next(iter(several)).prompt for several in texts.values()]
    until = recipe.replace(prompt_split="last-token")  # the last token that is read has logits, in either phase
    done: dict[Passage, tuple[Tensor, Tensor]] = {}
    with parallel_scans(), implementation(model.net):
        for prompt, ways, state in read(model, prompts, prefills, until, budget_of(model).max_tokens):
            owners = torch.tensor([ways.index(condition.prefill) for condition in distinct], device=model.device)
            for text in texts[prompt.key]:
                done[text] = _follow(model, state.fork().unshared().select(owners), text, distinct, recipe)
    lines: list[dict[str, Any]] = []
    numbers: Counter[str] = Counter()
    for passage in passages:
        nats, best = done[replace(passage, kind="")]
        same = (best == best[0]).float().mean(1)
        for label, resolved in named.items():
            row = at[resolved.key]
            lines.append({
                "model": model.name, "weights": model.digest, "recipe": recipe.name, "condition": label,
                "intervention": repr(conditions[label]), "kind": passage.kind, "passage": numbers[passage.kind],
                "tokens": len(passage.following), "nats": float(nats[row].mean()), "same": float(same[row]),
            })  # fmt: skip
        numbers[passage.kind] += 1
    return pd.DataFrame(lines)


def _follow(
    model: Hybrid, state: State, passage: Passage, conditions: Sequence[Resolved], recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """Loss in nats and likeliest token, each ``(conditions, tokens)``; `state` has read all but the last token."""
    ids, start, n = [*passage.read, *passage.following], len(passage.read) - 1, len(conditions)
    # Under some recipes the first token of an answer comes from prefill, as in the authors' code.
    generates = prompt_tokens(model, passage.read, recipe)
    parts: list[tuple[Tensor, Tensor]] = []
    while start < len(ids) - 1:
        phase: Phase = "prefill" if start < generates else "generation"
        width = AT_ONCE if model.traits.chunked_prefill else 1
        end = min(start + width, generates if phase == "prefill" else len(ids) - 1)
        rows = [getattr(condition, phase) for condition in conditions]
        tokens = torch.tensor([ids[start:end]], device=model.device).expand(n, -1)
        positions = torch.arange(start, end, device=model.device).expand(n, -1)
        questions = [passage.question] * n
        context = ForwardContext(phase, rows, [passage.spans] * n, positions[:, -1], recipe, questions=questions)
        chances = forward(model, state, context, tokens, positions).float().log_softmax(-1)
        following = torch.tensor(ids[start + 1 : end + 1], device=chances.device).expand(n, -1)
        parts.append((-chances.gather(-1, following[..., None])[..., 0], chances.argmax(-1)))
        start = end
    nats, best = (torch.cat(tensors, 1) for tensors in zip(*parts, strict=True))
    if wrong := (~nats.isfinite().all(1)).nonzero()[:, 0].tolist():
        acting = conditions[wrong[0]]
        raise NotFiniteError(wrong[0]).explained(model, ids, acting.prefill + acting.generation)
    return nats, best
