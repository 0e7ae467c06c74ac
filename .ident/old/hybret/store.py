"""The folder of one run: finished answers batch by batch, tables of rows, and notes that say whose and from where.

Every table has 12 hex digits of its SHA-256 in its name, and is checked against them when it is read. Files are written
whole or not at all and named by what they hold, so that two processes may fill one folder at once.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from .errors import HybretError
from .provenance import differences, merged, name_of

RUN_FILE = "run.json"
ABANDONED = 3600
"""Seconds after which a file that was never finished is nobody's: whoever wrote it was killed."""
_CHECKED = re.compile(r".*\.([0-9a-f]{12})\.parquet")


class Answer(NamedTuple):
    """What a condition's answer to a prompt says, and on how many tokens the condition acted to get it."""

    answer: str
    acted_prefill: int
    acted_generation: int


class Store:
    """Answers of one run, kept in memory and, batch by batch, in a folder.

    Parameters
    ----------
    out : folder, or None to keep nothing.
    identity : what must be equal for all answers of a folder (``run.json``).
    made : what computes the answers that this process adds (`hybret.provenance.facts`; ``made-*.json``).

    Raises
    ------
    HybretError
        The folder holds another run or damaged files, or cannot be written to.
    """

    def __init__(self, out: str | Path | None, identity: dict[str, Any], made: dict[str, Any]) -> None:
        self.folder = Path(out) if out is not None else None
        self.answers: dict[tuple[str, str], Answer] = {}
        self.batches: dict[tuple[str, str], str] = {}
        self.maker = name_of(made)
        self._makers: dict[str, str] = {}  # of each batch
        self._facts = {self.maker: made}
        if self.folder is None:
            return
        note = self.folder / RUN_FILE
        try:
            (self.folder / "answers").mkdir(parents=True, exist_ok=True)
            found = _read_note(note)
            if found is None and any(self.folder.rglob("*.parquet")):
                raise HybretError(f"{self.folder} holds rows of an unknown run; choose an empty folder for `out`")
            if found is not None and (other := differences(found, identity)):
                raise HybretError(
                    f"{self.folder} holds the rows of another run (it differs in {other}); choose another folder "
                    "for `out`, or remove this one"
                )
            # Written again when it is there: a folder that cannot be written to is noticed before any model runs.
            write_whole(note, _json(identity))
            write_whole(self.folder / f"made-{self.maker}.json", _json(made))
            for path in self.folder.rglob(".hybret-*"):
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink(missing_ok=True)
            for path in sorted(self.folder.glob("answers/*.parquet")):
                self._read(path)
        except OSError as problem:
            raise unwritable(self.folder, problem) from problem

    def _read(self, path: Path) -> None:
        part = read_table(path, ["prompt", "does", *Answer._fields, "made"])
        keys = list(zip(part["prompt"], part["does"], strict=True))
        batch, maker = path.name.partition(".")[0], part["made"].iloc[0]
        found = part[[*Answer._fields]].itertuples(index=False, name=None)
        self.answers.update(zip(keys, map(Answer._make, found), strict=True))
        self.batches.update(dict.fromkeys(keys, batch))
        self._makers[batch] = maker
        if maker not in self._facts:
            note = path.parents[1] / f"made-{maker}.json"
            self._facts[maker] = _read_note(note) or {}
            if self._facts[maker] and name_of(self._facts[maker]) != maker:
                raise HybretError(f"{note} is damaged; remove it, and what made its answers is no longer known")

    def add(self, keys: Sequence[tuple[str, str]], answers: Sequence[Answer], rows: int, tokens: int) -> None:
        """Keep a finished batch, and with it the budget (`hybret.sweeping.Budget`) that it ran under."""
        batch = hashlib.sha256(repr(sorted(keys)).encode()).hexdigest()[:16]
        self.answers.update(zip(keys, answers, strict=True))
        self.batches.update(dict.fromkeys(keys, batch))
        self._makers[batch] = self.maker
        named = pd.DataFrame({"prompt": [k[0] for k in keys], "does": [k[1] for k in keys]})
        table = named.join(pd.DataFrame(answers, columns=Answer._fields))
        self._write(f"answers/{batch}", table.assign(rows_per_batch=rows, tokens_per_pass=tokens, made=self.maker))

    def made_of(self, batches: Iterable[str]) -> dict[str, Any]:
        """What made these batches, by the name that answers and note give it."""
        return {maker: self._facts[maker] for maker in sorted({self._makers[batch] for batch in batches})}

    def write_rows(self, rows: pd.DataFrame) -> None:
        """The finished table of one call, named by what was asked for."""
        asked = rows[["prompt", "length", "depth", "condition", "intervention", "rubric", "recipe"]]
        self._write(f"rows-{hashlib.sha256(asked.to_csv().encode()).hexdigest()[:16]}", rows)

    def _write(self, name: str, table: pd.DataFrame) -> None:
        if self.folder is None:
            return
        try:
            write_table(self.folder / name, table)
        except OSError as problem:
            raise unwritable(self.folder, problem) from problem


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def _read_note(note: Path) -> dict[str, Any] | None:
    """The recorded identity of the run in a folder, or what made it; None if there is no such note."""
    if not note.exists():
        return None
    try:
        found = json.loads(note.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise HybretError(
            f"{note} is damaged, so its rows cannot be trusted; remove {note.parent} or choose another `out`"
        )
    return found


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as ``path.CHECKSUM.parquet``.

    Raises
    ------
    OSError
        Nothing was written.
    """
    data = table.to_parquet(index=False)
    write_whole(path.with_name(f"{path.name}.{_checksum(data)}.parquet"), data)


def tables(path: Path) -> list[Path]:
    """The files that `write_table` wrote as `path`; several only if what they hold differs."""
    return sorted(path.parent.glob(f"{path.name}.*.parquet"))


def read_table(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a table, checked against the SHA-256 in its name; a name without one is trusted.

    Raises
    ------
    HybretError
        The file is damaged.
    OSError
        It is not there, or may not be read.
    """
    data, name = path.read_bytes(), _CHECKED.fullmatch(path.name)
    try:
        if name and name[1] != _checksum(data):
            raise ValueError("checksum")
        return pd.read_parquet(io.BytesIO(data), columns=columns)
    except (OSError, ValueError) as problem:  # pyarrow says either of bytes that are no Parquet
        raise HybretError(f"{path} is damaged; remove it, and what it held is computed again") from problem


def read_rows(paths: Sequence[Path]) -> pd.DataFrame:
    """Rows of several finished sweeps as one table, with their notes in its ``attrs``."""
    parts = [read_table(path) for path in paths]
    notes = [{str(key): value for key, value in part.attrs.items()} for part in parts]
    for part in parts:
        part.attrs = {}
    rows = pd.concat(parts, ignore_index=True).astype({"k": "Int64"})
    rows.attrs.update(merged(notes))
    return rows


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def write_whole(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: readers, killed processes and a machine that stops never leave half of one."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".hybret-", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)  # temporary files are for their maker's eyes only, results are not
            os.fsync(file.fileno())
            file.close()
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def unwritable(folder: Path, problem: OSError) -> HybretError:
    """What went wrong with a folder, in one sentence."""
    if problem.errno == errno.ENOSPC:
        return HybretError(f"no space left to write rows in {folder}; free some and run again: finished rows are kept")
    return HybretError(
        f"cannot write rows in {folder} ({problem.strerror}); choose a folder you may write to for `out`"
    )
