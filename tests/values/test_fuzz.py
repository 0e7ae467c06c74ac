"""Any input works or raises HybretError with one line: no other exception, no hang.

Derandomized and short here. By hand, longer and with other seeds: ``HYBRET_FUZZ=20000 pytest tests/values/test_fuzz.py``.
"""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import run

import hybret as hb
from book.paper import verdicts
from hybret import HybretError, figures, metrics, niah, scoring

LONG = int(os.environ.get("HYBRET_FUZZ", 0))

TEXT = st.text(max_size=12) | st.sampled_from(["", "\0", "..", "../x", "[/]", "\x1b[31m", "\ud800", "a/b", "x" * 3000])
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.binary(max_size=8)
ANY = st.recursive(
    SCALAR, lambda e: st.lists(e, max_size=3) | st.tuples(e, e) | st.dictionaries(st.text(max_size=3), e, max_size=2)
)


def fuzz(examples):
    """As hypothesis' `settings`: so many examples, the same ones every time unless a longer run is asked for."""
    every = {"deadline": 20_000, "database": None, "suppress_health_check": list(HealthCheck)}
    return settings(max_examples=LONG or examples, derandomize=not LONG, **every)


def survives(call):
    """Run it: a HybretError of one printable line is fine, anything else is not."""
    try:
        call()
    except HybretError as error:
        assert str(error).isprintable()


@pytest.fixture(scope="module")
def cells(griffin):
    return niah.grid(griffin, [150], [50])


@pytest.fixture(scope="module")
def table(griffin, cells):
    conditions = {f"k={k}": hb.KeepHeads(k) for k in (0, 10)}
    return hb.sweep(griffin, cells, conditions, max_new_tokens=1, progress=False)


NAMES = ("lengths", "depths", "template", "haystack", "seed", "needle", "buffer", "recipe")
# Lengths and counts are kept small: a large grid is slow and right.
SMALL = st.integers(-3, 3) | st.lists(st.integers(-5, 400), max_size=3) | st.lists(st.floats(), max_size=2) | SCALAR.filter(
    lambda v: not (isinstance(v, int) and abs(v) > 3)
)  # fmt: skip


@fuzz(60)
@given(st.dictionaries(st.sampled_from(NAMES), st.just(None), max_size=3), st.data())
def test_grids(griffin, chosen, data):
    chosen = {name: data.draw(SMALL if name in ("lengths", "depths", "buffer") else ANY) for name in chosen}
    survives(lambda: niah.grid(griffin, **{"lengths": [150], "depths": [50], **chosen}))


@fuzz(100)
@given(
    st.sampled_from(["KeepHeads", "Omit", "Only", "Binary", "Null", "Mass", "Compose", "PerPhase", "Needle"]), st.data()
)
def test_values(name, data):
    few = {"Needle": 3, "PerPhase": 2, "KeepHeads": 2, "Mass": 2, "Only": 4}.get(name, 1)
    arguments = [data.draw(ANY) for _ in range(few)]
    survives(lambda: getattr(hb, name)(*arguments))
    field = data.draw(st.sampled_from([f for f in hb.CORRECTED.__dataclass_fields__ if f != "name"]))
    survives(lambda: hb.CORRECTED.replace(**{field: data.draw(ANY)}))


@fuzz(40)
@given(st.binary(max_size=400), st.integers(1, 200), st.booleans())
def test_haystack_bytes(griffin, tmp_path_factory, data, times, prose):
    folder = tmp_path_factory.mktemp("hay")
    (folder / "a.txt").write_bytes((data + b". Hills are high. " * prose) * times)
    survives(lambda: niah.grid(griffin, [150], [0, 50, 100], haystack=folder))
    shutil.rmtree(folder)


FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


@fuzz(6)
@given(st.sampled_from(FILES), st.data())
def test_checkpoint_bytes(tmp_path_factory, name, data):
    """One file of a checkpoint with other bytes in the place of one or of all the rest; or another field of its JSON."""
    folder = tmp_path_factory.mktemp("model")
    for file in FILES:
        shutil.copy(hb.models.CHECKPOINTS / "griffin-tiny" / file, folder)
    whole = (folder / name).read_bytes()
    if name.endswith(".json") and data.draw(st.booleans()):
        fields = json.loads(whole)
        value = data.draw(st.none() | st.booleans() | st.integers(-3, 3000) | st.text(max_size=5))
        changed = json.dumps(fields | {data.draw(st.sampled_from(sorted(fields))): value}).encode()
    else:
        at = data.draw(st.integers(0, min(len(whole), 4000) - 1))
        rest = data.draw(st.sampled_from([at + 1, len(whole)]))
        changed = whole[:at] + data.draw(st.binary(max_size=4)) + whole[rest:]
    (folder / name).write_bytes(changed)

    def use():
        model = hb.load(str(folder), device="cpu")
        prompts = niah.grid(model, [300], [50], buffer=40)
        hb.sweep(model, prompts, {"k": hb.KeepHeads(0)}, max_new_tokens=1, progress=False)

    survives(use)
    shutil.rmtree(folder)


USES = {
    "accuracy": lambda r: metrics.accuracy(r, "k"),
    "above_floor": lambda r: metrics.above_floor(r, "k"),
    "departures": lambda r: metrics.departures(r, r),
    "distance": lambda r: metrics.by_distance(r, 32, [0, 1, 9]),
    "rescore": lambda r: scoring.rescore(r, "table2"),
    "verdicts": verdicts.of,
    "curve": figures.accuracy_by_k,
    "maps": figures.retrieval_maps,
}
VALUES = st.sampled_from([None, float("nan"), float("inf"), -1, 10**9, "x", "", True, 2.5, "\x1b[31m$x_{", "</text>"])


@fuzz(25)
@given(st.sampled_from(sorted(USES)), st.data())
def test_rows(table, use, data):
    changed = table.assign(model="m", weights="w")
    for column in data.draw(st.lists(st.sampled_from(sorted(changed)), min_size=1, max_size=2, unique=True)):
        if data.draw(st.booleans()):
            changed = changed.drop(columns=column)
        else:
            drawn = [data.draw(VALUES) for _ in range(len(changed))]
            changed[column] = pd.Series(drawn, index=changed.index, dtype=object)
    with np.errstate(all="ignore"):
        survives(lambda: USES[use](changed))


WORDS = st.sampled_from(
    ["sweep", "verify", "fetch", "bench", "models", "--k", "--lengths", "--depths", "--model", "--template",
     "--seed", "--recipe", "--on", "--notebook", "--tokens", "--what", "--json", "--limit", "--device", "--dtype", "0",
     "-1", "nan", "1e9", "50,", "128,", "griffin-tinyy", "[/red]", "\x1b[31m", "", "a,b", "jrt", "PAPER", "\u202e"]
)  # fmt: skip


@fuzz(60)
@given(st.sampled_from(["sweep", "fetch", "bench", "verify"]), st.lists(WORDS, max_size=5))
def test_commands(command, words):
    """No command that is typed wrong shows a traceback; those that would run are stopped by a device without a model."""
    found = run(command, *words, *([] if command == "fetch" else ["--device", "toaster"]))
    assert found.exit_code == 2 and isinstance(found.exception, SystemExit), (words, found.output, found.exception)
    assert "Traceback" not in found.output and "\x1b" not in found.output
