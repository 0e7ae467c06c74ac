"""Batched decoding against one prompt at a time and transformers' own loop (`hybret.verify` checks states)."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch
from conftest import random_ids
from support import resolve

import hybret as hb
from hybret import CORRECTED, PAPER, Binary, Keep, KeepHeads, Null, Omit, Only, PerPhase
from hybret.engine.attach import implementation
from hybret.engine.decode import decode, generate, prefill, prefill_chunk
from hybret.engine.state import empty_state, merge

STEPS = 8
# Ragged: far past the 32-token window, just around it, inside it, and as short as BOS and one token.
LENGTHS = {90: ((70, 80),), 41: ((3, 9), (20, 26)), 33: ((20, 25),), 17: (), 2: ((1, 2),)}
CONDITIONS = {
    "CORRECTED": [
        Keep(), KeepHeads(0, during="generation"), KeepHeads(3, "output-norm", "generation"), Omit() & KeepHeads(4),
        PerPhase(generation=Binary(), prefill=Null()), PerPhase(generation=Only(renormalise=True), prefill=Omit()),
    ],
    "PAPER": [Keep(), KeepHeads(1, "output-norm"), PerPhase(generation=Only(), prefill=Binary()), Omit("generation")],
}  # fmt: skip
RECIPES = pytest.mark.parametrize("recipe", [CORRECTED, PAPER], ids=lambda r: r.name)


@pytest.fixture(autouse=True)
def _engine(griffin, jamba):
    """As `sweep` and `Model.generate` run it, but with the stock recurrences (bit-identical to transformers)."""
    with implementation(griffin.net), implementation(jamba.net):
        yield


@pytest.fixture
def cases(model):
    return [(random_ids(model, n, seed=n), spans) for n, spans in LENGTHS.items()]


@pytest.fixture(scope="module")
def slow(request):
    """Answers of the slow loop, computed once for each model and recipe."""
    store = {}

    def answers(model, cases, recipe):
        if (key := (model.name, recipe.name)) not in store:
            store[key] = [
                [generate(model, ids, condition, spans, recipe, STEPS) for condition in CONDITIONS[recipe.name]]
                for ids, spans in cases
            ]
        return store[key]

    return answers


def batched(model, cases, recipe, steps=STEPS):
    """All prompts under all conditions at once: prefill shared where it can be, then one ragged batch."""
    conditions = [resolve(condition, model, recipe) for condition in CONDITIONS[recipe.name]]
    distinct = list(dict.fromkeys(c.prefill for c in conditions))
    fork = torch.tensor([distinct.index(c.prefill) for c in conditions])
    states = [prefill(model, ids, distinct, spans, recipe).select(fork) for ids, spans in cases]
    rows, spans = [c.generation for c in conditions] * len(cases), [s for _, s in cases for _ in conditions]
    answers = decode(model, merge(states), rows, spans, recipe, steps)
    return [answers[i : i + len(conditions)] for i in range(0, len(answers), len(conditions))]


@RECIPES
def test_one_ragged_batch_is_one_prompt_at_a_time(model, cases, recipe, slow):
    expected = slow(model, cases, recipe)
    assert batched(model, cases, recipe) == expected
    if recipe is CORRECTED:  # rows can be told apart
        for (_, spans), row in zip(cases, expected, strict=True):
            assert len({tuple(answer) for answer in row}) >= (len(row) - 1 if len(spans) == 1 else 4)


@RECIPES
def test_rows_that_end_early_leave_the_batch(model, cases, recipe, slow):
    """EOS tokens that the rows meet at different steps; what stands before them must not change."""
    answers = slow(model, cases, recipe)
    count = Counter(token for row in answers for answer in row for token in set(answer))
    eos = frozenset(token for token, _ in count.most_common(12))
    ending = dataclasses.replace(model, eos=eos)
    expected = [
        [next((answer[:i] for i, token in enumerate(answer) if token in eos), answer) for answer in row]
        for row in answers
    ]
    lengths = Counter(len(answer) for row in expected for answer in row)
    assert len(lengths) >= 4 and lengths[STEPS] < 0.75 * lengths.total()  # the batch shrinks more than once
    sizes = []
    with model.net.register_forward_hook(lambda m, _, out: sizes.append(out.logits.shape[0])):
        assert batched(ending, cases, recipe) == expected
    assert len(set(sizes[-STEPS:])) > 1
    ids, spans = cases[0]
    for condition, answer in zip(CONDITIONS[recipe.name][:2], expected[0], strict=False):
        assert generate(ending, ids, condition, spans, recipe, STEPS) == answer


def test_decoding_ends_when_every_row_has_ended(model):
    ids, calls = random_ids(model, 20), []
    first, second = generate(model, ids, Keep(), (), CORRECTED, 2)
    with model.net.register_forward_hook(lambda *_: calls.append(1)):
        for recipe in (CORRECTED, PAPER):
            ending = dataclasses.replace(model, eos=frozenset({first}))
            assert generate(ending, ids, Keep(), (), recipe, 40) == []
    assert len(calls) == (4 if model.family == "recurrent_gemma" else 3)  # Jamba's answer began in prefill under PAPER
    if first != second:
        assert generate(dataclasses.replace(model, eos=frozenset({second})), ids, Keep(), (), CORRECTED, 40) == [first]


def test_the_longest_row_may_end_with_its_first_token(jamba):
    """Under PAPER Jamba's first answer token comes from prefill; what is left of the batch keeps its columns."""
    short, long = random_ids(jamba, 20, seed=1), random_ids(jamba, 45, seed=2)
    state = merge([prefill(jamba, ids, [()], (), PAPER) for ids in (short, long)])
    other, first = state.token[:, 0].tolist()
    assert other != first
    ending = dataclasses.replace(jamba, eos=frozenset({first}))
    alone = generate(ending, short, Keep(), (), PAPER, 12)
    assert decode(ending, state, [(), ()], [(), ()], PAPER, 12) == [alone, []]


