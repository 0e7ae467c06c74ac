"""Scores of attention heads: how much each looks like one that retrieves, from prompts or from the weights alone.

`hybret.head_scores` gives one table; `hybret.top_heads` makes of it the heads that `OnlyHeads` and `OmitHeads` name.
The prompts should not be those on which the chosen heads are judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hybret.engine.attach import Trace, attach, phase
from hybret.errors import HybretError, one_of
from hybret.hybrid import Hybrid
from hybret.interventions import Intervention, Keep
from hybret.interventions.heads import OmitHeads
from hybret.prompts import Prompt
from hybret.recipe import CORRECTED, Recipe
from hybret.recipe import recipe as find_recipe
from hybret.tasks.language import Passage, answers, predict

SCORES = ("focus", "needle", "copied", "write", "ablation", "copies", "matches")
LOOKED_UP = 512  # tokens of the vocabulary that the scores from weights try


@torch.no_grad()
def head_scores(
    model: Hybrid,
    prompts: Sequence[Prompt],
    scores: Sequence[str] = SCORES,
    recipe: Recipe | str = CORRECTED,
) -> pd.DataFrame:
    """Score every attention head of a model; more always means more like a head that retrieves.

    The model is fed the right answer after each prompt, and a score is a mean over the answer's tokens and the prompts.

    Parameters
    ----------
    prompts : with a needle, of `hybret.niah.grid`.
    scores : ``"focus"``: the entropy of the weights, in bits, with its sign turned (the paper's choice, static).
        ``"needle"``: the weight on the needle, 0 to 1. ``"copied"``: how often the head looks most at the very token
        that comes next, in the needle (the retrieval score of Wu et al., 2024), 0 to 1. ``"write"``: what the head adds
        to the next token's logit above the mean over the vocabulary, through the output matrices alone (no norm).
        ``"ablation"``: the loss on the answer, in nats per token, that silencing the head while answering adds.
        ``"copies"`` and ``"matches"``: from the weights alone (Olsson et al., 2022), over a fixed sample of the
        vocabulary: how far a token's own logit stands above the others' when the head reads that token, and how far
        a token's own key above the others' for its query, both in standard deviations, without positions and norms.

    Returns
    -------
    pandas.DataFrame
        One row per score and head: score, layer, head, value.
    """
    recipe = find_recipe(recipe)
    scores = [one_of("score", score, SCORES) for score in scores]
    if missing := [p for p in prompts if not p.needle_spans]:
        raise HybretError(f"{len(missing)} prompts have no needle; give those of hybret.niah.grid without control=True")
    if not prompts:
        raise HybretError("there are no prompts; build some with hybret.niah.grid")
    passages = answers(model, prompts)
    found: dict[str, np.ndarray] = {}
    if set(scores) & {"focus", "needle", "copied", "write"}:
        found |= _watched(model, passages, recipe)
    if "ablation" in scores:
        found["ablation"] = _ablated(model, passages, recipe)
    if set(scores) & {"copies", "matches"}:
        found |= _of_weights(model)
    lines = [
        {"score": score, "layer": layer, "head": head, "value": float(value)}
        for score in scores
        for layer, values in zip(model.attention_layers, found[score], strict=True)
        for head, value in enumerate(values)
    ]
    return pd.DataFrame(lines)


def _projection(model: Hybrid, layer: int, name: str) -> Any:
    """A projection of a layer's attention, by its usual name."""
    layers = getattr(getattr(model.net, "model", None), "layers", None)
    found = layers and next((m for n, m in layers[layer].named_modules() if n.split(".")[-1] == name), None)
    if found is None or not hasattr(found, "weight"):
        raise HybretError(f"{model.family} has no {name} in layer {layer}; choose other scores, such as ablation")
    return found


@contextmanager
def _outputs(model: Hybrid) -> Iterator[dict[int, Tensor]]:
    """What the heads of every attention layer give in the last pass, ``(tokens, heads x head_dim)``, by layer."""
    seen: dict[int, Tensor] = {}
    with ExitStack() as hooks:
        for layer in model.attention_layers:
            projection = _projection(model, layer, "o_proj")
            keep = lambda _, inputs, at=layer: seen.update({at: inputs[0][0]})  # noqa: E731
            hooks.enter_context(projection.register_forward_pre_hook(keep))
        yield seen


def _watched(model: Hybrid, passages: Sequence[Passage], recipe: Recipe) -> dict[str, np.ndarray]:
    """The scores that one pass over each prompt and its answer gives, each ``(attention layers, heads)``."""
    sums: dict[str, np.ndarray] = {}
    for passage in passages:
        ids = [*passage.read, *passage.following]
        with (
            _outputs(model) as outputs,
            attach(model, Keep(), recipe, weights=True) as trace,
            phase("prefill", [len(ids) - 2], [passage.spans]),
        ):
            model.net(torch.tensor([ids[:-1]], device=model.device), use_cache=False)
        for row, layer in enumerate(model.attention_layers):
            for name, value in _one_layer(model, trace, outputs[layer], layer, passage).items():
                table = sums.setdefault(name, np.zeros((len(model.attention_layers), model.heads), np.float32))
                table[row] += (value / len(passages)).numpy()
    return sums


def _one_layer(model: Hybrid, trace: Trace, outputs: Tensor, layer: int, passage: Passage) -> dict[str, Tensor]:
    """Means over the answer's tokens, each ``(heads,)``; `outputs` are ``(tokens, heads x head_dim)``."""
    name, start = f"layer {layer}", len(passage.read) - 1
    following = torch.tensor(passage.following)
    first = trace.weights[name][0][:, start:].argmax(-1)  # (heads, answer tokens)
    looked = torch.tensor([*passage.read, *passage.following])[first] == following
    inside = sum(((first >= a) & (first < b) for a, b in passage.spans), torch.zeros_like(looked)) > 0
    output = outputs[start:].float().unflatten(-1, (model.heads, -1))
    into = _projection(model, layer, "o_proj").weight.float().unflatten(1, (model.heads, -1))
    unembedding = model.net.get_output_embeddings().weight.float()
    wanted = unembedding[following.to(unembedding.device)] - unembedding.mean(0)
    return {
        "focus": -trace.entropy[name][:, start:].mean(-1),
        "needle": trace.needle_mass[name][:, start:].mean(-1),
        "copied": (looked & inside).float().mean(-1),
        "write": torch.einsum("thd,mhd,tm->h", output, into, wanted).cpu() / len(following),
    }


def _ablated(model: Hybrid, passages: Sequence[Passage], recipe: Recipe) -> np.ndarray:
    heads = product(model.attention_layers, range(model.heads))
    conditions: dict[str, Intervention] = {str(pair): OmitHeads((pair,), during="generation") for pair in heads}
    rows = predict(model, passages, {"all": Keep(), **conditions}, recipe)
    means = rows.groupby("condition")["nats"].mean()
    return (means[[*conditions]] - means["all"]).to_numpy().reshape(-1, model.heads)


def _of_weights(model: Hybrid) -> dict[str, np.ndarray]:
    embedding, unembedding = (
        m.weight.float() for m in (model.net.get_input_embeddings(), model.net.get_output_embeddings())
    )
    generator = torch.Generator().manual_seed(0)
    taken = torch.randperm(len(unembedding), generator=generator)[:LOOKED_UP].to(unembedding.device)
    read = embedding[taken] / embedding[taken].square().mean(-1, keepdim=True).sqrt()
    copies, matches = np.zeros((2, len(model.attention_layers), model.heads))
    for row, layer in enumerate(model.attention_layers):
        query, key, value, into = (
            _projection(model, layer, name).weight.float() for name in ("q_proj", "k_proj", "v_proj", "o_proj")
        )
        per_head = query.unflatten(0, (model.heads, -1))
        shared = [
            x.unflatten(0, (-1, per_head.shape[1])).repeat_interleave(model.heads * per_head.shape[1] // len(x), 0)
            for x in (key, value)
        ]
        outs = into.unflatten(1, (model.heads, -1))
        for head in range(model.heads):
            logits = read @ shared[1][head].T @ outs[:, head].T @ unembedding[taken].T
            scores = (read @ per_head[head].T) @ (read @ shared[0][head].T).T
            copies[row, head], matches[row, head] = _own(logits), _own(scores)
    return {"copies": copies, "matches": matches}


def _own(scores: Tensor) -> float:
    """How far each row's own column stands above its row, in standard deviations of the row; the mean over rows."""
    return float(((scores.diagonal() - scores.mean(1)) / scores.std(1).clamp_min(1e-12)).mean())
