"""The needle-in-a-haystack grid: templates, labels, and prompts with real needle spans.

A prompt of the grid (paper, Appendix B) is a haystack trimmed to the length label, less a buffer and the
needle's own tokens, with the needle put in at a depth: 0 per cent is the START of the context, 100 per cent
its end. (The caption of the paper's Figure 4 counts the other way; the authors' code counts as here.) How the
needle finds the end of a sentence is `Recipe.insertion`; the haystacks are in `hybret.haystack`, and what a needle
and a prompt are in `hybret.prompts`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import asked
from .errors import HybretError
from .haystack import Cutter, Haystack, load_haystack
from .prompts import CONTROL, DIGITS, PAPER_NEEDLE, Needle, Prompt, prompt_key
from .recipe import CORRECTED, Recipe
from .recipe import recipe as find_recipe

__all__ = [
    "PAPER_NEEDLE",
    "TEMPLATES",
    "Haystack",
    "Needle",
    "Prompt",
    "grid",
    "labels",
    "load_haystack",
    "prompt_key",
    "reader",
]

TEMPLATES = ("base", "instruct", "jrt")
PAPER_LENGTHS = (250, 4096)  # first and last length label, tokens
MOST_LABELS = 10_000
MOST_TOKENS = 1_000_000  # of a length label: more than any model reads, and a haystack takes time to write
# Words and characters that tokenizers divide differently.
PROBE = "Quick wizards judge 0.25 km of sphinx-black quartz; vow: “naïve façade” (1984)!"
PAPER_BUFFER = 200  # tokens that a label reserves for template, question and answer


def labels(first: float, last: float, n: int) -> list[int]:
    """`n` evenly spaced labels, ``round(linspace(first, last, n))``, as the paper's grid has them."""
    return [int(x) for x in np.round(np.linspace(first, last, n))]


