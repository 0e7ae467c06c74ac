"""Data that runs need, fetched once and checked at every use: essays, GLUE, MMLU and models.

hybret ships none of their text (licences differ), only addresses, commits and digests.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pooch
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from tqdm import tqdm

from hybret.checkpoints import explained, locate
from hybret.devices import GIB
from hybret.errors import HybretError
from hybret.families import CONFIGS
from hybret.files import digest, write_whole, writing

CACHE = "HYBRET_CACHE"  # environment variable: the folder for fetched and generated data
MANIFEST = "manifest.json"
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")  # never pickles, never code
# Address, and SHA-256 by file; repository, revision, and JSONL by Parquet file, which a ``{column}`` splits.
ESSAYS, BENCHMARKS = (json.loads((CONFIGS / f"{name}.json").read_text()) for name in ("essays", "benchmarks"))

Say = Callable[[str], None]


def cache_folder() -> Path:
    """Where fetched and generated data lie: ``$HYBRET_CACHE``, else ``hybret`` in the user's cache folder."""
    named = os.environ.get(CACHE) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "hybret"
    return Path(named).expanduser()


def fetch(what: str, say: Say = lambda _: None, progress: bool = False) -> Path:
    """Download ``"essays"``, ``"glue"``, ``"mmlu"`` or a model of the hub, but what is there already; the folder."""
    if what == "essays":
        return fetch_essays(progress)
    if what in BENCHMARKS:
        return fetch_benchmark(what, say=say)
    if "/" in what:
        return fetch_model(what, say)
    known = ", ".join(["essays", *BENCHMARKS])
    raise HybretError(f"there is nothing to fetch for {what!r}; give {known} or a Hugging Face id (owner/name)")


def _essays() -> pooch.Pooch:
    pooch.get_logger().setLevel("WARNING")
    return pooch.create(cache_folder() / "essays", ESSAYS["address"], registry=ESSAYS["files"])


def fetch_essays(progress: bool = False) -> Path:
    """Download the essays that are missing or changed; a file is kept only with the recorded SHA-256."""
    essays = _essays()
    for name in tqdm(essays.registry, desc="essays", unit="file", disable=not progress):
        try:
            essays.fetch(name)
        except (OSError, ValueError) as problem:  # network or folder, and another content than recorded
            raise HybretError(
                f"cannot fetch {name} into {essays.path} ({_first_line(problem)}); run `hybret fetch essays` again on "
                f"a network that does not change files, or choose another folder with {CACHE}"
            ) from problem
    return Path(essays.path)


def essays_folder() -> Path:
    """The folder of the fetched essays, all of them checked."""
    essays = _essays()
    _check("essays", Path(essays.path), essays.registry)
    return Path(essays.path)


def fetch_benchmark(name: str, download: Callable[..., str | Path] | None = None, say: Say = lambda _: None) -> Path:
    """Download GLUE or MMLU and write JSONL beside a manifest of digests; `download` is ``hf_hub_download``."""
    (repository, revision, files), target = BENCHMARKS[name].values(), cache_folder() / name
    with suppress(HybretError):
        benchmark_files(name)
        return target
    download = download or partial(hf_hub_download, repo_type="dataset")
    digests: dict[str, str] = {}
    for i, (remote, local) in enumerate(files.items(), 1):
        say(f"{name} {i}/{len(files)}: {remote}")
        try:
            table = pd.read_parquet(download(repository, remote, revision=revision))
        except (OSError, RuntimeError, ValueError) as problem:
            raise HybretError(
                f"cannot download {remote} of {repository} ({_first_line(problem)}); check the network and run "
                f"`hybret fetch {name}` again"
            ) from problem
        for file, text in _jsonl(table, local):
            if not _inside(file):
                raise HybretError(f"{remote} of {repository} names {file!r}, which leads out of {target}")
            write(target / file, text)
            digests[file] = digest(text, digits=64)
    # Last, so that a manifest stands for complete data.
    write(target / MANIFEST, json.dumps({"revision": revision, "files": digests}, indent=1).encode())
    return target


