"""The text around the needle of each prompt: from prompts that are given, or rebuilt where that is cheap."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from ..errors import HybretError
from ..niah import grid
from ..prompts import PAPER_NEEDLE, Prompt
from ..recipe import CORRECTED, PAPER
from ..sources import organisms

AROUND = 140  # characters on each side of the needle


def given(prompts: Iterable[Prompt]) -> dict[str, tuple[str, str]]:
    """Prompt key to the text before and after its needle, the last copy in JRT."""
    found = {}
    for prompt in prompts:
        at = prompt.text.rfind(prompt.reference) if prompt.needle_spans else -1
        if at >= 0:
            end = at + len(prompt.reference)
            found[prompt.key] = (
                ("…" if at > AROUND else "") + prompt.text[max(0, at - AROUND) : at],
                prompt.text[end : end + AROUND] + ("…" if end + AROUND < len(prompt.text) else ""),
            )
    return found


def rebuilt(rows: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """The same for rows of organisms with the embedded haystack, whose tokenizer and text ship with hybret.

    A prompt counts only if its tokens have the key that the rows hold, so no text is shown that the model did not read.
    Prompts of other models are not rebuilt: their tokenizers may need a download.
    """
    from ..models import load  # here: a page of rows with given prompts needs no torch

    found: dict[str, tuple[str, str]] = {}
    mine = rows["model"].isin(organisms()) & (rows["haystack"] == "embedded") & (rows["needle"] == PAPER_NEEDLE.name)
    for name, part in rows[mine].groupby("model", sort=False):
        model = load(str(name), device="cpu")
        for (template, seed), cells in part.groupby(["template", "haystack_seed"], sort=False):
            # Grids of one set of depths each: the rows of several sweeps may differ in theirs.
            groups: dict[tuple[float, ...], list[int]] = {}
            for length, depths in cells.groupby("length")["depth"].unique().items():
                groups.setdefault(tuple(sorted(map(float, depths))), []).append(int(str(length)))
            for depths, lengths in groups.items():
                wanted = set(cells.loc[cells["length"].isin(lengths), "prompt"])
                for recipe in (CORRECTED, PAPER):  # they put needles in differently
                    if wanted <= set(found):
                        break
                    try:
                        prompts = grid(model, lengths, depths, str(template), seed=int(str(seed)), recipe=recipe)
                    except HybretError:  # rows of another version's grid
                        break
                    found |= {key: text for key, text in given(prompts).items() if key in wanted}
    return found
