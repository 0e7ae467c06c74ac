"""Any input works or raises HybretError with one line: no other exception, no hang.

Derandomized and short here. By hand, longer and with other seeds: ``HYBRET_FUZZ=20000 pytest tests/values/test_fuzz.py``.
"""

import os

import nbformat
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hybret as hb
from book.paper import verdicts
from book.runner.runs import Project
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


@fuzz(60)
@given(st.dictionaries(TEXT | st.sampled_from(["model", "lengths", "recipe", "out"]), ANY, min_size=1, max_size=2))
def test_overrides_of_a_book(project, overrides):
    """Parameters given to the book: refused, or a folder of their own below the book's."""
    asked = Project(project, overrides)
    for folder, above in ((asked.executed, "executed"), (asked.results, "results")):
        home = project / "book" / above
        assert folder.resolve().parent == home and folder != home, overrides
        assert len(folder.name.encode()) < 255 and folder.name.isprintable()
    survives(lambda: asked.plan)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project").resolve()
    (root / "notebooks").mkdir()
    (root / "hybret").mkdir()
    cell = nbformat.v4.new_code_cell('model: str = "a"  # m\nlengths: int = 3  # n', metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), root / "notebooks" / "one.ipynb")
    (root / "notebooks" / "runs.yml").write_text("one: {}\n")
    return root
