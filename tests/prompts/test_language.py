"""Loss and next tokens of given texts, against the slow way: one token at a time under `hybret.attach`."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache

import hybret as hb
from hybret import HybretError, KeepHeads, Null, Omit, Only, PerPhase

CONDITIONS = {
    "all": hb.Keep(), "none": KeepHeads(0), "answering": KeepHeads(2, during="generation"), "reading": Null("prefill"),
    "two": PerPhase(generation=Only(), prefill=Omit()),
}  # fmt: skip


def one_by_one(model, passage, condition, recipe):
    """Loss (nats) and likeliest next token at every token of the continuation."""
    ids, start = [*passage.read, *passage.following], len(passage.read) - 1
    split = len(passage.read) if recipe == "PAPER" and model.family == "jamba" else start
    logits, cache = [], DynamicCache(config=model.net.config)
    with torch.inference_mode(), hb.attach(model, condition, recipe):
        for first, end in [(0, start), *((at, at + 1) for at in range(start, len(ids) - 1))]:
            phase = "prefill" if end <= split else "generation"
            positions = torch.arange(first, end)[None]
            with hb.phase(phase, [end - 1], [passage.spans]):
                out = model.net(
                    torch.tensor([ids[first:end]]), position_ids=positions, past_key_values=cache, use_cache=True
                )
            logits.append(out.logits[0, -1])
    chances = torch.stack(logits[1:]).log_softmax(-1)
    return -chances[range(len(chances)), list(passage.following)], chances.argmax(-1)


@pytest.mark.parametrize("recipe", ["CORRECTED", "PAPER"])
def test_a_continuation_is_predicted_as_one_token_at_a_time(model, recipe):
    """Past the window of the Griffin (32 tokens), with needles, under interventions of either phase.

    In float64: in float32 rounding may send a token of the random Jamba to another expert.
    """
    model = copy.deepcopy(model)
    model.net.double().set_experts_implementation("eager")
    prompts = hb.niah.grid(model, [76], [60], recipe=recipe)
    prose, told = hb.language.prose(model, 1, 70) + hb.language.answers(model, prompts)
    assert len(prose.read) + len(prose.following) == 70 + (model.tokenizer.bos_token_id is not None)
    for passage, labels in ((prose, ["all", "none", "answering"]), (told, [*CONDITIONS])):
        passage = replace(passage, following=passage.following[:10])
        conditions = {label: CONDITIONS[label] for label in labels}
        found = hb.language.predict(model, [passage], conditions, recipe).set_index("condition")
        slow = {label: one_by_one(model, passage, condition, recipe) for label, condition in conditions.items()}
        for label, (nats, best) in slow.items():
            assert found.at[label, "nats"] == pytest.approx(float(nats.mean()), abs=1e-5)
            assert found.at[label, "same"] == pytest.approx(float((best == slow["all"][1]).float().mean()))
        if recipe == "CORRECTED":  # all of them act
            assert found["nats"].nunique() == len(conditions)


def test_equal_texts_are_read_once_and_rows_name_the_weights_that_read_them(griffin):
    """Texts that differ in their kind alone; a model that was changed after loading."""
    model, conditions = copy.deepcopy(griffin), {"all": hb.Keep(), "none": KeepHeads(0)}
    prose = hb.language.prose(model, 2, 40)
    passages = [prose[0], replace(prose[0], kind="again"), prose[1]]
    before = hb.language.predict(model, prose, conditions)
    with torch.no_grad():
        model.net.lm_head.weight[0] += 1
    rows = hb.language.predict(model, passages, conditions)
    twice = [rows[rows["kind"] == kind].query("passage == 0")["nats"].tolist() for kind in ("prose", "again")]
    assert twice[0] == twice[1] and rows["kind"].tolist() == ["prose"] * 2 + ["again"] * 2 + ["prose"] * 2
    assert rows["weights"].unique().tolist() == [model.digest] != before["weights"].unique().tolist()


def test_what_cannot_be_predicted_is_refused(griffin, asleep, tmp_path):
    (tmp_path / "short.txt").write_text("A word or two. " * 50)
    passages = hb.language.prose(griffin, 2, 40)
    with pytest.raises(HybretError, match="acts on the needle, and this prompt has none"):
        hb.language.predict(griffin, passages, {"omit": Omit()})
    with pytest.raises(HybretError, match="there are no passages"):
        hb.language.predict(griffin, [], CONDITIONS)
    with pytest.raises(HybretError, match="ask for fewer"):
        hb.language.prose(griffin, 3, 400, tmp_path)
