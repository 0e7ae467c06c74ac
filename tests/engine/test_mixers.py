"""What is done to the recurrent mixers, against transformers' own one-token steps in float64, with states set by hand.

Prompts are longer than the window of the Griffin; the ragged batch reads them in chunks, streams, and holds every
condition at once.
"""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from conftest import random_ids
from support import FAMILIES, STEPS, Probe, resolve
from torch import nn

import hybret as hb
from hybret import CORRECTED, HybretError, KeepHeads, Memoryless, NoConvolution, NoRecurrence, PerPhase
from hybret.engine.likelihood import log_likelihoods
from hybret.engine.state import merge

KINDS = (NoRecurrence, Memoryless, NoConvolution)
DURING = ("both", "prefill", "generation")
CONDITIONS = [
    hb.Keep(), *(kind(during=during) for kind in KINDS for during in DURING),
    Memoryless() & NoConvolution(), KeepHeads(0) & NoRecurrence(),
    Memoryless("generation") & KeepHeads(0, during="prefill"),
    PerPhase(generation=NoRecurrence(), prefill=NoConvolution()),
]  # fmt: skip


def mixers_of(net):
    """By layer: modules with a convolution of their own, and MiniMax's without one."""
    return {
        i: module
        for i, layer in enumerate(net.model.layers)
        for module in layer.modules()
        if any(isinstance(part, nn.Conv1d) for part in module.children()) or "Lightning" in type(module).__name__
    }


def stepwise(model, ids, conditions):
    """Logits of every condition after the prompt and after each answer token: each token is a pass of its own."""
    model = deepcopy(model)
    model.net.double().set_experts_implementation("eager")  # the other one knows no float64
    net, mixers, phase = model.net, mixers_of(model.net), "prefill"
    cache = Probe(model, 12).fresh(len(conditions))

    def rows(kind, layer):
        """The conditions under which something of this kind acts now, as a column for ``(rows, ., .)``."""
        acting = [[a for a in c.at(phase) if isinstance(a, kind)] for c in conditions]
        return torch.tensor([any(layer in (a.layers or [layer]) for a in of_row) for of_row in acting])[:, None, None]

    def states(layer):
        """Where a layer keeps its convolution's and its recurrence's state: the owner and the key of both."""
        if hasattr(mixers[layer], "rg_lru"):
            return (vars(mixers[layer]), "conv1d_state"), (vars(mixers[layer].rg_lru), "recurrent_states")
        if "Lightning" in type(mixers[layer]).__name__:
            return ({}, 0), ({}, 0)
        return (cache.layers[layer].conv_states, 0), (getattr(cache.layers[layer], "recurrent_states", {}), 0)

    def silence(_, __, output, layer):
        first = (output[0] if isinstance(output, tuple) else output).clone()
        for row, condition in enumerate(conditions):
            for action in condition.at(phase):
                if isinstance(action, NoRecurrence) and layer in (action.layers or [layer]):
                    first[row] = 0 if action.instead is None else action.instead.mixers[layer].double()
        return (first, *(output[1:] if isinstance(output, tuple) else ()))

    for layer, module in mixers.items():
        tuples = hasattr(module, "rg_lru") or "Lightning" in type(module).__name__
        module.register_forward_hook(
            lambda m, x, out, layer=layer, t=tuples: silence(m, x, out, layer) if t else silence(m, x, out, layer)[0]
        )
    for layer in model.attention_layers:
        out = next(
            m for n, m in net.model.layers[layer].named_modules() if n.endswith(("o_proj", "self_attn.out_proj"))
        )
        out.register_forward_pre_hook(lambda _, x, layer=layer: (x[0].masked_fill(rows(KeepHeads, layer), 0),))
    token, logits = torch.tensor([ids[:1]] * len(conditions)), []
    for t in range(len(ids) - 1 + STEPS):
        phase, before = "prefill" if t < len(ids) - 1 else "generation", {}
        for layer in mixers:
            for kind, (owner, key) in zip((NoConvolution, Memoryless), states(layer), strict=True):
                if isinstance(owner.get(key), torch.Tensor):
                    before[layer, kind] = owner[key].clone()
                    mask = rows(kind, layer).reshape(-1, *[1] * (owner[key].ndim - 1))
                    owner[key] = owner[key].masked_fill(mask, 0)
        at = torch.full((len(conditions), 1), t)
        with torch.inference_mode():
            out = net(token, past_key_values=cache, use_cache=True, position_ids=at).logits[:, -1]
        for layer in mixers:  # what the convolution did not see is still in its state
            (owner, key), _ = states(layer)
            if (old := before.get((layer, NoConvolution))) is not None:
                owner[key] = torch.cat([old[..., 1:], owner[key][..., -1:]], -1)
        logits += [out] if phase == "generation" else []
        token = torch.tensor([[ids[t + 1]]] * len(conditions)) if phase == "prefill" else out.argmax(-1, keepdim=True)
    return torch.stack(logits, 1)


