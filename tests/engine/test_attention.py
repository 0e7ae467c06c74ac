"""The registered attention function inside real models: what it leaves alone, what it hides, what it records."""

import math
from types import SimpleNamespace

import pytest
import torch
from conftest import random_ids
from transformers import AttentionInterface

import hybret as hb
from hybret import CORRECTED, PAPER, HybretError, Keep, KeepHeads, Null, Omit
from hybret.engine import attention, decode
from hybret.engine.attach import implementation
from hybret.engine.attention import NAME
from hybret.engine.context import ForwardContext, forward_context
from hybret.engine.gates import head_entropy, keep_lowest

TOKENS, SPAN = 70, (40, 50)


def logits(model, ids):
    """Plain logits of the net as it is now, ``(tokens, vocabulary)``."""
    with torch.inference_mode():
        return model.net(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]


def prefilled(model, ids, intervention, recipe=CORRECTED, spans=(SPAN,), weights=False):
    """Logits of a whole prompt in one forward pass under an intervention, and its trace."""
    with hb.attach(model, intervention, recipe, weights=weights) as trace, hb.phase("prefill", [len(ids) - 1], [spans]):
        return logits(model, ids), trace


def test_what_changes_nothing_is_bit_identical_to_eager(model):
    ids, seen = random_ids(model, TOKENS), []
    plain = logits(model, ids)
    for condition in (Keep(), KeepHeads(model.heads), KeepHeads(model.heads, "output-norm")):
        assert torch.equal(prefilled(model, ids, condition)[0], plain)
    assert not torch.allclose(prefilled(model, ids, KeepHeads(model.heads - 1))[0], plain, atol=1e-3)
    with model.net.register_forward_hook(lambda m, _, out: seen.append(out.logits)):
        answer = decode.generate(model, ids, Keep(), (SPAN,), CORRECTED, 8)
        with implementation(model.net):
            assert decode.generate(model, ids, KeepHeads(model.heads), (SPAN,), CORRECTED, 8) == answer
    assert len(seen) == 18 and all(torch.equal(a, b) for a, b in zip(seen[:9], seen[9:], strict=True))


def test_attach_leaves_nothing_behind(model):
    ids = random_ids(model, 40)
    plain, stock = logits(model, ids), AttentionInterface()["sdpa"]
    with pytest.raises(KeyboardInterrupt), hb.attach(model, Null()):
        model.generate("Some words to read.", max_new_tokens=2)
        assert model.net.config._attn_implementation == NAME
        raise KeyboardInterrupt
    assert model.net.config._attn_implementation == "eager" and AttentionInterface()["sdpa"] is stock
    assert torch.equal(logits(model, ids), plain)


def test_attached_interventions_nest(griffin):
    prompt = "Some words to read."
    answers = {}
    for name, outer, inner in (("keep", Keep(), Keep()), ("null", Null(), Null()), ("nested", Null(), Keep())):
        with hb.attach(griffin, outer):
            with hb.attach(griffin, inner):
                answers[name] = griffin.generate(prompt, 5)
            answers[name + ", after"] = griffin.generate(prompt, 5)
    assert answers["nested"] == answers["keep"] != answers["null"]
    assert answers["nested, after"] == answers["null"]


def test_what_is_not_declared_is_refused(griffin):
    ids = random_ids(griffin, 8)
    with hb.attach(griffin, KeepHeads(1)), pytest.raises(HybretError, match="no declared phase; call model.generate"):
        logits(griffin, ids)
    with pytest.raises(HybretError, match="no intervention is attached"), hb.phase("prefill", [7]):
        logits(griffin, ids)
    with hb.attach(griffin, KeepHeads(1)), pytest.raises(HybretError, match="decoding"), hb.phase("decoding", [7]):
        logits(griffin, ids)
    with hb.attach(griffin, Keep()), hb.phase("prefill", [7, 7]):
        griffin.net(torch.tensor([ids, ids]))  # what is not recorded may be a batch
    logits(griffin, ids)  # and outside of attach it is a plain model again


def test_another_model_runs_freely_while_one_is_attached_and_this_one_afterwards(griffin, jamba):
    plain = {m.name: logits(m, random_ids(m, 8)) for m in (griffin, jamba)}
    with hb.attach(griffin, KeepHeads(1)), implementation(jamba.net):
        assert torch.equal(logits(jamba, random_ids(jamba, 8)), plain[jamba.name])
    with implementation(griffin.net):
        assert torch.equal(logits(griffin, random_ids(griffin, 8)), plain[griffin.name])


