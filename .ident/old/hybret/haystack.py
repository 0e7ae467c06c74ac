"""Haystacks: the text that hides a needle, where it comes from, and where a needle may go."""

from __future__ import annotations

import errno
import hashlib
import re
from bisect import bisect_right
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from . import asked
from .errors import HybretError

# The essays that fill the authors' prompts, in the order in which their run read them, with SHA-256.
PAPER_ESSAYS = (
    ("useful.txt", "27ec97ef3c99d6be7f0529611d9a88fd5ee1917e34eddac9e4024400d26df5ba"),
    ("newideas.txt", "e680d93042bf45fef78c10924e74a9749e5f25672350dace89e2b52b5d63d131"),
)
MOST_BYTES = 256 << 20  # of a folder
# A sentence end: . ! ? with closing marks, before white space, the end, a capital or an opening bracket. The
# last two because the essays lost their paragraph breaks ("be useful.To start"). "5.3" is none.
SENTENCE_END = re.compile(r"[.!?][\"')\]”’]*(?=\s|$|[A-Z\[])")


@dataclass(frozen=True)
class Haystack:
    """A text to hide needles in, with the SHA-256 of the text and of each file it came from."""

    name: str
    text: str
    sha256: str
    sources: tuple[tuple[str, str], ...] = ()
    seed: int = 0


def load_haystack(source: str | Path | Haystack = "embedded", seed: int = 0, tokens: int = 0) -> Haystack:
    """The haystack called ``"embedded"`` or ``"essays"``, a folder of .txt files, or a text given as it is.

    ``"essays"`` is the folder that ``hybret fetch essays`` filled. A folder is read in name order, after the two
    essays of the authors' run (`PAPER_ESSAYS`) if it has both; files are joined without a separator, as in the
    authors' code. It is named ``"paul-graham"`` only if those two essays have the recorded SHA-256, otherwise after
    the folder and its text, so that two folders of one name are not taken for one haystack. `seed` and `tokens`, about
    how long the text must be, concern the embedded haystack alone.

    Raises
    ------
    HybretError
        If the folder is missing, a file or without text, or a file in it is not UTF-8; if the essays have not been
        fetched.
    """
    if isinstance(source, Haystack):
        return _readable(source)
    if not isinstance(source, str | Path):
        raise HybretError(f"haystack is {source!r}; give a folder of .txt files, a text, or 'embedded'")
    if source == "embedded":
        asked.seed(seed)
        from .organisms import corpus

        text = corpus.haystack(seed, characters=max(20_000, 10 * tokens))
        return Haystack("embedded", text, sha256(text.encode()), seed=seed)
    if source == "essays":
        from . import essays  # here: it needs the cache's folder, and few runs need it

        return _read_folder(essays.fetched())
    try:
        if source and Path(source).is_dir():
            return _read_folder(Path(source))
        if source and Path(source).exists():
            raise HybretError(
                f"the haystack {source} is a file; give the folder that holds it, of .txt files, or its text"
            )
    except OSError as problem:
        # A text is not a path: as one its name is too long.
        if isinstance(source, Path) or problem.errno != errno.ENAMETOOLONG:
            raise HybretError(f"cannot read the haystack folder {source}: {problem.strerror}") from problem
    # A text without a single blank, or a short one without a sentence, can hide nothing: it is meant as a path.
    if isinstance(source, Path) or len(source.split()) <= 1 or (len(source) < 256 and not SENTENCE_END.search(source)):
        raise HybretError(
            f"there is no haystack folder {str(source)!r}; give a folder of .txt files, a text, 'essays' or 'embedded'"
        )
    digest = sha256(source.encode(errors="replace"))
    return _readable(Haystack(f"text-{digest[:8]}", source, digest))


