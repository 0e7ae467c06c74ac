"""Chunked prefill and batched greedy decoding, with the phase declared at every step.

One prefill serves every condition that does the same in prefill; its state is then forked to one row per condition,
rows of many prompts are merged into one ragged batch, and each row decodes under its own intervention.

Rows that differ in their interventions alone are the same until these first act, on the outputs of the first attention
layer. In a prefill that streams everything before runs once, with one row, and its part of the state keeps one row
until rows are merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor

from hybret.engine.context import ForwardContext, Question, Spans, check_layers_called, forward_context
from hybret.engine.state import State, empty_state, recurrent, restore_recurrent
from hybret.errors import HybretError
from hybret.hybrid import Hybrid
from hybret.interventions import Actions, Intervention
from hybret.recipe import CORRECTED, Recipe
from hybret.resolving import resolve

if TYPE_CHECKING:
    from hybret.engine.attach import Trace

MAX_NEW_TOKENS = 40
NOT_FINITE = -1  # in place of a token


class NotFiniteError(HybretError):
    """A row of a batch has no next token: its logits hold NaN or an infinity."""

    def __init__(self, row: int) -> None:
        super().__init__("a model's logits hold NaN or an infinity")
        self.row = row

    def explained(self, model: Hybrid, ids: Sequence[int], acting: Actions = ()) -> HybretError:
        """What to say of it: the first layer whose output is not finite in a plain reading, or what was `acting`."""
        layers: Any = next((m for n, m in model.net.named_modules() if n.endswith("layers")), ())
        wrong: list[int] = []

        def look(layer: int, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if not hidden.isfinite().all():
                wrong.append(layer)

        hooks = [m.register_forward_hook(lambda _m, _i, out, n=n: look(n, out)) for n, m in enumerate(layers)]
        try:
            prefill(model, [*ids, ids[-1]], [()], (), CORRECTED)  # all of it: the last token is not read
        finally:
            for hook in hooks:
                hook.remove()
        under = "under " + (" and ".join(dict.fromkeys(map(repr, acting))) or "an intervention")
        where = f"from layer {wrong[0]} on" if wrong else under
        other = "" if model.dtype == "float32" else "load it in another dtype, or "
        return HybretError(
            f"{model.name} in {model.dtype} gives NaN or infinite numbers {where} on a prompt of {len(ids)} tokens, so "
            f"there is no answer; {other}look at its weights"
        )


def greedy(logits: Tensor) -> Tensor:
    """The likeliest next token of every row, ``(rows, 1)``; `NOT_FINITE` where there is none."""
    last = logits[:, -1]
    token = last.argmax(-1, keepdim=True)
    return token.where(last.gather(-1, token).isfinite(), NOT_FINITE)


def prompt_tokens(model: Hybrid, ids: Sequence[int], recipe: Recipe) -> int:
    """How many of a prompt's tokens belong to prefill: all but the last one, or (`Recipe.prompt_split`) all."""
    return len(ids) if recipe.prompt_split == "family" and model.family == "jamba" else len(ids) - 1


def forward(
    model: Hybrid, state: State, context: ForwardContext, ids: Tensor, positions: Tensor, **options: Any
) -> Tensor:
    """Logits of one pass on from `state`, which moves on; every attention layer must have gone through `context`."""
    restore_recurrent(model.net, state.recurrent)
    with torch.inference_mode(), forward_context(context):
        logits: Tensor = model.net(
            input_ids=ids, position_ids=positions, past_key_values=state.cache, use_cache=True, **options
        ).logits
    check_layers_called(context, model)
    state.recurrent = recurrent(model.net)
    return logits


