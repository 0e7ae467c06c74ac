"""The needle-in-a-haystack grid: a haystack, cut to each length, with a needle at each depth.

A prompt of the grid (paper, Appendix B) is a haystack trimmed to the length label, less a buffer and the
needle's own tokens, with the needle put in at a depth: 0 per cent is the START of the context, 100 per cent
its end. (The caption of the paper's Figure 4 counts the other way; the authors' code counts as here.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hybret.errors import SEEDS, HybretError, integer, number, one_of
from hybret.hybrid import PAPER_BUFFER, PAPER_LENGTHS
from hybret.prompts import CONTROL, DIGITS, PAPER_NEEDLE, Needle, Prompt, Span
from hybret.recipe import CORRECTED, Recipe
from hybret.recipe import recipe as find_recipe
from hybret.scoring import Rubric, score
from hybret.tasks.encoding import encode, token_span, tokenizer_key, uses_chat
from hybret.tasks.haystack import Cutter, Haystack, load_haystack

__all__ = ["PAPER_NEEDLE", "TEMPLATES", "Haystack", "Needle", "Niah", "Prompt", "grid", "labels", "load_haystack"]

TEMPLATES = ("base", "instruct", "jrt")
MOST_LABELS = 10_000
MOST_OFF, SHORT = 40, 100  # per cent between a depth and the needle, in a context of more tokens than a sentence has
MOST_TOKENS = 1_000_000  # of a length label: more than any model reads, and a haystack takes time to write


class Niah:
    """The grid as a `hybret.tasks.Task`: ``Niah(**options).prompts(model)`` is ``grid(model, **options)``."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def prompts(self, model: Any) -> list[Prompt]:
        """The prompts of the grid."""
        return grid(model, **self.options)

    def score(self, answer: str, prompt: Prompt, rubric: Rubric) -> dict[str, Any]:
        """Points of the rubric for the prompt's needle, also where a control leaves it out."""
        points, exact, _ = score(answer, rubric, prompt.needle)
        return {"score": points, "exact": exact}


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
    control : the same prompts with `needle` left out, one per length: the same haystack and question, so that their
        answers earn the floor of that needle.
    buffer : tokens of the label that are neither haystack nor needle; default the model's, for a tokenizer 200.
    recipe : only `Recipe.insertion` matters here; a sweep takes prompts of its own.
    """
    one_of("template", template, TEMPLATES)
    recipe, seed = find_recipe(recipe), integer("seed", seed, 0, SEEDS)
    if not isinstance(needle, Needle) or needle.name == CONTROL:
        raise HybretError(f"needle is {needle!r}; give a Needle of another name than {CONTROL!r}, or control=True")
    key = tokenizer_key(model, template)
    depths, listed = _depths(depths), _listed("lengths", lengths, getattr(model, "lengths", PAPER_LENGTHS))
    lengths = [integer("a length", n, 1, MOST_TOKENS) for n in listed]
    for name, values in (("lengths", lengths), ("depths", depths)):
        if len(set(values)) < len(values):
            raise HybretError(f"{len(values)} {name} would hold an entry twice; give each one once, or fewer")
    buffer = integer("buffer", getattr(model, "buffer", PAPER_BUFFER) if buffer is None else buffer)
    # The authors' base prompts have a blank before the sentence, those of Just Read Twice none.
    blank = recipe.insertion == "token-id" and template == "base"
    line = f"\n {needle.sentence}\n" if blank else needle.insertion
    cutter, sizes = _cut(getattr(model, "tokenizer", model), lengths, needle, line, buffer, haystack, seed, recipe)
    _check_depths(cutter, max(sizes.values()), [] if control else depths)
    cells = [(n, *cell) for n in lengths for cell in _placed(cutter, sizes[n], [] if control else depths, line)]
    texts = _encoded(model, [context for *_, context in cells], template, needle, line)
    return [
        Prompt(
            text=text,
            ids=ids,
            needle=needle,
            labels={
                "template": template,
                "haystack": cutter.hay.name,
                "haystack_seed": cutter.hay.seed,
                "needle": CONTROL if control else needle.name,
                "asked": needle.digest,
                "length": length,
                "depth": depth,
            },
            spans=spans,
            position=position,
            haystack_sha256=cutter.hay.sha256,
            tokenizer_key=key,
            insertion=recipe.insertion,
        )
        for (length, depth, position, _), (text, ids, spans) in zip(cells, texts, strict=True)
    ]


def _depths(depths: Any) -> list[float]:
    found = [round(number("a depth", d), DIGITS) + 0.0 for d in _listed("depths", depths, (0, 100))]  # no -0.0
    if outside := [d for d in found if not 0 <= d <= 100]:
        raise HybretError(f"depth {outside[0]:g} is outside 0 to 100 per cent (0 = start of the context)")
    # All of them within the first per cent, and not only its ends: nobody asks for that.
    if max(found) <= 1 and (fractions := [d for d in found if 0 < d < 1]):
        raise HybretError(f"depths are per cent and {fractions[0]:g} is a fraction; give {100 * fractions[0]:g}")
    return found


def _listed(name: str, value: Any, ends: Sequence[Any]) -> list[Any]:
    """The labels themselves, of a list or a number of them."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return labels(ends[0], ends[-1], integer(f"the number of {name}", value, 1, MOST_LABELS))
    if not isinstance(value, list | tuple | range | np.ndarray) or not len(value):
        raise HybretError(f"{name} is {value!r}; give a number of {name}, or a list with at least one")
    return list(value)