def _read_folder(folder: Path) -> Haystack:
    first = [name for name, _ in PAPER_ESSAYS]
    names = sorted(path.name for path in folder.glob("*.txt"))
    if set(first) <= set(names):
        names = first + [name for name in names if name not in first]
    texts, sources = [], []
    taken = 0
    for name in names:
        # A pipe or a device would never end.
        if not (folder / name).is_file():
            raise HybretError(f"{folder / name} is no regular file; take it out of the haystack folder")
        taken += (folder / name).stat().st_size
        if taken > MOST_BYTES:
            raise HybretError(
                f"the haystack folder {folder} holds more than {MOST_BYTES >> 20} MiB; {MOST_BYTES >> 20} MiB are more "
                "than any prompt needs, so keep a few of its files"
            )
        raw = (folder / name).read_bytes()
        try:
            texts.append(raw.decode("utf-8-sig").replace("\r\n", "\n"))
        except UnicodeDecodeError:
            raise HybretError(
                f"{folder / name} is not UTF-8 text; convert it or take it out of the haystack folder"
            ) from None
        sources.append((name, sha256(raw)))
    text = "".join(texts)
    if not text.strip():
        raise HybretError(f"the haystack folder {folder} holds no text; put at least one non-empty .txt file in it")
    verified = tuple(sources[: len(PAPER_ESSAYS)]) == PAPER_ESSAYS
    digest = sha256(text.encode())
    name = "paul-graham" if verified else f"{folder.resolve().name}-{digest[:8]}"
    return _readable(Haystack(name, text, digest, tuple(sources)))


def _readable(hay: Haystack) -> Haystack:
    """Refuse a haystack that is no text."""
    if "\0" in hay.text or any("\ud800" <= c <= "\udfff" for c in hay.text):
        raise HybretError(
            f"the haystack {hay.name!r} holds characters that no text has (NUL or half of a pair), so it is binary or "
            "not UTF-8; convert it"
        )
    return hay


class Cutter:
    """A haystack in a tokenizer's units: tokenised once, then cut and searched for places at no cost.

    Parameters
    ----------
    tokenizer : a fast tokenizer.
    hay : the haystack.
    need : tokens of the longest context.
    insertion : `Recipe.insertion`; ``"token-id"`` finds a sentence end by the id of ``"."`` and measures
        depth in tokens, ``"character"`` finds it in the text and measures depth in characters.

    Raises
    ------
    HybretError
        If the haystack has fewer than `need` tokens.
    """

    def __init__(self, tokenizer: Any, hay: Haystack, need: int, insertion: str) -> None:
        self.text, size = hay.text, 8 * need
        while True:
            encoded = tokenizer(self.text[:size], add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            # Tokens next to the cut may change when more text follows, so a few more are asked for.
            if len(encoded["input_ids"]) >= need + 64 or size >= len(self.text):
                break
            size *= 2
        ids = encoded["input_ids"]
        if len(ids) < need:
            raise HybretError(
                f"the haystack {hay.name!r} has {len(ids)} tokens, but the longest length needs {need} "
                "beside needle and buffer; give a longer haystack or shorter lengths"
            )
        self.ends = [end for _, end in encoded["offset_mapping"]]
        self.by_token = insertion == "token-id"
        # Every sentence end, as (tokens before it, characters before it).
        if self.by_token:
            stops = set(tokenizer(".", add_special_tokens=False)["input_ids"]) - {
                getattr(tokenizer, "unk_token_id", None)
            }
            if not stops:
                raise HybretError(
                    "this tokenizer has no token for '.', after which a recipe with insertion=\"token-id\" puts the "
                    "needle; use CORRECTED, which looks at the text"
                )
            self.places = [(i + 1, self.ends[i]) for i, token in enumerate(ids[:need]) if token in stops]
        else:
            found = (match.end() for match in SENTENCE_END.finditer(self.text, 0, self.ends[need - 1]))
            self.places = [(bisect_right(self.ends, at), at) for at in found]

    def context(self, n: int) -> str:
        """The first `n` tokens of the haystack."""
        return self.text[: self.ends[n - 1]]

    def place(self, n: int, depth: float) -> tuple[int, int]:
        """Where a needle goes in the first `n` tokens: (tokens, characters) before it.

        `depth` in per cent from the start; then back to just after a sentence end, to the start if there is
        none. At 100 the needle is appended, even in the middle of a sentence, as in the authors' code.
        """
        if depth == 100:
            return n, self.ends[n - 1]
        size = n if self.by_token else self.ends[n - 1]
        unit = itemgetter(0 if self.by_token else 1)
        earlier = bisect_right(self.places, int(size * (depth / 100)), key=unit)
        return self.places[earlier - 1] if earlier else (0, 0)


def sha256(data: bytes) -> str:
    """SHA-256 in hex digits."""
    return hashlib.sha256(data).hexdigest()
