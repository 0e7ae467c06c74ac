"""Log-likelihoods of a benchmark against a forward pass of each request by itself, without anything shared."""

import pytest
import torch
from conftest import random_ids
from support import inputs_of

import hybret as hb
from hybret import CORRECTED, PAPER
from hybret.engine.likelihood import log_likelihoods
from hybret.engine.schedule import Budget


def slow(model, context, continuation, condition, recipe):
    """The obvious way: one text, one condition, eager attention, stock recurrences, all logits."""
    ids = context + continuation
    with hb.attach(model, condition, recipe), torch.no_grad(), hb.phase("prefill", [len(ids) - 2]):
        chances = model.net(torch.tensor([ids[:-1]])).logits[0, len(context) - 1 :].log_softmax(-1)
    target = torch.tensor(continuation)
    return float(chances.gather(-1, target[:, None]).sum()), bool((chances.argmax(-1) == target).all())


def ragged(model, shared=40):
    """Questions of several lengths behind shots that all share; choices of one to three tokens, some alike at first."""
    shots = random_ids(model, shared)
    contexts = [shots + random_ids(model, 3 + 11 * i, seed=i + 1)[1:] for i in range(3)]
    choices = [random_ids(model, 2 + i % 3, seed=50 + i)[1:] for i in range(3)]
    choices.append(choices[2][:2] + (9,))
    return [(context, choice) for context in contexts for choice in choices]


def agree(found, expected):
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=1e-4)


@pytest.mark.parametrize("recipe", [CORRECTED, PAPER], ids=["CORRECTED", "PAPER"])
def test_batches_give_what_single_texts_give(model, recipe):
    requests, conditions = ragged(model), [hb.Keep(), hb.KeepHeads(3), hb.KeepHeads(0)]
    expected = [[slow(model, *request, condition, recipe) for request in requests] for condition in conditions]
    assert len({scores[0] for scores in expected}) == 3, "the conditions make no difference on this model"
    for budget in (None, Budget(8, 60), Budget(1, 1)):
        found = log_likelihoods(model, requests, [*conditions, hb.KeepHeads(model.heads)], recipe, budget)
        assert found.pop() == found[0]  # all heads are the unmodified model
        for scores, wanted in zip(found, expected, strict=True):
            agree(scores, wanted)


def test_choices_of_one_token_cost_one_text(model):
    context = random_ids(model, 20)
    with inputs_of(model.net.model) as read:  # two of its choices go on with the same token: one text answers all three
        log_likelihoods(model, [(context, (5,)), (context, (6,)), (context, (6, 7))], [hb.Keep()], CORRECTED)
    assert [rows for rows, _ in read] == [1, 1]  # the common beginning, and the rest of one text


def passages(model):
    """Passages of several lengths with three questions each, choices of two tokens: sharing on two levels.

    Some requests ask for tokens of the passages themselves, which are predicted where they are read for all questions.
    """
    shots, choices = random_ids(model, 6), [(5, 6), (7, 8), (7, 9)]
    stories = [shots + random_ids(model, 63 - 3 * i, seed=i)[1:] for i in (1, 2, 3)]
    contexts = [story + random_ids(model, 5 + i, seed=10 + i)[1:] for story in stories for i in range(3)]
    within = [(story[:at], story[at : at + 2]) for story in stories for at in (20, len(story) - 2)]
    return within + [(context, choice) for context in contexts for choice in choices]


def test_passages_are_read_once(model):
    requests, conditions = passages(model), [hb.KeepHeads(3), hb.KeepHeads(0)]
    expected = [[slow(model, *request, condition, CORRECTED) for request in requests] for condition in conditions]
    contexts = {context for context, _ in requests[6:]}
    for budget in (None, Budget(2, 40)):
        with inputs_of(model.net.model) as read:
            found = log_likelihoods(model, requests, conditions, CORRECTED, budget)
        assert sum(rows * tokens for rows, tokens in read) < 0.7 * sum(map(len, contexts))
        for scores, wanted in zip(found, expected, strict=True):
            agree(scores, wanted)


def test_what_cannot_act_or_be_read_is_refused(griffin):
    for condition, says in (
        (hb.KeepHeads(2, during="generation"), "would never act"),
        (hb.Omit(), "hold no needle"),
        (hb.KeepHeads(99), "choose k from 0"),
    ):
        with pytest.raises(hb.HybretError, match=says):
            log_likelihoods(griffin, ragged(griffin), [hb.Keep(), condition], CORRECTED)
    with pytest.raises(hb.HybretError, match="at least one token each"):
        log_likelihoods(griffin, [((), (5,))], [hb.Keep()], CORRECTED)
    assert log_likelihoods(griffin, [], [hb.Keep()], CORRECTED) == [[]]


def test_scores_of_a_bfloat16_model_are_float32():
    model = hb.load("random-griffin", device="cpu", dtype="bfloat16")
    scores = torch.tensor([score for score, _ in log_likelihoods(model, ragged(model), [hb.Keep()], CORRECTED)[0]])
    assert (scores != scores.bfloat16()).all()  # in bfloat16 many choices would tie