def _cut(
    tokenizer: Any, lengths: list[int], needle: Needle, line: str, buffer: int, haystack: Any, seed: int, recipe: Recipe
) -> tuple[Cutter, dict[int, int]]:
    """The haystack, and the tokens of it that each length takes."""
    cost = len(tokenizer(line, add_special_tokens=False)["input_ids"])
    sizes = {length: length - buffer - cost for length in lengths}
    if min(sizes.values()) < 1:
        raise HybretError(
            f"length {min(lengths)} leaves no room for a haystack beside the needle and the buffer; the shortest "
            f"length is {buffer + cost + 1}"
        )
    longest = max(sizes.values())
    cutter = Cutter(tokenizer, load_haystack(haystack, seed, longest), longest, recipe.insertion)
    if _bare(needle.sentence) in _bare(cutter.context(longest)):
        raise HybretError(f"the haystack {cutter.hay.name!r} holds the needle {needle.name!r}; hide another one")
    return cutter, sizes


def _check_depths(cutter: Cutter, n: int, depths: list[float]) -> None:
    """Refuse depths that the text cannot give: labels would say a place where no needle is."""
    for depth in depths if n >= SHORT else ():
        place = 100 * cutter.place(n, depth)[0] / n
        if depth - place > MOST_OFF:
            raise HybretError(
                f"depth {depth:g} would hide the needle at {place:.0f} per cent: the haystack {cutter.hay.name!r} has "
                "no sentence end between; give a text with sentences or lines, or only depths 0 and 100"
            )


def _placed(cutter: Cutter, n: int, depths: list[float], line: str) -> Iterator[tuple[float, float, str]]:
    """(depth, real place as a fraction, context) for each depth; without depths, the context without the needle."""
    context = cutter.context(n)
    if not depths:
        yield math.nan, math.nan, context
    for depth in depths:
        tokens, at = cutter.place(n, depth)
        yield depth, tokens / n, context[:at] + line + context[at:]


def _encoded(
    model: Any, contexts: list[str], template: str, needle: Needle, line: str
) -> Iterator[tuple[str, tuple[int, ...], dict[str, tuple[Span, ...]]]]:
    """(text, ids, spans) of each prompt: contexts in the template (Appendix B.1)."""
    tokenizer, chat = getattr(model, "tokenizer", model), uses_chat(model, template)
    asked = f"QUESTION: {needle.question}"
    ending = " Output the most relevant sentence in the context, word by word!" if chat else (
        "\n\nANSWER: Here is the most relevant sentence in the context: "
    )  # fmt: skip
    blocks = [f"CONTEXT: {context}\n\n{asked}" for context in contexts]
    if template == "jrt":
        blocks = [f"{block}\n\n{block}" for block in blocks]
    for text, ids, offsets in encode(model, [block + ending for block in blocks], chat):
        copies = []
        for copy in re.finditer(re.escape(line), text):
            end = copy.end() - 1
            span = token_span(offsets, end - len(needle.sentence), end)
            if span is None or _bare(needle.sentence) not in _bare(tokenizer.decode(ids[slice(*span)])):
                raise HybretError(f"this tokenizer cannot place the needle {needle.name!r}; use another of the two")
            copies.append(span)
        at = text.rindex(asked)
        question = token_span(offsets, at, at + len(asked))
        yield text, ids, {"needle": tuple(copies), "question": (question,) if question else ()}


def _bare(text: str) -> str:
    return "".join(text.split()).lower()
