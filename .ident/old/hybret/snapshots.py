"""A model's files on this machine before a run needs them: what `hybret.load` reads, complete and checked."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from tqdm import tqdm

from .engine.sizing import GIB
from .errors import HybretError
from .sources import said, source_of

READ = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""Weights, configurations and tokenizers at the top of a repository. Never pickles, never code."""
BLOCK = 1 << 22  # bytes that are hashed at a time


def fetch(name: str, progress: bool = False, say: Callable[[str], None] = lambda _: None) -> Path:
    """Download a model from Hugging Face into its cache, where `hybret.load` finds it, and check every file.

    The revision is resolved to a commit first. A line that breaks is taken up again within a file, a download that was
    stopped with the first file that is not there whole. Every file is compared with the hub's SHA-256 (small files:
    with their git hash), and one that differs is removed.

    Parameters
    ----------
    name : str
        ``owner/name``, or ``owner/name@revision``.
    progress : bool
        Show a bar for the check; downloads have the hub's own.
    say : callable, optional
        Told what will be downloaded, and at the end the name that pins the commit.

    Returns
    -------
    Path
        The folder of the snapshot.

    Raises
    ------
    HybretError
        A model that needs no download; no access, network, revision or safetensors; not enough space; a damaged file.
    """
    repository, _, revision = name.partition("@")
    source = source_of(name)
    if Path(source).exists():
        raise HybretError(f"{name!r} is on this machine already ({source}); there is nothing to fetch")
    with said(name, source, "fetch"):
        info = HfApi().model_info(repository, revision=revision or None, files_metadata=True)
    commit = str(info.sha)
    files = [f for f in info.siblings or [] if "/" not in f.rfilename and any(fnmatch(f.rfilename, p) for p in READ)]
    if not any(f.rfilename.endswith(".safetensors") for f in files):
        raise HybretError(
            f"cannot fetch {name!r}: there are no safetensors in {source}, and hybret reads no other weights; "
            "convert them first"
        )
    wanted: dict[str, Any] = {"revision": commit, "allow_patterns": [f.rfilename for f in files]}
    with said(name, source, "fetch"):
        plan = snapshot_download(repository, dry_run=True, **wanted)
    missing = sum(f.file_size or 0 for f in plan if f.will_download)
    require_space(name, missing)
    say(f"{repository}@{commit}: {len(files)} files, {missing / GIB:.1f} GiB to download")
    with said(name, source, "fetch"):
        folder = Path(snapshot_download(repository, **wanted))
    bar = tqdm(total=sum(f.size or 0 for f in files), desc="checking", unit="B", unit_scale=True, disable=not progress)
    with bar:
        damaged = [f.rfilename for f in files if not intact(folder / f.rfilename, f, bar.update)]
    for file in damaged:
        remove(folder / file)
    if damaged:
        raise HybretError(
            f"{', '.join(damaged)} of {repository} differ from what the hub has and were removed; "
            f"run `hybret fetch {name}` again"
        )
    say(f"checked: {repository}@{commit}")
    return folder


def require_space(name: str, missing: int) -> None:
    """Raise HybretError if the disk of the cache has not that many bytes."""
    cache = Path(constants.HF_HUB_CACHE)
    disk = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(disk).free
    if missing > free:
        raise HybretError(
            f"cannot fetch {name!r}: {missing / GIB:.1f} GiB are missing and {disk} has {free / GIB:.1f} GiB free; "
            "free some, or set HF_HOME to a folder on a larger disk"
        )


def intact(path: Path, file: Any, seen: Callable[[int], Any] = lambda _: None) -> bool:
    """Whether a file is what the hub says: SHA-256 of one in LFS, of another its git hash.

    Parameters
    ----------
    path : the file.
    file : what the hub says of it (huggingface_hub's ``RepoSibling``).
    seen : told how many bytes have been hashed.
    """
    if not path.is_file():
        return False
    if file.lfs is not None:
        total, wanted = hashlib.sha256(), file.lfs.sha256
    else:
        total, wanted = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False), file.blob_id
    with path.open("rb") as content:
        while block := content.read(BLOCK):
            total.update(block)
            seen(len(block))
    return bool(total.hexdigest() == wanted)


def remove(path: Path) -> None:
    """Remove a file of a snapshot and what its link leads to, so that it is downloaded again."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
