"""Decoding: when a batch ends, and what its state holds; `test_matrix` has the answers."""

import dataclasses

import pytest
import torch
from conftest import random_ids, random_model

import hybret as hb
from hybret import CORRECTED, PAPER, Keep
from hybret.engine.attach import implementation
from hybret.engine.decode import decode, first_o_proj, generate, prefill, prefill_chunk
from hybret.engine.state import empty_state, merge


@pytest.fixture(autouse=True)
def _engine(griffin, jamba):
    """As `sweep` and `Model.generate` run it, but with the stock recurrences (bit-identical to transformers)."""
    with implementation(griffin.net), implementation(jamba.net):
        yield


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


def test_a_family_that_changes_attention_before_its_output_projection_is_refused(monkeypatch):
    model = random_model("random-griffin")  # the shared ones are being listened to here
    prompts, conditions = hb.niah.grid(model, (76,), (0,)), {"k=1": hb.KeepHeads(1), "keep": Keep()}
    projection, call = first_o_proj(model), torch.nn.Linear.__call__
    gated = lambda self, x: call(self, 2 * x if self is projection else x)  # noqa: E731
    monkeypatch.setattr(torch.nn.Linear, "__call__", gated)
    with pytest.raises(hb.HybretError, match="changes what attention gives before its output projection"):
        hb.sweep(model, prompts, conditions, max_new_tokens=1, progress=False)
