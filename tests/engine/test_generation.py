"""Prefill, fork, merge and batched decoding against transformers' own loop and against one prompt at a time."""

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
from hybret.interventions import resolve

TOKENS, SPAN = 70, (40, 50)
STEPS = 8
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


@pytest.fixture(autouse=True)
def _engine(model):
    """As `sweep` and `Model.generate` run it, but with the stock recurrences (bit-identical to transformers)."""
    with implementation(model.net):
        yield


@pytest.fixture
def cases(model):
    return [(random_ids(model, n, seed=n), spans) for n, spans in LENGTHS.items()]


@pytest.fixture(scope="module")
def one_at_a_time():
    """Answers of the slow loop, computed once for each model and recipe."""
    return {}


def slow_answers(store, model, cases, recipe):
    key = (model.name, recipe.name)
    if key not in store:
        store[key] = [
            [generate(model, ids, condition, spans, recipe, STEPS) for condition in CONDITIONS[recipe.name]]
            for ids, spans in cases
        ]
    return store[key]


def batched(model, cases, conditions, recipe, steps=STEPS):
    """All prompts under all conditions at once: prefill shared where it can be, then one ragged batch."""
    conditions = [resolve(condition, model, recipe) for condition in conditions]
    distinct = list(dict.fromkeys(c.prefill for c in conditions))
    fork = torch.tensor([distinct.index(c.prefill) for c in conditions])
    states = [prefill(model, ids, distinct, spans, recipe).select(fork) for ids, spans in cases]
    rows = [c.generation for c in conditions] * len(cases)
    spans = [s for _, s in cases for _ in conditions]
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


def test_conditions_answer_differently(model, cases, one_at_a_time):
    """Otherwise the next tests could not tell rows apart."""
    answers = slow_answers(one_at_a_time, model, cases, CORRECTED)
    for (_, spans), row in zip(cases, answers, strict=True):
        assert len({tuple(a) for a in row}) >= (len(row) - 1 if len(spans) == 1 else 5)


@pytest.mark.parametrize("recipe", [CORRECTED, PAPER], ids=lambda r: r.name)
def test_one_ragged_batch_is_one_prompt_at_a_time(model, cases, recipe, one_at_a_time):
    slow = slow_answers(one_at_a_time, model, cases, recipe)
    assert batched(model, cases, CONDITIONS[recipe.name], recipe) == slow


@pytest.mark.parametrize("recipe", [CORRECTED, PAPER], ids=lambda r: r.name)
def test_rows_that_end_early_leave_the_batch(model, cases, recipe, one_at_a_time):
    """EOS tokens that the rows meet at different steps; what stands before them must not change."""
    slow = slow_answers(one_at_a_time, model, cases, recipe)
    count = Counter(token for row in slow for answer in row for token in set(answer))
    eos = frozenset(token for token, _ in count.most_common(12))
    ending = dataclasses.replace(model, eos=eos)
    expected = [
        [next((answer[:i] for i, token in enumerate(answer) if token in eos), answer) for answer in row] for row in slow
    ]
    lengths = Counter(len(answer) for row in expected for answer in row)
    assert len(lengths) >= 4 and lengths[STEPS] < 0.75 * lengths.total()  # the batch shrinks more than once
    sizes = []
    hook = model.net.register_forward_hook(lambda m, _, out: sizes.append(out.logits.shape[0]))
    try:
        answers = batched(ending, cases, CONDITIONS[recipe.name], recipe)
    finally:
        hook.remove()
    assert answers == expected
    assert len(set(sizes[-STEPS:])) > 1
    ids, spans = cases[0]
    for condition, answer in zip(CONDITIONS[recipe.name][:2], expected[0], strict=False):
        assert generate(ending, ids, condition, spans, recipe, STEPS) == answer


def test_decoding_ends_when_every_row_has_ended(model):
    ids = random_ids(model, 20)
    first, second = generate(model, ids, Keep(), (), CORRECTED, 2)
    calls = []
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


