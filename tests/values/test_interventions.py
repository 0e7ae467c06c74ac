"""Interventions and recipes as values, and one layer of random tensors under them.

What they do to the weights is compared with a second implementation in tests/engine/test_reference.py.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import pandas as pd
import pytest
from support import resolve

import hybret as hb
from hybret import (
    CORRECTED,
    PAPER,
    Binary,
    Compose,
    HybretError,
    Keep,
    KeepHeads,
    Mass,
    Null,
    Omit,
    OmitHeads,
    Only,
    OnlyHeads,
    PerPhase,
)
from hybret.interventions import Elementary

MODEL = SimpleNamespace(heads=6, attention_layers=(2, 5), family="recurrent_gemma")
JAMBA = SimpleNamespace(heads=6, attention_layers=(2, 5), family="jamba")


def test_reprs_and_labels_are_the_keys_of_stored_rows():
    for value, text, label in (
        (Keep(), "Keep()", "keep"),
        (KeepHeads(2), "KeepHeads(k=2, metric='entropy', during='both')", "k=2 (prefill + generation)"),
        (
            KeepHeads(2, "output-norm", "generation"),
            "KeepHeads(k=2, metric='output-norm', during='generation')",
            "k=2, output-norm (generation)",
        ),
        (
            KeepHeads(1, "random", layers=(5, 2), seed=3),
            "KeepHeads(k=1, metric='random', during='both', layers=(2, 5), seed=3)",
            "k=1, random 3 (prefill + generation) in layer 2, 5",
        ),
        (
            OnlyHeads(((5, 1), (2, 0), (5, 1)), layers=(5, 2)),
            "OnlyHeads(heads=((2, 0), (5, 1)), during='both', layers=(2, 5))",
            "onlyheads 2.0, 5.1 in layer 2, 5",
        ),
        (OmitHeads(((2, 0),)), "OmitHeads(heads=((2, 0),), during='both')", "omitheads 2.0"),
        (
            OmitHeads(((2, 0), (2, 1), (2, 2), (2, 3), (5, 0))),
            "OmitHeads(heads=((2, 0), (2, 1), (2, 2), (2, 3), (5, 0)), during='both')",
            "omitheads 2.0, 2.1, 2.2, 2.3, ... (5)",
        ),
        (Omit("prefill"), "Omit(during='prefill')", "omit (prefill)"),
        (Only(), "Only(during='both', renormalise=False)", "only"),
        (Only(also=("self",)), "Only(during='both', renormalise=False, also=('self',))", "only + self"),
        (
            Only("generation", True, ("answer", "self", "answer"), (5, 2, 5)),
            "Only(during='generation', renormalise=True, also=('self', 'answer'), layers=(2, 5))",
            "only (generation) + self + answer in layer 2, 5, renormalised",
        ),
        (Binary(), "Binary(during='both')", "binary"),
        (Null("generation"), "Null(during='generation')", "null (generation)"),
        (Mass(2), "Mass(total=2.0, during='both')", "mass 2"),
        (Mass("needle", "prefill"), "Mass(total='needle', during='prefill')", "mass that on the needle (prefill)"),
        (Omit() & Null(), "Compose(items=(Omit(during='both'), Null(during='both')))", "omit & null"),
        (PerPhase(Null(), Keep()), "PerPhase(generation=Null(during='both'), prefill=Keep())", "Null-Keep"),
    ):
        assert (repr(value), value.label) == (text, label)
        assert eval(text) == value and hash(eval(text)) == hash(value)
        with pytest.raises(AttributeError):
            value.during = "both"


def test_a_static_choice_of_any_table_of_scores():
    pairs = [(layer, head) for layer in (5, 2) for head in range(3)]
    table = pd.DataFrame(pairs, columns=["layer", "head"]).assign(value=[0.5, 0.9, 0.1, 0.5, 0.2, 0.4])
    assert hb.top_heads(table, 2) == ((2, 0), (5, 1)) and hb.top_heads(table, 0) == ()
    assert hb.top_heads(table, 2, per_layer=True) == ((2, 0), (2, 2), (5, 0), (5, 1))
    for wrong, says in (
        (table.drop(columns="value"), "no column 'value'"),
        (pd.concat([table, table]), "a head twice"),
    ):
        with pytest.raises(HybretError, match=says):
            hb.top_heads(wrong, 2)


def test_composition_keeps_order_and_is_flat():
    both = Omit() & KeepHeads(2) & Only("generation")
    assert both == Compose((Omit(), KeepHeads(2), Only("generation")))
    assert both.at("prefill") == (Omit(), KeepHeads(2))
    assert both.at("generation") == (Omit(), KeepHeads(2), Only())


def test_table_1_has_every_pair_once():
    table = hb.table1_conditions()
    assert list(table)[:5] == ["Keep-Keep", "Omit-Keep", "Only-Keep", "Binary-Keep", "Keep-Omit"]
    assert len(table) == 20 and len({(c.at("prefill"), c.at("generation")) for c in table.values()}) == 20
    assert table["Only-Null"] == PerPhase(generation=Only(), prefill=Null())
    assert not any(c.generation == Null() for c in table.values())


def test_what_changes_nothing_is_dropped_and_conditions_that_do_the_same_have_one_key():
    """All heads kept; and the manipulations that the authors' code sets on Jamba and never reads."""
    assert resolve(KeepHeads(6) & Omit(), MODEL, CORRECTED).prefill == (Omit(),)
    every = tuple((layer, head) for layer in (2, 5) for head in range(6))
    assert resolve(OnlyHeads(every) & OnlyHeads(every[6:], layers=(5,)), MODEL, CORRECTED).prefill == ()
    assert resolve(Keep(), MODEL, CORRECTED) == resolve(KeepHeads(6), MODEL, PAPER) == resolve(Omit(), JAMBA, PAPER)
    assert resolve(Omit() & KeepHeads(2), JAMBA, PAPER) == resolve(KeepHeads(2), JAMBA, CORRECTED)
    assert resolve(Omit(), JAMBA, CORRECTED) == resolve(PerPhase(Omit(), Omit("prefill")), MODEL, PAPER)
    assert resolve(Omit("generation"), MODEL, PAPER).key == "() | (Omit(during='both'),)"  # of answers on disk


