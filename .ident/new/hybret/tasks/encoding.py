"""Texts of prompts to tokens: chat templates, BOS exactly once, and the tokens of a part of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybret.errors import HybretError
from hybret.files import digest
from hybret.prompts import PAPER_NEEDLE, Prompt, Span

# Words and characters that tokenizers divide differently.
PROBE = (
    f"{PAPER_NEEDLE.sentence} {PAPER_NEEDLE.question} Quick wizards judge 0.25 km of sphinx-black quartz; vow: “naïve "
    "façade” (1984)!\n\nANSWER: "
)


def uses_chat(model: Any, template: str) -> bool:
    """Whether a template goes through the tokenizer's chat template."""
    return template == "instruct" or (template == "jrt" and bool(getattr(model, "instruct", False)))


def encode(model: Any, texts: Sequence[str], chat: bool) -> list[tuple[str, tuple[int, ...], list[Span]]]:
    """Each prompt as (text, token ids, characters of each token); `texts` are user turns where `chat`.

    The model, or its tokenizer alone, must give character offsets, and its chat template must keep the turn as it is.
    """
    tokenizer = getattr(model, "tokenizer", model)
    if not getattr(tokenizer, "is_fast", False):
        raise HybretError("this tokenizer gives no character offsets to place a needle by; load a fast tokenizer")
    if chat and not getattr(tokenizer, "chat_template", None):
        raise HybretError("this tokenizer has no chat template; use template 'base', or 'jrt' on a base model")
    bos = tokenizer.bos_token_id
    leading = (bos,) if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else ()
    if chat:
        texts = [_chat_text(tokenizer, text, tokenizer.bos_token if leading else "") for text in texts]
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [
        (text, (*leading, *ids), [(0, 0)] * len(leading) + offsets)
        for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]


def _chat_text(tokenizer: Any, turn: str, bos: str) -> str:
    try:
        text: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": turn}], tokenize=False, add_generation_prompt=True
        )
    except Exception as problem:  # the template is a program, of whoever made the model
        raise HybretError(f"this tokenizer's chat template fails ({problem}); use template 'base'") from problem
    if turn not in text:
        raise HybretError("this tokenizer's chat template rewrites the user turn; use template 'base'")
    return text.removeprefix(bos)  # most chat templates write it themselves


def token_span(offsets: Sequence[Span], first: int, last: int) -> Span | None:
    """Range of the tokens that hold any of the characters `first` to `last` (excluded); None if none does."""
    inside = [i for i, (start, end) in enumerate(offsets) if start < last and end > first]
    return (inside[0], inside[-1] + 1) if inside else None


def tokenizer_key(model: Any, template: str) -> str:
    """12 hex digits that tell tokenizers apart, and chat templates where `template` uses one."""
    ((_, ids, _),) = encode(model, [PROBE], uses_chat(model, template))
    return digest(repr(ids))


def check_tokenizer(model: Any, prompts: Sequence[Prompt]) -> None:
    """Refuse prompts that were made for another model: their tokens would mean something else."""
    made = [(p.tokenizer_key, p.labels.get("template", "base")) for p in prompts if p.tokenizer_key]
    ours = {template: tokenizer_key(model, template) for template in {template for _, template in made}}
    for key, template in made:
        if key != ours[template]:
            raise HybretError(
                f"a prompt of template {template!r} is for another tokenizer or chat template than that of "
                f"{model.name}; make the prompts with this model"
            )
