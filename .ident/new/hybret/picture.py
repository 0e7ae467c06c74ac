"""A model in a notebook: its stack of layers as a picture, for light and dark pages, without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

# Fill, number and dashes of the outline, by what a layer mixes tokens with; lines and words take the page's own colour.
LOOKS = {
    "attention": ("#0072B2", "#fff", "none"),
    "attention and recurrence": ("#CC79A7", "#000", "none"),
    "recurrence": ("none", "currentColor", "none"),
    "convolution": ("none", "currentColor", "3 2"),
    "no mixing": ("none", "currentColor", "1 3"),
}
WIDTH, HEIGHT, GAP = 22, 26, 3  # of a layer, in pixels
PER_ROW = 13  # layers, for a phone


def model_html(name: str, facts: tuple[str, str], layers: Sequence[str]) -> str:
    """A model's name, two sentences on it and on its attention, and a picture of its layers, the first one left."""
    what, attention = map(escape, facts)
    columns, rows = min(len(layers), PER_ROW), -(-len(layers) // PER_ROW)
    width, height = columns * (WIDTH + GAP) + GAP, rows * (HEIGHT + GAP) + GAP
    boxes = legend = ""
    for i, mixer in enumerate(layers):
        x, y = GAP + (i % PER_ROW) * (WIDTH + GAP), GAP + (i // PER_ROW) * (HEIGHT + GAP)
        fill, ink, dashes = LOOKS[mixer]
        boxes += (
            f'<g><title>layer {i}: {mixer}</title><rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="3" '
            f'fill="{fill}" stroke="currentColor" stroke-dasharray="{dashes}"/>'
            f'<text x="{x + WIDTH / 2:g}" y="{y + HEIGHT / 2 + 4:g}" text-anchor="middle" font-size="11" '
            f'fill="{ink}">{i}</text></g>'
        )
    for mixer in (mixer for mixer in LOOKS if mixer in layers):
        legend += (
            '<span style="white-space:nowrap;margin-right:1em"><svg xmlns="http://www.w3.org/2000/svg" '
            'aria-hidden="true" width="12" height="12" style="vertical-align:-1px"><rect x="1" y="1" width="10" '
            f'height="10" rx="2" fill="{LOOKS[mixer][0]}" stroke="currentColor" '
            f'stroke-dasharray="{LOOKS[mixer][2]}"/></svg> {mixer}</span>'
        )
    return (
        f'<div class="hb-model"><b>{escape(name)}</b><br>{what}<br>'
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{attention}" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" style="max-width:100%;height:auto;margin:4px 0;background:none">'
        f"{boxes}</svg><div>{legend}</div>{attention[0].upper()}{attention[1:]}</div>"
    )
