"""Checkpoints: a configuration that contradicts itself, where transformers would not say so."""

from types import SimpleNamespace

import pytest

from hybret import HybretError
from hybret.checkpoints import check_config


def test_kinds_for_another_number_of_layers_are_refused():
    parts = {"num_attention_heads": 2, "vocab_size": 9, "num_hidden_layers": 3}
    with pytest.raises(HybretError, match="kinds for 2 layers, and num_hidden_layers = 3"):
        check_config("mine", SimpleNamespace(layer_types=["full_attention", "conv"], **parts))
