"""Where a model comes from: shipped with hybret, a folder, or the Hugging Face hub."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from huggingface_hub import get_token
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoConfig, AutoTokenizer

from .errors import HybretError
from .families import FAMILIES, family_config
from .presets import PAPER_MODELS, RANDOM_MODELS, paper_config, tiny_config

try:  # what huggingface_hub speaks HTTP with, since its version 2.4 and before
    import httpx2 as httpx
except ImportError:
    import httpx  # type: ignore[no-redef, import-not-found, unused-ignore]

CHECKPOINTS = Path(__file__).parent / "organisms" / "checkpoints"


def organisms() -> list[str]:
    """Names of the embedded models that this installation ships."""
    return sorted(p.parent.name for p in CHECKPOINTS.glob("*/config.json"))


def source_of(name: str) -> str:
    """Folder or Hugging Face id (without its ``@revision``) that `name` stands for, if it is no random model.

    Raises
    ------
    HybretError
        If it stands for nothing.
    """
    if name in organisms():
        return str(CHECKPOINTS / name)
    try:
        if (Path(name) / "config.json").is_file():
            return name
        here = "\0" in name or Path(name).exists()
    except OSError:  # too long for a path
        here = True
    repository = name.partition("@")[0]
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w-][\w.-]*", repository, re.ASCII) and not here:
        return repository
    known = ", ".join([*organisms(), *RANDOM_MODELS, *PAPER_MODELS])
    raise HybretError(
        f"unknown model {name!r}{_meant(name)}; give one of {known}, another Hugging Face id (owner/name), "
        f"a folder that holds config.json, or a family ({', '.join(FAMILIES)}) for a tiny random model"
    )


def _meant(name: str) -> str:
    """A question after a misspelt name, empty where no known name is like it."""
    known = {known.lower(): known for known in (*organisms(), *RANDOM_MODELS, *PAPER_MODELS, *FAMILIES)}
    known |= {known.partition("/")[2].lower(): known for known in PAPER_MODELS}
    said = name.partition("@")[0]
    near = get_close_matches(said.lower()[:100], known, 1, 0.82)
    return f" (did you mean {known[near[0]]}?)" if near and known[near[0]] != said else ""


def tokenizer_folder() -> Path:
    """Any organism's folder: the random models borrow its tokenizer."""
    if not organisms():
        raise HybretError(f"no organism is installed in {CHECKPOINTS}, and random models need its tokenizer")
    return CHECKPOINTS / organisms()[0]


def configuration(name: str, made_up: bool, revision: str | None = None) -> Any:
    """The configuration that a name stands for.

    Parameters
    ----------
    name : as `hybret.load` takes it, without ``"random:"``.
    made_up : for random weights; the paper's models' own then needs no network.
    revision : of a Hugging Face id.

    Raises
    ------
    HybretError
        If the name is unknown, or the configuration cannot be read.
    """
    if name in (*RANDOM_MODELS, *FAMILIES):
        vocabulary = len(AutoTokenizer.from_pretrained(tokenizer_folder()))
        return (tiny_config if name in RANDOM_MODELS else family_config)(name, vocabulary)
    if made_up and name in PAPER_MODELS:
        return paper_config(name)
    if made_up and not (Path(name) / "config.json").is_file():
        raise HybretError(
            f"random weights are made for {', '.join(PAPER_MODELS)} and for folders with config.json, not for {name!r}"
            f"{_meant(name)}"
        )
    return read_config(name, source_of(name), revision or name.partition("@")[2] or None)


def read_config(name: str, source: str, revision: str | None = None) -> Any:
    """The configuration of a model that has weights.

    Raises
    ------
    HybretError
        As `said`; and if it cannot be read.
    """
    with said(name, source, "read the configuration of"):
        return AutoConfig.from_pretrained(source, revision=revision or "main", trust_remote_code=False)


@contextmanager
def said(name: str, source: str, doing: str = "load") -> Iterator[None]:
    """What goes wrong inside the block, in one sentence with its remedy.

    Raises
    ------
    HybretError
        No access to a gated repository, no such repository or revision, no network, no space, no safetensors, code of
        its own; anything else in transformers' words.
    """
    try:
        yield
    except HybretError:
        raise
    except Exception as problem:  # transformers and its libraries on foreign files: anything may come
        raise HybretError(f"cannot {doing} {name!r}: {_reason(name, source, problem)}") from problem


def _reason(name: str, source: str, problem: BaseException) -> str:
    """transformers wraps the hub's errors in its own, so the whole chain is looked at."""
    chain: list[BaseException] = []
    link: BaseException | None = problem
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__

    def met(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    token = "hf auth login" if get_token() is None else "hf auth whoami"
    lines = str(problem).strip().splitlines() or [type(problem).__name__]
    # huggingface_hub says what is wrong with a field below the field's name.
    text = " ".join(lines[:2] if "alidation error for" in lines[0] else lines[:1])
    if type(problem) in (AttributeError, TypeError, ZeroDivisionError, IndexError, KeyError, RecursionError):
        text = f"its files are damaged or contradict each other ({type(problem).__name__}: {text}); get them again"
    elif type(problem).__name__ == "SafetensorError":
        text = f"its safetensors are damaged or cut off ({text}); get them again"
    if met(GatedRepoError):
        asked = "no token is set; run `hf auth login`" if get_token() is None else "your token has no access"
        return f"its repository is gated and {asked}, after accepting its terms at https://huggingface.co/{source}"
    if met(RevisionNotFoundError):
        return f"it has no such revision; https://huggingface.co/{source}/commits/main lists them"
    if met(RepositoryNotFoundError):
        return (
            f"Hugging Face has no such repository, or it is private; check the name{_meant(name)}, or your token with "
            f"`{token}`"
        )
    if any(isinstance(link, HfHubHTTPError) and link.response.status_code in (401, 403) for link in chain):
        return f"Hugging Face refuses access; check your token with `{token}`"
    if met(OfflineModeIsEnabled) or (met(LocalEntryNotFoundError) and HF_HUB_OFFLINE):
        return "it is not in the cache and HF_HUB_OFFLINE is set; unset it, or fetch the model where there is a network"
    if met(LocalEntryNotFoundError, ConnectionError, TimeoutError, HfHubHTTPError, httpx.TransportError):
        return "huggingface.co cannot be reached and the model is not in the cache; check the network, or name a folder"
    if any(isinstance(link, OSError) and link.errno == errno.ENOSPC for link in chain):
        return "no space is left for its files; free some, or set HF_HOME to a folder on a larger disk"
    if "trust_remote_code" in str(problem):
        return "its repository brings code of its own, which hybret does not run; use a family that transformers has"
    if type(problem) is OSError and "safetensors" in str(problem).replace(source, ""):  # a path may hold the word
        return f"there are no safetensors in {source}, and hybret reads no other weights; convert them first"
    return f"{text} ({source})"