@pytest.mark.parametrize("k", [0, 3])
def test_trace_of_an_answer(model, k):
    ids, steps = random_ids(model, TOKENS), 5
    with hb.attach(model, KeepHeads(k), weights=True) as trace, implementation(model.net):
        answer = decode.generate(model, ids, KeepHeads(k), (SPAN,), CORRECTED, steps, trace)
    read = TOKENS - 1 + len(answer)
    assert len(answer) == steps
    names = [f"layer {i}" for i in model.attention_layers]
    assert list(trace.entropy) == list(trace.needle_mass) == list(trace.kept) == list(trace.weights) == names
    for layer in names:
        entropy, mass, kept = trace.entropy[layer], trace.needle_mass[layer], trace.kept[layer]
        assert entropy.shape == mass.shape == kept.shape == (model.heads, read)
        assert (kept.sum(0) == k).all()
        assert (entropy[:, 0] == 0).all() and entropy.min() >= 0
        assert entropy.max() <= math.log2(model.window or read)
        assert (mass[:, : SPAN[0]] == 0).all() and mass.min() >= 0 and mass.max() <= 1 + 1e-5
        assert mass[:, SPAN[0] : TOKENS].max() > 0.05
        dropped = torch.where(kept, float("inf"), entropy).amin(0)
        if k:
            assert (torch.where(kept, entropy, -1.0).amax(0) <= dropped).all()
        prefill, *later = trace.weights[layer]
        assert prefill.shape == (model.heads, TOKENS - 1, TOKENS - 1) and len(later) == len(answer)
        assert torch.equal(prefill.sum(-1) > 0, kept[:, : TOKENS - 1])


def test_recorded_weights_are_those_used(model):
    """Entropy and needle mass are of the unmodified weights, `weights` is what is left after the manipulation."""
    ids = random_ids(model, TOKENS)
    _, plain = prefilled(model, ids, Keep(), weights=True)
    _, omitted = prefilled(model, ids, Omit(), weights=True)
    first = f"layer {model.attention_layers[0]}"  # later layers read what this one writes
    assert torch.equal(plain.entropy[first], omitted.entropy[first])
    assert torch.equal(plain.needle_mass[first], omitted.needle_mass[first])
    inside = plain.weights[first][0][..., slice(*SPAN)]
    torch.testing.assert_close(inside.sum(-1), plain.needle_mass[first])
    assert inside.sum() > 0 == omitted.weights[first][0][..., slice(*SPAN)].sum()


def test_a_batch_cannot_be_traced(griffin):
    ids = random_ids(griffin, 8)
    with hb.attach(griffin, Keep()) as trace, pytest.raises(HybretError, match="one prompt at a time"):
        decode.prefill(griffin, ids, [(), ()], (), CORRECTED, trace)


@pytest.mark.parametrize(("phase", "known"), [("prefill", "streaming"), ("generation", "right_aligned")])
def test_no_mask_is_made_where_it_is_known_what_each_query_sees(phase, known):
    """It would be as large as the weights that such a pass does without."""
    with forward_context(ForwardContext(phase, [()], [()], torch.tensor([3]), CORRECTED, **{known: True})):
        assert attention.mask("whatever transformers passes on") is None


def test_dropout_is_what_is_asked_for_and_for_training_alone():
    def weights(training, **options):
        module = SimpleNamespace(num_key_value_groups=1, training=training, layer_idx=0, config=object())
        return attention.attention(module, x, x, x, None, 1.0, **options)[1]

    x = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0))
    none, everything, plain = weights(True), weights(True, dropout=1.0), weights(False, dropout=1.0)
    assert torch.equal(none, plain) and (plain > 0).all() and not everything.any()


def test_entropies_of_many_rows_are_those_of_each_row():
    weights = torch.rand(40, 32, 1, 300, generator=torch.Generator().manual_seed(0)).softmax(-1)
    rows = [head_entropy(row[None], CORRECTED) for row in weights]
    assert torch.equal(head_entropy(weights, CORRECTED), torch.cat(rows))


@pytest.mark.parametrize("recipe", [CORRECTED, PAPER], ids=lambda r: r.name)
def test_ties_go_to_the_lowest_heads_or_to_whatever_topk_returns(recipe):
    scores, ks = torch.randint(0, 3, (7, 6, 50), generator=torch.Generator().manual_seed(0)).float(), range(7)
    kept, differ = keep_lowest(scores, torch.tensor(ks), recipe), 0
    for row, k in enumerate(ks):
        by_topk = scores[row].topk(k, dim=0, largest=False).indices.T.tolist()
        for token in range(50):
            by_index = sorted(range(6), key=lambda h: (scores[row, h, token].item(), h))[:k]
            expected = by_index if recipe is CORRECTED else by_topk[token]
            assert kept[row, :, token].nonzero()[:, 0].tolist() == sorted(expected)
            differ += set(by_index) != set(by_topk[token])
    assert differ > 0
