"""Figures of one recorded run: attention weights under each manipulation, and the heads kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from hybret.errors import HybretError
from hybret.figures.style import COLOURS, EDGE, INK, NEEDLE, canvas, footnote, styled

MARGIN = 7


def _shown(tokens: Sequence[str]) -> list[str]:
    """Token texts as tick labels: blanks made visible, long ones cut."""
    return [text.strip()[:14] or ("\\n" if "\n" in text else "␣") for text in tokens]


@styled
def weights(
    manipulations: Mapping[str, ArrayLike], needle: tuple[int, int], tokens: Sequence[str], note: str
) -> Figure:
    """Attention weights over the keys under each manipulation (the paper's Figure 1, from a real model).

    Drawn are the needle and `MARGIN` keys on either side; the words of a panel count all keys.

    Parameters
    ----------
    manipulations : manipulation to weights (keys,) of one query, all over the same keys; the first is the original.
    needle : half-open range of the needle's keys.
    tokens : text of every key.
    note : small print: model, prompt, layer, head, step.
    """
    panels = {name: np.asarray(values, dtype=float) for name, values in manipulations.items()}
    original = next(iter(panels.values()))
    keys = len(tokens)
    if not 0 <= needle[0] < needle[1] <= keys or any(values.shape != (keys,) for values in panels.values()):
        raise HybretError(f"give one weight of each manipulation for each of the {keys} tokens, {needle} among them")
    start, end = max(0, needle[0] - MARGIN), min(keys, needle[1] + MARGIN)
    figure = canvas(1.5 + 0.82 * len(panels))
    stack = figure.subplots(len(panels), sharex=True, sharey=True, squeeze=False)[:, 0]
    x = np.arange(start, end)
    for axes, (name, values) in zip(stack, panels.items(), strict=True):
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
    top = max(v[start:end].max() for v in panels.values()) or 1.0
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
    """Entropy of every head at every step, with the heads that entropy-based selection keeps outlined.

    Parameters
    ----------
    entropy : layer to entropies (heads, steps) in bits, as a trace records them.
    kept : layer to booleans of the same shape.
    tokens : the token that each step reads.
    note : small print.
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
