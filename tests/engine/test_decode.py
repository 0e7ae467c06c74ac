"""Batched decoding against one prompt at a time and transformers' own loop (`hybret.verify` checks states)."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch
from conftest import random_ids

import hybret as hb
from hybret import CORRECTED, PAPER, Binary, Keep, KeepHeads, Null, Omit, Only, PerPhase
from hybret.engine.attach import implementation
from hybret.engine.decode import decode, generate, prefill
from hybret.engine.scan import parallel_scans
from hybret.engine.state import merge
from hybret.resolving import resolve

TOKENS, STEPS = 70, 8
# Ragged: far past the 32-token window, just around it, inside it, and as short as BOS and one token.
LENGTHS = {90: ((70, 80),), 41: ((3, 9), (20, 26)), 33: ((20, 25),), 17: (), 2: ((1, 2),)}
CONDITIONS = {
    "CORRECTED": [
        Keep(),
        KeepHeads(0, during="generation"),
        KeepHeads(2),
        KeepHeads(3, "l2", "generation"),
        Only("prefill"),
        Omit() & KeepHeads(4),
        PerPhase(generation=Binary(), prefill=Null()),
        PerPhase(generation=Only(renormalise=True), prefill=Omit()),
    ],
    "PAPER": [Keep(), KeepHeads(1, "l2"), PerPhase(generation=Only(), prefill=Binary()), Omit("generation")],
}
RECIPES = pytest.mark.parametrize("recipe", [CORRECTED, PAPER], ids=lambda r: r.name)


@pytest.fixture(autouse=True)
def _engine(model):
    """As `sweep` and `Model.generate` run it, but with the stock recurrences (bit-identical to transformers)."""
    with implementation(model.net):
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


@pytest.mark.parametrize("prompt", [2, 5, 33, 70])
def test_keep_is_transformers_own_greedy_decoding(model, prompt):
    ids = random_ids(model, prompt)
    ours = generate(model, ids, Keep(), (), CORRECTED, 40)
    model.net.set_attn_implementation("eager")
    expected = model.net.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=40)[0, prompt:].tolist()
    eos = next((i for i, token in enumerate(expected) if token in model.eos), len(expected))
    assert ours == expected[:eos]
    assert len(set(ours)) > 5


@RECIPES
def test_one_ragged_batch_is_one_prompt_at_a_time(model, cases, recipe, slow):
    expected = slow(model, cases, recipe)
    assert batched(model, cases, recipe) == expected
    if recipe is CORRECTED:  # rows can be told apart
        for (_, spans), row in zip(cases, expected, strict=True):
            assert len({tuple(answer) for answer in row}) >= (len(row) - 1 if len(spans) == 1 else 5)


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
    hook = model.net.register_forward_hook(lambda m, _, out: sizes.append(out.logits.shape[0]))
    try:
        assert batched(ending, cases, recipe) == expected
    finally:
        hook.remove()
    assert len(set(sizes[-STEPS:])) > 1
    ids, spans = cases[0]
    for condition, answer in zip(CONDITIONS[recipe.name][:2], expected[0], strict=False):
        assert generate(ending, ids, condition, spans, recipe, STEPS) == answer


def test_decoding_ends_when_every_row_has_ended(model):
    ids, calls = random_ids(model, 20), []
    first, second = generate(model, ids, Keep(), (), CORRECTED, 2)
    hook = model.net.register_forward_hook(lambda *_: calls.append(1))
    try:
        for recipe in (CORRECTED, PAPER):
            ending = dataclasses.replace(model, eos=frozenset({first}))
            assert generate(ending, ids, Keep(), (), recipe, 40) == []
    finally:
        hook.remove()
    assert len(calls) == (4 if model.family == "recurrent_gemma" else 3)  # Jamba's answer began in prefill under PAPER
    if first != second:
        assert generate(dataclasses.replace(model, eos=frozenset({second})), ids, Keep(), (), CORRECTED, 40) == [first]


def test_the_longest_row_may_end_with_its_first_token(jamba):
    """Under PAPER Jamba's first answer token comes from prefill; what is left of the batch keeps its columns."""
    short, long = random_ids(jamba, 20, seed=1), random_ids(jamba, 45, seed=2)
    with implementation(jamba.net):
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


def test_prompt_split_by_family(model):
    """Heads silenced in generation alone: the first answer token is affected, unless it comes from prefill."""
    ids, by_family = random_ids(model, TOKENS), CORRECTED.replace(prompt_split="family")
    plain, silent = generate(model, ids, Keep(), (), CORRECTED, 3), KeepHeads(0, during="generation")
    last_token, family = (generate(model, ids, silent, (), recipe, 3) for recipe in (CORRECTED, by_family))
    assert last_token[0] != plain[0]
    if model.family == "jamba":
        assert family[0] == plain[0] and family[1:] != plain[1:]
    else:
        assert family == last_token
    assert generate(model, ids, Keep(), (), by_family, 3) == plain  # without an intervention the split changes nothing


def test_parallel_scans_and_the_public_way_answer_alike(model):
    text = "The market opens at nine. " * 12
    ids = model.tokenizer(text).input_ids
    for condition in (Keep(), KeepHeads(0), KeepHeads(2, during="generation")):
        stock = generate(model, ids, condition, (), CORRECTED, 6)
        with parallel_scans():
            assert generate(model, ids, condition, (), CORRECTED, 6) == stock
        with hb.attach(model, condition):
            assert model.generate(text, max_new_tokens=6) == model.tokenizer.decode(stock, skip_special_tokens=True)