def grid(
    model: Any,
    lengths: int | Sequence[int] = 10,
    depths: int | Sequence[float] = 10,
    template: str = "base",
    haystack: str | Path | Haystack = "embedded",
    seed: int = 0,
    needle: Needle = PAPER_NEEDLE,
    control: bool = False,
    buffer: int | None = None,
    recipe: Recipe | str = CORRECTED,
) -> list[Prompt]:
    """The prompts of the benchmark, one per length and depth, lengths outermost.

    Parameters
    ----------
    model : a `Model`, or a fast tokenizer of transformers alone.
    lengths, depths : the labels, or how many of them, evenly spaced: lengths over the model's range (for a
        tokenizer the paper's 250 to 4096 tokens), depths over 0 to 100 per cent.
    template : ``"base"``, ``"instruct"`` (through the tokenizer's chat template) or ``"jrt"`` (Just Read
        Twice: context and question twice, in one user turn if the model is instruction-tuned).
    haystack, seed : see `load_haystack`.
    needle : what to hide.
    control : the same prompts with `needle` left out, so that what they earn is the floor of that needle: the same
        haystack, cut at the same places, and the same question. One prompt per length, since depth means nothing there.
    buffer : tokens of the label that are neither haystack nor needle; default the model's, for a tokenizer 200.
    recipe : only `Recipe.insertion` matters here.

    Raises
    ------
    HybretError
        If a label, the template, the haystack or the tokenizer cannot give these prompts.
    """
    tokenizer = getattr(model, "tokenizer", model)
    asked.one_of("template", template, TEMPLATES)
    recipe, seed = find_recipe(recipe), asked.seed(seed)
    if not isinstance(needle, Needle) or needle.name == CONTROL:
        raise HybretError(
            f"needle is {needle!r}; give a Needle of another name than {CONTROL!r}, and control=True for the same "
            "prompts without it"
        )
    if not isinstance(control, bool):
        raise HybretError(f"control is {control!r}; give True for the prompts without the needle, or False")
    chat, made_for = _chat(model, template), reader(model, template)
    given = [asked.number("a depth", d) for d in _labels("depths", depths, (0, 100))]
    depth_labels = _once("depths", [round(d, DIGITS) + 0.0 for d in given])  # no rounding, and no -0.0
    ends = getattr(model, "lengths", PAPER_LENGTHS)
    given_lengths = [asked.whole("a length", n, 1, MOST_TOKENS) for n in _labels("lengths", lengths, ends)]
    length_labels = _once("lengths", given_lengths)
    if outside := [d for d in depth_labels if not 0 <= d <= 100]:
        raise HybretError(f"depth {outside[0]:g} is outside 0 to 100 per cent (0 = start of the context)")
    # All of them within the first per cent, and not only its ends: nobody asks for that.
    if max(depth_labels) <= 1 and (fractions := [d for d in depth_labels if 0 < d < 1]):
        raise HybretError(
            f"depths are per cent, 0 to 100, and {fractions[0]:g} looks like a fraction; give {100 * fractions[0]:g} "
            "for that place"
        )
    buffer = asked.whole("buffer", getattr(model, "buffer", PAPER_BUFFER) if buffer is None else buffer)
    cost = len(tokenizer(needle.insertion, add_special_tokens=False)["input_ids"])
    if min(length_labels) <= buffer + cost:
        raise HybretError(
            f"length {min(length_labels)} leaves no room for a haystack: the needle takes {cost} tokens and "
            f"the buffer {buffer}, so the shortest length is {buffer + cost + 1}"
        )
    longest = max(length_labels) - buffer - cost
    hay = load_haystack(haystack, seed, longest)
    cutter = Cutter(tokenizer, hay, longest, recipe.insertion)
    if _bare(needle.sentence) in _bare(cutter.context(longest)):
        raise HybretError(
            f"the haystack {hay.name!r} holds the needle {needle.name!r} already, so an answer proves nothing; take it "
            "out, or hide another needle"
        )
    cells = []  # (length, depth, position, text)
    for length in length_labels:
        n = length - buffer - cost
        context = cutter.context(n)
        for depth in [math.nan] if control else depth_labels:
            before, at = (math.nan, 0) if control else cutter.place(n, depth)
            filled = context if control else context[:at] + needle.insertion + context[at:]
            body = _body(filled, needle.question, template, chat)
            cells.append((length, depth, before / n, _chat_text(tokenizer, body) if chat else body))
    encoded = tokenizer(
        [text for *_, text in cells], add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    bos = _bos(tokenizer)
    prompts = []
    for i, (length, depth, position, text) in enumerate(cells):
        ids = (*bos, *encoded["input_ids"][i])
        offsets = [(0, 0)] * len(bos) + encoded["offset_mapping"][i]
        prompt = Prompt(
            text=text,
            ids=ids,
            needle_spans=() if control else tuple(_spans(tokenizer, text, ids, offsets, needle)),
            length=length,
            depth=depth,
            template=template,
            haystack=hay.name,
            haystack_seed=hay.seed,
            needle=CONTROL if control else needle.name,
            reference=needle.sentence,
            question=needle.question,
            key=prompt_key(ids),
            keywords=needle.keywords,
            position=position,
            question_span=_asked(text, offsets, needle.question),
            haystack_sha256=hay.sha256,
            reader=made_for,
        )
        prompts.append(prompt)
    return prompts


def reader(model: Any, template: str) -> str:
    """What tells tokenizers apart, and chat templates where `template` uses one: 12 hex digits of one text's tokens.

    Parameters
    ----------
    model, template : as of `grid`.

    Raises
    ------
    HybretError
        If the tokenizer cannot give such prompts.
    """
    tokenizer, chat = getattr(model, "tokenizer", model), _chat(model, template)
    _check_tokenizer(tokenizer, chat)
    body = _body(f"{PAPER_NEEDLE.sentence} {PROBE}", PAPER_NEEDLE.question, "base", chat)
    text = _chat_text(tokenizer, body) if chat else body
    return prompt_key((*_bos(tokenizer), *tokenizer(text, add_special_tokens=False)["input_ids"]))


def require_reader(model: Any, prompts: Sequence[Prompt]) -> None:
    """Refuse prompts that were made for another model: their tokens would mean something else, or nothing.

    Raises
    ------
    HybretError
        Naming the template and the model.
    """
    ours = {template: reader(model, template) for template in {p.template for p in prompts if p.reader}}
    for p in prompts:
        if p.reader and p.reader != ours[p.template]:
            raise HybretError(
                f"a prompt (template {p.template!r}, length {p.length}) is for another tokenizer or chat template "
                f"than that of {model.name}; make the prompts with hybret.niah.grid of this model"
            )


def _chat(model: Any, template: str) -> bool:
    """Whether a template goes through the tokenizer's chat template."""
    return template == "instruct" or (template == "jrt" and bool(getattr(model, "instruct", False)))


def _body(context: str, question: str, template: str, chat: bool) -> str:
    """The prompt's text (Appendix B.1), or the user turn that holds it."""
    block = f"CONTEXT: {context}\n\nQUESTION: {question}"
    if template == "jrt":
        block = f"{block}\n\n{block}"
    if chat:
        return block + " Output the most relevant sentence in the context, word by word!"
    return block + "\n\nANSWER: Here is the most relevant sentence in the context: "


def _chat_text(tokenizer: Any, turn: str) -> str:
    messages = [{"role": "user", "content": turn}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as problem:  # the template is a program, of whoever made the model
        raise HybretError(f"this tokenizer's chat template fails ({problem}); use template 'base'") from problem
    if turn not in text:
        raise HybretError(
            "this tokenizer's chat template rewrites the user turn, so the needle cannot be placed; use template 'base'"
        )
    # Most chat templates write BOS themselves; where the tokenizer writes it too, it must come once.
    return text.removeprefix(tokenizer.bos_token) if _bos(tokenizer) else text


def _bos(tokenizer: Any) -> tuple[int, ...]:
    """The id that the tokenizer itself puts before a text: BOS, or nothing."""
    bos = tokenizer.bos_token_id
    return (bos,) if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else ()


def _spans(
    tokenizer: Any, text: str, ids: Sequence[int], offsets: list[tuple[int, int]], needle: Needle
) -> Iterator[tuple[int, int]]:
    """Half-open token ranges of every copy of the needle's sentence; `offsets` are characters per token."""
    at = text.find(needle.insertion)
    while at >= 0:
        first, last = at + 1, at + 1 + len(needle.sentence)
        span = _tokens(offsets, first, last)
        if span is None or _bare(needle.sentence) not in _bare(tokenizer.decode(ids[slice(*span)])):
            raise HybretError(
                f"this tokenizer cannot place the needle {needle.name!r}: its sentence does not survive "
                "encoding; use another tokenizer, or a needle in its vocabulary"
            )
        yield span
        at = text.find(needle.insertion, last)


def _asked(text: str, offsets: list[tuple[int, int]], question: str) -> tuple[int, int] | None:
    """Half-open token range of the last copy of the question, with the word that announces it; None if it has none."""
    asked = f"QUESTION: {question}"
    at = text.rindex(asked)
    return _tokens(offsets, at, at + len(asked))


def _tokens(offsets: list[tuple[int, int]], first: int, last: int) -> tuple[int, int] | None:
    """Half-open range of the tokens that hold any of the characters `first` to `last` (excluded); None if none does."""
    inside = [i for i, (start, end) in enumerate(offsets) if start < last and end > first]
    return (inside[0], inside[-1] + 1) if inside else None


def _bare(text: str) -> str:
    return "".join(text.split()).lower()


def _labels(name: str, value: int | Sequence[Any], ends: Sequence[Any]) -> Sequence[Any]:
    if isinstance(value, bool) or not isinstance(value, int | np.integer | list | tuple | range | np.ndarray):
        raise HybretError(f"{name} is {value!r}; give a number of {name}, or a list of them")
    if isinstance(value, int | np.integer):
        if not 1 <= value <= MOST_LABELS:
            raise HybretError(
                f"the number of {name} is {value}; give at least 1, at most {MOST_LABELS}, or a list of {name}"
            )
        found = labels(ends[0], ends[-1], int(value))
        if len(set(found)) < len(found):
            raise HybretError(
                f"{value} {name} between {ends[0]} and {ends[-1]} would repeat some; give fewer, or a list"
            )
        return found
    if len(value) == 0:
        raise HybretError(f"there are no {name}; give a number of {name}, or a list with at least one")
    return list(value)


def _once(name: str, values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise HybretError(f"the {name} {values} hold an entry twice; give each one once")
    return values


def _check_tokenizer(tokenizer: Any, chat: bool) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise HybretError(
            "this tokenizer gives no character offsets, which placing the needle needs; load a fast tokenizer"
        )
    if chat and not getattr(tokenizer, "chat_template", None):
        raise HybretError("this tokenizer has no chat template; use template 'base', or 'jrt' on a base model")