def benchmark_files(name: str) -> dict[str, Path]:
    """The JSONL files of a fetched benchmark by their names in it, each checked against the manifest."""
    wanted, target = BENCHMARKS[name]["revision"], cache_folder() / name
    try:
        manifest = json.loads((target / MANIFEST).read_text())
        revision, digests = manifest["revision"], {str(k): str(v) for k, v in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        revision, digests = None, {}
    if revision != wanted or not digests or not all(map(_inside, digests)):
        raise HybretError(f"the data of {name} are not in {target}; run `hybret fetch {name}` once, with a network")
    _check(name, target, digests)
    return {file: target / file for file in digests}


def _check(name: str, folder: Path, digests: Mapping[str, str]) -> None:
    for file, recorded in digests.items():
        if not (folder / file).is_file() or digest(folder / file, digits=64) != recorded:
            raise HybretError(
                f"the data of {name} in {folder} are not complete ({file} is missing or changed); run `hybret fetch "
                f"{name}` once, with a network"
            )


def _inside(file: str) -> bool:
    return ".." not in Path(file).parts and not file.startswith("/")


def write(path: Path, content: bytes) -> None:
    """Write a file of the cache."""
    with writing(path, f"choose another folder with {CACHE}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)


def _first_line(problem: BaseException) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]


def _jsonl(table: pd.DataFrame, name: str) -> Iterator[tuple[str, bytes]]:
    """File names and contents; a ``{column}`` in the name makes one file for each of its values."""
    column = name[name.find("{") + 1 : name.find("}")] if "{" in name else None
    parts: Any = table.groupby(column, sort=True) if column else [("", table)]
    for value, part in parts:
        text = part.to_json(orient="records", lines=True, force_ascii=False)
        yield name.format(**{column: value}) if column else name, text.encode()


def fetch_model(name: str, say: Say = lambda _: None) -> Path:
    """Download what `hybret.load` reads of a model into Hugging Face's cache, and compare every file with the hub.

    `name` may end in ``@revision``; it is resolved to a commit first, which the last line to `say` names. A download
    that was interrupted continues, a damaged file is removed.
    """
    kind, repository = locate(name)
    if kind != "hub":
        raise HybretError(f"{name!r} is on this machine already ({repository}); there is nothing to fetch")
    files: dict[str, Any] = {"allow_patterns": MODEL_FILES, "ignore_patterns": "*/*"}
    with explained(name, "fetch"):
        plan: Any = snapshot_download(repository, revision=name.partition("@")[2] or None, dry_run=True, **files)
    if not any(f.filename.endswith(".safetensors") for f in plan):
        raise HybretError(f"cannot fetch {name!r}: {repository} has no safetensors, and hybret reads no other weights")
    commit, missing = plan[0].commit_hash, sum(f.file_size for f in plan if f.will_download)
    hub = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(path for path in (hub, *hub.parents) if path.exists())).free
    if missing > free:
        raise HybretError(
            f"cannot fetch {name!r}: it takes {missing / GIB:.1f} GiB, and the disk of {hub} has {free / GIB:.1f} GiB "
            "free; free some, or set HF_HOME to a folder on a larger disk"
        )
    say(f"{repository}@{commit}: {len(plan)} files, {missing / GIB:.1f} GiB to download")
    with explained(name, "fetch"):
        folder = Path(snapshot_download(repository, revision=commit, **files))
        damaged = [m["path"] for m in HfApi().verify_repo_checksums(repository, revision=commit).mismatches]
    for path in (folder / file for file in damaged):
        path.resolve().unlink(missing_ok=True)  # what the snapshot's link leads to
        path.unlink(missing_ok=True)
    if damaged:
        raise HybretError(f"{', '.join(damaged)} of {name} differ from the hub's and were removed; fetch it again")
    say(f"checked: {repository}@{commit}")
    return folder
