"""How a model shows itself: a line in a terminal, its layers in a notebook."""

import xml.etree.ElementTree as ET

import pytest

import hybret as hb


def drawn(model):
    return ET.fromstring(model._repr_html_().replace("<br>", "<br/>"))


def test_a_model_says_in_one_line_what_it_is(tiny):
    said = repr(tiny)
    assert "\n" not in said and len(said) < 200
    for fact in ("griffin-tiny", "recurrent_gemma", "7.53 M", "float32", "cpu", "2, 5 of 8", "10 heads", "256 tokens"):
        assert fact in said
    assert "random" not in said


@pytest.mark.parametrize("name", ["random-jamba", "falcon_h1", "nemotron_h", "lfm2"])
def test_the_picture_has_every_layer_and_fills_those_with_attention(name):
    model = hb.load(name, device="cpu")
    layers = [g for g in drawn(model).iter() if g.tag.endswith("}g")]
    titles = ["".join(g.itertext()) for g in layers]
    assert len(layers) == model.net.config.num_hidden_layers
    filled = [i for i, g in enumerate(layers) if g[1].get("fill") != "none"]
    assert filled == list(model.attention_layers)
    assert [i for i, title in enumerate(titles) if "attention" in title] == filled
    assert "random weights" in repr(model) and "global attention" in repr(model)
