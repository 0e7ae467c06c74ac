"""A hybrid model as data: network, tokenizer, what its configuration says of its attention, and its weights' digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hybret.errors import HybretError, printable
from hybret.families import Family, has_random_weights, mixers, traits
from hybret.files import digest

PAPER_LENGTHS = (250, 677, 1105, 1532, 1959, 2387, 2814, 3241, 3669, 4096)
PAPER_BUFFER = 200
# The paper's longest prompt is two windows; so is the organisms'. The shortest holds the needle and some prose.
ORGANISM_LENGTHS = (128, 171, 213, 256, 299, 341, 384, 427, 469, 512)
ORGANISM_BUFFER = 40

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

Sums = tuple[dict[str, Any], dict[str, Any]]
WORDS = 4096  # of a row of `checksum`
ODD = (-7046029254386353131, -4658895280553007687)


@dataclass
class Hybrid:
    """A hybrid that is ready to be measured.

    Attributes
    ----------
    net : the transformers.PreTrainedModel, in eval mode
    family : transformers' model type, e.g. ``"recurrent_gemma"`` or ``"jamba"``
    heads : query heads per attention layer
    attention_layers : layer indices, from 0
    window : keys that a query sees, itself included; None for global attention
    instruct : whether prompts go through the chat template
    digest : first 12 hex digits of the SHA-256 over the weights: stored with every row
    lengths, buffer : labels of the default grid, and the tokens that a label reserves for all but haystack and needle
    embedded : one of the small models that hybret trained itself
    eos : tokens that end an answer
    """

    name: str
    net: Any
    tokenizer: PreTrainedTokenizerBase
    family: str
    heads: int
    attention_layers: tuple[int, ...]
    window: int | None
    instruct: bool
    digest: str
    lengths: tuple[int, ...] = PAPER_LENGTHS
    buffer: int = PAPER_BUFFER
    embedded: bool = False
    eos: frozenset[int] = field(default=frozenset())
    checksum: Sums = ({}, {})  # of what `digest` is of
    changed: bool = False  # whether they are other weights than were loaded

    def __repr__(self) -> str:
        return f"<Model {printable(self.name)}: {'; '.join(self.facts())}>"

    def _repr_html_(self) -> str:
        return model_html(printable(self.name), self.facts(), mixers(self.net.config))

    @property
    def device(self) -> torch.device:
        return self.net.get_input_embeddings().weight.device

    @property
    def dtype(self) -> str:
        return str(self.net.dtype).removeprefix("torch.")

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(p.numel() for p in self.net.parameters())

    @property
    def traits(self) -> Family:
        """What hybret knows of the model's family."""
        return traits(self.family)

    def layers_with(self, *kinds: str) -> tuple[int, ...]:
        """Indices of the layers that mix tokens with one of "attention", "recurrence" and "convolution"."""
        return tuple(i for i, mixer in enumerate(mixers(self.net.config)) if any(kind in mixer for kind in kinds))

    @property
    def kind(self) -> str:
        """The model's family, and whether it is no hybrid: all its layers are attention."""
        return self.family + (", attention only" if {*mixers(self.net.config)} == {"attention"} else "")

    @property
    def has_random_weights(self) -> bool:
        """Whether the weights are random, so that its answers mean nothing."""
        return has_random_weights(self.name, self.digest)

    @property
    def ks(self) -> tuple[int, ...]:
        """Numbers of heads to keep in curves: all, or of our models, which turn at k < 8, wider steps above."""
        steps = [*range(9), *range(12, 17, 4), *range(24, 33, 8)] if self.embedded else range(self.heads)
        return (*(k for k in steps if k < self.heads), self.heads)

    @property
    def altered(self) -> bool:
        """Whether the network holds anything else than what `digest` is of."""
        return checksum(self.net) != self.checksum

    def check_state(self) -> None:
        """Give weights that were changed after loading a digest of their own; refuse what rows would not name.

        Called before rows are made or looked up: what answers is what they are stored under.
        """
        if torch.is_autocast_enabled(self.device.type):
            raise HybretError(f"torch.autocast is on, and rows would say {self.dtype}; leave its block")
        for name, module in self.net.named_modules():
            if name and (module._forward_hooks or module._forward_pre_hooks):
                raise HybretError(
                    f"{name} of {self.name} has a forward hook, which rows would not name; remove it (leave the block "
                    "of `hybret.attach`, if you are in one), or write what it does as an intervention"
                )
        if (now := checksum(self.net)) != self.checksum:
            changed = digest_of(self.net.state_dict())
            if now[1] != self.checksum[1]:
                changed = digest(changed, repr(now[1]))
            self.digest = f"random{changed[:6]}" if self.digest.startswith("random") else changed
            self.checksum, self.changed = now, True

    def facts(self) -> tuple[str, str]:
        """Size and place, and the attention, in words."""
        size = self.parameters
        unit, letter = next(((u, c) for u, c in ((1e9, " B"), (1e6, " M"), (1e3, " k")) if size >= u), (1, ""))
        devices = {str(d) for d in getattr(self.net, "hf_device_map", {}).values()}
        where = f"{len(devices)} devices" if len(devices) > 1 else str(self.device)
        random = ", random weights" if self.has_random_weights else ""
        shared = getattr(self.net.config, "num_key_value_heads", None) or self.heads
        groups = f" (sharing {shared} key-value head{'s' * (shared > 1)})" if shared != self.heads else ""
        window = f"a window of {self.window} tokens" if self.window else "global attention"
        every, layers = len(mixers(self.net.config)), ", ".join(map(str, self.attention_layers))
        place = f"layer{'s' * (len(self.attention_layers) > 1)} {layers} of {every}"
        if len(self.attention_layers) == every:
            place = f"all {every} layers"
        return (
            f"{self.kind}, {size / unit:.3g}{letter} parameters, {self.dtype} on {where}{random}",
            f"attention in {place}: {self.heads} heads each{groups}, {window}",
        )


