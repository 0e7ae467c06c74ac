"""Configurations: which layers have attention, and the paper's models at their size."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from hybret import HybretError
from hybret.families import FAMILIES, Family, attention_layers, paper_config, tiny_config


def test_attention_layers_without_heads_are_refused():
    with pytest.raises(HybretError, match="attention layers without heads"):
        attention_layers(SimpleNamespace(layer_types=["full_attention"], num_attention_heads=0), "mine")


@pytest.mark.parametrize(
    ("name", "billions", "heads", "layers", "window"),
    [
        ("google/recurrentgemma-2b", 2.68, 10, 8, 2048),
        ("google/recurrentgemma-9b", 8.58, 16, 12, 2048),
        ("ai21labs/AI21-Jamba-Mini-1.6", 51.57, 32, 4, None),
    ],
)
def test_the_papers_models_have_their_size(name, billions, heads, layers, window):
    config = paper_config(name)
    with torch.device("meta"):  # shapes without memory
        net = AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in net.parameters()) / 1e9 == pytest.approx(billions, abs=0.005)
    found, queries = attention_layers(config, name)
    assert (len(found), queries, getattr(config, "sliding_window", None)) == (layers, heads, window)


def test_a_family_that_transformers_lacks(monkeypatch):
    monkeypatch.setitem(FAMILIES, "griffin_of_tomorrow", Family({}))
    with pytest.raises(HybretError, match="has no family 'griffin_of_tomorrow'; install a newer one"):
        tiny_config("griffin_of_tomorrow", 100)
