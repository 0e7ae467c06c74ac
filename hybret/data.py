"""Data that runs need, fetched once and checked whenever they are used: essays, GLUE, MMLU and models.

hybret ships none of their text (licences differ), only addresses, commits and digests, so that two machines have the
same files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
from hybret.files import write_whole

CACHE = "HYBRET_CACHE"  # environment variable: the folder for fetched and generated data
MANIFEST = "manifest.json"
ESSAYS: dict[str, Any] = json.loads((CONFIGS / "essays.json").read_text())
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")  # never pickles, never code

Say = Callable[[str], None]
Download = Callable[[str, str, str], str | Path]
"""Repository, revision and file name to the path of the downloaded file."""


@dataclass(frozen=True)
class Benchmark:
    """A data set on the Hugging Face hub, by commit.

    `files` maps a file of the data set to the JSONL it becomes; ``{column}`` in a name splits it by that column.
    """

    repository: str
    revision: str
    files: dict[str, str]


_SPLITS = {task: ("validation",) for task in ("cola", "mrpc", "qnli", "qqp", "rte", "sst2", "wnli")}
_GLUE = [(task, split) for task, splits in _SPLITS.items() for split in splits]
_GLUE += [("mnli", "validation_matched"), ("mnli", "validation_mismatched")]

BENCHMARKS = {
    "glue": Benchmark(
        "nyu-mll/glue",
        "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
        {f"{task}/{split}-00000-of-00001.parquet": f"{task}/{split}.jsonl" for task, split in _GLUE},
    ),
    "mmlu": Benchmark(
        "cais/mmlu",
        "c30699e8356da336a370243923dbaf21066bb9fe",
        {f"all/{split}-00000-of-00001.parquet": f"{{subject}}/{split}.jsonl" for split in ("dev", "test")},
    ),
}


def cache_folder() -> Path:
    """Where fetched and generated data lie: ``$HYBRET_CACHE``, else ``hybret`` in the user's cache folder."""
    return Path(os.environ.get(CACHE) or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hybret")


def fetch(what: str, say: Say = lambda _: None, progress: bool = False) -> Path:
    """Download ``"essays"``, ``"glue"``, ``"mmlu"`` or a model (``"owner/name"``, ``"owner/name@revision"``).

    What is there already is kept; `say` gets a line for each step. Returns the folder.
    """
    if what == "essays":
        return fetch_essays(progress=progress)
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
        except (OSError, ValueError) as problem:  # no network or folder; another content than recorded
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


def fetch_benchmark(name: str, download: Download | None = None, say: Say = lambda _: None) -> Path:
    """Download GLUE or MMLU and write them as JSONL beside a manifest of their digests.

    `download` defaults to ``huggingface_hub.hf_hub_download``, which continues an interrupted download.
    """
    source, target = _benchmark(name), cache_folder() / name
    try:
        benchmark_files(name)
    except HybretError:
        pass
    else:
        say(f"{name}: complete")
        return target
    digests: dict[str, str] = {}
    for i, (remote, local) in enumerate(source.files.items(), 1):
        say(f"{name} {i}/{len(source.files)}: {remote}")
        try:
            table = pd.read_parquet((download or _hub)(source.repository, source.revision, remote))
        except (OSError, RuntimeError, ValueError) as problem:
            raise HybretError(
                f"cannot download {remote} of {source.repository} ({_first_line(problem)}); check the network and run "
                f"`hybret fetch {name}` again"
            ) from problem
        for file, text in _jsonl(table, local):
            if not _inside(file):
                raise HybretError(f"{remote} of {source.repository} names {file!r}, which leads out of {target}")
            _write(target / file, text)
            digests[file] = hashlib.sha256(text).hexdigest()
    manifest = {"repository": source.repository, "revision": source.revision, "files": digests}
    _write(target / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
    return target


def benchmark_files(name: str) -> dict[str, Path]:
    """The JSONL files of a fetched benchmark by their names in it, each checked against the manifest."""
    source, target = _benchmark(name), cache_folder() / name
    try:
        manifest = json.loads((target / MANIFEST).read_text())
        revision, digests = manifest["revision"], {str(k): str(v) for k, v in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        revision, digests = None, {}
    if revision != source.revision or not digests or not all(map(_inside, digests)):
        raise HybretError(f"the data of {name} are not in {target}; run `hybret fetch {name}` once, with a network")
    _check(name, target, digests)
    return {file: target / file for file in digests}


def _benchmark(name: str) -> Benchmark:
    if name not in BENCHMARKS:
        raise HybretError(f"unknown benchmark {name!r}; choose one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def _check(name: str, folder: Path, digests: Mapping[str, str]) -> None:
    for file, digest in digests.items():
        path = folder / file
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise HybretError(
                f"the data of {name} in {folder} are not complete ({file} is missing or changed); run `hybret fetch "
                f"{name}` once, with a network"
            )


def _inside(file: str) -> bool:
    return ".." not in Path(file).parts and not file.startswith("/")


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as problem:
        raise HybretError(f"cannot write {path} ({problem.strerror}); choose another folder with {CACHE}") from problem


def _first_line(problem: BaseException) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]


def _jsonl(table: pd.DataFrame, name: str) -> Iterator[tuple[str, bytes]]:
    """File names and contents; a ``{column}`` in the name makes one file for each of its values."""
    column = name[name.find("{") + 1 : name.find("}")] if "{" in name else None
    parts: Any = table.groupby(column, sort=True) if column else [("", table)]
    for value, part in parts:
        text = part.to_json(orient="records", lines=True, force_ascii=False)
        yield name.format(**{column: value}) if column else name, text.encode()


def _hub(repository: str, revision: str, file: str) -> str:
    return hf_hub_download(repository, file, repo_type="dataset", revision=revision)


def fetch_model(name: str, say: Say = lambda _: None) -> Path:
    """Download what `hybret.load` reads of a model into Hugging Face's cache, and compare every file with the hub.

    The revision is resolved to a commit first, which the last line to `say` names. Interrupted downloads continue. A
    damaged file is removed.
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
    for file in damaged:
        (folder / file).resolve().unlink(missing_ok=True)  # what the link of the snapshot leads to
        (folder / file).unlink(missing_ok=True)
    if damaged:
        raise HybretError(
            f"{', '.join(damaged)} of {repository} differ from the hub's and were removed; run "
            f"`hybret fetch {name}` again"
        )
    say(f"checked: {repository}@{commit}")
    return folder
