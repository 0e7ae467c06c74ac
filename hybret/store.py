"""The folder of one run: finished answers batch by batch, tables of rows, and a note that says whose they are."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from .errors import HybretError

RUN_FILE = "run.json"


class Answer(NamedTuple):
    """What a condition's answer to a prompt says, and on how many tokens the condition acted to get it."""

    answer: str
    acted_prefill: int
    acted_generation: int


class Store:
    """Answers of one run, kept in memory and, batch by batch, in a folder."""

    def __init__(self, out: str | Path | None, identity: dict[str, Any]) -> None:
        self.folder = Path(out) if out is not None else None
        self.answers: dict[tuple[str, str], Answer] = {}
        if self.folder is None:
            return
        note = self.folder / RUN_FILE
        try:
            (self.folder / "answers").mkdir(parents=True, exist_ok=True)
            found = _read_note(note)
            if found is None and any(self.folder.rglob("*.parquet")):
                raise HybretError(f"{self.folder} holds rows of an unknown run; choose an empty folder for `out`")
            if found not in (None, identity):
                other = ", ".join(k for k in identity if found.get(k) != identity[k]) or "recorded fields"
                raise HybretError(
                    f"{self.folder} holds the rows of another run (it differs in: {other}); choose another folder "
                    "for `out`, or remove this one"
                )
            # Written again when it is there: a folder that cannot be written to is noticed before any model runs.
            write_whole(note, json.dumps(identity, indent=1, sort_keys=True).encode())
            for path in sorted(self.folder.glob("answers/*.parquet")):
                self._read(path)
        except OSError as problem:
            raise _unwritable(self.folder, problem) from problem

    def _read(self, path: Path) -> None:
        try:
            part = pd.read_parquet(path, columns=["prompt", "does", *Answer._fields])
        except ValueError as problem:
            raise HybretError(f"{path} is damaged; remove it, and its answers are computed again") from problem
        keys = zip(part["prompt"], part["does"], strict=True)
        found = part[[*Answer._fields]].itertuples(index=False, name=None)
        self.answers.update(zip(keys, map(Answer._make, found), strict=True))

    def add(self, keys: Sequence[tuple[str, str]], answers: Sequence[Answer], rows: int, tokens: int) -> None:
        """Keep a finished batch, and with it the budget (`hybret.sweeping.Budget`) that it ran under."""
        self.answers.update(zip(keys, answers, strict=True))
        if self.folder is None:
            return
        named = pd.DataFrame({"prompt": [k[0] for k in keys], "does": [k[1] for k in keys]})
        table = named.join(pd.DataFrame(answers, columns=Answer._fields)).assign(
            rows_per_batch=rows, tokens_per_pass=tokens
        )
        self._write("answers/", repr(sorted(keys)), table)

    def write_rows(self, rows: pd.DataFrame) -> None:
        """The finished table of one call, named by what was asked for."""
        if self.folder is not None:
            asked = rows[["prompt", "length", "depth", "condition", "intervention", "rubric", "recipe"]]
            self._write("rows-", asked.to_csv(), rows)

    def _write(self, prefix: str, content: str, table: pd.DataFrame) -> None:
        assert self.folder is not None
        name = hashlib.sha256(content.encode()).hexdigest()[:16]
        try:
            write_whole(self.folder / f"{prefix}{name}.parquet", table.to_parquet(index=False))
        except OSError as problem:
            raise _unwritable(self.folder, problem) from problem


def _read_note(note: Path) -> dict[str, Any] | None:
    """The recorded identity of the run in a folder; None if there is no run."""
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


def write_whole(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: readers and interrupted runs never see half of one."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        try:
            file.write(data)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _unwritable(folder: Path, problem: OSError) -> HybretError:
    if problem.errno == errno.ENOSPC:
        return HybretError(f"no space left to write rows in {folder}; free some and run again: finished rows are kept")
    return HybretError(
        f"cannot write rows in {folder} ({problem.strerror}); choose a folder you may write to for `out`"
    )
