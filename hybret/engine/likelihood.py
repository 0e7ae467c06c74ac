"""Log-likelihoods of continuations under several interventions at once: what a benchmark measures.

Nothing is generated, so everything is prefill. What can be shared is read once: the beginning that all texts have in
common (the shots of a few-shot prompt), what several texts go on to have in common (a question before its choices, or a
passage before its questions), and for several interventions the layers up to the first attention layer, where none of
them has acted yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from hybret.devices import Budget, budget_of
from hybret.engine import decode
from hybret.engine.attach import implementation
from hybret.engine.context import ForwardContext
from hybret.engine.prefix_tree import shared_tokens
from hybret.engine.scan import parallel_scans
from hybret.engine.state import State, empty_state
from hybret.errors import HybretError
from hybret.hybrid import Hybrid
from hybret.interventions import Actions, Intervention, Mix, Reweight
from hybret.recipe import Recipe
from hybret.resolving import resolve

T = TypeVar("T")
Request = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids of a context and of its continuation."""
Answer = tuple[float, bool]
"""Natural logarithm of the continuation's probability, and whether greedy decoding would write it."""


def log_likelihoods(
    model: Hybrid,
    requests: Sequence[Request],
    conditions: Sequence[Intervention],
    recipe: Recipe,
    budget: Budget | None = None,
) -> list[list[Answer]]:
    """Score every continuation under every condition, as in prefill; by condition, then by request.

    Log-softmax and sum are computed in float32: in bf16 exact ties between the choices are common. `budget` is of one
    pass, over all conditions; default what fits on the device.
    """
    acting = [check(model, condition, recipe) for condition in conditions]
    if any(not context or not continuation for context, continuation in requests):
        raise HybretError(
            "a context and its continuation need at least one token each; there is no BOS token, or one token of this "
            "tokenizer spans both"
        )
    if not requests or not conditions:
        return [[] for _ in conditions]
    # Conditions that do the same are computed once.
    distinct = list(dict.fromkeys(acting))
    texts = _texts(requests)
    # First tokens that all texts share and nothing is predicted from.
    common = min(shared_tokens(texts[0].ids, texts[-1].ids), *(len(context) - 1 for context, _ in requests))
    budget = budget or budget_of(model, max(len(text.ids) for text in texts))
    together = common > 0 and decode.first_o_proj(model) is not None
    answers: dict[Actions, list[Answer]] = {}
    with parallel_scans(), implementation(model.net):
        # What is done to a recurrence is seen below the first attention layer.
        shared = [a for a in distinct if together and not any(isinstance(part, Mix) for part in a)]
        for group in [*([shared] if shared else []), *([a] for a in distinct if a not in shared)]:
            reader = _Reader(model, group, recipe, budget, len(requests))
            answers |= dict(zip(group, reader.read_all(texts, common), strict=True))
    return [answers[actions] for actions in acting]


@dataclass(frozen=True)
class _Text:
    """A text to read, and what it answers: (request, position, token that is to be predicted there)."""

    ids: tuple[int, ...]
    spots: list[tuple[int, int, int]] = field(default_factory=list)


def check(model: Hybrid, condition: Intervention, recipe: Recipe) -> Actions:
    """What a condition does in prefill; what cannot act on a log-likelihood is refused."""
    resolved = resolve(condition, model, recipe)
    parts = [part for part, _ in condition.parts()]
    if any(part.needs or isinstance(part, Reweight) for part in parts):
        raise HybretError(f"{condition!r} cannot be run on a benchmark, whose prompts hold no needle; use KeepHeads")
    if parts and not condition.at("prefill"):
        raise HybretError(
            f"{condition!r} would never act: a log-likelihood has no generation steps; use during='both', the paper's "
            "prefill version"
        )
    return resolved.prefill


def _texts(requests: Sequence[Request]) -> list[_Text]:
    """The texts to read, in lexicographic order; a text that begins another one needs no pass of its own.

    The last token of a continuation is predicted, not read: choices of one token share one text.
    """
    texts: list[_Text] = []
    order = sorted(range(len(requests)), key=lambda i: requests[i][0] + requests[i][1][:-1], reverse=True)
    for request in order:  # in descending order everything that continues a text comes right before it
        context, continuation = requests[request]
        ids = context + continuation[:-1]
        if not texts or texts[-1].ids[: len(ids)] != ids:
            texts.append(_Text(ids))
        texts[-1].spots.extend((request, len(context) - 1 + i, token) for i, token in enumerate(continuation))
    return texts[::-1]


def _groups(texts: Sequence[_Text], common: int) -> Iterator[tuple[int, list[_Text]]]:
    """Texts that share at least a third of what is left of them after the common beginning, and how far they do.

    The choices of a question, if they have several tokens, or questions about one passage. `texts` are in order.
    """
    members: list[_Text] = []
    for text in texts:
        shared = shared_tokens(members[0].ids, text.ids) if members else 0
        if members and 3 * (shared - common) < max(len(text.ids), len(members[0].ids)) - common:
            yield shared_tokens(members[0].ids, members[-1].ids), members
            members = []
        members.append(text)
    yield shared_tokens(members[0].ids, members[-1].ids), members


