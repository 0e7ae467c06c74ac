"""Texts of prompts to tokens: chat templates, BOS exactly once, and the tokens of a part of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybret.errors import HybretError
from hybret.files import digest
from hybret.prompts import PAPER_NEEDLE, Prompt, Span
from hybret.recipe import Recipe

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
    options = {"return_offsets_mapping": True, "verbose": False}
    leading: tuple[int, ...] = ()  # a chat template writes it, or means to do without
    if chat:
        texts, encoded = _through_template(tokenizer, texts, options)
    else:
        bos = tokenizer.bos_token_id
        leading = (bos,) if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else ()
        encoded = tokenizer(list(texts), add_special_tokens=False, **options)
    return [
        (text, (*leading, *ids), [(0, 0)] * len(leading) + offsets)
        for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]


def _through_template(tokenizer: Any, turns: Sequence[str], options: dict[str, Any]) -> tuple[list[str], Any]:
    """The texts of chats with one user turn, and their tokens: those that the tokenizer itself makes of a chat."""
    chats = [[{"role": "user", "content": turn}] for turn in turns]
    try:
        texts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        encoded = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, return_dict=True, tokenizer_kwargs=options
        )
    except Exception as problem:  # the template is a program, of whoever made the model
        raise HybretError(f"this tokenizer's chat template fails ({problem}); use template 'base'") from problem
    if not all(turn in text for turn, text in zip(turns, texts, strict=True)):
        raise HybretError("this tokenizer's chat template rewrites the user turn; use template 'base'")
    return texts, encoded


def token_span(offsets: Sequence[Span], first: int, last: int) -> Span | None:
    """Range of the tokens that hold any of the characters `first` to `last` (excluded); None if none does."""
    inside = [i for i, (start, end) in enumerate(offsets) if start < last and end > first]
    return (inside[0], inside[-1] + 1) if inside else None


def tokenizer_key(model: Any, template: str) -> str:
    """12 hex digits that tell tokenizers apart, and chat templates where `template` uses one."""
    ((_, ids, _),) = encode(model, [PROBE], uses_chat(model, template))
    return digest(repr(ids))


def check_made_for(model: Any, prompts: Sequence[Prompt], recipe: Recipe | None) -> None:
    """Refuse prompts for another model, whose tokens mean something else, or of another recipe; None is any."""
    for p in prompts:
        if recipe and p.insertion not in ("", recipe.insertion):
            raise HybretError(
                f"a prompt was built with insertion {p.insertion!r}, but {recipe.name} has {recipe.insertion!r}; give "
                "hybret.niah.grid the recipe, too"
            )
    made = [(p.tokenizer_key, p.labels.get("template", "base")) for p in prompts if p.tokenizer_key]
    ours = {template: tokenizer_key(model, template) for template in {template for _, template in made}}
    for key, template in made:
        if key != ours[template]:
            raise HybretError(
                f"a prompt of template {template!r} is for another tokenizer or chat template than that of "
                f"{model.name}; make the prompts with this model"
            )
