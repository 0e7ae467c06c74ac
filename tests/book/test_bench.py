"""The benchmark: what it reports, that its numbers belong together, and what it refuses."""

import json

import pytest
from support import run

from book.speed.bench import bench, matmul_rate
from book.speed.scaling import scaling

SMALL = {"lengths": [76, 128], "depths": [0, 50], "max_new_tokens": 4, "stock_prompts": 2, "stock_conditions": 3}


def test_a_benchmark_says_what_it_measured(model):
    said = []
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
    assert prefill["tokens"] == 128 and prefill["kept_as_in_fp32"] == 1
    assert prefill["ratio"] == pytest.approx(prefill["sparsified_seconds"] / prefill["plain_seconds"], rel=0.05)
    assert model.net.config._attn_implementation == "eager" and matmul_rate(model, 64) > 1e6


def test_the_scaling_of_one_layer():
    found = scaling((16, 32, 64), device="cpu", dtype="float32")
    assert [(r["path"], r["tokens"]) for r in found["rows"]] == [
        (path, n) for path in ("sparsified", "plain", "eager") for n in (16, 32, 64)
    ]
    assert all(r["seconds"] > 0 and r["extra_gib"] is None for r in found["rows"])
    assert found["shape"] == {"heads": 32, "key_value_heads": 8, "head_dim": 128, "hidden": 4096}
    assert set(found["slopes"]) == {"sparsified", "plain", "eager"} and found["eager_gib_at_longest"] is None


def test_the_command_prints_one_json_object_or_a_table(monkeypatch):
    common = ["bench", "--model", "random-griffin", "--device", "cpu", "--lengths", "128,", "--depths", "50,",
              "--stock-prompts", "1", "--stock-conditions", "1", "--what", "figure2"]  # fmt: skip
    done = run(*common, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["figure2"]["tokens_identical"] is True
    monkeypatch.setenv("COLUMNS", "120")
    assert "1 of 1" in run(*common).stdout