def window_of(net: Any) -> int | None:
    """Keys that a query sees, as the network's attention has it: a field that its family does not use says nothing."""
    windows = {
        m.sliding_window for m in net.modules() if hasattr(m, "num_key_value_groups") and hasattr(m, "sliding_window")
    }
    return windows.pop() if len(windows) == 1 else None


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """First 12 hex digits of the SHA-256 over the weights, by name."""
    total = hashlib.sha256()
    for key, value in sorted(weights.items()):
        total.update(key.encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:12]


def checksum(net: Any) -> Sums:
    """What changes with any value of the weights, and of the buffers that no file holds: faster than `digest`.

    Versions of tensors would not do: writing to ``.data`` does not count.
    """
    weights = net.state_dict()
    buffers = {name: value for name, value in net.named_buffers() if name not in weights}
    return _sums(weights), _sums(buffers)


def _sums(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Of each tensor, weighted sums over the rows and columns of its 64-bit words: places count as values do."""
    sums = {}
    for name, value in tensors.items():
        raw = value.detach().contiguous().flatten().view(torch.uint8)
        whole = raw.numel() // 8 * 8
        words = (raw[:whole] if raw.storage_offset() % 8 == 0 else raw[:whole].clone()).view(torch.int64)
        square = words[: words.numel() // WORDS * WORDS].view(-1, WORDS)
        parts = square.sum(1), square.sum(0), words[square.numel() :], raw[whole:].long()
        sums[name] = value.dtype, tuple(value.shape), *(int((part * _factors(part)).sum()) for part in parts)
    return sums


def _factors(part: Tensor) -> Tensor:
    """An odd number for each place, without order: a change of one word never vanishes."""
    mixed = torch.arange(1, part.numel() + 1, device=part.device) * ODD[0]
    return (mixed ^ (mixed >> 29)) * ODD[1] | 1


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
