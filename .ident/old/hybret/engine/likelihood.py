"""Log-likelihoods of given continuations under several interventions at once: what a benchmark measures.

Nothing is generated here, so everything is prefill. What can be shared is read once: the beginning that all texts have
in common (the shots of a few-shot prompt), what some texts go on to have in common (a question before its choices, or a
passage before its questions), and for several interventions the layers up to the first attention layer, where none of
them has acted yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from hybret.engine import generation
from hybret.engine.acting import settle
from hybret.engine.batches import Budget, budget_of
from hybret.engine.frame import Frame, frame
from hybret.engine.generation import Actions, State
from hybret.engine.hooks import only_at, widening, witness
from hybret.engine.scan import parallel_scans
from hybret.engine.states import map_cache, recurrent, restore_recurrent
from hybret.engine.tracing import implementation
from hybret.errors import HybretError
from hybret.fitting import effective, validate
from hybret.interventions import Intervention, Keep, KeepHeads
from hybret.models import Model
from hybret.recipe import Recipe

T = TypeVar("T")
Request = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids of a context and of its continuation."""
Answer = tuple[float, bool]
"""Natural logarithm of the continuation's probability, and whether greedy decoding would write it."""


def log_likelihoods(
    model: Model,
    requests: Sequence[Request],
    conditions: Sequence[Intervention],
    recipe: Recipe,
    budget: Budget | None = None,
) -> list[list[Answer]]:
    """Score every continuation under every condition.

    Parameters
    ----------
    model : Model
    requests : sequence of Request
        Contexts hold at least one token (BOS), continuations too.
    conditions : sequence of Intervention
        `Keep` or `KeepHeads`, acting in prefill.
    recipe : Recipe
    budget : Budget, optional
        Rows and tokens, over all conditions, of one pass; default what fits on the device.

    Returns
    -------
    list of list of Answer
        By condition, then by request. Log-softmax and sum are computed in float32, whatever the model's dtype: in bf16
        exact ties between the choices are common.

    Raises
    ------
    HybretError
        A condition that cannot act on a log-likelihood, an empty context or continuation, or (after a pass) an
        attention layer that let through more heads than its condition keeps.
    """
    acting = []
    for condition in conditions:
        check(model, condition)
        acting += effective([condition.at("prefill")], model.family, model.heads, recipe)
    if any(not context or not continuation for context, continuation in requests):
        raise HybretError("a context and its continuation need at least one token each; is there no BOS token?")
    if not requests or not conditions:
        return [[] for _ in conditions]
    # Conditions that do the same are computed once.
    distinct = list(dict.fromkeys(acting))
    texts = _texts(requests)
    common = _common(texts, requests)
    budget = budget or budget_of(model, max(len(text.ids) for text in texts))
    together = common > 0 and generation.first_projection(model) is not None
    found: dict[Actions, list[Answer]] = {}
    with parallel_scans(), implementation(model.net):
        for group in [distinct] if together else [[actions] for actions in distinct]:
            reader = _Reader(model, group, recipe, budget, len(requests))
            reader.read_all(texts, common)
            found |= dict(zip(group, reader.answers(), strict=True))
    return [found[actions] for actions in acting]


@dataclass(frozen=True)
class _Text:
    """A text to read, and what it answers: (request, position, token that is to be predicted there)."""

    ids: tuple[int, ...]
    spots: list[tuple[int, int, int]] = field(default_factory=list)


def check(model: Model, condition: Intervention) -> None:
    """Refuse what cannot act on a log-likelihood.

    Raises
    ------
    HybretError
        An intervention on a needle, one that acts during generation alone, or one that does not fit the model.
    """
    validate(condition, model.heads)
    if not isinstance(condition, (Keep, KeepHeads)):
        raise HybretError(f"{condition!r} cannot be run on a benchmark, whose prompts hold no needle; use KeepHeads")
    if not isinstance(condition, Keep) and not condition.at("prefill"):
        raise HybretError(
            f"{condition!r} would never act: a log-likelihood has no generation steps; use during='both', the paper's "
            "prefill version"
        )


def _texts(requests: Sequence[Request]) -> list[_Text]:
    """The texts to read, in lexicographic order; a text that begins another one needs no pass of its own.

    The last token of a continuation is predicted, not read: choices of one token share one text.
    """
    found: list[_Text] = []
    order = sorted(range(len(requests)), key=lambda i: requests[i][0] + requests[i][1][:-1], reverse=True)
    for request in order:  # in descending order everything that continues a text stands right before it
        context, continuation = requests[request]
        ids = context + continuation[:-1]
        if not found or found[-1].ids[: len(ids)] != ids:
            found.append(_Text(ids))
        found[-1].spots.extend((request, len(context) - 1 + i, token) for i, token in enumerate(continuation))
    return found[::-1]


def _common(texts: Sequence[_Text], requests: Sequence[Request]) -> int:
    """How many first tokens all texts share and nothing is predicted from."""
    return min(_shared(texts[0].ids, texts[-1].ids), min(len(context) for context, _ in requests) - 1)


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _families(texts: Sequence[_Text], common: int) -> Iterator[tuple[int, list[_Text]]]:
    """Texts that share at least a third of what is left of them after the common beginning, and how far they do.

    The choices of a question, if they have several tokens, or questions about one passage. `texts` are in order.
    """
    members: list[_Text] = []
    for text in texts:
        shared = _shared(members[0].ids, text.ids) if members else 0
        if members and 3 * (shared - common) < max(len(text.ids), len(members[0].ids)) - common:
            yield _shared(members[0].ids, members[-1].ids), members
            members = []
        members.append(text)
    yield _shared(members[0].ids, members[-1].ids), members


