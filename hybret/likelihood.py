"""Log-likelihoods of given continuations under several interventions at once: what a benchmark measures.

Nothing is generated here, so everything is prefill. What can be shared is read once: texts that are beginnings of other
texts, the beginning that all texts have in common (the shots of a few-shot prompt), and for several interventions the
layers below the first attention layer, where none of them acts yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import generation
from .attention import Frame, frame
from .batches import Budget, budget_of
from .errors import HybretError
from .generation import Actions, State
from .hooks import only_at, widening, witness
from .interventions import Intervention, Keep, KeepHeads, effective, validate
from .models import Model
from .recipe import Recipe
from .scan import parallel_scans
from .states import all_rows, map_cache, restore_recurrent
from .tracing import implementation

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
    texts, spots = _texts(requests)
    common = _common(texts, requests)
    longest = max(map(len, texts))
    budget = budget or budget_of(model, longest)
    together = common > 0 and generation.first_projection(model) is not None
    found: dict[Actions, dict[int, Answer]] = {actions: {} for actions in distinct}
    with parallel_scans(), implementation(model.net):
        for group in [distinct] if together else [[actions] for actions in distinct]:
            state = _read(model, texts[0][:common], group, recipe, budget)
            for batch in _batches(texts, common, len(group), budget):
                wanted = [(row, spot) for row, text in enumerate(batch) for spot in spots[text]]
                scores = _score(model, state, [texts[text][common:] for text in batch], common, group, recipe,
                                [(row, spot.start - common, spot.tokens) for row, spot in wanted])  # fmt: skip
                for actions, values in zip(group, scores, strict=True):
                    found[actions].update(
                        {spot.request: value for (_, spot), value in zip(wanted, values, strict=True)}
                    )
    return [[found[actions][request] for request in range(len(requests))] for actions in acting]


@dataclass(frozen=True)
class _Spot:
    """Where in a text a request's continuation is predicted: from the logits at `start` on."""

    request: int
    start: int
    tokens: tuple[int, ...]


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


def _texts(requests: Sequence[Request]) -> tuple[list[tuple[int, ...]], dict[int, list[_Spot]]]:
    """The texts to read, longest first, and what each answers; a text that begins another one needs no pass.

    The last token of a continuation is predicted, not read: choices of one token share one text.
    """
    whole = sorted({context + continuation[:-1] for context, continuation in requests}, reverse=True)
    covering: dict[tuple[int, ...], tuple[int, ...]] = {}
    for text in whole:  # in descending order everything that continues a text stands right before it
        last = next(reversed(covering.values()), ())
        covering[text] = last if last[: len(text)] == text else text
    texts = sorted(set(covering.values()), key=lambda text: (-len(text), text))
    place = {text: i for i, text in enumerate(texts)}
    spots: dict[int, list[_Spot]] = {i: [] for i in range(len(texts))}
    for request, (context, continuation) in enumerate(requests):
        text = covering[context + continuation[:-1]]
        spots[place[text]].append(_Spot(request, len(context) - 1, continuation))
    return texts, spots


def _common(texts: Sequence[tuple[int, ...]], requests: Sequence[Request]) -> int:
    """How many first tokens all texts share and nothing is predicted from."""
    low, high = min(texts), max(texts)
    shared = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return min(shared, min(len(context) for context, _ in requests) - 1)


def _batches(texts: Sequence[tuple[int, ...]], common: int, conditions: int, budget: Budget) -> Iterator[list[int]]:
    """Texts that are read together: of similar length, since the shorter ones are padded on the right."""
    batch: list[int] = []
    for i in range(len(texts)):
        rows = (len(batch) + 1) * conditions
        width = len(texts[batch[0] if batch else i]) - common
        if batch and (rows > budget.rows or rows * width > budget.tokens):
            yield batch
            batch = []
        batch.append(i)
    yield batch


def _read(model: Model, ids: tuple[int, ...], group: Sequence[Actions], recipe: Recipe, budget: Budget) -> State:
    """The state after the common beginning, one row for each condition."""
    state = generation.start(model, len(group))
    step = max(1, budget.tokens // len(group))
    ends = [*range(step, len(ids), step), len(ids)] if ids else []
    for end in ends:
        # One token more than is read: `extend` names the token that comes next.
        state = generation.extend(model, state, (*ids, 0), end, group, (), recipe)
    return state


def _score(
    model: Model,
    state: State,
    texts: Sequence[tuple[int, ...]],
    common: int,
    group: Sequence[Actions],
    recipe: Recipe,
    wanted: Sequence[tuple[int, int, tuple[int, ...]]],
) -> list[list[Answer]]:
    """One pass over the rest of some texts under every condition; rows of a condition stand together.

    `wanted` names row, first position and tokens of each continuation.
    """
    net, device, many = model.net, model.device, len(group)
    width = max(map(len, texts))
    ids = torch.tensor([[*text, *[0] * (width - len(text))] for text in texts], device=device)
    here = _spread(state, len(texts))
    # Padding stands on the right, where no token of a causal model sees it, and all rows stand at the same positions:
    # the position of the last column is exact for every row, and no mask is needed.
    last = torch.full((many * len(texts),), common + width - 1, device=device)
    rows = [actions for actions in group for _ in texts]
    now = Frame("prefill", rows, [()] * len(rows), last, recipe, None, True)
    lengths = torch.tensor([len(tokens) for _, _, tokens in wanted], device=device)
    row = torch.tensor([r for r, _, _ in wanted], device=device).repeat_interleave(lengths)
    column = torch.tensor([start + i for _, start, tokens in wanted for i in range(len(tokens))], device=device)
    target = torch.tensor([token for _, _, tokens in wanted for token in tokens], device=device)
    copies = torch.arange(many, device=device)[:, None] * len(texts)
    restore_recurrent(net, here.recurrent)
    with (
        torch.inference_mode(),
        frame(now),
        widening(model, now, len(texts)),
        only_at(model, (copies + row).flatten(), column.repeat(many)),
        witness(model, [_most(actions, model.heads) for actions in rows]),
    ):
        logits = net(
            input_ids=ids,
            position_ids=torch.arange(common, common + width, device=device)[None],
            past_key_values=here.cache,
            use_cache=True,
        ).logits
    logits = logits[0].unflatten(0, (many, -1))
    chances = logits.float().log_softmax(-1)
    each = chances.gather(-1, target.expand(many, -1)[..., None])[..., 0]
    greedy = chances.argmax(-1) == target
    owner = torch.arange(len(wanted), device=device).repeat_interleave(lengths).expand(many, -1)
    total = torch.zeros(many, len(wanted), device=device).scatter_add_(1, owner, each)
    agreed = torch.zeros(many, len(wanted), device=device, dtype=torch.long).scatter_add_(1, owner, greedy.long())
    return [list(zip(t, a, strict=True)) for t, a in zip(total.tolist(), (agreed == lengths).tolist(), strict=True)]


def _spread(state: State, texts: int) -> State:
    """The state for `texts` rows under each condition; what all conditions share gets a row for each text alone."""

    def pick(x: Tensor) -> Tensor:
        return all_rows(x, texts) if len(x) == 1 else x.repeat_interleave(texts, 0)

    # Jamba's states are written in place.
    cache = map_cache([state.cache], lambda tensors: pick(tensors[0]), torch.clone)
    return replace(state, cache=cache, recurrent=[pick(x) for x in state.recurrent])


def _most(actions: Actions, heads: int) -> int:
    """How many heads may write under `actions`."""
    return min([heads, *(a.k for a in actions if isinstance(a, KeepHeads))])
