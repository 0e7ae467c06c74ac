"""Files that are whole or absent, digests, the cache, and Parquet tables with their checksum in their name."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from hybret.errors import HybretError

CACHE = "HYBRET_CACHE"  # environment variable: the folder for fetched and generated data
MANIFEST = "manifest.json"
_UMASK = os.umask(0)  # it can only be read by setting it
os.umask(_UMASK)
MODE = 0o666 & ~_UMASK  # of a file that the user creates


def digest(*parts: bytes | str | Path, digits: int = 12) -> str:
    """The first hex digits of the SHA-256 of texts, bytes and the contents of files, one after another."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                hashlib.file_digest(file, lambda: total)
        else:
            total.update(part.encode() if isinstance(part, str) else part)
    return total.hexdigest()[:digits]


def write_whole(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: readers, killed processes and a machine that stops never leave half of one."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".hybret-", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), MODE)  # temporary files are private
            os.fsync(file.fileno())
            file.close()
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as ``path.CHECKSUM.parquet``."""
    data = table.to_parquet(index=False)
    write_whole(path.with_name(f"{path.name}.{digest(data)}.parquet"), data)


def tables(path: Path) -> list[Path]:
    """The files that `write_table` wrote as `path`; several only if their contents differ."""
    return sorted(path.parent.glob(f"{path.name}.*.parquet"))


def read_table(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a table and compare it with the checksum in its name; a name without one is trusted."""
    data, name = path.read_bytes(), re.fullmatch(r".*\.([0-9a-f]{12})\.parquet", path.name)
    try:
        if name and name[1] != digest(data):
            raise ValueError("checksum")
        return pd.read_parquet(io.BytesIO(data), columns=columns)
    except (OSError, ValueError) as problem:  # pyarrow raises either for bytes that are no Parquet
        raise HybretError(f"{path} is damaged; remove it, and its contents are computed again") from problem


@contextmanager
def writing(what: object, remedy: str) -> Iterator[None]:
    """Say in one sentence that something cannot be written, and what to do."""
    try:
        yield
    except OSError as problem:
        if problem.errno == errno.ENOSPC:
            remedy = "free some space and run again: finished rows are kept"
        raise HybretError(f"cannot write {what} ({problem.strerror or problem}); {remedy}") from problem


def cache_folder() -> Path:
    """The folder of fetched and generated data: ``$HYBRET_CACHE``, else ``hybret`` in the user's cache folder."""
    named = os.environ.get(CACHE) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "hybret"
    return Path(named).expanduser()


def fetched(name: str, revision: Any) -> dict[str, Path]:
    """The files of fetched data by their names in it, each checked against the manifest of `revision`."""
    target = cache_folder() / name
    try:
        manifest = json.loads((target / MANIFEST).read_text())
        made_of, digests = manifest["revision"], {str(k): str(v) for k, v in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        made_of, digests = None, {}
    if made_of != revision or not digests or not all(map(inside, digests)):
        raise HybretError(f"the data of {name} are not in {target}; run `hybret fetch {name}` once, with a network")
    check_files(name, target, digests)
    return {file: target / file for file in digests}


def check_files(name: str, folder: Path, digests: Mapping[str, str]) -> None:
    """Refuse data of which a file is missing or has another SHA-256 than recorded."""
    for file, recorded in digests.items():
        if not (folder / file).is_file() or digest(folder / file, digits=64) != recorded:
            raise HybretError(
                f"the data of {name} in {folder} are not complete ({file} is missing or changed); run `hybret fetch "
                f"{name}` once, with a network"
            )


def inside(file: str) -> bool:
    """Whether a file's name stays in its folder."""
    return ".." not in Path(file).parts and not file.startswith("/")
