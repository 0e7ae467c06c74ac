"""The data of GLUE and MMLU: fetched once, kept as JSONL beside a manifest, checked against it when they are used.

hybret ships neither (their licences differ by task). Revisions are commits of the data sets on the Hugging Face hub, so
the files of two machines are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from .errors import HybretError
from .store import write_whole

MANIFEST = "manifest.json"
CACHE = "HYBRET_CACHE"  # environment variable: the folder for fetched and generated data

Download = Callable[[str, str, str], str | Path]
"""Repository, revision and file name to the path of the downloaded file."""


@dataclass(frozen=True)
class Source:
    """A data set on the Hugging Face hub.

    Attributes
    ----------
    repository : its id.
    revision : commit.
    files : file of the data set to the JSONL it becomes; ``{column}`` in a name splits it by that column.
    """

    repository: str
    revision: str
    files: dict[str, str]


_GLUE = {task: ("validation",) for task in ("cola", "mrpc", "qnli", "qqp", "rte", "sst2", "wnli")}
_GLUE["mnli"] = ("validation_matched", "validation_mismatched")  # type: ignore[assignment]

SOURCES = {
    "glue": Source(
        "nyu-mll/glue",
        "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
        {
            f"{task}/{split}-00000-of-00001.parquet": f"{task}/{split}.jsonl"
            for task, splits in _GLUE.items()
            for split in splits
        },
    ),
    "mmlu": Source(
        "cais/mmlu",
        "c30699e8356da336a370243923dbaf21066bb9fe",
        {f"all/{split}-00000-of-00001.parquet": f"{{subject}}/{split}.jsonl" for split in ("dev", "test")},
    ),
}


def cache_folder() -> Path:
    """Where fetched and generated data lie: ``$HYBRET_CACHE``, else ``hybret`` in the user's cache folder."""
    if given := os.environ.get(CACHE):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hybret"


def fetch(
    name: str,
    folder: str | Path | None = None,
    download: Download | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Download a benchmark's data and write them as JSONL; what is there and intact is not fetched again.

    Parameters
    ----------
    name : {"glue", "mmlu"}
    folder : path, optional
        Parent folder; default `cache_folder`.
    download : callable, optional
        Default: ``huggingface_hub.hf_hub_download``, which goes on with an interrupted download.
    say : callable, optional
        Told one line for every file.

    Returns
    -------
    Path
        The folder with the JSONL files and their manifest.

    Raises
    ------
    HybretError
        Unknown name, no network, or a folder that cannot be written to.
    """
    source = _source(name)
    download = download or _hub
    target = Path(folder or cache_folder()) / name
    manifest = _manifest(target)
    if manifest.get("revision") != source.revision:
        manifest = {"repository": source.repository, "revision": source.revision, "files": {}}
    for i, (remote, local) in enumerate(source.files.items(), 1):
        line = f"{name} {i}/{len(source.files)}: {remote}"
        if _intact(target, {k: v for k, v in manifest["files"].items() if v["source"] == remote}):
            say(f"{line} (there already)")
            continue
        say(line)
        try:
            path = Path(download(source.repository, source.revision, remote))
        except (OSError, RuntimeError, ValueError) as problem:
            reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
            raise HybretError(
                f"cannot download {remote} of {source.repository} ({reason}); check the network and run "
                f"`hybret fetch {name}` again: finished files are kept"
            ) from problem
        try:
            for file, text in _jsonl(pd.read_parquet(path), local):
                if not (target / file).resolve().is_relative_to(target.resolve()):
                    raise HybretError(
                        f"{remote} of {source.repository} names {file!r}, which leads out of {target}; it is damaged"
                    )
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                write_whole(target / file, text)
                manifest["files"][file] = {"sha256": hashlib.sha256(text).hexdigest(), "source": remote}
            write_whole(target / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
        except OSError as problem:
            raise HybretError(
                f"cannot write {target} ({problem.strerror}); choose another folder with {CACHE}"
            ) from problem
    return target


def files(name: str, folder: str | Path | None = None) -> dict[str, Path]:
    """The JSONL files of a fetched benchmark by their names in it, each checked against the manifest.

    Raises
    ------
    HybretError
        If the data are absent, incomplete, of another revision or changed; it names the command to run.
    """
    source = _source(name)
    target = Path(folder or cache_folder()) / name
    manifest = _manifest(target)
    there = manifest.get("files", {})
    if manifest.get("revision") != source.revision or {f["source"] for f in there.values()} != set(source.files):
        raise HybretError(f"the data of {name} are not in {target}; run `hybret fetch {name}` once, with a network")
    if not _intact(target, there):
        raise HybretError(
            f"the data of {name} in {target} are not what was fetched; run `hybret fetch {name}` to restore them"
        )
    return {file: target / file for file in there}


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise HybretError(f"there is nothing to fetch for {name!r}; choose one of {', '.join(SOURCES)}")
    return SOURCES[name]


def _manifest(folder: Path) -> dict[str, Any]:
    """What a folder says of its files; nothing where that is absent, damaged, or names files outside the folder."""
    try:
        found = json.loads((folder / MANIFEST).read_text())
        for file, entry in found["files"].items():
            if (
                not isinstance(entry["sha256"] + entry["source"], str)
                or ".." in Path(file).parts
                or file.startswith("/")
            ):
                return {}
        return dict(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _intact(folder: Path, entries: dict[str, dict[str, str]]) -> bool:
    """Whether there are entries, and every file is what its entry says."""

    def same(file: str, entry: dict[str, str]) -> bool:
        path = folder / file
        return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]

    return bool(entries) and all(same(file, entry) for file, entry in entries.items())


def _jsonl(table: pd.DataFrame, name: str) -> Iterator[tuple[str, bytes]]:
    """File names and contents; a ``{column}`` in the name makes one file for each of its values."""
    column = name[name.find("{") + 1 : name.find("}")] if "{" in name else None
    parts: Any = table.groupby(column, sort=True) if column else [("", table)]
    for value, part in parts:
        text = part.to_json(orient="records", lines=True, force_ascii=False)
        yield name.format(**{column: value}) if column else name, text.encode()


def _hub(repository: str, revision: str, file: str) -> str:
    from huggingface_hub import hf_hub_download

    return hf_hub_download(repository, file, repo_type="dataset", revision=revision)
