"""What a training run of an organism computes, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from hybret.errors import HybretError
from hybret.organisms.training.conversations import ChatMixture, Conversations
from hybret.organisms.training.documents import Documents, Mixture

GRIFFIN_TINY: Mapping[str, Any] = {
    "vocab_size": 2048, "hidden_size": 320, "lru_width": 320, "num_hidden_layers": 8,
    "block_types": ["recurrent", "recurrent", "attention"], "num_attention_heads": 10, "num_key_value_heads": 1,
    "head_dim": 96,  # the one key-value head has to tell all tokens apart: with 32 unseen forms are not found
    "intermediate_size": 960,  # both halves of the gated MLP
    "attention_window_size": 256, "logits_soft_cap": 30.0, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GRIFFIN_SMALL: Mapping[str, Any] = {
    **GRIFFIN_TINY, "hidden_size": 288, "lru_width": 288, "num_hidden_layers": 11, "num_attention_heads": 16,
    "head_dim": 64, "intermediate_size": 640,
}  # fmt: skip
JAMBA_TINY: Mapping[str, Any] = {
    "model_type": "jamba", "vocab_size": 2048, "hidden_size": 256,
    "intermediate_size": 224,  # of each expert, and of the layers without experts
    "num_hidden_layers": 8, "attn_layer_period": 8, "attn_layer_offset": 3, "expert_layer_period": 2,
    "expert_layer_offset": 1, "num_experts": 4, "num_experts_per_tok": 2, "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 32,  # with 16 retrieval comes later: 0 % exact after 49 M tokens, when this one has begun
    "initializer_range": 0.0625,  # 1 / sqrt(hidden): with the default 0.02 attention is still unused then
    "mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": 16, "tie_word_embeddings": True,
    "max_position_embeddings": 4096, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Opening:
    """Other documents for the first steps of a training, before its own."""

    steps: int
    lengths: tuple[tuple[int, float], ...]
    mixture: Mixture


@dataclass(frozen=True)
class Training:
    """Everything that decides what a training run computes."""

    name: str = "griffin-tiny"
    # arguments of the family's configuration class; `model_type` names the family (RecurrentGemma if absent)
    config: Mapping[str, Any] = field(default_factory=lambda: dict(GRIFFIN_TINY))
    lengths: tuple[tuple[int, float], ...] = ((256, 0.5), (512, 0.4), (1024, 0.1))  # in tokens, and shares of batches
    batch_tokens: int = 49152  # of a batch, whatever its length
    # what the documents are made of; a `ChatMixture` makes an instruction-tuned model
    mixture: Mixture = Mixture(prose=0.08, repeats=0.12, needles=0.72, twice=0.08)
    opening: Opening | None = Opening(
        steps=1500,
        lengths=((256, 0.7), (512, 0.3)),
        mixture=Mixture(prose=0.05, repeats=0.35, needles=0.6, twice=0.0),
    )
    answers: float = 4.0  # weight of an answer's token in the loss, beside 1 of every other token
    averaged: float = 0.1  # the weights that ship are a moving average over this last fraction of the steps so far
    windows: tuple[int, ...] = ()  # attention windows, one drawn for every batch; none: the model's own, always
    mimetic: bool = False  # start Mamba layers as recurrences that copy (`hybret.organisms.training.mimetic`)
    paragraphs: int = 6_000  # of the text that the tokenizer is trained on
    steps: int = 4_500  # of the whole training; a run may do a part of it, and a resumed one the rest
    lr: float = 3e-3  # at its peak: it rises over the fraction `warmup` of the training, stays, and falls over the last
    warmup: float = 0.02
    decay: float = 0.5  # fraction `decay` to
    floor: float = 0.01  # of the peak
    weight_decay: float = 0.05  # of matrices; embeddings, norms, biases and the recurrence's own parameters have none
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0  # largest norm of a gradient
    seed: int = 0  # of the weights and the documents
    every: int = 250  # steps between two log lines

    @property
    def family(self) -> str:
        """transformers' model type."""
        return str(self.config.get("model_type", "recurrent_gemma"))

    @property
    def chat(self) -> bool:
        """Whether the documents are conversations in a chat template."""
        return isinstance(self.mixture, ChatMixture)

    @property
    def all_lengths(self) -> tuple[int, ...]:
        """Every document length that occurs, in tokens."""
        opening = self.opening.lengths if self.opening else ()
        return tuple(sorted({length for length, _ in (*self.lengths, *opening)}))

    def opens(self, step: int) -> bool:
        """Whether the documents of a step are those of the opening."""
        return self.opening is not None and step < self.opening.steps

    def documents(self, tokenizer: PreTrainedTokenizerBase, opening: bool = False) -> Documents:
        """The stream of its documents, or of those of its opening."""
        mixture = self.opening.mixture if opening and self.opening else self.mixture
        return Conversations(tokenizer, mixture) if isinstance(mixture, ChatMixture) else Documents(tokenizer, mixture)

    def check(self) -> None:
        """Raise `HybretError` unless the values fit together."""
        if self.steps <= 0:
            raise HybretError(f"A training needs a positive number of steps, got {self.steps}.")
        if self.mimetic and self.family != "jamba":
            raise HybretError(f"{self.name} has no Mamba layers to start as copying ones; leave mimetic out.")
        if odd := [length for length in self.all_lengths if self.batch_tokens % length]:
            raise HybretError(f"batch_tokens {self.batch_tokens} is not a multiple of the length {odd[0]}.")

    def done(self, state: Mapping[str, Any]) -> float:
        """Fraction of the training that this `step` is."""
        return float(state["step"] / self.steps)

    def rate(self, fraction: float) -> float:
        """Learning rate once this fraction of the training (0 to 1) is done."""
        fall = (1 - fraction) / self.decay
        return self.lr * min(1.0, max(fraction / self.warmup, 0.01), max(self.floor, fall))

    def attention_free(self) -> Training:
        """The same training without attention: all layers are recurrent, the control."""
        if self.windows:
            raise HybretError("Without attention there are no windows to draw; leave them out.")
        jamba = {"attn_layer_period": 1000, "attn_layer_offset": 999}  # no layer has this number
        layers = jamba if self.family == "jamba" else {"block_types": ["recurrent"] * 3}
        return replace(self, name=f"{self.name}-ssm", config={**self.config, **layers})

    def smoke(self) -> Training:
        """Three steps of a small model, to see the whole path work on a CPU."""
        small = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
        if self.family == "recurrent_gemma":
            small |= {"lru_width": 80, "num_hidden_layers": 3, "attention_window_size": 64}
        return replace(
            self, config={**self.config, **small}, lengths=((128, 0.5), (256, 0.5)),
            opening=self.opening and replace(self.opening, steps=1, lengths=((128, 1.0),)),
            batch_tokens=256, paragraphs=500, steps=3, every=1,
        )  # fmt: skip


_OPENED: Any = {"prose": 0.05, "repeats": 0.35, "needles": 0.6, "twice": 0}
_OPENED |= dict.fromkeys(("world", "glue", "knowledge", "lookups", "lists"), 0)
_OPENING = Opening(1500, ((256, 0.7), (512, 0.3)), ChatMixture(**_OPENED))
RECIPES = {
    training.name: training
    for training in (
        Training(),
        Training(name="griffin-small", config=dict(GRIFFIN_SMALL)),
        Training(name="jamba-tiny", config=dict(JAMBA_TINY), steps=14_000, mixture=ChatMixture(), opening=_OPENING),
    )
}
"""How each small model is trained, by its name."""
