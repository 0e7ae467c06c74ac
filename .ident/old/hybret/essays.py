"""The Paul Graham essays of the needle-in-a-haystack test: fetched once from a pinned commit, checked whenever used.

hybret ships none of their text, only names and SHA-256 (``configs/essays.json``, with repository and commit).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tqdm import tqdm

from .errors import HybretError
from .fetching import CACHE, cache_folder
from .presets import CONFIGS
from .store import write_whole

ESSAYS: dict[str, Any] = json.loads((CONFIGS / "essays.json").read_text())
TIMEOUT = 60  # seconds without a byte


def read(url: str) -> bytes:
    """What an address answers; shorter than announced is an error."""
    with urlopen(url, timeout=TIMEOUT) as response:
        return bytes(response.read())


def fetch(
    folder: str | Path | None = None, opener: Callable[[str], bytes] | None = None, progress: bool = False
) -> Path:
    """Download the essays that are not there yet; a file is kept only whole and with the recorded SHA-256.

    Parameters
    ----------
    folder : path, optional
        Parent folder; default `hybret.fetching.cache_folder`.
    opener : callable, optional
        From an address to its bytes; default `read`.
    progress : bool
        Show a bar.

    Returns
    -------
    Path
        The folder of .txt files, which ``haystack="essays"`` reads.

    Raises
    ------
    HybretError
        No network, another content than recorded, or a folder that cannot be written to.
    """
    target = Path(folder or cache_folder()) / "essays"
    base = f"https://raw.githubusercontent.com/{ESSAYS['repository']}/{ESSAYS['commit']}/{ESSAYS['folder']}"
    missing = {name: wanted for name, wanted in ESSAYS["files"].items() if digest(target / name) != wanted}
    for name, wanted in tqdm(missing.items(), desc="essays", unit="file", disable=not progress):
        try:
            content = (opener or read)(f"{base}/{name}")
        except (OSError, HTTPException) as problem:
            raise HybretError(
                f"cannot download {name} of {ESSAYS['repository']} ({problem or type(problem).__name__}); check the "
                "network and run `hybret fetch essays` again: finished files are kept"
            ) from problem
        if hashlib.sha256(content).hexdigest() != wanted:
            raise HybretError(
                f"{name} came with another SHA-256 than recorded and was not kept; something between here and "
                f"{base} changes files: use another network, then run `hybret fetch essays` again"
            )
        try:
            target.mkdir(parents=True, exist_ok=True)
            write_whole(target / name, content)
        except OSError as problem:
            raise HybretError(
                f"cannot write {target} ({problem.strerror}); choose another folder with {CACHE}"
            ) from problem
    return target


def fetched(folder: str | Path | None = None) -> Path:
    """The folder of the fetched essays, every one of them checked.

    Raises
    ------
    HybretError
        If one is absent or changed; it names the command to run.
    """
    target = Path(folder or cache_folder()) / "essays"
    for name, wanted in ESSAYS["files"].items():
        if (found := digest(target / name)) != wanted:
            how = "not there" if found is None else "not what was fetched"
            raise HybretError(
                f"the essays in {target} are not complete ({name} is {how}); run `hybret fetch essays` once, "
                "with a network"
            )
    return target


def digest(path: Path) -> str | None:
    """SHA-256 of a file, None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
