"""The paper's numbers fit together where they do, and every part of the paper is somewhere in the book."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

import hybret as hb
from book.paper import emergence
from book.paper import numbers as paper
from hybret import Recipe, scoring

REPO = Path(__file__).resolve().parents[2]


def checkpoint_text(name: str) -> str:
    return (REPO / "hybret" / "organisms" / "checkpoints" / name / "README.md").read_text().replace("\n", " ")


def test_every_number_has_a_name_a_unit_and_a_place():
    table = paper.numbers()
    assert (table[["what", "unit", "where"]] != "").all(axis=None) and not table["what"].duplicated().any()
    assert table["where"].str.match(r"Abstract|Sections? \d|Table \d|Figure \d+|Appendix [A-F]").all()
    fractions = table[table["unit"].isin(["accuracy", "share"])]["value"]
    assert fractions.between(0, 1).all() and len(fractions) > 20
    # A number that no table's cell holds is quoted, in a few words.
    assert (table["text"].str.len() <= 40).all()
    assert table[(table["text"] == "") & ~table["where"].str.contains("Table|Appendix A|as Omit")].empty


def test_each_model_has_its_attention_layers_where_its_pattern_puts_them():
    for spec in paper.MODELS:
        times, inner, rest = re.fullmatch(r"(\d+) x \((.*?)\),?(.*)", spec.pattern).groups()
        size, tail = (sum(map(int, re.findall(r"(\d+) (?:SSM|attention)", part))) for part in (inner, rest))
        assert int(times) * size + tail == spec.layers and int(times) == spec.attention_layers
    assert [paper.counterpart(heads) for heads in (10, 16, 32, 8)] == ["RG-2B", "RG-9B", "Jamba", None]
    assert [paper.model_of(n) for n in ("google/RecurrentGemma-9b", "griffin-small")] == ["RG-9B", None]
    assert paper.TIPPING_POINTS == {10: 1, 16: 2, 32: 4}
    assert [paper.few_heads(heads) for heads in (10, 16, 32, 20)] == [2, 3, 5, 3]
    assert paper.few_heads(32) == paper.THRESHOLDS["Jamba sparse"].value


def test_the_rubric_of_table_2_is_the_one_that_scores():
    assert sum(points for _, points, sets in paper.TABLE2 if not sets) == paper.SETUP["partial"].value
    full = next(phrase for phrase, points, _ in paper.TABLE2 if points == paper.SETUP["maximum"].value)
    assert scoring.score(full, "table2").points == 5
    for phrase, points, _ in paper.TABLE2:  # "sit in Dolores Park" holds "Dolores Park" too, and so earns both halves
        alone = scoring.score(phrase, "table2").points
        assert alone == (1.0 if phrase.startswith("sit") else points)


def test_disagreements_are_kept_as_printed():
    points = {name: number.value for name, number in paper.BENCHMARKS.items()}
    assert points["GLUE sparse"] - points["GLUE ablated"] == pytest.approx(2.5)
    assert points["GLUE ablated over sparse"] == 2.8
    base = points["MMLU sparse"] / (1 - points["MMLU kept"])
    assert base == pytest.approx(37.5) and points["MMLU ablated"] > base
    assert all(words in " ".join(d["what"] for d in paper.DISAGREEMENTS) for words in ("2.5", "2.8", "37.5", "k = 6"))


def test_every_difference_of_text_and_code_names_the_lines_that_were_read():
    assert set(paper.SOURCES) == {field.name for field in fields(Recipe)} - {"name"}
    for source in paper.SOURCES.values():
        assert source["text"] and source["code"] and source["at"]
        for address, name in map(paper.source_link, source["at"]):
            assert re.fullmatch(r"https://github.com/[\w-]+/[\w-]+/blob/[0-9a-f]{40}/[\w/]+\.py#L\d+(-L\d+)?", address)
            assert re.fullmatch(r"[\w-]+/[\w-]+ [0-9a-f]{7}, [\w/]+\.py, lines? [\d-]+", name)


def test_limits_are_those_of_the_trainings_and_on_the_first_page_and_that_of_h1():
    probes, heads = emergence.trainings()
    found = emergence.seeds(probes, heads).set_index(["measure", "model"])["values"]
    needed = {
        model: sorted(map(int, found["heads needed at the last measurement", model].split(", ")))
        for model in ("griffin-tiny", "griffin-small", "jamba-tiny")
    }
    told = " ".join(paper.LIMITS)
    assert len(paper.LIMITS) == 3 and "chosen by the effect under test" in told
    for model, (few, some, many) in needed.items():
        words = f"{few}, {some} and {many} of {hb.load(model).heads}"
        assert re.search(f"{model}'s (need )?{words}", told)
    free = probes[probes["variant"].str.startswith("without attention")].dropna(subset=["words"])
    free = free.groupby("model").last()
    assert (free["inside"] == 0).all()
    assert sorted(100 * free["words"].round(2)) == [65, 80, 95] and "65 to 95 %" in told
    read = probes.groupby(["model", "variant"])["tokens"].max()
    fewer = 1 - read["jamba-tiny", "without attention, copying start"] / read["jamba-tiny", ""]
    assert f"{100 * fewer:.0f} % fewer" in told
    assert "chosen by the effect under test" in checkpoint_text("jamba-tiny")
    chapter = (REPO / "notebooks" / "when-it-forms.ipynb").read_text()
    for model in ("griffin-tiny", "jamba-tiny"):
        rows = json.loads((hb.models.CHECKPOINTS / model / "seeds.json").read_text())
        (control,) = (row["targets"] for row in rows if row["name"] == f"{model}-ssm")
        (shipped,) = (row["targets"] for row in rows if row.get("ships"))
        once, twice = (f"no attention while answering, read {how}" for how in ("once", "twice"))
        assert shipped[once] == shipped[twice] == 0  # a control has no attention to lose
        assert re.search(f"{model}'s {100 * control[once]:.0f} %,? and {100 * control[twice]:.0f} %", chapter)
    for page in ("book/index.md", "notebooks/sparsification.ipynb", "notebooks/verdicts.ipynb"):
        assert "```{limits}" in (REPO / page).read_text()


def test_best_cells_of_table_1_are_the_printed_ones():
    ranked = sorted(paper.TABLE1, key=lambda pair: -paper.TABLE1[pair].value)
    assert ranked[:3] == [("Keep", "Only"), ("Only", "Keep"), ("Null", "Keep")]
    assert all(paper.TABLE1[p, "Omit"].value == paper.TABLE1[p, "Binary"].value for p in paper.PREFILL)


def test_every_part_of_the_paper_is_listed_once():
    names = [name for name, *_ in paper.PARTS]
    assert len(set(names)) == len(names)
    parts = (
        {f"Figure {n}" for n in range(1, 11)} | {"Table 1", "Table 2"} | {f"Appendix {letter}" for letter in "ABCDEF"}
    )
    assert {name.split(",")[0] for name in names} == parts


def test_every_part_is_where_the_table_says(figures_of):
    for name, _, notebook, figures in paper.PARTS:
        assert figures and set(figures) <= figures_of(notebook), name
