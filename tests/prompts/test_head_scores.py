"""Scores of heads, against a look at the attention weights by hand."""

import pytest
import torch

import hybret as hb
from hybret import HybretError
from hybret.tasks.head_scores import SCORES, head_scores


def of(table, score):
    return table[table["score"] == score].set_index(["layer", "head"])["value"]


def test_scores_are_what_the_heads_did(model):
    """Past the window of the Griffin, two prompts; the attention recorded by hand, head by head and token by token."""
    prompts = hb.niah.grid(model, [76], [0, 60])
    table = head_scores(model, prompts)
    assert list(dict.fromkeys(table["score"])) == list(SCORES)
    assert len(table) == len(SCORES) * model.heads * len(model.attention_layers) and table["value"].notna().all()
    sums = {name: dict.fromkeys(of(table, name).index, 0.0) for name in ("needle", "copied")}
    for prompt in prompts:
        answer = model.tokenizer(prompt.needle.sentence, add_special_tokens=False)["input_ids"]
        ids, (first, end) = [*prompt.ids, *answer], prompt.needle_spans[0]
        with hb.attach(model, weights=True) as trace, hb.phase("prefill", [len(ids) - 2], [prompt.needle_spans]):
            model.net(torch.tensor([ids[:-1]]), use_cache=False)
        for layer, head in sums["needle"]:
            for query, following in enumerate(answer, len(prompt.ids) - 1):
                weights = trace.weights[f"layer {layer}"][0][head, query]
                best = int(weights.argmax())
                sums["needle"][layer, head] += float(weights[first:end].sum()) / len(answer) / len(prompts)
                hit = first <= best < end and ids[best] == following
                sums["copied"][layer, head] += hit / len(answer) / len(prompts)
    for name, values in sums.items():
        assert of(table, name).to_dict() == pytest.approx(values, abs=1e-5)
    assert (of(table, "focus") <= 0).all() and of(table, "focus").nunique() == of(table, "focus").size


def test_what_the_heads_write_is_what_attention_adds_to_the_logits(griffin):
    """Over the heads of the last layer with attention: the output projection of all of them, without its bias."""
    (prompt,) = hb.niah.grid(griffin, [76], [60])
    table = of(head_scores(griffin, [prompt], ["write"]), "write")
    answer = griffin.tokenizer(prompt.needle.sentence, add_special_tokens=False)["input_ids"]
    layer, seen = griffin.attention_layers[-1], []
    projection = next(m for n, m in griffin.net.model.layers[layer].named_modules() if n.endswith("o_proj"))
    hook = projection.register_forward_hook(lambda _m, _i, out: seen.append(out[0]))
    with torch.no_grad(), hook:
        griffin.net(torch.tensor([[*prompt.ids, *answer[:-1]]]), use_cache=False)
    added = seen[0][len(prompt.ids) - 1 :] - projection.bias
    logits = added @ griffin.net.lm_head.weight.T
    own = logits[range(len(answer)), answer] - logits.mean(1)
    assert table[layer].sum() == pytest.approx(float(own.mean()), rel=1e-3)


def test_silencing_a_head_costs_what_its_score_says(griffin):
    prompts = hb.niah.grid(griffin, [76], [60])
    table = head_scores(griffin, prompts, ["ablation"])
    layer, head = table.loc[table["value"].idxmax(), ["layer", "head"]]
    conditions = {"all": hb.Keep(), "one": hb.OmitHeads(((int(layer), int(head)),), during="generation")}
    nats = hb.language.predict(griffin, hb.language.answers(griffin, prompts), conditions).set_index("condition")[
        "nats"
    ]
    assert table["value"].max() == pytest.approx(nats["one"] - nats["all"], abs=1e-6) and table["value"].max() > 0


def test_the_weights_of_a_trained_model_tell_its_heads_that_copy(tiny):
    """The one layer of griffin-tiny whose heads copy stands out by its weights alone, and by what it does."""
    table = head_scores(tiny, hb.niah.grid(tiny, [220], [40]), ["copies", "copied"])
    for score in ("copies", "copied"):
        by_layer = of(table, score).groupby("layer").min(), of(table, score).groupby("layer").max()
        assert by_layer[0][5] > by_layer[1][2]
    named = hb.top_heads(table[table["score"] == "copied"], 4)
    assert {layer for layer, _ in named} == {5}


def test_bad_requests_are_refused(griffin, asleep):
    with pytest.raises(HybretError, match="unknown score 'magic'"):
        head_scores(griffin, hb.niah.grid(griffin, [76], [60]), ["magic"])
    with pytest.raises(HybretError, match="1 prompts have no needle"):
        head_scores(griffin, hb.niah.grid(griffin, [76], control=True), ["focus"])
    with pytest.raises(HybretError, match="there are no prompts"):
        head_scores(griffin, [], ["focus"])
