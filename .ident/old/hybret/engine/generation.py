"""Prefill, fork, merge and batched greedy decoding, with the phase declared at every step.

One prefill serves every condition that does the same in prefill; its state is then forked to one row per condition,
rows of many prompts are merged into one ragged batch, and each row decodes under its own intervention.

Rows that differ in their interventions alone are the same until these first act, on the outputs of the first attention
layer. In a prefill that streams everything before runs once, with one row, and its part of the state keeps one row
until rows are merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor

from hybret.engine.acting import settle
from hybret.engine.frame import Frame, Question, Spans, frame
from hybret.engine.states import State, all_rows, map_cache, merge, recurrent, restore_recurrent, start
from hybret.engine.tracing import Trace
from hybret.errors import HybretError
from hybret.fitting import effective, needs_question, no_question
from hybret.interventions import Intervention, elementary
from hybret.models import Model
from hybret.recipe import Recipe

MAX_NEW_TOKENS = 40

__all__ = ["MAX_NEW_TOKENS", "State", "decode", "extend", "generate", "merge", "prefill", "prompt_tokens", "start"]

Actions = tuple[Intervention, ...]


UNSHARED = ("qwen3_next", "qwen3_5_text", "zamba", "zamba2")
"""Families whose rows must not share the layers below the first attention layer: Qwen's gate stands between attention
and its output projection, and Zamba's attention layers read the embeddings once more."""
WHOLE = ("zamba",)
"""Families that read a prompt in one pass only: after a text in the cache transformers starts their scan from zero."""


def prompt_tokens(model: Model, ids: Sequence[int], recipe: Recipe) -> int:
    """How many of a prompt's tokens belong to prefill: all but the last one, or (`Recipe.prompt_split`) all."""
    return len(ids) if recipe.prompt_split == "family" and model.family == "jamba" else len(ids) - 1