def test_the_state_of_another_prompt_does_not_leak(model):
    """RecurrentGemma keeps recurrent states on its modules; a poisoned one must not reach the next prompt."""
    ids, short = random_ids(model, 30), random_ids(model, 1)
    fresh = [generate(model, i, Keep(), (), CORRECTED, 4) for i in (ids, short)]
    for module in model.net.modules():
        if hasattr(module, "rg_lru"):
            module.rg_lru.recurrent_states = torch.full_like(module.rg_lru.recurrent_states, float("nan"))
            module.conv1d_state = torch.full_like(module.conv1d_state, float("nan"))
    assert [generate(model, i, Keep(), (), CORRECTED, 4) for i in (short, ids)] == fresh[::-1]


def test_a_state_may_be_spread_over_devices(jamba):
    """Another device without one: mixing its tensors with the CPU's raises."""
    state, elsewhere = prefill(jamba, random_ids(jamba, 12), [()], (), CORRECTED), torch.device("meta")
    for layer in state.cache.layers[4:]:
        for name in ("keys", "values"):
            if isinstance(getattr(layer, name, None), torch.Tensor):
                setattr(layer, name, getattr(layer, name).to(elsewhere))
    merged = merge([state.select(torch.tensor([0, 0])), state.select(torch.tensor([0]))]).preallocate(3)
    room = merged.cache.layers[4].key_room
    assert (room.device, len(room)) == (elsewhere, 3)


def test_a_family_whose_recurrence_would_start_from_zero_is_read_in_one_pass():
    model = hb.load("zamba", device="cpu")
    ids = random_ids(model, 60)
    state = prefill_chunk(model, empty_state(model, 1), ids, 20, [()], (), CORRECTED)
    with pytest.raises(hb.HybretError, match="cannot read on in a prompt with zamba"):
        prefill_chunk(model, state, ids, 40, [()], (), CORRECTED)
