"""How a model shows itself: one line in a terminal, its stack of layers in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from .engine.placing import Elsewhere
from .errors import printable

if TYPE_CHECKING:
    from .models import Model

# What a layer mixes tokens with, by transformers' name for it; what is not here is attention.
KINDS = {
    "hybrid": "attention and recurrence",
    "linear_attention": "recurrence",
    "recurrent": "recurrence",
    "mamba": "recurrence",
    "conv": "convolution",
    "mlp": "no mixing",
    "moe": "no mixing",
}
# Fill, and dashes of the outline; lines and words take the page's own colour, so that light and dark pages both work.
LOOKS = {
    "attention": ("#0072B2", "none"),
    "attention and recurrence": ("#CC79A7", "none"),
    "recurrence": ("none", "none"),
    "convolution": ("none", "3 2"),
    "no mixing": ("none", "1 3"),
}
WIDTH, HEIGHT, GAP = 22, 26, 3  # of a layer, in pixels
IN_A_ROW = 13  # layers, for a phone; more begin another row


def kinds(model: Model) -> list[str]:
    """What each layer mixes tokens with, from the first layer on: keys of `LOOKS`."""
    config = model.net.config
    named = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or []
    found = [KINDS.get(kind, "attention") for kind in named]
    return found or ["attention"] * config.num_hidden_layers


def counted(parameters: int) -> str:
    """A number of parameters in three digits: ``7.53 M``."""
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if parameters >= unit:
            return f"{parameters / unit:.3g} {name}"
    return str(parameters)


def facts(model: Model) -> tuple[str, str]:
    """What it is, and what its attention is like, in words."""
    away = isinstance(model.net, Elsewhere)
    size = "held by Ray workers" if away else f"{counted(model.parameters)} parameters"
    devices = sorted({str(d) for d in getattr(model.net, "hf_device_map", {}).values()}) or [str(model.device)]
    where = str(model.device) if len(devices) == 1 else f"{len(devices)} devices"
    made_up = ", random weights" if model.made_up else ""
    shared = getattr(model.net.config, "num_key_value_heads", None) or model.heads
    groups = f" (sharing {shared} key-value head{'s' * (shared > 1)})" if shared != model.heads else ""
    window = f"a window of {model.window} tokens" if model.window else "global attention"
    layers = ", ".join(map(str, model.attention_layers))
    return (
        f"{model.family}, {size}, {model.dtype} on {where}{made_up}",
        f"attention in layer{'s' * (len(model.attention_layers) > 1)} {layers} of {len(kinds(model))}: "
        f"{model.heads} heads each{groups}, {window}",
    )


def line(model: Model) -> str:
    """The model in one line."""
    return f"<Model {printable(model.name)}: {'; '.join(facts(model))}>"


def html(model: Model) -> str:
    """The model with a picture of its layers, first layer left; reads on light and dark pages, without scripts."""
    what, attention = map(escape, facts(model))
    stack = kinds(model)
    legend = "".join(
        f'<span style="white-space:nowrap;margin-right:1em">{_box(*LOOKS[kind])} {kind}</span>'
        for kind in LOOKS
        if kind in stack
    )
    return (
        f'<div class="hb-model"><b>{escape(printable(model.name))}</b><br>{what}<br>{_stack(stack, attention)}'
        f"<div>{legend}</div>{attention[0].upper()}{attention[1:]}</div>"
    )


def _stack(stack: list[str], label: str) -> str:
    columns, rows = min(len(stack), IN_A_ROW), -(-len(stack) // IN_A_ROW)
    wide, high = columns * (WIDTH + GAP) + GAP, rows * (HEIGHT + GAP) + GAP
    boxes = []
    for i, kind in enumerate(stack):
        x, y = GAP + (i % IN_A_ROW) * (WIDTH + GAP), GAP + (i // IN_A_ROW) * (HEIGHT + GAP)
        fill, dashes = LOOKS[kind]
        boxes.append(
            f'<g><title>layer {i}: {kind}</title><rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="3" '
            f'fill="{fill}" stroke="currentColor" stroke-dasharray="{dashes}"/>'
            f'<text x="{x + WIDTH / 2:g}" y="{y + HEIGHT / 2 + 4:g}" text-anchor="middle" font-size="11" '
            f'fill="{_ink(fill)}">{i}</text></g>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{label}" viewBox="0 0 {wide} {high}" '
        f'width="{wide}" height="{high}" style="max-width:100%;height:auto;margin:4px 0;background:none">'
        f"{''.join(boxes)}</svg>"
    )


def _box(fill: str, dashes: str) -> str:
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" aria-hidden="true" width="12" height="12" style="vertical-align:-1px">'
        f'<rect x="1" y="1" width="10" height="10" rx="2" fill="{fill}" stroke="currentColor" '
        f'stroke-dasharray="{dashes}"/></svg>'
    )


def _ink(fill: str) -> str:
    return {"#0072B2": "#fff", "#CC79A7": "#000"}.get(fill, "currentColor")
