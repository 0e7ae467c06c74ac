"""The training curve on a model card: loss, and retrieval as the training's own probe saw it, against tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hybret.figures.style import COLOURS, GREY, canvas, footnote, styled

Lines = Sequence[Mapping[str, Any]]

# Colour, marker, line and marker size of each curve; three of them lie on zero, so their markers must show through.
LOOKS = (
    (COLOURS[0], "o", "-", 3),
    (COLOURS[2], "^", ":", 8),
    (GREY, "D", "--", 2.5),
    (COLOURS[1], "s", "-", 3.5),
)


@styled
def loss_curve(log: Lines, twin: Lines) -> Figure:
    """Loss (nats per token) and exact answers of the probe, against millions of training tokens.

    Parameters
    ----------
    log, twin : lines of the training logs of an organism and of its attention-free twin; a model without one has none.
        With global attention every needle of the probe is "inside".
    """
    window = "outside" in log[0]["probe"]
    inside = " inside the window" if window else ""
    figure = canvas(4.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1))
    for lines, name, colour, marker in ((log, "with attention", *LOOKS[0][:2]), (twin, "twin without", *LOOKS[-1][:2])):
        if not lines:
            continue
        tokens = [line["tokens"] / 1e6 for line in lines]
        above.plot(tokens, [line["loss"] for line in lines], color=colour, marker=marker, markersize=3, label=name)
    losses = [line["loss"] for line in (*log[1:], *twin[1:])]
    top = max([1.5, *(loss + 0.05 for loss in losses)])
    above.set(ylabel="loss (nats per token)", ylim=(min([0.7, *(loss - 0.05 for loss in losses)]), top))
    above.legend(loc="upper right")
    curves = (
        (log, "inside", "all", f"needle{inside}"),
        (log, "inside", "k=0 generation", "the same, k = 0"),
        (log, "outside", "all", "needle outside the window"),
        (twin, "inside", "all", "twin, needle inside"),
    )
    for (lines, group, condition, name), (colour, marker, style, size) in zip(curves, LOOKS, strict=True):
        if not lines or group not in lines[0]["probe"]:
            continue
        rates = [100 * line["probe"][group][condition]["exact"] for line in lines]
        tokens = [line["tokens"] / 1e6 for line in lines]
        below.plot(
            tokens, rates, color=colour, marker=marker, markersize=size, mfc="white" if size > 4 else colour,
            linestyle=style, label=name,
        )  # fmt: skip
    below.set(ylabel="exact answers (%)", ylim=(-4, 104))
    below.legend(loc="center right")
    sizes = [line["probe"]["inside"]["all"]["n"] for line in (*log, *twin)]
    least, most = min(sizes), max(sizes)
    first = max(line["loss"] for line in (log[0], *twin[:1]))
    above_it = f"the first loss lies above the axis ({first:.1f}) · " if first > top else ""
    footnote(
        figure,
        f"{above_it}probe: teacher-forced, n = {least} to {most}{' inside' if window else ''}",
        xlabel="training tokens (millions)",
    )
    return figure


@styled
def save_svg(figure: Figure, path: Path) -> None:
    """Write a figure as SVG, byte for byte the same whenever the figure is the same."""
    figure.savefig(path, metadata={"Date": None, "Creator": "hybret", "Title": path.stem})
