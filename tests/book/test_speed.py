"""The measurements of speed: what the benchmark reports, and what figures and tables say of it and of GPU records."""

import json
from pathlib import Path

import pytest
from support import run

from book.speed import figures as speed_figures
from book.speed.bench import bench
from book.speed.records import tables
from book.speed.scaling import scaling
from hybret import HybretError

SMALL = {"lengths": [76, 128], "depths": [0, 50], "max_new_tokens": 4, "stock_prompts": 2, "stock_conditions": 3}


def test_a_benchmark_says_what_it_measured(griffin):
    model, said = griffin, []
    found = bench(model, **SMALL, say=said.append)
    assert json.loads(json.dumps(found)) == found
    assert found["machine"]["model"] == model.name and found["machine"]["parameters"] == model.parameters
    assert len(said) >= 5
    sizes = {"figure2": 2 * (model.heads + 1), "manipulation": 20}
    passes = {"figure2": model.heads + 1, "manipulation": 5}
    for name, conditions in sizes.items():
        part, stock = found[name], found[name]["stock"]
        assert part["answers"] == 4 * conditions and part["prompts"] == 4
        assert (stock["answers"], part["answers_compared"], part["answers_identical"]) == (6, 6, 6)
        assert stock["seconds"] == pytest.approx(stock["seconds_per_answer"] * part["answers"], abs=0.1)
        assert part["ratio"] == pytest.approx(stock["seconds"] / part["seconds"], rel=0.15)
        assert set(part["stages"]) == {"prefill", "fork", "decode", "scoring"}
        assert 0.5 * part["seconds"] < sum(part["stages"].values()) <= part["seconds"]
        assert part["limit"]["distinct_prefills"] == passes[name] and part["limit"]["seconds"] > 0
        assert part["memory_gib"] is None or part["memory_gib"] > 0.05
    prefill = found["prefill"]
    assert prefill["tokens"] == 128
    assert prefill["ratio"] == pytest.approx(prefill["sparsified_seconds"] / prefill["plain_seconds"], rel=0.05)
    assert model.net.config._attn_implementation == "eager" and found["matmul_tflops"] > 0


def test_the_scaling_of_one_layer():
    found = scaling((16, 32, 64), device="cpu", dtype="float32")
    assert [(r["path"], r["tokens"]) for r in found["rows"]] == [
        (path, n) for path in ("sparsified", "plain", "eager") for n in (16, 32, 64)
    ]
    assert all(r["seconds"] > 0 and r["extra_gib"] is None for r in found["rows"])
    assert found["shape"] == {"heads": 32, "key_value_heads": 8, "head_dim": 128, "hidden": 4096}
    assert set(found["slopes"]) == {"sparsified", "plain", "eager"}


def test_the_command_prints_one_json_object_or_a_table(monkeypatch):
    common = ["bench", "--model", "random-griffin", "--device", "cpu", "--lengths", "128,", "--depths", "50,",
              "--stock-prompts", "1", "--stock-conditions", "1", "--what", "figure2"]  # fmt: skip
    done = run(*common, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["figure2"]["tokens_identical"] is True
    monkeypatch.setattr("book.speed.bench.bench", lambda *_, **__: found)  # measured once
    monkeypatch.setenv("COLUMNS", "120")
    assert "1 of 1" in run(*common).stdout


SWEEP = {
    "prompts": 100, "longest_prompt_tokens": 507, "conditions": 22, "answers": 2200, "max_new_tokens": 40,
    "seconds": 45.0, "stages": {"prefill": 30.0, "fork": 0.2, "decode": 14.0, "scoring": 0.3}, "memory_gib": 0.75,
    "stock": {"answers": 20, "prompts": 5, "seconds_per_answer": 0.43, "seconds": 954.0, "memory_gib": 0.5},
    "ratio": 21.2, "answers_identical": 20, "answers_compared": 20,
    "limit": {"what": "matrix products", "distinct_prefills": 11, "seconds": 32.0},
}  # fmt: skip
WHERE = {"dtype": "float32", "device": "2 CPU threads", "date": "2026-01-31"}
CPU = {
    "machine": {"model": "griffin-tiny", "weights": "0123456789ab", "parameters": 7_500_000, **WHERE},
    "figure2": SWEEP,
    "manipulation": {**SWEEP, "seconds": 60.0, "ratio": 19.0},
}
WHERE = {"dtype": "bfloat16", "device": "NVIDIA H100", "date": "2026-02-01"}
RG = {"model": "google/recurrentgemma-2b", "weights": "random000000", "parameters": 2_700_000_000, **WHERE}
GPU = {"machine": RG, "figure2": {**SWEEP, "seconds": 27.0, "ratio": 272.0, "answers_identical": 17}}


def test_bars_are_the_stages_end_to_end_and_the_line_is_the_limit():
    figure = speed_figures.speed(speed_figures.measured([CPU, GPU]))
    cpu, gpu = figure.axes
    first = [bar[0] for bar in cpu.containers[:5]]
    assert [bar.get_label() for bar in cpu.containers[:5]] == ["prefill", "fork", "decode", "scoring", "other"]
    assert [patch.get_width() for patch in first] == pytest.approx([30, 0.2, 14, 0.3, 0.5])
    assert [patch.get_x() for patch in first] == pytest.approx([0, 30, 30.2, 44.2, 44.5])
    assert [line.get_xdata()[0] for line in cpu.get_lines()] == [32, 32]
    assert cpu.get_xlim()[0] == gpu.get_xlim()[0] == 0 and cpu.get_xlim()[1] > 60 > gpu.get_xlim()[1] > 32
    assert [label.get_text() for label in cpu.get_yticklabels()] == ["Figure 2", "Table 1"]


def test_durations_are_written_as_they_are_said_and_nothing_is_not_drawn():
    written = {0.0005: "0.5 ms", 0.0995: "100 ms", 0.4: "400 ms", 4.12: "4.1 s", 45.4: "45 s", 119.6: "2 min",
               953.8: "15 min 54 s", 3600: "1 h", 7380: "2 h 3 min", 7200: "2 h"}  # fmt: skip
    assert {seconds: speed_figures.duration(seconds) for seconds in written} == written
    for draw, records in ((speed_figures.speed, speed_figures.measured([])), (speed_figures.scaling, [])):
        with pytest.raises(HybretError, match="no measurements to draw; make one with"):
            draw(records)


def test_answers_that_differ_in_float32_are_a_fault():
    broken = {"machine": CPU["machine"], "figure2": {**SWEEP, "answers_identical": 19}}
    assert "a fault" in speed_figures.table(speed_figures.measured([broken])).data["identical tokens"][0]
    assert "a fault" not in speed_figures.table(speed_figures.measured([GPU])).data["identical tokens"][0]


RECORD = {
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
    four = RECORD | {"gpus": 4, "seconds": 900, "tokens": None}
    exact = RECORD | {"compared": "one | two", "equal": 63, "answers": 64}
    kinds = {"runs": [RECORD, four], "long_context": [RECORD], "checks": [RECORD | {"layers": "all", "rows": CHECKS}]}
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
        ({"runs": [{k: v for k, v in RECORD.items() if k != "seconds"}]}, "full-size-a.json: .* lacks 'seconds'"),
        ([RECORD], "full-size-a.json holds no lists"),
    ],
)
def test_a_record_that_cannot_be_read_is_named(tmp_path, content, says):
    with pytest.raises(HybretError, match=says):
        written(tmp_path, content)
    (tmp_path / "full-size-a.json").write_text("{")
    with pytest.raises(HybretError, match="full-size-a.json is not valid JSON"):
        tables(tmp_path)