class _Reader:
    """Reads texts under several conditions at once, and adds up what is predicted in them."""

    def __init__(self, model: Hybrid, group: Sequence[Actions], recipe: Recipe, budget: Budget, requests: int) -> None:
        self.model, self.group, self.recipe, self.budget = model, group, recipe, budget
        self.total = torch.zeros(len(group), requests, device=model.device)
        self.greedy = torch.ones(len(group), requests, dtype=torch.bool, device=model.device)

    def read_all(self, texts: Sequence[_Text], common: int) -> list[list[Answer]]:
        """Read the common beginning, then what several texts share, then the rest of each; by condition and request."""
        beginning = empty_state(self.model, len(self.group))
        step = max(1, self.budget.max_tokens // len(self.group))
        for end in [*range(step, common, step), common] if common else []:
            beginning = decode.prefill_chunk(self.model, beginning, texts[0].ids, end, self.group, (), self.recipe)
        groups = list(_groups(texts, common))
        for batch in self._batches([(len(m[0].ids) - common, m[0]) for _, m in groups if len(m) == 1]):
            self._pass(beginning, 1, [0] * len(batch), batch, common)
        for parents in self._batches([(shared - common, (shared, m)) for shared, m in groups if len(m) > 1]):
            # A state belongs to the end of a text without padding: all stems end with the shortest.
            shared = min(shared for shared, _ in parents)
            stems = [_Text(m[0].ids[:shared], [spot for text in m for spot in text.spots]) for _, m in parents]
            state = self._pass(beginning, 1, [0] * len(stems), stems, common)
            rests = [(len(text.ids) - shared, (i, text)) for i, (_, members) in enumerate(parents) for text in members]
            for part in self._batches(rests):
                self._pass(state, len(stems), [i for i, _ in part], [text for _, text in part], shared)
        if wrong := (~self.total.isfinite().all(0)).nonzero()[:, 0].tolist():
            ids = next(text.ids for text in texts if any(request == wrong[0] for request, *_ in text.spots))
            raise decode.NotFiniteError(wrong[0]).explained(self.model, ids)
        pairs = zip(self.total.tolist(), self.greedy.tolist(), strict=True)
        return [list(zip(total, greedy, strict=True)) for total, greedy in pairs]

    def _batches(self, items: Iterable[tuple[int, T]]) -> Iterator[list[T]]:
        """What is read together, of items that come with their tokens: long with long ones, for little padding."""
        batch: list[T] = []
        width = 0
        for tokens, item in sorted(items, key=lambda pair: -pair[0]):
            rows = (len(batch) + 1) * len(self.group)
            if batch and (rows > self.budget.max_sequences or rows * width > self.budget.max_tokens):
                yield batch
                batch = []
            width = width if batch else tokens
            batch.append(item)
        if batch:
            yield batch

    def _pass(self, state: State, texts_before: int, parents: Sequence[int], texts: Sequence[_Text], at: int) -> State:
        """Read the texts from `at` on, each from the row `parents` of a state of `texts_before` texts.

        Rows of a condition stand together. The state that is returned is one of these texts if they are equally long.
        """
        model, copies, count = self.model, len(self.group), len(texts)
        device, width = model.device, max(len(text.ids) for text in texts) - at
        ids = torch.tensor([[*text.ids[at:], *[0] * (width + at - len(text.ids))] for text in texts], device=device)
        state = _spread(state, texts_before, torch.tensor(parents, device=device))
        # Padding is on the right, where no token of a causal model sees it, and all rows are at the same
        # positions: that of the last column is exact for every row, and no mask is needed.
        last = torch.full((copies * count,), at + width - 1, device=device)
        rows = [actions for actions in self.group for _ in texts]
        context = ForwardContext("prefill", rows, [()] * len(rows), last, self.recipe, None, True)
        wanted = [
            (request, row, position - at, token)
            for row, text in enumerate(texts)
            for request, position, token in text.spots
            if at <= position < len(text.ids)
        ]
        request, row, column, target = torch.tensor(wanted or [(0, 0, 0, 0)], device=device).unbind(1)
        first_row = torch.arange(copies, device=device)[:, None] * count
        places = (first_row + row).flatten(), column.repeat(copies)
        positions = torch.arange(at, at + width, device=device)[None]
        spread = decode.fan_out(model, context, count) if copies > 1 else nullcontext()
        with spread, logits_at(model, *places):
            logits = decode.forward(model, state, context, ids, positions)
        if wanted:
            chances = logits[0].unflatten(0, (copies, -1)).float().log_softmax(-1)
            owner = request.expand(copies, -1)
            self.total.scatter_add_(1, owner, chances.gather(-1, target.expand(copies, -1)[..., None])[..., 0])
            missed = (chances.argmax(-1) != target).long()
            self.greedy &= torch.zeros_like(self.greedy, dtype=torch.long).scatter_add_(1, owner, missed) == 0
        return state


def _spread(state: State, texts: int, parents: Tensor) -> State:
    """The rows `parents` of the texts of a state, under each condition; what all conditions share has them once."""

    def pick(x: Tensor) -> Tensor:
        return x[parents] if len(x) == texts else x.unflatten(0, (-1, texts))[:, parents].flatten(0, 1)

    return state.map(pick)  # Jamba's states are written in place; picking makes copies


@contextmanager
def logits_at(model: Hybrid, row: Tensor, column: Tensor) -> Iterator[None]:
    """Logits at these places alone, ``(1, places, vocabulary)``: all of them would take gigabytes.

    The last layer's feed-forward network works for these places alone, too: what it adds elsewhere, nothing reads.
    """
    network = getattr(model.net.model.layers[-1], model.traits.feed_forward or "", None)
    zeros: list[Tensor] = []

    def narrow(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        zeros.append(torch.zeros_like(inputs[0]))
        return (inputs[0][row, column][None],)

    with ExitStack() as hooks:
        vocabulary = model.net.get_output_embeddings()
        hooks.enter_context(vocabulary.register_forward_pre_hook(lambda _, x: (x[0][row, column][None],)))
        if network:
            hooks.enter_context(network.register_forward_pre_hook(narrow))
            widen = network.register_forward_hook(lambda _, __, out: zeros.pop().index_put_((row, column), out[0]))
            hooks.enter_context(widen)
        yield
