"""The folder of one run: finished answers batch by batch, tables of rows, and notes of what made them.

Every table has a checksum in its name. Files are written whole or not at all and named by their contents, so two
processes may fill one folder at once.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
import transformers

from hybret import __version__
from hybret.devices import Budget
from hybret.errors import HybretError
from hybret.files import digest, read_table, write_table, write_whole, writing
from hybret.hybrid import Hybrid
from hybret.provenance import ENGINE_DIGEST, HERE, PACKAGE_DIGEST, RUN_FILE, commit
from hybret.recipe import Recipe

REMEDY = "choose a folder you may write to for `out`"
ABANDONED = 3600
"""Seconds after which an unfinished file is nobody's: its process was killed."""
UNUSED = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")  # of a configuration
LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pandas", "pyarrow")


class Answer(NamedTuple):
    """The answer of a condition to a prompt, and the number of tokens on which the condition acted."""

    answer: str
    acted_prefill: int
    acted_generation: int


def model_key(model: Hybrid) -> dict[str, Any]:
    """Everything of a model and of the code that decides what it answers: a part of every key."""
    model.check_state()
    config = {name: value for name, value in model.net.config.to_dict().items() if name not in UNUSED}
    tokens = model.tokenizer.convert_ids_to_tokens(range(len(model.tokenizer)))
    return {
        "weights": model.digest,
        "window": model.window,
        "config": name_of(json.loads(json.dumps(config, default=str))),
        "tokenizer": name_of([tokens, model.tokenizer.all_special_ids, sorted(model.eos)]),
        "dtype": model.dtype,
        "device": model.device.type,
        "engine": ENGINE_DIGEST,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def run_key(model: Hybrid, recipe: Recipe, max_new_tokens: int, budget: Budget) -> dict[str, Any]:
    """Everything that the rows of one folder share; rows of runs that differ in any of it are never mixed."""
    return model_key(model) | {
        "model": model.name,
        "recipe": recipe.deciding,
        "max_new_tokens": max_new_tokens,
        "rows_per_batch": budget.max_sequences,
        "tokens_per_pass": budget.max_tokens,
    }


def facts(model: Hybrid) -> dict[str, Any]:
    """What computes in this process, without times; several makers may fill the folder of one run.

    On Ray it describes the driver: workers are held to the same engine, torch and transformers.
    """
    cuda = model.device.type == "cuda"
    processor = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    return {
        "code": {"version": __version__, "package": PACKAGE_DIGEST, **commit(HERE)},
        "libraries": {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()},
        "hardware": torch.cuda.get_device_name(model.device) if cuda else processor,
        "threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        # Of a model of the hub: the commit that its name stood for when it was loaded.
        "revision": getattr(model.net.config, "_commit_hash", None),
    }


def name_of(facts: Any) -> str:
    """12 hex digits of anything that JSON can hold: the name of a run or a maker."""
    return digest(json.dumps(facts, sort_keys=True))


def flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested facts on one level, as ``{"code.commit": ...}``."""
    level: dict[str, Any] = {}
    for key, value in facts.items():
        level |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return level


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The fields in which two runs differ, with both values; empty if there are none."""

    def shown(facts: Mapping[str, Any], key: str) -> str:
        return json.dumps(facts[key]) if key in facts else "not recorded"

    a, b = flat(there), flat(here)
    keys = [key for key in {**b, **a} if shown(a, key) != shown(b, key)]
    return ", ".join(f"{key}: {shown(a, key)} there, {shown(b, key)} here" for key in keys)


class Store:
    """Answers of one run, kept in memory and, batch by batch, in a folder (None: nowhere).

    `run` must be equal for all answers of a folder (`run_key`); `made` computes those that this process adds (`facts`).
    """

    def __init__(self, out: str | Path | None, run: dict[str, Any], made: dict[str, Any]) -> None:
        self.folder = Path(out).expanduser() if out is not None else None
        self.answers: dict[tuple[str, str], Answer] = {}
        self.batches: dict[tuple[str, str], str] = {}
        self.maker = name_of(made)
        self._makers: dict[str, str] = {}  # of each batch
        self._facts = {self.maker: made}
        if self.folder is not None:
            with writing(f"rows in {self.folder}", REMEDY):
                self._open(self.folder, run, made)

    def _open(self, folder: Path, run: dict[str, Any], made: dict[str, Any]) -> None:
        """Read the answers of an earlier process; refuse the folder of another run."""
        (folder / "answers").mkdir(parents=True, exist_ok=True)
        known = _read_note(folder / RUN_FILE)
        if known is None and any(folder.rglob("*.parquet")):
            raise HybretError(f"{folder} holds rows of an unknown run; choose an empty folder for `out`")
        if known is not None and (fields := differences(known, run)):
            raise HybretError(
                f"{folder} holds the rows of another run (it differs in {fields}); choose another folder for `out`"
            )
        # Written even if it exists: a folder that cannot be written to is noticed before any model runs.
        write_whole(folder / RUN_FILE, _json(run))
        write_whole(folder / f"made-{self.maker}.json", _json(made))
        for path in folder.rglob(".hybret-*"):
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink(missing_ok=True)
        for path in sorted(folder.glob("answers/*.parquet")):
            self._read(path)

    def _read(self, path: Path) -> None:
        part = read_table(path, ["prompt", "does", *Answer._fields, "made"])
        keys = list(zip(part["prompt"], part["does"], strict=True))
        answers = part[[*Answer._fields]].itertuples(index=False, name=None)
        batch, maker = path.name.partition(".")[0], part["made"].iloc[0]
        self._keep(keys, map(Answer._make, answers), batch, maker)
        if maker not in self._facts:
            note = path.parents[1] / f"made-{maker}.json"
            self._facts[maker] = _read_note(note) or {}
            if self._facts[maker] and name_of(self._facts[maker]) != maker:
                raise HybretError(f"{note} is damaged; remove it, and what made its answers is no longer known")

    def _keep(self, keys: Sequence[tuple[str, str]], answers: Iterable[Answer], batch: str, maker: str) -> None:
        self.answers.update(zip(keys, answers, strict=True))
        self.batches.update(dict.fromkeys(keys, batch))
        self._makers[batch] = maker

    def add(self, keys: Sequence[tuple[str, str]], answers: Sequence[Answer], rows: int, tokens: int) -> None:
        """Keep a finished batch, and the budget (rows per batch, tokens per pass) that it ran under."""
        batch = digest(repr(sorted(keys)), digits=16)
        self._keep(keys, answers, batch, self.maker)
        table = pd.DataFrame(keys, columns=["prompt", "does"]).join(pd.DataFrame(answers, columns=Answer._fields))
        self._write(f"answers/{batch}", table.assign(rows_per_batch=rows, tokens_per_pass=tokens, made=self.maker))

    def made_of(self, batches: Iterable[str]) -> dict[str, Any]:
        """What made these batches, by the name of each maker."""
        return {maker: self._facts[maker] for maker in sorted({self._makers[batch] for batch in batches})}

    def write_rows(self, rows: pd.DataFrame) -> None:
        """The finished table of one call, named by its cells."""
        cells = rows.reindex(columns=["prompt", "length", "depth", "condition", "intervention", "rubric", "recipe"])
        self._write(f"rows-{digest(cells.to_csv(), digits=16)}", rows)

    def _write(self, name: str, table: pd.DataFrame) -> None:
        if self.folder is not None:
            with writing(f"rows in {self.folder}", REMEDY):
                write_table(self.folder / name, table)


def read_rows(paths: Sequence[Path]) -> pd.DataFrame:
    """Rows of several finished sweeps as one table; in its ``attrs`` their notes, of one name the last."""
    attrs: dict[str, Any] = {}
    parts = [read_table(path) for path in paths]
    for part in parts:
        for key, value in part.attrs.items():
            attrs[str(key)] = {**attrs.get(str(key), {}), **value} if isinstance(value, dict) else value
        part.attrs = {}
    rows = pd.concat(parts, ignore_index=True)
    rows = rows.astype({"k": "Int64"}) if "k" in rows else rows
    rows.attrs.update(attrs)
    return rows


def rows_of(source: str | Path) -> pd.DataFrame:
    """Rows of a Parquet file, or all that a folder holds: of one run, or of the runs in it."""
    path = Path(source)
    paths = sorted(path.glob("rows-*.parquet")) or sorted(path.glob("*/rows-*.parquet"))
    if not path.is_file() and not paths:
        raise HybretError(f"{path} holds no finished rows; give the folder of a finished sweep, or a Parquet file")
    try:
        return read_rows([path] if path.is_file() else paths)
    except OSError as problem:
        raise HybretError(f"cannot read rows of {path} ({problem})") from problem


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def _read_note(note: Path) -> dict[str, Any] | None:
    """A note of the folder; None if there is none."""
    if not note.exists():
        return None
    try:
        facts = json.loads(note.read_text())
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise HybretError(f"{note} is damaged, so its rows cannot be trusted; remove {note.parent}")
    return facts