def extend(
    model: Model,
    state: State,
    ids: Sequence[int],
    until: int,
    rows: Sequence[Actions],
    spans: Spans,
    recipe: Recipe,
    streaming: bool = True,
    trace: Trace | None = None,
    question: Question = None,
) -> State:
    """Read on in a prompt, up to its token `until`; the argument `state` is used up (`State.fork` keeps one).

    Parameters
    ----------
    model : Model
    state : State
        What each of `rows` has read of `ids` so far.
    ids : sequence of int
        Token ids of the whole prompt, BOS included.
    until : int
        Tokens to have read in the end.
    rows : sequence of tuple of Intervention
        What acts during prefill, for each row.
    spans : Spans
        Needle intervals in `ids`.
    recipe : Recipe
    streaming : bool
        Without the attention weights where that is possible, and the layers below the first attention layer for one row
        only. Off: the slow reference, bit-identical to plain eager attention where nothing acts.
    trace : Trace, optional
    question : Question, optional
        The question's interval in `ids`, where something keeps it in sight.

    Raises
    ------
    HybretError
        If `state` has read something and the family is one of `WHOLE`.
    """
    net, device = model.net, model.device
    read = int(state.position[0])
    whole = until == prompt_tokens(model, ids, recipe)
    if read == until:
        if whole and until < len(ids):
            state.token = torch.tensor([[ids[until]]], device=device).expand(len(rows), 1)
        return state
    if read and model.family in WHOLE:
        raise HybretError(
            f"transformers {transformers.__version__} cannot read on in a prompt with {model.family} (it starts the "
            "recurrence from zero); read the prompt in one pass, or answer fewer things about it at once"
        )
    position = state.position + (until - read)
    acting = effective(rows, model.family, model.heads, recipe)
    many = len(rows)
    now = Frame("prefill", acting, [spans] * many, position - 1, recipe, trace, streaming, questions=[question] * many)
    shared = now.streams and len(rows) > 1 and first_projection(model) is not None
    here = torch.tensor([list(ids[read:until])], device=device).expand(1 if shared else len(rows), -1)
    if not shared:
        state = State(
            map_cache([state.cache], lambda parts: all_rows(parts[0], len(rows))),
            [all_rows(x, len(rows)) for x in state.recurrent],
            state.token,
            state.position,
            False,
        )
    restore_recurrent(net, state.recurrent)
    with torch.inference_mode(), frame(now), expanding(model, now if shared else None):
        logits = net(
            input_ids=here,
            position_ids=torch.arange(read, until, device=device).expand(len(here), -1),
            past_key_values=state.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
    settle(now, model)
    answered = whole and until == len(ids)
    if answered:
        token = logits[:, -1].argmax(-1, keepdim=True)
    else:
        token = torch.tensor([[ids[until]]], device=device).expand(len(rows), 1)
    return State(state.cache, recurrent(net), token, position, answered)


def prefill(
    model: Model,
    ids: Sequence[int],
    rows: Sequence[Actions],
    spans: Spans,
    recipe: Recipe,
    trace: Trace | None = None,
    streaming: bool = False,
    question: Question = None,
) -> State:
    """Read one prompt, once for each of `rows`; the parameters are those of `extend`."""
    until = prompt_tokens(model, ids, recipe)
    return extend(model, start(model, len(rows)), ids, until, rows, spans, recipe, streaming, trace, question)


def first_projection(model: Model) -> Any:
    """What the outputs of the first attention layer go through; None where it cannot be told, or they change before."""
    if model.family in UNSHARED:
        return None
    layers = getattr(getattr(model.net, "model", None), "layers", None)
    if layers is None:
        return None
    return next((m for n, m in layers[model.attention_layers[0]].named_modules() if n.endswith("o_proj")), None)


@contextmanager
def expanding(model: Model, now: Frame | None) -> Iterator[None]:
    """One row up to the outputs of the first attention layer, all rows of the frame from there on."""
    if now is None:
        yield
        return

    def outputs(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if now.outputs is None:
            settle(now, model)  # says that this layer's attention did not come here
        assert now.outputs is not None
        if not torch.equal(inputs[0], now.outputs[: len(inputs[0])].flatten(2)):
            raise HybretError(
                f"{model.name} ({model.family}) changes what attention gives before its output projection, and hybret "
                "does not know that of this family; report it (`hybret verify` shows what else holds)"
            )
        return (now.outputs.flatten(2),)  # added to the one row of the residual stream, they give it all rows

    handle = first_projection(model).register_forward_pre_hook(outputs)
    try:
        yield
    finally:
        handle.remove()


def decode(
    model: Model,
    state: State,
    rows: Sequence[Actions],
    spans: Sequence[Spans],
    recipe: Recipe,
    max_new_tokens: int = MAX_NEW_TOKENS,
    trace: Trace | None = None,
    questions: Sequence[Question] = (),
) -> list[list[int]]:
    """Greedy one-token steps for every row at once, each under its own interventions.

    Parameters
    ----------
    model : Model
    state : State
    rows : sequence of tuple of Intervention
        What acts during generation, for each row of `state`.
    spans : sequence of Spans
        Needle intervals for each row.
    recipe : Recipe
    max_new_tokens : int
        Tokens per answer at most (the authors' 40).
    trace : Trace, optional
    questions : sequence of Question, optional
        The question's interval for each row, where something keeps it in sight.

    Returns
    -------
    list of list of int
        Answer tokens of each row, before EOS. A row stops at EOS and leaves the batch soon after.
    """
    device = model.device
    acting = effective(rows, model.family, model.heads, recipe)
    answers: list[list[int]] = [[] for _ in rows]
    alive = list(range(len(rows)))
    questions = questions or [None] * len(rows)
    if state.answered and (going := _collect(answers, alive, state.token, model.eos)) != alive:
        keep = torch.tensor(going, dtype=torch.long, device=device)
        state, alive = state.select(keep), going
    now = _generation_frame(acting, spans, questions, alive, state, recipe, trace)
    steps = max_new_tokens - int(state.answered)
    state = state.grow(steps)
    for _ in range(steps):
        if not alive:
            break
        now.last = state.position
        restore_recurrent(model.net, state.recurrent)
        with torch.inference_mode(), frame(now):
            logits = model.net(
                input_ids=state.token,
                position_ids=state.position[:, None],
                past_key_values=state.cache,
                use_cache=True,
            ).logits
        settle(now, model)
        state.recurrent = recurrent(model.net)
        state.token = logits[:, -1].argmax(-1, keepdim=True)
        state.position = state.position + 1
        going = _collect(answers, alive, state.token, model.eos)
        # Dropping rows copies the state, so it waits until a tenth of the batch has ended; rows that have ended
        # but are still in the batch keep decoding and their tokens are ignored.
        if len(going) <= 0.9 * len(alive):
            keep = torch.tensor([alive.index(row) for row in going], dtype=torch.long, device=device)
            state, alive = state.select(keep), going
            now = _generation_frame(acting, spans, questions, alive, state, recipe, trace)
    return [_before_eos(answer, model.eos) for answer in answers]


def generate(
    model: Model,
    ids: Sequence[int],
    intervention: Intervention,
    spans: Spans,
    recipe: Recipe,
    max_new_tokens: int = MAX_NEW_TOKENS,
    trace: Trace | None = None,
    question: Question = None,
) -> list[int]:
    """Answer one prompt under one intervention, the slow obvious way: one prefill, one row.

    The caller provides hybret's attention implementation (`hybret.engine.tracing.implementation`).
    """
    if question is None and needs_question(elementary(intervention)):
        raise no_question()
    state = prefill(model, ids, [intervention.at("prefill")], spans, recipe, trace, question=question)
    rows = [intervention.at("generation")]
    return decode(model, state, rows, [spans], recipe, max_new_tokens, trace, [question])[0]


def _generation_frame(
    rows: Sequence[Actions],
    spans: Sequence[Spans],
    questions: Sequence[Question],
    alive: Sequence[int],
    state: State,
    recipe: Recipe,
    trace: Trace | None,
) -> Frame:
    acting, needles, asked = [rows[i] for i in alive], [spans[i] for i in alive], [questions[i] for i in alive]
    return Frame("generation", acting, needles, state.position, recipe, trace, right_aligned=True, questions=asked)


def _collect(answers: list[list[int]], alive: Sequence[int], token: Tensor, eos: frozenset[int]) -> list[int]:
    """Append each row's token; the rows that have not met EOS."""
    going = []
    for row, new in zip(alive, token[:, 0].tolist(), strict=True):
        ended = bool(answers[row]) and answers[row][-1] in eos
        if not ended:
            answers[row].append(new)
            ended = new in eos
        if not ended:
            going.append(row)
    return going


def _before_eos(answer: list[int], eos: frozenset[int]) -> list[int]:
    return answer[:-1] if answer and answer[-1] in eos else answer