def errors(model, conditions, lengths, cuts=()):
    """The largest relative error of each condition, alone with weights formed and in one ragged batch; the effects."""
    probe, prompts = Probe(model), [random_ids(model, n, seed=n) for n in lengths]
    acts = [resolve(c, model, CORRECTED) for c in conditions]
    expected = [stepwise(model, ids, conditions) for ids in prompts]
    alone, states = [], []
    for ids in prompts:
        for act in acts if not alone else ():  # the longest one
            state, _ = probe.read(ids, rows=[act.prefill], streaming=False)
            alone.append(probe.decode(state, [act.generation], [ids])[1][:, 0])
        until = [c for c in cuts if c < len(ids) - 1] if model.traits.chunked_prefill else []
        states.append(probe.read(ids, *until, len(ids) - 1, rows=[act.prefill for act in acts])[0])
    rows = [act.generation for act in acts] * len(prompts)
    together = probe.decode(merge(states), rows, [ids for ids in prompts for _ in acts])[1]
    flat = [logits for of_prompt in expected for logits in of_prompt]
    scale, runs = flat[0].std(), zip([*alone, *together.unbind(1)], [*flat[: len(alone)], *flat], strict=True)
    worst = [float((run - wanted).abs().max() / scale) for run, wanted in runs]
    found = {repr(c): max(worst[i :: len(conditions)]) for i, c in enumerate(conditions)}
    return found, [float((flat[i] - flat[0]).abs().max() / scale) for i in range(1, len(conditions))]


def test_every_condition_is_as_with_states_set_by_hand(model):
    means = hb.mean_outputs(model, hb.niah.grid(model, (76,), (50,)))
    more = [NoRecurrence(instead=means), *(kind(layers=(1,)) for kind in KINDS)]
    found, effects = errors(model, [*CONDITIONS, *more], (35, 3), cuts=(9, 10))
    assert max(found.values()) < 1e-3 and min(effects) > 0.01


REFUSED = {"lfm2": (NoRecurrence, Memoryless), "lfm2_moe": (NoRecurrence, Memoryless)}
REFUSED["minimax"] = (Memoryless, NoConvolution)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"recurrent_gemma", "jamba"}))
def test_every_family(family):
    model = hb.load(family, device="cpu")
    can = [kind for kind in KINDS if kind not in REFUSED.get(family, ())]
    found, effects = errors(model, [hb.Keep(), *(kind() for kind in can)], (20, 2), cuts=(8, 9))
    assert max(found.values()) < 1e-3 and min(effects) > 0.005
    for kind in REFUSED.get(family, ()):
        says = f"{kind.__name__.lower()} cannot act in {family}.*: (it has no|hybret cannot)"
        with pytest.raises(HybretError, match=says):
            resolve(kind(), model, CORRECTED)


def test_attached_and_in_a_likelihood(model):
    """Attached, a pass by hand is as the answer of the engine; a continuation is as likely as the pass says."""
    ids, at = random_ids(model, 40), torch.arange(40)[None]
    requests = [(ids[:30], ids[30:32]), (ids[:30], ids[35:37]), (ids[:34], ids[34:36])]
    conditions = [hb.Keep(), KeepHeads(0), *(kind() for kind in KINDS), NoRecurrence() & KeepHeads(2, "random")]
    found = log_likelihoods(model, requests, conditions, CORRECTED)
    for condition, scores in zip(conditions, found, strict=True):
        for (context, answer), (score, _) in zip(requests, scores, strict=True):
            text = torch.tensor([[*context, *answer]])
            for cached in (True, False):
                with hb.attach(model, condition), torch.no_grad(), hb.phase("prefill", [text.shape[1] - 1]):
                    options = {"position_ids": at[:, : text.shape[1]], "use_cache": cached}
                    chances = model.net(text, **options).logits[0].log_softmax(-1)
                expected = sum(float(chances[len(context) - 1 + i, token]) for i, token in enumerate(answer))
                assert score == pytest.approx(expected, abs=2e-4), (condition, cached)
    assert len({round(scores[0][0], 3) for scores in found}) == len(conditions)


