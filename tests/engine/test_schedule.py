"""The batches of a sweep: what they hold, what is left of them after a stop, and what there is to compute."""

import dataclasses

import pytest
import torch
from support import resolve

import hybret as hb
from hybret import KeepHeads, Omit, Only, PerPhase
from hybret.engine.schedule import Budget, Timings, run, schedule

CONDITIONS = (hb.Keep(), KeepHeads(2), KeepHeads(1, during="generation"), PerPhase(generation=Only(), prefill=Omit()))


@pytest.fixture
def plan(griffin):
    """The schedule of 9 cells, two of which are one prompt, under 4 conditions, without what is finished."""
    prompts = hb.niah.grid(griffin, (76, 110, 128), (0, 50, 100))
    conditions = [resolve(condition, griffin, hb.CORRECTED) for condition in (*CONDITIONS, CONDITIONS[0])]

    def of(finished=()):
        return schedule(griffin, [*prompts, prompts[0]], conditions, hb.CORRECTED, 4, Budget(8, 300), finished)

    return of


def keys(plan):
    return [key for batch in plan.batches for key in batch.keys]


def answers(model, plan):
    batches = run(model, plan, Timings())
    return {key: ids for batch, tokens, _ in batches for key, ids in zip(batch.keys, tokens, strict=True)}


def test_a_schedule_holds_every_answer_once_and_full_batches(plan):
    every = plan()
    assert len(keys(every)) == len(set(keys(every))) == 8 * 4
    assert [len(batch.rows) for batch in every.batches] == [8, 8, 8, 8]


def test_a_schedule_after_a_stop_has_the_batches_of_before(griffin, plan):
    every = plan()
    after = plan({*every.batches[0].keys, *every.batches[2].keys})
    assert after.batches == (every.batches[1], *every.batches[3:]) and after.jobs == every.jobs
    assert plan(keys(every)).batches == ()
    expected = answers(griffin, every)
    assert answers(griffin, after) == {key: expected[key] for key in keys(after)}
    some = plan(every.batches[0].keys[:1])  # a run with fewer conditions was there: batches are full again
    assert sorted(keys(some)) == sorted(keys(every)[1:]) and answers(griffin, some).items() <= expected.items()


def test_out_of_memory_halves_the_budget_and_keeps_what_is_finished(griffin, plan):
    every, most, ran = plan(), 6, []

    def small(_, inputs, named):
        if len(named["input_ids"]) > most:
            raise torch.OutOfMemoryError("out of memory")

    expected = answers(griffin, every)
    hook = griffin.net.register_forward_pre_hook(small, with_kwargs=True)
    try:
        for batch, tokens, budget in run(griffin, every, Timings()):
            ran += zip(batch.keys, tokens, strict=True)
            assert budget == Budget(4, 150)
        most = 0
        with pytest.raises(hb.HybretError, match="does not fit into the memory of cpu .* use a larger device"):
            list(run(griffin, dataclasses.replace(every, budget=Budget(1, 2)), Timings()))
    finally:
        hook.remove()
    assert len(ran) == len(expected) and dict(ran) == expected
