"""Interventions from outside the package, as CONTRIBUTING shows them: in a sweep, attached, streamed, guarded."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import hybret as hb
from hybret import KeyMask, Reweight


@dataclass(frozen=True)
class Strided(KeyMask):
    """See the prompt's first token and every `step`-th one."""

    step: int = 2
    layers: tuple[int, ...] | None = None
    during: str = "both"

    def visible(self, keys) -> Tensor:
        return keys.position % self.step == 0


@dataclass(frozen=True)
class Sharpen(Reweight):
    """Raise the weights to a power and give them their sum back: a temperature after the softmax."""

    power: float
    during: str = "both"

    def weights(self, weights: Tensor, unmodified: Tensor, keys) -> Tensor:
        raised = weights**self.power
        return raised * (weights.sum(-1, keepdim=True) / raised.sum(-1, keepdim=True).clamp_min(1e-30))


@dataclass(frozen=True)
class Hide(KeyMask):
    """What Omit does."""

    during: str = "both"
    needs = {"needle"}

    def visible(self, keys) -> Tensor:
        return ~keys.needle


@dataclass(frozen=True)
class HideSlowly(Hide):
    """What Omit does, by an arithmetic of its own on the weights: it cannot stream."""

    def weights(self, weights: Tensor, unmodified: Tensor, keys) -> Tensor:
        return weights - weights * keys.needle[:, None, None]


def answers(model, prompts, conditions, **options):
    rows = hb.sweep(model, prompts, conditions, max_new_tokens=5, progress=False, **options)
    return rows.set_index(["condition", "prompt"])["answer"].unstack(0)


def test_it_gives_in_a_sweep_what_it_gives_alone_streamed_or_not(model):
    """A key mask streams and any other change forms the weights; the answers are those of the dense loop."""
    prompts = hb.niah.grid(model, (76, 128), (100,))
    conditions = {
        "keep": hb.Keep(),
        "omit": hb.Omit(),
        "hide": Hide(),
        "hide slowly": HideSlowly(),
        "strided": Strided(),
        "sharp": Sharpen(4.0),
        "unchanged": Sharpen(1.0),
        "both": Strided() & hb.KeepHeads(2) & Sharpen(2.0),
        "phases": hb.PerPhase(generation=Strided(), prefill=Sharpen(3.0)),
    }
    found = answers(model, prompts, conditions)
    assert (found["hide"] == found["omit"]).all() and (found["hide slowly"] == found["omit"]).all()
    assert (found["unchanged"] == found["keep"]).all()
    for name in ("strided", "sharp", "both", "phases"):
        assert (found[name] != found["keep"]).any()
    for label, condition in conditions.items():
        with hb.attach(model, condition):
            assert model.generate(prompts[1], 5) == found.loc[prompts[1].key, label]
    assert [c.streams for c in (Hide(), Strided(), HideSlowly(), Sharpen(2.0))] == [True, True, False, False]


def test_attached_it_acts_in_the_layers_that_it_names(griffin):
    ids = torch.tensor([list(range(3, 40))])
    with hb.attach(griffin, Strided(layers=(2,)), weights=True) as trace, hb.phase("prefill", [36]):
        griffin.net(ids)
    assert not trace.weights["layer 2"][0][..., 1::2].any() and trace.weights["layer 5"][0][..., 1::2].any()
    assert Strided().label == "strided" and repr(Sharpen(2.0, "prefill")) == "Sharpen(power=2.0, during='prefill')"


def test_every_guard_holds_for_it(griffin):
    (prompt,) = hb.niah.grid(griffin, (76,), (60,))

    @dataclass(frozen=True)
    class Typo(KeyMask):
        needs = {"needles"}

    @dataclass(frozen=True)
    class Asks(Hide):
        needs = {"question"}

    class Loose(KeyMask):  # no value: it cannot be the key of a row
        pass

    @dataclass(frozen=True)
    class SomeHeads(hb.KeepHeads):
        layers: tuple[int, ...] | None = (4,)

    @dataclass(frozen=True)
    class Flat(Reweight):
        def weights(self, weights, unmodified, keys):
            return weights.mean(-1, keepdim=True)

    for condition, problem in (
        (SomeHeads(1), "layer 4 is no attention layer"),
        (Flat(), "makes weights"),
        (hb.PerPhase(generation=Strided(during="prefill"), prefill=hb.Keep()), "would never act in"),
        (Strided(layers=(3,)), "layer 3 is no attention layer"),
        (Typo(), "needs 'needles'"),
        (Loose(), "is not an intervention"),
    ):
        with pytest.raises(hb.HybretError, match=problem):
            hb.sweep(griffin, [prompt], {"own": condition})
    for condition, problem in ((Hide("generation"), "hide.* acts on the needle"), (Asks(), "needs the question")):
        with hb.attach(griffin, condition), pytest.raises(hb.HybretError, match=problem):
            griffin.generate("No needle anywhere, and no question.", 2)