@dataclass(frozen=True)
class Neither(Elementary):
    """No key mask and no change of weights: the engine would not know what to do."""

    during: str = "both"


@dataclass(frozen=True)
class Bare(hb.Intervention):
    """No part that acts."""


@dataclass(frozen=True)
class NoLayer(hb.KeyMask):
    """It names layers, and none, and its own check takes the place of hybret's."""

    during: str = "both"
    layers: tuple[int, ...] = ()

    def __post_init__(self):
        pass


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (Only(layers=(2, 3)), "layer 3 is no attention layer of this model"),
        (KeepHeads(7), "k is 7, but this model has 6 heads"),
        (KeepHeads(1, layers=(3,)), "layer 3 is no attention layer of this model"),
        (OnlyHeads(((2, 6),)), r"names \(2, 6\), which is no head here; give pairs"),
        (OnlyHeads(((2, 0),), layers=(5,)), "attention layers 5"),
        (OmitHeads(()), "nothing would be silenced"),
        (Omit() & KeepHeads(7, during="generation"), "choose k from 0 to 6"),
        (PerPhase(generation=KeepHeads(7), prefill=Keep()), "k is 7"),
        ("omit", "'omit' is not an intervention"),
        (hb.Intervention(), "is not an intervention"),
        (Neither(), "is not an intervention"),
        (Bare(), "is not an intervention"),
        (NoLayer(), "names no layer"),
    ],
)
def test_what_a_model_cannot_do_is_refused(condition, message):
    with pytest.raises(HybretError, match=message):
        resolve(condition, MODEL, CORRECTED)


def test_another_code_under_the_same_name_is_another_key():
    """Else answers on disk would outlive a change of the class; a digest of hybret's own code is part of every run."""

    def made(arithmetic):
        return dataclass(frozen=True)(type("Scale", (hb.Reweight,), {"weights": arithmetic}))()

    def halves(self, weights, unmodified, keys):
        return weights / 2

    def thirds(self, weights, unmodified, keys):
        return weights / 3

    keys = [resolve(made(arithmetic), MODEL, CORRECTED).key for arithmetic in (halves, thirds, halves)]
    assert keys[0] == keys[2] != keys[1]
    assert "@" in keys[0] and "@" not in resolve(Null(), MODEL, CORRECTED).key


DECISIONS = {
    "insertion": ("character", "token-id"),
    "needle_span": ("exact", "shifted"),
    "needle_copies": ("all", "first"),
    "out_of_window": ("act", "untouched"),
    "binary": ("per-row", "scalar"),
    "entropy_dtype": ("float32", "bfloat16"),
    "entropy_eps": (0.0, 1e-12),
    "tie_break": ("lowest-index", "topk"),
    "prompt_split": ("last-token", "family"),
    "jamba_manipulation": ("acts", "no-op"),
    "rubric": ("table2", "2025-06-23"),
}


def test_the_two_recipes_are_what_text_and_code_say():
    """In full, so that no decision changes its side unseen; a value of neither side is refused."""
    for recipe, side in ((CORRECTED, 0), (PAPER, 1)):
        assert vars(recipe) == {"name": recipe.name} | {name: values[side] for name, values in DECISIONS.items()}
        assert hb.recipe.recipe(recipe.name) is hb.recipe.recipe(recipe) is recipe
    assert list(hb.recipe.RECIPES) == ["PAPER", "CORRECTED"]
    for name in DECISIONS.keys() - {"rubric", "entropy_eps"}:
        with pytest.raises(HybretError, match=f"{name}.* 'other'; choose one of {', '.join(DECISIONS[name])}"):
            CORRECTED.replace(**{name: "other"})
    for field, value in (("entropy_eps", -1e-12), ("entropy_eps", 1), ("name", "mine")):
        with pytest.raises(HybretError, match=field):
            CORRECTED.replace(**{field: value})
    with pytest.raises(AttributeError):
        CORRECTED.binary = "scalar"


def test_recipes_say_what_differs():
    derived = CORRECTED.replace(binary="scalar", entropy_eps=1e-12)
    assert derived.name == "CORRECTED(binary=scalar, entropy_eps=1e-12)"
    assert (derived.binary, derived.entropy_eps, derived.tie_break) == ("scalar", 1e-12, "lowest-index")
    assert len(derived.engine_key) == 12 and derived.engine_key != CORRECTED.engine_key != PAPER.engine_key
    assert CORRECTED.replace(rubric="2025-06-23", insertion="token-id").engine_key == CORRECTED.engine_key
