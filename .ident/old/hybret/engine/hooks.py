"""Hooks of one benchmark pass: many texts under several conditions, few logits, and a look at what the rule did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hybret.engine import generation
from hybret.engine.frame import Frame
from hybret.errors import HybretError
from hybret.models import Model

FEED_FORWARD = ("feed_forward", "mlp_block")
"""Names of a layer's feed-forward network in Jamba and RecurrentGemma."""


@contextmanager
def widening(model: Model, now: Frame, texts: int) -> Iterator[None]:
    """One row for each text up to the outputs of the first attention layer, all rows of the frame from there on.

    `generation.expanding` does this for a single text, whose residual stream of one row is added to any number of rows.
    """
    if len(now.rows) == texts:
        yield
        return
    projection = generation.first_projection(model)
    layer = model.net.model.layers[model.attention_layers[0]]
    attention = next(m for m in layer.modules() if projection in m.children())

    def first(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        """A hook that changes the hidden states among a module's arguments, its only activations."""

        def hook(_: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if inputs:
                return (change(inputs[0]), *inputs[1:]), named
            return inputs, {**named, "hidden_states": change(named["hidden_states"])}

        return hook

    copies = len(now.rows) // texts
    handles = [
        layer.register_forward_pre_hook(first(lambda x: x.repeat(copies, 1, 1)), with_kwargs=True),
        attention.register_forward_pre_hook(first(lambda x: x[:texts]), with_kwargs=True),
    ]
    try:
        with generation.expanding(model, now):
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def only_at(model: Model, row: Tensor, column: Tensor) -> Iterator[None]:
    """Logits at these places alone, ``(1, places, vocabulary)``: all of them would take gigabytes.

    The last layer's feed-forward network works for these places alone, too: what it adds elsewhere, nothing reads.
    """
    layer = model.net.model.layers[-1]
    network = next(m for name, m in layer.named_children() if name in FEED_FORWARD)
    whole: list[Tensor] = []

    def narrow(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        whole.append(torch.zeros_like(inputs[0]))
        return (inputs[0][row, column][None],)

    handles = [
        network.register_forward_pre_hook(narrow),
        network.register_forward_hook(lambda _, __, output: whole.pop().index_put_((row, column), output[0])),
        model.net.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0][row, column][None],)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def witness(model: Model, most: Sequence[int]) -> Iterator[None]:
    """Look at what reaches the output projections: no layer may hear more heads of a token than its row allows.

    A rule that is attached and does nothing would give the numbers of the untouched model in silence.
    """
    projections = [m for n, m in model.net.named_modules() if n.endswith("o_proj")]
    bound = torch.tensor(most, device=model.device)
    heard: list[Tensor] = []

    def look(_: Any, inputs: tuple[Tensor, ...], rows: Tensor) -> None:
        heads = inputs[0][rows].unflatten(-1, (model.heads, -1))
        heard.append(((heads != 0).any(-1).sum(-1).amax(-1) <= bound[rows]).all())

    limited = (bound < model.heads).nonzero()[:, 0]
    handles = [m.register_forward_pre_hook(partial(look, rows=limited)) for m in projections] if len(limited) else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if not len(limited):
        return
    if len(heard) != len(model.attention_layers) or not bool(torch.stack(heard).all()):
        raise HybretError(
            f"the sparsification did not act in every attention layer of {model.name}, so nothing measured here would "
            "mean anything; report the model and the version of transformers"
        )
