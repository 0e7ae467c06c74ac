"""A hybrid model as data: network, tokenizer, and what its configuration says of its attention."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from hybret import portrait
from hybret.engine.placing import Elsewhere
from hybret.presets import RANDOM, RANDOM_MODELS, head_counts

PAPER_LENGTHS = (250, 677, 1105, 1532, 1959, 2387, 2814, 3241, 3669, 4096)
PAPER_BUFFER = 200
# The paper's longest prompt is two windows; so is the organisms'. The shortest holds the needle and some prose.
ORGANISM_LENGTHS = (128, 171, 213, 256, 299, 341, 384, 427, 469, 512)
ORGANISM_BUFFER = 40


@dataclass
class Hybrid:
    """A hybrid that is ready to be measured.

    Attributes
    ----------
    name : str
    net : transformers.PreTrainedModel
        In eval mode.
    tokenizer : transformers.PreTrainedTokenizerBase
    family : str
        transformers' model type, e.g. ``"recurrent_gemma"`` or ``"jamba"``.
    heads : int
        Query heads per attention layer.
    attention_layers : tuple of int
        Layer indices, from 0.
    window : int or None
        Keys that a query sees, itself included; None for global attention.
    instruct : bool
        Whether prompts go through the chat template.
    digest : str
        First 12 hex digits of the SHA-256 over the weights: stored with every row.
    lengths : tuple of int
        Length labels of the default grid, in tokens.
    buffer : int
        Tokens that a length label reserves for everything around haystack and needle.
    embedded : bool
        One of the small models that hybret trained itself.
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

    def __repr__(self) -> str:
        return portrait.line(self)

    def _repr_html_(self) -> str:
        return portrait.html(self)

    @property
    def device(self) -> torch.device:
        return self.net.device if isinstance(self.net, Elsewhere) else self.net.get_input_embeddings().weight.device

    @property
    def dtype(self) -> str:
        return str(self.net.dtype).removeprefix("torch.")

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(p.numel() for p in self.net.parameters())

    @property
    def made_up(self) -> bool:
        """Whether the weights are random, so that nothing it answers means anything."""
        return self.name in RANDOM_MODELS or self.digest.startswith(RANDOM[:-1])

    @property
    def ks(self) -> tuple[int, ...]:
        """Numbers of heads to keep in the book's curves (`head_counts`)."""
        return head_counts(self.heads, self.embedded)
