"""Figures drawn from one recorded run: attention weights under each manipulation, and the heads kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from hybret.errors import HybretError
from hybret.figures.style import COLOURS, EDGE, INK, NEEDLE, canvas, footnote, styled


def _shown(tokens: Sequence[str]) -> list[str]:
    """Token texts as tick labels: blanks made visible, long ones cut."""
    return [text.strip()[:14] or ("\\n" if "\n" in text else "␣") for text in tokens]


@styled
def weights(
    arms: Mapping[str, ArrayLike], needle: tuple[int, int], tokens: Sequence[str], note: str, margin: int = 7
) -> Figure:
    """Attention weights over the keys under each manipulation (the paper's Figure 1, from a real model).

    Parameters
    ----------
    arms
        Manipulation to weights (keys,) of one query, all over the same keys; the first is the original.
    needle
        Half-open range of the needle's keys.
    tokens
        Text of every key.
    note
        Small print: model, prompt, layer, head, step.
    margin
        Keys shown on either side of the needle; the weight outside this view is written into the panel.

    Raises
    ------
    HybretError
        When the needle lies outside the keys or an arm has another number of keys.
    """
    now = {name: np.asarray(values, dtype=float) for name, values in arms.items()}
    original = next(iter(now.values()))
    keys = len(tokens)
    if not 0 <= needle[0] < needle[1] <= keys or any(v.shape != (keys,) for v in now.values()):
        raise HybretError(f"every arm must have one weight for each of the {keys} tokens, needle {needle} among them")
    start, end = max(0, needle[0] - margin), min(len(original), needle[1] + margin)
    figure = canvas(1.5 + 0.82 * len(now))
    stack = figure.subplots(len(now), sharex=True, sharey=True, squeeze=False)[:, 0]
    x = np.arange(start, end)
    for axes, (name, values) in zip(stack, now.items(), strict=True):
        axes.axvspan(needle[0] - 0.5, needle[1] - 0.5, color=NEEDLE, alpha=0.45, linewidth=0)
        style = {"drawstyle": "steps-mid"}
        axes.plot(x, values[start:end], color=COLOURS[0], label="after the manipulation", **style)
        axes.plot(x, original[start:end], ":", color=COLOURS[1], linewidth=1.3, label="original", **style)
        inside, outside = values[needle[0] : needle[1]].sum(), np.delete(values, np.arange(*needle)).sum()
        axes.set_title(name, loc="left", fontweight="bold", pad=2)
        axes.set_title(
            f"on the needle {100 * inside:.1f} %, on all other tokens {100 * outside:.1f} %",
            loc="right", fontsize=8, color=INK, pad=2,
        )  # fmt: skip
    top = max(v[start:end].max() for v in now.values()) or 1.0
    stack[-1].set(xlim=(start - 0.5, end - 0.5), ylim=(-0.04 * top, 1.12 * top))
    stack[-1].set_xticks(x, _shown(tokens[start:end]), rotation=90)
    stack[-1].tick_params(axis="x", length=0)
    stack[len(stack) // 2].set_ylabel("attention weight (share of 1)")
    stack[-1].set_xlabel("tokens attended to; the needle is yellow")
    figure.legend(*stack[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    footnote(figure, note)
    return figure


@styled
def head_selection(
    entropy: Mapping[str, ArrayLike], kept: Mapping[str, ArrayLike], tokens: Sequence[str], note: str
) -> Figure:
    """What entropy-based selection keeps: entropy of every head at every step, the kept heads outlined.

    Parameters
    ----------
    entropy
        Layer to entropies (heads, steps) in bits, as a trace records them.
    kept
        Layer to booleans of the same shape.
    tokens
        The token that each step reads, one per step.
    note
        Small print.

    Raises
    ------
    HybretError
        When a layer's shapes differ or do not fit the tokens.
    """
    bits = {layer: np.asarray(values, dtype=float) for layer, values in entropy.items()}
    for layer, values in bits.items():
        if values.shape != np.shape(kept.get(layer, ())) or values.shape[1] != len(tokens):
            raise HybretError(f"{layer}: entropy and kept must both be (heads, {len(tokens)} steps)")
    heads = next(iter(bits.values())).shape[0]
    figure = canvas(1.5 + len(bits) * (0.35 + 0.165 * heads))
    stack = figure.subplots(len(bits), sharex=True, squeeze=False)[:, 0]
    top = max(float(values.max()) for values in bits.values()) or 1.0
    for axes, (layer, values) in zip(stack, bits.items(), strict=True):
        mesh = axes.pcolormesh(values, cmap="cividis_r", vmin=0, vmax=top, edgecolors="white", linewidth=0.3)
        for head, step in np.argwhere(np.asarray(kept[layer])):
            axes.add_patch(Rectangle((step + 0.1, head + 0.1), 0.8, 0.8, fill=False, edgecolor=EDGE, linewidth=1.6))
        axes.set(ylim=(heads, 0), yticks=np.arange(0, heads, 2) + 0.5, yticklabels=range(0, heads, 2))
        axes.set_ylabel("head")
        axes.set_title(layer, loc="left", pad=2)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    stack[-1].set_xticks(np.arange(len(tokens)) + 0.5, _shown(tokens), rotation=90)
    stack[-1].set_xlabel("token that the generation step reads (orange frames: heads kept)")
    figure.colorbar(mesh, ax=stack, aspect=30, pad=0.015).set_label("entropy (bits); low = focused")
    footnote(figure, note)
    return figure