def prefill_chunk(
    model: Hybrid,
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
    """Read on in a prompt, `ids`, up to its token `until`; `state` is used up (`State.fork` keeps a copy).

    `rows` says for each row what acts (`Resolved.prefill`), `spans` and `question` are intervals in the whole prompt.
    With `streaming` the weights are not formed where that is possible, and one row passes the layers below the first
    attention layer. Without, it is the slow reference, bit-identical to plain eager attention where nothing acts.
    """
    device, read = model.device, int(state.position[0])
    complete = until == len(ids)
    following = None if complete else torch.tensor([[ids[until]]], device=device).expand(len(rows), 1)
    if read == until:
        return state if following is None else replace(state, token=following)
    if read and not model.traits.chunked_prefill:
        raise HybretError(
            f"transformers {transformers.__version__} cannot read on in a prompt with {model.family} (it starts the "
            "recurrence from zero); read the prompt in one pass, or answer fewer things about it at once"
        )
    position = state.position + (until - read)
    places, questions = [spans] * len(rows), [question] * len(rows)
    context = ForwardContext("prefill", rows, places, position - 1, recipe, trace, streaming, questions=questions)
    shared = context.streams and not context.mixes and len(rows) > 1 and first_o_proj(model) is not None
    state = state if shared else state.unshared()
    inputs = torch.tensor([list(ids[read:until])], device=device).expand(1 if shared else len(rows), -1)
    positions = torch.arange(read, until, device=device).expand(len(inputs), -1)
    with fan_out(model, context) if shared else nullcontext():
        logits = forward(model, state, context, inputs, positions, logits_to_keep=1)
    token = greedy(logits) if following is None else following
    return State(state.cache, state.recurrent, token, position, complete)


def prefill(
    model: Hybrid,
    ids: Sequence[int],
    rows: Sequence[Actions],
    spans: Spans,
    recipe: Recipe,
    trace: Trace | None = None,
    streaming: bool = False,
    question: Question = None,
) -> State:
    """Read a prompt in one pass, once for each of `rows`; the parameters are those of `prefill_chunk`."""
    until = prompt_tokens(model, ids, recipe)
    return prefill_chunk(
        model, empty_state(model, len(rows)), ids, until, rows, spans, recipe, streaming, trace, question
    )


def first_o_proj(model: Hybrid) -> Any:
    """The output projection of the first attention layer; None where rows cannot share the layers below."""
    layers = getattr(getattr(model.net, "model", None), "layers", None)
    if layers is None or not model.traits.shares_lower_layers:
        return None
    return next((m for n, m in layers[model.attention_layers[0]].named_modules() if n.endswith("o_proj")), None)


@contextmanager
def fan_out(model: Hybrid, context: ForwardContext, texts: int = 1) -> Iterator[None]:
    """One row for each text up to the outputs of the first attention layer, all rows of the context from there on."""
    projection, layer = first_o_proj(model), model.net.model.layers[model.attention_layers[0]]
    attention = next(m for m in layer.modules() if projection in m.children())
    copies = len(context.rows) // texts

    def first(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        """A hook that changes the hidden states among a module's arguments, its only activations."""

        def hook(_: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if inputs:
                return (change(inputs[0]), *inputs[1:]), named
            return inputs, {**named, "hidden_states": change(named["hidden_states"])}

        return hook

    def outputs(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if context.outputs is None:
            check_layers_called(context, model)  # says that this layer's attention did not come here
        assert context.outputs is not None
        if not torch.equal(inputs[0], context.outputs[: len(inputs[0])].flatten(2)):
            raise HybretError(
                f"{model.name} ({model.family}) changes what attention gives before its output projection, and hybret "
                "does not know that of this family; report it (`hybret verify` shows what else holds)"
            )
        return (context.outputs.flatten(2),)

    with (
        layer.register_forward_pre_hook(first(lambda x: x.repeat(copies, 1, 1)), with_kwargs=True),
        attention.register_forward_pre_hook(first(lambda x: x[:texts]), with_kwargs=True),
        projection.register_forward_pre_hook(outputs),
    ):
        yield


def decode(
    model: Hybrid,
    state: State,
    rows: Sequence[Actions],
    spans: Sequence[Spans],
    recipe: Recipe,
    max_new_tokens: int = MAX_NEW_TOKENS,
    trace: Trace | None = None,
    questions: Sequence[Question] = (),
) -> list[list[int]]:
    """Answer tokens of every row, before EOS: greedy one-token steps of all rows at once.

    `rows`, `spans` and `questions` say for each row of `state` what acts during generation (`Resolved.generation`), and
    where its needle and its question are.
    """
    questions = questions or [None] * len(rows)
    answers: list[list[int]] = [[] for _ in rows]
    alive = list(range(len(rows)))

    def keep(running: Sequence[int]) -> ForwardContext:
        """Leave these rows in the batch, and declare what acts on them."""
        nonlocal state, alive
        if running != alive:
            state = state.select(torch.tensor([alive.index(r) for r in running], dtype=torch.long, device=model.device))
        alive = list(running)
        actions, needles = [rows[r] for r in alive], [spans[r] for r in alive]
        asked = [questions[r] for r in alive]
        return ForwardContext(
            "generation", actions, needles, state.position, recipe, trace, right_aligned=True, questions=asked
        )

    context = keep(_append(answers, alive, state.token, model.eos) if state.answered else alive)
    steps = max_new_tokens - state.answered
    state = state.preallocate(steps)
    for _ in range(steps):
        if not alive:
            break
        context.last = state.position
        logits = forward(model, state, context, state.token, state.position[:, None])
        state.token = greedy(logits)
        state.position = state.position + 1
        running = _append(answers, alive, state.token, model.eos)
        # Dropping rows copies the state, so it waits until a tenth of the batch has ended; rows that have ended
        # but are still in the batch keep decoding and their tokens are ignored.
        if len(running) <= 0.9 * len(alive):
            context = keep(running)
    return [answer[:-1] if answer and answer[-1] in model.eos else answer for answer in answers]


def _append(answers: list[list[int]], alive: Sequence[int], token: Tensor, eos: frozenset[int]) -> list[int]:
    """Append each row's token to its answer; the rows that have not met EOS."""
    running = []
    for row, new in zip(alive, token[:, 0].tolist(), strict=True):
        if answers[row] and answers[row][-1] in eos:
            continue
        if new == NOT_FINITE:
            raise NotFiniteError(row)
        answers[row].append(new)
        if new not in eos:
            running.append(row)
    return running


def generate(
    model: Hybrid,
    ids: Sequence[int],
    intervention: Intervention,
    spans: Spans,
    recipe: Recipe,
    max_new_tokens: int = MAX_NEW_TOKENS,
    trace: Trace | None = None,
    question: Question = None,
) -> list[int]:
    """Answer one prompt under one intervention, the slow obvious way: one prefill, one row.

    The caller provides hybret's attention implementation (`hybret.engine.attach.implementation`).
    """
    condition = resolve(intervention, model, recipe)
    state = prefill(model, ids, [condition.prefill], spans, recipe, trace, question=question)
    try:
        return decode(model, state, [condition.generation], [spans], recipe, max_new_tokens, trace, [question])[0]
    except NotFiniteError as problem:
        raise problem.explained(model, ids, condition.prefill + condition.generation) from None