def test_means_are_those_of_every_token(model):
    """Sums of what stands before the output projections, and of what the mixers give, in one plain pass per prompt."""
    prompts, sums = hb.niah.grid(model, (76, 100), (50,)), {}

    def add(_, inputs, output, name):
        found = output if name[0] == "mixer" else inputs
        found = found[0] if isinstance(found, tuple) else found
        sums[name] = sums.get(name, 0) + found[0].double().sum(0)

    hooks = [
        *((m, ("mixer", i)) for i, m in mixers_of(model.net).items()),
        *((m, ("heads", i)) for i in model.attention_layers for n, m in model.net.model.layers[i].named_modules()
          if n.endswith("o_proj")),
    ]  # fmt: skip
    hooks = [m.register_forward_hook(lambda m, x, y, name=name: add(m, x, y, name)) for m, name in hooks]
    with torch.inference_mode():
        for prompt in prompts:
            model.net(torch.tensor([prompt.ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    means, tokens = hb.mean_outputs(model, prompts), sum(len(p.ids) for p in prompts)
    for (what, layer), total in sums.items():
        mean = means.mixers[layer] if what == "mixer" else means.heads[layer].flatten()
        torch.testing.assert_close(mean.double(), total / tokens, atol=2e-5, rtol=1e-4)
    assert repr(means) == f"Means(digest='{means.digest}')" and repr(means) in repr(KeepHeads(1, instead=means))
    assert means == hb.mean_outputs(model, prompts) != hb.mean_outputs(model, prompts[:1])
    for condition, says in (
        (KeepHeads(1, instead=replace(means, weights="others")), "has means of another model"),
        (
            KeepHeads(1, instead=means) & hb.OmitHeads(((model.attention_layers[0], 1),)),
            "replace heads differently",
        ),
    ):
        with pytest.raises(HybretError, match=says):
            resolve(condition, model, CORRECTED)
    changed = deepcopy(model)
    with torch.no_grad():
        changed.net.lm_head.weight[0, 0] += 1
    with pytest.raises(HybretError, match="has means of another model"):
        resolve(KeepHeads(1, instead=means), changed, CORRECTED)
    assert hb.mean_outputs(changed, prompts).weights not in (means.weights, model.digest)
    with pytest.raises(HybretError, match="no prompts to take means over"):
        hb.mean_outputs(model, [])


def test_what_cannot_act_is_refused(model, monkeypatch):
    attention = model.attention_layers[0]
    for condition, says in (
        (NoRecurrence(layers=(attention,)), f"layer {attention} is no recurrence layer"),
        (NoConvolution(layers=(attention,)), "is no recurrence or convolution layer"),
        (NoRecurrence() & Memoryless(layers=(1,)), "memoryless in layer 1 beside norecurrence would do nothing"),
    ):
        with pytest.raises(HybretError, match=says):
            resolve(condition, model, CORRECTED)
    resolve(NoRecurrence(layers=(0,)) & Memoryless(layers=(1,)) & NoConvolution("generation", (1,)), model, CORRECTED)
    monkeypatch.setattr("hybret.engine.mixers.NAMES", ())
    with hb.attach(model, NoRecurrence()), pytest.raises(HybretError, match="mixer acted 0 times instead of 1"):
        model.generate("Some words to read.", 2)
    monkeypatch.undo()
    monkeypatch.setattr("hybret.engine.scan._forgetting", lambda _: None)
    with hb.attach(model, Memoryless()), pytest.raises(HybretError, match="was to be reset, and .* did not ask"):
        model.generate("Some words to read.", 2)
