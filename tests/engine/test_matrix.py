"""Every intervention, on every path, answers as an independent implementation does: transformers' own generate.

The paths: the dense one of `hybret.attach`; a sweep of one prompt under one condition, whose prefill streams where it
can; and sweeps of ragged batches, in which prompts share their beginnings and conditions the layers below the first
attention layer. Prompts are longer than the window of the Griffin (32 tokens), and the needle leaves it.
"""

from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
from support import inputs_of, resolve

import hybret as hb
from book.speed.stock import answer
from hybret import CORRECTED, Binary, Keep, KeepHeads, Mass, Null, Omit, OmitHeads, Only, OnlyHeads, PerPhase
from hybret.engine.schedule import Budget, Timings

STEPS = 5
CONDITIONS = [
    Keep(), KeepHeads(0), KeepHeads(3), KeepHeads(2, during="generation"), KeepHeads(2, during="prefill"),
    KeepHeads(3, "highest entropy"), KeepHeads(2, "needle"), KeepHeads(2, "needle", "generation") & Omit("prefill"),
    Omit(), Omit("prefill"), Only(), Only(renormalise=True), Only(also=("self",)),
    Only(renormalise=True, also=("self", "first", "question")), Only("prefill", also=("answer",)),
    Binary(), Null("generation"), Null("prefill"), Mass(0.5), Mass("needle", "prefill"),
    Omit() & KeepHeads(3), Only() & Mass(1.0), Binary() & Omit("prefill") & KeepHeads(4),
    PerPhase(generation=Only(), prefill=Binary()), PerPhase(generation=Binary() & Mass(1.0), prefill=Null()),
]  # fmt: skip


def tokens(model, prompts, conditions, **options):
    """Answer tokens by prompt and condition, of a sweep."""
    stages = Timings()
    named = {repr(condition): condition for condition in conditions}
    hb.sweep(model, prompts, named, max_new_tokens=STEPS, progress=False, stages=stages, **options)
    return [
        [stages.tokens[prompt.key, resolve(condition, model, CORRECTED).key] for condition in conditions]
        for prompt in prompts
    ]


@pytest.fixture(scope="module", params=["griffin", "jamba"])
def expected(request):
    """A model, prompts, its conditions, and the independent answers."""
    model = request.getfixturevalue(request.param)
    first, last = model.attention_layers[0], model.attention_layers[-1]
    named = ((first, 1), (first, 3), (last, 0))
    layers = [
        *(kind(layers=(first,)) for kind in (Only, partial(KeepHeads, 1))), Only("generation", layers=(last,)),
        KeepHeads(0, during="generation", layers=(last,)), OnlyHeads(named), OnlyHeads(named[2:], layers=(last,)),
        OnlyHeads((), "prefill"), OmitHeads(named), OmitHeads(named, "generation"),
        OmitHeads(named, "prefill") & Omit(),
    ]  # fmt: skip
    prompts = [*hb.niah.grid(model, (76, 128), (0, 60)), *hb.niah.grid(model, (76,), control=True)][1:4]
    conditions = [*CONDITIONS, *layers]
    return model, prompts, conditions, [[answer(model, p, c, STEPS) for c in conditions] for p in prompts]


def test_the_conditions_can_be_told_apart(expected):
    *_, answers = expected
    assert len({tuple(found) for of_prompt in answers for found in of_prompt}) > 12


def test_dense_and_alone(expected):
    model, prompts, conditions, answers = expected
    for condition, found in zip(conditions, answers[-1], strict=True):
        with hb.attach(model, condition):
            text = model.generate(prompts[-1], STEPS)
        assert text == model.tokenizer.decode(found, skip_special_tokens=True), condition


def test_streamed_and_alone(expected):
    model, prompts, conditions, answers = expected
    for condition, found in zip(conditions, answers[0], strict=True):
        assert tokens(model, prompts[:1], [condition]) == [[found]], condition


@pytest.mark.parametrize("budget", [None, Budget(7, 60)], ids=["one batch", "small batches, prefill in chunks"])
def test_ragged_batches_that_share_what_they_can(expected, budget):
    model, prompts, conditions, answers = expected
    assert tokens(model, prompts, conditions, budget=budget) == answers


def test_rows_that_end_early_leave_the_batch(expected):
    """EOS tokens that the rows meet at different steps; what stands before them must not change."""
    model, prompts, conditions, answers = expected
    count = Counter(token for of_prompt in answers for answer in of_prompt for token in set(answer))
    eos = frozenset(token for token, _ in count.most_common(12))
    ends = [[next((answer[:i] for i, t in enumerate(answer) if t in eos), answer) for answer in row] for row in answers]
    lengths = Counter(len(answer) for row in ends for answer in row)
    assert len(lengths) >= 4 and lengths[STEPS] < 0.75 * lengths.total()  # the batch shrinks more than once
    with inputs_of(model.net) as read:
        assert tokens(replace(model, eos=eos), prompts, conditions) == ends
    assert len({rows for rows, queries in read if queries == 1}) > 1