def test_the_state_of_another_prompt_does_not_leak(model):
    """RecurrentGemma keeps recurrent states on its modules; a poisoned one must not reach the next prompt."""
    ids, short = random_ids(model, 30), random_ids(model, 1)
    fresh = [generate(model, i, Keep(), (), CORRECTED, 4) for i in (ids, short)]
    for module in model.net.modules():
        if hasattr(module, "rg_lru"):
            module.rg_lru.recurrent_states = torch.full_like(module.rg_lru.recurrent_states, float("nan"))
            module.conv1d_state = torch.full_like(module.conv1d_state, float("nan"))
    assert [generate(model, i, Keep(), (), CORRECTED, 4) for i in (short, ids)] == fresh[::-1]


def test_a_fork_shares_nothing_with_its_origin(model):
    """Decoding one row of a prefill must not change what another row, or the state itself, answers later."""
    ids = random_ids(model, TOKENS)
    state = prefill(model, ids, [()], (SPAN,), CORRECTED)
    actions = [Keep().at("generation"), KeepHeads(0).at("generation"), Keep().at("generation")]
    answers = [decode(model, state.select(torch.tensor([0])), [a], [(SPAN,)], CORRECTED, STEPS)[0] for a in actions]
    assert answers[0] == answers[2] == generate(model, ids, Keep(), (SPAN,), CORRECTED, STEPS)
    assert answers[1] == generate(model, ids, KeepHeads(0, during="generation"), (SPAN,), CORRECTED, STEPS)
    assert answers[1] != answers[0]


@pytest.fixture
def all_logits(model):
    """Logits of every position of every forward pass, in order, whatever the loop asks for."""
    seen = []

    def ask_for_all(module, args, kwargs):
        return args, {**kwargs, "logits_to_keep": 0}

    hooks = [
        model.net.register_forward_pre_hook(ask_for_all, with_kwargs=True),
        model.net.register_forward_hook(lambda m, _, out: seen.append(out.logits)),
    ]
    yield seen
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("kind", [lambda d: KeepHeads(0, during=d), Omit, Only, Binary, Null])
@pytest.mark.parametrize("recipe", [CORRECTED, PAPER], ids=lambda r: r.name)
def test_the_generation_version_leaves_the_prefill_untouched(model, recipe, kind, all_logits):
    """The last prompt token is the first step of generation, except for Jamba under PAPER, where it is prefill."""
    ids = random_ids(model, TOKENS)
    spans = ((60, 66),)  # inside the window of the last token
    with torch.inference_mode():
        model.net.set_attn_implementation("eager")
        model.net(input_ids=torch.tensor([ids]))
        model.net.set_attn_implementation("hybret")
    plain = all_logits.pop()[0]
    whole = recipe is PAPER and model.family == "jamba"
    first = TOKENS if whole else TOKENS - 1

    generate(model, ids, kind("generation"), spans, recipe, 3)
    acted = torch.cat([x[0] for x in all_logits])
    assert all_logits[0].shape[1] == first and all(x.shape[1] == 1 for x in all_logits[1:])
    torch.testing.assert_close(acted[:first], plain[:first], atol=1e-4, rtol=0)
    if not whole:
        assert not torch.allclose(acted[TOKENS - 1], plain[-1], atol=1e-2)

    all_logits.clear()
    answer = generate(model, ids, kind("prefill"), spans, recipe, 3)
    acted = torch.cat([x[0] for x in all_logits])
    never_read = whole and not isinstance(kind("prefill"), KeepHeads)  # the authors' manipulations on Jamba
    assert torch.allclose(acted[66:first], plain[66:first], atol=1e-4) == never_read
    assert len(answer) == 3


