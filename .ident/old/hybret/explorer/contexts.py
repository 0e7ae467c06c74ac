"""The text around the needle of each prompt: from prompts that are given, or rebuilt where that is cheap."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import HybretError
from ..haystack import Haystack, load_haystack
from ..niah import grid
from ..prompts import CONTROL, PAPER_NEEDLE, Needle, Prompt
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


def rebuilt(
    rows: pd.DataFrame, needles: Iterable[Needle] = (), haystack: str | Path | None = None
) -> dict[str, tuple[str, str]]:
    """The same for rows of organisms, whose tokenizer ships with hybret, as the embedded haystack does.

    `needles` are those other than the paper's, `haystack` is one other than the embedded one. A prompt counts only if
    its tokens have the key that the rows hold, so no text is shown that the model did not read. Prompts of other models
    are not rebuilt: their tokenizers may need a download.
    """
    from ..models import load  # here: a page of rows with given prompts needs no torch

    found: dict[str, tuple[str, str]] = {}
    known = {needle.digest: needle for needle in (PAPER_NEEDLE, *needles)}
    texts: dict[str, str | Haystack] = {"embedded": "embedded"}
    if haystack is not None:
        own = load_haystack(haystack)
        texts[own.name] = own
    mine = rows["model"].isin(organisms()) & rows["haystack"].isin(list(texts)) & rows["asked"].isin(list(known))
    for name, part in rows[mine & (rows["needle"] != CONTROL)].groupby("model", sort=False):
        model = load(str(name), device="cpu")
        by = ["template", "haystack", "haystack_seed", "asked"]
        for key, cells in part.groupby(by, sort=False):
            template, hay, seed, asked = map(str, key)
            told: dict[str, Any] = {"haystack": texts[hay], "seed": int(seed), "needle": known[asked]}
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
                        prompts = grid(model, lengths, depths, template, recipe=recipe, **told)
                    except HybretError:  # rows of another version's grid
                        break
                    found |= {key: text for key, text in given(prompts).items() if key in wanted}
    return found
