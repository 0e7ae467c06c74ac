"""The double dissociation: both measures, their baseline, and what the chapter says of the models that ship."""

import pytest

import hybret as hb
from book.paper import other_half
from book.paper.chapter import Chapter


@pytest.fixture(scope="module")
def losses(tiny):
    conditions = other_half.whole_parts(tiny) | other_half.random_parts(tiny, 2) | other_half.by_layer(tiny)
    chapter = Chapter("griffin-tiny")
    return other_half.losses(other_half.measure(chapter, tiny, conditions, prompts=3, passages=2))


def test_attention_retrieves_and_recurrent_memory_speaks(losses):
    of = losses.set_index("condition")
    unmodified, blind, forgetful = (
        of.loc[name] for name in ("unmodified", "no attention", "recurrence without memory")
    )
    assert min(unmodified["worth"], forgetful["worth"]) > 2 and abs(blind["worth"]) < 0.15 * unmodified["worth"]
    assert blind["language"] - unmodified["language"] < 0.3 < 1.5 < forgetful["language"] - unmodified["language"]
    assert of.loc["no recurrent layers", "language"] > 5 > forgetful["language"]
    assert ((of["worth_low"] <= of["worth"]) & (of["worth"] <= of["worth_high"])).all()
    assert unmodified["same"] == 1 and (of["prompts"] == 3).all() and (of["passages"] == 2).all()


def test_random_draws_and_layers_are_told_apart(losses, tiny):
    together = other_half.drawn_together(losses)
    random = together[together["condition"].str.startswith(other_half.RANDOM)]
    assert random["condition"].tolist() == [f"{other_half.RANDOM} (2 draws)"]
    drawn = losses[losses["condition"].str.startswith(other_half.RANDOM)]["language"]
    assert random[["language_low", "language", "language_high"]].iloc[0].tolist() == pytest.approx(
        [drawn.min(), drawn.mean(), drawn.max()]
    )
    layers = other_half.lost_by_layer(losses, {tiny.name: tiny.attention_layers})
    assert layers["layer"].tolist() == [*tiny.attention_layers, *tiny.layers_with("recurrence")]
    assert layers.loc[layers["kind"] == "attention", "worth"].max() == layers["worth"].max()
    drawings = other_half.dissociation(together, "griffin-tiny"), other_half.layers(layers, "griffin-tiny")
    assert [len(figure.axes) for figure in drawings] == [1, 2]


def test_a_model_is_asked_only_what_can_act_in_it(griffin, tiny):
    """Draws are as many layers as have attention; a needle beyond the window is none of the prompts."""
    assert set(other_half.by_phase(griffin)) == {
        f"{part} {when}" for part in ("no attention", "recurrence without memory")
        for when in ("while answering", "while reading")
    }  # fmt: skip
    (drawn,) = other_half.random_parts(griffin, 1).values()
    assert isinstance(drawn, hb.Memoryless) and len(drawn.layers) == len(griffin.attention_layers)
    asked = other_half.inside(Chapter("griffin-tiny"), tiny, 500)
    assert 20 < len(asked) < 100
    assert all(len(p.ids) - 1 - p.needle_spans[0][0] < tiny.window for p in asked)
