"""The tables of full-size measurements, from the published records and from made-up ones."""

import json
from pathlib import Path

import pytest

from book.speed.records import tables
from hybret import HybretError

RUN = {
    "model": "google/recurrentgemma-2b", "weights": "random", "gpu": "NVIDIA H100 80GB HBM3", "dtype": "bfloat16",
    "notebook": "sparsification", "grid": "10 x 10", "tokens": 5_280_000, "seconds": 1800, "tokens_per_s": 2933,
    "peak_gib": 43.692, "parameters": 2**31, "commit": "abcdef0123", "date": "2026-11-24",
}  # fmt: skip
CHECKS = [
    {"check": "causal", "error": 0.25, "verdict": "pass"},
    {"check": "no silent no-op: k = 0 and k = 1 act", "error": 9.0, "verdict": "pass"},
    {"check": "window", "error": 0.75, "verdict": "fail"},
    {"check": "transformers: left padding", "error": 2.0, "verdict": "fail"},
]


def written(folder, content):
    (folder / "full-size-a.json").write_text(json.dumps(content))
    return tables(folder)


def test_tables_hold_what_was_measured(tmp_path):
    four = RUN | {"gpus": 4, "seconds": 900, "tokens": None}
    exact = RUN | {"compared": "one | two", "equal": 63, "answers": 64}
    kinds = {"runs": [RUN, four], "long_context": [RUN], "checks": [RUN | {"layers": "all", "rows": CHECKS}]}
    found = written(tmp_path, {**kinds, "exact": [exact]})
    runs = found["runs"].to_dict("records")
    assert [(row["on"], row["seconds"], row["GPU hours"]) for row in runs] == [
        ("1 × H100", "1,800", "0.5"),
        ("4 × H100", "900", "1"),
    ]
    assert [row["tokens"] for row in runs] == ["5,280,000", "–"] and runs[0]["run"] == "sparsification: 10 x 10"
    checks = found["checks"].iloc[0]
    assert (checks["passed"], checks["largest error of those"]) == ("2 of 3", "0.25")
    assert checks["failed"] == "window (0.75), transformers: left padding (2)"
    assert found["exact"]["equal answers"].tolist() == ["63 of 64"] and len(found["long_context"]) == 1


def test_the_published_records_can_be_read_and_none_make_empty_tables(tmp_path):
    published = tables(Path(__file__).parents[2] / "book" / "published")
    assert all(map(len, published.values()))
    assert [len(table) for table in tables(tmp_path).values()] == [0] * 4


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"runs": [{k: v for k, v in RUN.items() if k != "seconds"}]}, "full-size-a.json: .* lacks 'seconds'"),
        ([RUN], "full-size-a.json holds no lists"),
    ],
)
def test_a_record_that_cannot_be_read_is_named(tmp_path, content, says):
    with pytest.raises(HybretError, match=says):
        written(tmp_path, content)
    (tmp_path / "full-size-a.json").write_text("{")
    with pytest.raises(HybretError, match="full-size-a.json is not valid JSON"):
        tables(tmp_path)