def test_prompt_split_by_family(model):
    """Heads silenced in generation alone: the first answer token is affected, unless it comes from prefill."""
    ids = random_ids(model, TOKENS)
    plain = generate(model, ids, Keep(), (), CORRECTED, 3)
    silent = KeepHeads(0, during="generation")
    last_token = generate(model, ids, silent, (), CORRECTED, 3)
    family = generate(model, ids, silent, (), CORRECTED.replace(prompt_split="family"), 3)
    assert last_token[0] != plain[0]
    if model.family == "jamba":
        assert family[0] == plain[0] and family[1:] != plain[1:]
    else:
        assert family == last_token
    whole = generate(model, ids, Keep(), (), CORRECTED.replace(prompt_split="family"), 3)
    assert whole == plain  # without an intervention the split changes nothing


@pytest.mark.parametrize("action", [Omit(), Only(), Binary(), Null(), Omit() & Only()], ids=repr)
def test_manipulations_of_jamba_follow_the_recipe(model, action):
    ids = random_ids(model, TOKENS)
    spans = ((60, 66),)
    plain = generate(model, ids, Keep(), spans, CORRECTED, 6)
    ignored = model.family == "jamba"
    assert (generate(model, ids, action, spans, CORRECTED.replace(jamba_manipulation="no-op"), 6) == plain) == ignored
    assert generate(model, ids, action, spans, CORRECTED, 6) != plain
    heads = action & KeepHeads(1)  # heads are gated under either recipe
    assert generate(model, ids, heads, spans, CORRECTED.replace(jamba_manipulation="no-op"), 6) != plain


def test_parallel_scans_answer_alike(model):
    ids = random_ids(model, TOKENS)
    for condition in (Keep(), KeepHeads(0), Omit()):
        stock = generate(model, ids, condition, (SPAN,), CORRECTED, 6)
        with parallel_scans():
            assert generate(model, ids, condition, (SPAN,), CORRECTED, 6) == stock


def test_model_generate_is_the_engine(model):
    """The public way, and what `attach` changes about it."""
    text = "The market opens at nine. " * 12
    ids = model.tokenizer(text).input_ids
    for condition in (Keep(), KeepHeads(0), KeepHeads(2, during="generation")):
        expected = model.tokenizer.decode(generate(model, ids, condition, (), CORRECTED, 6), skip_special_tokens=True)
        with hb.attach(model, condition):
            assert model.generate(text, max_new_tokens=6) == expected
    assert model.generate(text, max_new_tokens=6) == model.tokenizer.decode(
        generate(model, ids, Keep(), (), CORRECTED, 6), skip_special_tokens=True
    )


def test_an_answer_never_depends_on_its_neighbours(model, cases):
    """A row alone, beside a longer prompt (so left-padded), and in another order."""
    ids, spans = cases[2]
    longer = cases[0]
    alone = batched(model, [(ids, spans)], [KeepHeads(3)], CORRECTED)
    both = batched(model, [longer, (ids, spans)], [KeepHeads(3)], CORRECTED)
    assert both[1] == alone[0]
    swapped = batched(model, [(ids, spans), longer], [KeepHeads(3)], CORRECTED)
    assert swapped == both[::-1]


def test_the_longest_row_may_end_with_its_first_token(jamba):
    """Under PAPER Jamba's first answer token comes from prefill; what is left of the batch keeps its columns."""
    short, long = random_ids(jamba, 20, seed=1), random_ids(jamba, 45, seed=2)
    rows = [Keep().at("generation")] * 2
    with implementation(jamba.net):
        state = merge([prefill(jamba, ids, [()], (), PAPER) for ids in (short, long)])
        other, first = state.token[:, 0].tolist()
        assert other != first
        ending = dataclasses.replace(jamba, eos=frozenset({first}))
        alone = generate(ending, short, Keep(), (), PAPER, 12)
        state = merge([prefill(jamba, ids, [()], (), PAPER) for ids in (short, long)])
        together = decode(ending, state, rows, [(), ()], PAPER, 12)
    assert together == [alone, []]
