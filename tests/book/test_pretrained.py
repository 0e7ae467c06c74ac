"""The chapter on a pretrained model: its tables of one run, of the whole grid as it is published, and of both."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from book.paper import pretrained
from book.paper.chapter import Chapter


@pytest.fixture(scope="module")
def chapter(tmp_path_factory):
    out = str(tmp_path_factory.mktemp("runs"))
    return Chapter("griffin-tiny", lengths=[128], depths=2, haystack="The cat sat. " * 300, out=out)


@pytest.fixture(scope="module")
def tables(chapter, tiny):
    return pretrained.measure(replace(chapter, haystack="embedded"), tiny, passages=1)


def test_retrieval_and_language_over_the_heads_kept(tables):
    answering = pretrained.by_k(tables)
    assert answering["k"].tolist() == pretrained.few(10) == [10, 9, 8, 6, 0]
    whole, none = answering.iloc[0], answering.iloc[-1]
    assert whole["exact"] == 1 and none["accuracy"] == 0 and (whole["lost"], whole["same"]) == (0, 1)
    assert whole["worth"] > 2 and abs(none["worth"]) < 0.15 * whole["worth"] and 0 < none["lost"] < 0.3
    assert len(pretrained.paths(answering, "griffin-tiny").axes) == 1


def test_the_whole_grid_is_read_as_it_is_published_and_answered_again(tables, chapter, tiny, tmp_path):
    (run,) = Path(chapter.out, "pretrained").iterdir()
    assert pretrained.published(tmp_path, "griffin-tiny") == {}
    grid = tmp_path / "griffin-tiny" / "grid"
    for job in ("figure2/both", "jrt/both", "table1/table1"):
        shutil.copytree(run, grid / job)
    (grid / "language").mkdir(parents=True)
    for name, kind in pretrained.LOSSES.items():
        losses = tables["losses"]
        losses[losses["kind"] == kind].to_parquet(grid / "language" / f"{name}.parquet")
    read = pretrained.published(tmp_path, "owner/griffin-tiny")
    assert read["losses"].equals(tables["losses"].reset_index(drop=True))
    again = pretrained.again(tables, read).set_index("what")
    assert (again["same"] == again["answers"]).all() and (again["exact_here"] == again["exact_there"]).all()
    counts = {"generation version": 10, "prefill version": 2, "read twice": 5, "Table 1": 20}
    assert again["answers"].to_dict() == counts
    losses = read["losses"]
    drawn = losses["intervention"].str.replace("'entropy'", "'random'")
    both = pd.concat([losses, losses[losses["intervention"].str.contains("k=8,")].assign(intervention=drawn)])
    chosen = pretrained.choices({"losses": both})
    assert chosen["k"].tolist() == [8, 8] and chosen["language"].nunique() == 1
    assert chosen["heads that stay"].tolist() == ["of lowest entropy (the paper's)", "at random"]


def test_the_most_frequent_answers_of_each_condition(tables):
    rows = tables["once"]
    said = pretrained.said(rows[rows["during"] == "generation"])
    first = said.iloc[0]
    assert (first["k"], first["times"], first["of"], first["score"]) == (10, 2, 2, 5)
    assert first["answer"].endswith("in Dolores Park on a sunny day.") and (said["times"] <= said["of"]).all()
    assert list(dict.fromkeys(said["k"])) == pretrained.few(10)
    assert set(pretrained.said(tables["table1"], "condition", 1)["condition"]) == set(tables["table1"]["condition"])
