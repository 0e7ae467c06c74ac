"""Rows beside the chapters: which prompts and conditions they are."""

import hybret as hb
from book.paper import judging
from book.paper.chapter import Chapter, models_beside


def test_all_prompts_where_nothing_is_expected_and_every_second_length_elsewhere(griffin, jamba, tmp_path):
    chapter = Chapter("random-griffin", lengths=3, depths=1, out=str(tmp_path))
    prompts = [p for template in ("", "jrt") for p in chapter.prompts(griffin, template, recipe=hb.PAPER)]
    lengths = sorted({p.length for p in prompts})
    assert set(judging.figure2(chapter, griffin, hb.PAPER)["length"]) == {lengths[0], lengths[2]}
    assert set(judging.table1(chapter, griffin, hb.PAPER)["condition"]) == set(hb.table1_conditions())
    rows = hb.load_rows(tmp_path, griffin, prompts, hb.PAPER)
    whole = rows.groupby("condition")["length"].nunique().loc[lambda n: n == 3]
    assert set(whole.index) == {"k=0 (generation)", "k=0 (prefill + generation)", "Keep-Keep", "Omit-Keep"}
    assert {0, 1, 2, griffin.heads} == set(rows.loc[rows["template"] == "jrt", "k"])
    assert judging.table1(Chapter("random-jamba", out=str(tmp_path)), jamba, hb.PAPER).empty


def test_no_model_stands_beside_one_that_is_not_built_in(griffin, tiny):
    assert models_beside(tiny, "griffin-tiny,jamba-tiny") == ["jamba-tiny"]
    assert models_beside(griffin, "jamba-tiny") == []
