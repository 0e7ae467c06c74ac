"""When retrieval forms: what the chapter reads out of the trainings' logs."""

import json

import pandas as pd

from book.paper import emergence as chapter

ABOUT = {"name": "griffin-tiny", "seed": 1, "windows": []}


def shares(exact):
    return {"all": {"exact": exact}, "k=0 generation": {"exact": 0.0}, "k=0 prefill": {"exact": 0.1}}


def test_logs_become_lines_and_the_tables_say_when_and_with_how_many_heads(tmp_path):
    probes = [
        {"event": "step", "step": i, "tokens": 10**6 * i, "probe": {"inside": shares(e)}}
        for i, e in [(1, 0.5), (2, 1.0)]
    ]
    probes[1]["probe"] |= {"form a": shares(0.5), "form b": shares(1.0), "own": shares(0.7)}
    log = [{"event": "start", "training": ABOUT}, *probes]
    by_heads = [
        ABOUT | {"step": 2, "tokens": 2 * 10**6, "silent": 0.2, "exact": {"0": 0.0, "1": 0.95, "2": 0.5, "3": 0.9}}
    ]
    files = {"log.jsonl": [*log, {"event": "end"}], "heads.jsonl": by_heads}
    for name, lines in files.items():
        (tmp_path / name).write_text("\n".join(map(json.dumps, lines)))
    lines = list(chapter.compact(tmp_path / name for name in files))
    assert [line["variant"] for line in lines] == [""] * 3
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    probes, heads = chapter.trainings(tmp_path / "data.jsonl")
    assert probes["forms"].tolist()[1] == 0.75 and probes["reading"].tolist() == [0.1, 0.1]
    assert chapter.formed(probes)["millions"].tolist() == [2.0]
    assert chapter.needed(heads)["needed"].tolist() == [3]  # at one head nine tenths, and less at two
    found = chapter.seeds(pd.concat([probes, probes.assign(seed=2)]), heads).set_index("measure")
    assert found.loc["tokens until retrieval, millions", "seeds"] == "the same in every seed"
    assert found.loc["heads needed at the last measurement", "seeds"] == "one seed"
    assert found.loc["exact answers without attention, the most at any probe, %", "values"] == "20, 10"
    assert len(chapter.curves(probes, heads).axes) == 2