class _Reader:
    """Reads texts under several conditions at once, and adds up what is predicted in them."""

    def __init__(self, model: Model, group: Sequence[Actions], recipe: Recipe, budget: Budget, requests: int) -> None:
        self.model, self.group, self.recipe, self.budget = model, group, recipe, budget
        self.total = torch.zeros(len(group), requests, device=model.device)
        self.greedy = torch.ones(len(group), requests, dtype=torch.bool, device=model.device)

    def answers(self) -> list[list[Answer]]:
        """By condition, then by request."""
        pairs = zip(self.total.tolist(), self.greedy.tolist(), strict=True)
        return [list(zip(total, greedy, strict=True)) for total, greedy in pairs]

    def read_all(self, texts: Sequence[_Text], common: int) -> None:
        """Read the common beginning, then what several texts share, then the rest of each."""
        start = self._beginning(texts[0].ids[:common])
        families = list(_families(texts, common))
        alone = [(len(only.ids) - common, only) for _, (only, *others) in families if not others]
        for batch in self._batches(alone):
            self._pass(start, 1, [0] * len(batch), batch, common)
        for several in self._batches([(shared - common, (shared, m)) for shared, m in families if len(m) > 1]):
            # A state belongs to the end of a text without padding: all stems end with the shortest one.
            shared = min(shared for shared, _ in several)
            stems = [_Text(m[0].ids[:shared], [spot for text in m for spot in text.spots]) for _, m in several]
            state = self._pass(start, 1, [0] * len(stems), stems, common)
            rests = [(len(text.ids) - shared, (i, text)) for i, (_, members) in enumerate(several) for text in members]
            for part in self._batches(rests):
                self._pass(state, len(stems), [i for i, _ in part], [text for _, text in part], shared)

    def _batches(self, items: Iterable[tuple[int, T]]) -> Iterator[list[T]]:
        """What is read together, of items that come with their tokens: long with long ones, for little padding."""
        batch: list[T] = []
        width = 0
        for tokens, item in sorted(items, key=lambda pair: -pair[0]):
            rows = (len(batch) + 1) * len(self.group)
            if batch and (rows > self.budget.rows or rows * width > self.budget.tokens):
                yield batch
                batch = []
            width = width if batch else tokens
            batch.append(item)
        if batch:
            yield batch

    def _beginning(self, ids: tuple[int, ...]) -> State:
        """The state after the common beginning, one row for each condition."""
        state = generation.start(self.model, len(self.group))
        step = max(1, self.budget.tokens // len(self.group))
        for end in [*range(step, len(ids), step), len(ids)] if ids else []:
            # One token more than is read: `extend` names the token that comes next.
            state = generation.extend(self.model, state, (*ids, 0), end, self.group, (), self.recipe)
        return state

    def _pass(self, state: State, texts_before: int, parents: Sequence[int], texts: Sequence[_Text], at: int) -> State:
        """Read the texts from `at` on, each from the row `parents` of a state of `texts_before` texts.

        Rows of a condition stand together. The state that is returned is one of these texts if they are equally long.
        """
        model, many, count = self.model, len(self.group), len(texts)
        device, width = model.device, max(len(text.ids) for text in texts) - at
        ids = torch.tensor([[*text.ids[at:], *[0] * (width + at - len(text.ids))] for text in texts], device=device)
        here = _spread(state, texts_before, torch.tensor(parents, device=device))
        # Padding stands on the right, where no token of a causal model sees it, and all rows stand at the same
        # positions: that of the last column is exact for every row, and no mask is needed.
        last = torch.full((many * count,), at + width - 1, device=device)
        rows = [actions for actions in self.group for _ in texts]
        now = Frame("prefill", rows, [()] * len(rows), last, self.recipe, None, True)
        wanted = [
            (request, row, position - at, token)
            for row, text in enumerate(texts)
            for request, position, token in text.spots
            if at <= position < len(text.ids)
        ]
        request, row, column, target = torch.tensor(wanted or [(0, 0, 0, 0)], device=device).unbind(1)
        copies = torch.arange(many, device=device)[:, None] * count
        restore_recurrent(model.net, here.recurrent)
        with (
            torch.inference_mode(),
            frame(now),
            widening(model, now, count),
            only_at(model, (copies + row).flatten(), column.repeat(many)),
            witness(model, [_most(actions, model.heads) for actions in rows]),
        ):
            logits = model.net(
                input_ids=ids,
                position_ids=torch.arange(at, at + width, device=device)[None],
                past_key_values=here.cache,
                use_cache=True,
            ).logits
        settle(now, model)
        if wanted:
            chances = logits[0].unflatten(0, (many, -1)).float().log_softmax(-1)
            each = chances.gather(-1, target.expand(many, -1)[..., None])[..., 0]
            owner = request.expand(many, -1)
            self.total.scatter_add_(1, owner, each)
            missed = (chances.argmax(-1) != target).long()
            self.greedy &= torch.zeros_like(self.greedy, dtype=torch.long).scatter_add_(1, owner, missed) == 0
        return replace(here, recurrent=recurrent(model.net))


def _spread(state: State, texts: int, parents: Tensor) -> State:
    """The rows `parents` of the texts of a state, under each condition; what all conditions share has them once."""

    def pick(x: Tensor) -> Tensor:
        return x[parents] if len(x) == texts else x.unflatten(0, (-1, texts))[:, parents].flatten(0, 1)

    # Jamba's states are written in place; picking makes copies.
    cache = map_cache([state.cache], lambda tensors: pick(tensors[0]))
    return replace(state, cache=cache, recurrent=[pick(x) for x in state.recurrent])


def _most(actions: Actions, heads: int) -> int:
    """How many heads may write under `actions`."""
    return min([heads, *(a.k for a in actions if isinstance(a, KeepHeads))])
