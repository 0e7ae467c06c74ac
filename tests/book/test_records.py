"""The GPU guide's tables, from made-up records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from book.speed.records import LONG, TABLES, checks_table, exact_table, records
from hybret import HybretError

RUN = {
    "model": "google/recurrentgemma-2b", "weights": "random", "gpu": "NVIDIA H100 80GB HBM3",
    "notebook": "sparsification",
    "grid": "10 x 10", "dtype": "bfloat16", "tokens": 5_280_000, "seconds": 1800, "tokens_per_s": 2933.3,
    "peak_gib": 43.692, "parameters": 2**31, "commit": "abc", "date": "2026-11-24",
}  # fmt: skip


def written(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        (folder / f"full-size-{name}.json").write_text(json.dumps(content))
    return folder


def test_the_three_forms_of_a_file_give_the_same_records(tmp_path: Path) -> None:
    shared = {k: RUN[k] for k in ("model", "weights", "gpu", "dtype", "date")}
    rest = {k: v for k, v in RUN.items() if k not in shared}
    long = {"tokens": 131072, "seconds": 9.5, "peak_gib": 60}
    found = records(written(tmp_path, a=RUN, b=[RUN, RUN], c={**shared, "runs": [rest], "long_context": [long]}))
    runs = found[found["notebook"] != LONG]
    assert len(found) == 5 and len(runs.astype(str).drop_duplicates()) == 1
    assert runs["gpu_hours"].tolist() == [0.5] * 4
    assert found[found["notebook"] == LONG][["model", "tokens"]].values.tolist() == [[RUN["model"], 131072]]


def test_tables_hold_what_was_measured(tmp_path: Path) -> None:
    found = records(written(tmp_path, a=[RUN, RUN | {"gpus": 4, "seconds": 900, "peak_gib": 50, "tokens": None}]))
    head, one, four = TABLES["runs"](found)
    said = dict(zip(head, one, strict=True))
    assert said["tokens (a second)"].startswith("5,280,000 (")
    assert (said["seconds (GPU hours)"], said["peak GiB"]) == ("1,800 (0.5)", "43.7")
    said = dict(zip(head, four, strict=True))
    assert said["on"] == "4 × H100" and said["tokens (a second)"].startswith("– (")
    assert said["seconds (GPU hours)"] == "900 (1)"
    assert TABLES["models"](found)[1:] == [
        ["recurrentgemma-2b", "2,147,483,648", "4 GiB in bfloat16", "H100", "43.7 GiB"],
        ["recurrentgemma-2b", "2,147,483,648", "4 GiB in bfloat16", "4 × H100", "50 GiB"],
    ]
    assert len(TABLES["long-context"](found)) == 1  # the head alone


def test_no_records_make_empty_tables(tmp_path: Path) -> None:
    assert [len(make(records(tmp_path))) for make in TABLES.values()] == [1, 1, 1]


def test_a_record_that_lacks_something_is_named(tmp_path: Path) -> None:
    with pytest.raises(HybretError, match=r"full-size-a.json: a record lacks 'seconds'"):
        records(written(tmp_path, a={k: v for k, v in RUN.items() if k != "seconds"}))
    (tmp_path / "full-size-a.json").write_text("{")
    with pytest.raises(HybretError, match="full-size-a.json is not valid JSON"):
        records(tmp_path)


def test_the_published_records_can_be_read() -> None:
    folder = Path(__file__).parents[2] / "book" / "published"
    assert len(records(folder)) >= len(list(folder.glob("full-size-*.json")))


def test_checks_at_full_size_are_counted_and_what_failed_is_named(tmp_path: Path) -> None:
    rows = [
        {"check": "causal", "error": 0.25, "tolerance": 0.5, "verdict": "pass"},
        {"check": "no silent no-op: k = 0 and k = 1 act", "error": 9.0, "tolerance": 0.5, "verdict": "pass"},
        {"check": "window", "error": 0.75, "tolerance": 0.5, "verdict": "fail"},
        {"check": "transformers: left padding", "error": 2.0, "tolerance": 0.5, "verdict": "fail"},
    ]
    checks = [{"model": "a/b", "layers": "all 2", "dtype": "bfloat16", "gpu": "NVIDIA H200", "rows": rows}]
    head, line = checks_table(written(tmp_path, a={"runs": [], "checks": checks}, b=[RUN]))
    assert line == ["b", "all 2", "bfloat16", "H200", "2 of 3", "0.25", "window (0.75), transformers: left padding (2)"]
    assert len(head) == len(line)


def test_ways_to_the_same_answers_are_compared(tmp_path: Path) -> None:
    pair = {"model": "a/b", "dtype": "float32", "gpu": "NVIDIA H200", "gpus": 2, "equal": 63, "answers": 64}
    exact = [pair | {"compared": "on one GPU | spread over two | with Ray"}]
    head, line = exact_table(written(tmp_path, a={"runs": [], "exact": exact}, b=[RUN]))
    assert line == ["b", "float32", "2 × H200", "on one GPU", "spread over two; with Ray", "63 of 64"]
    assert len(head) == len(line)
