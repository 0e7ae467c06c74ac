"""Fetching the data of GLUE and MMLU, without a network."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from hybret import HybretError, fetching


class Hub:
    """Files of MMLU by split, and a count of what was asked for."""

    def __init__(self, folder, fails=()):
        self.folder, self.fails, self.asked = folder, set(fails), []

    def __call__(self, repository, revision, file):
        self.asked.append((repository, revision, file))
        if file in self.fails:
            raise OSError("Name or service not known\nmore lines")
        path = self.folder / file.replace("/", "-")
        subjects = ["anatomy", "anatomy", "law"]
        choices = [["a", "b", "ç", "d"]] * 3
        pd.DataFrame({"question": ["q1?", "q2?", "q3?"], "subject": subjects, "choices": choices, "answer": [0, 3, 1]}
                     ).to_parquet(path)  # fmt: skip
        return path


DEV, TEST = fetching.SOURCES["mmlu"].files


def test_data_become_jsonl_with_a_manifest(tmp_path):
    hub, said = Hub(tmp_path), []
    folder = fetching.fetch("mmlu", tmp_path, hub, said.append)
    source = fetching.SOURCES["mmlu"]
    assert hub.asked == [(source.repository, source.revision, file) for file in (DEV, TEST)]
    assert len(said) == 2 and said[0].startswith("mmlu 1/2: ")
    found = fetching.files("mmlu", tmp_path)
    assert set(found) == {"anatomy/dev.jsonl", "anatomy/test.jsonl", "law/dev.jsonl", "law/test.jsonl"}
    lines = [json.loads(line) for line in found["anatomy/test.jsonl"].read_text("utf-8").splitlines()]
    assert lines == [
        {"question": f"q{i}?", "subject": "anatomy", "choices": ["a", "b", "ç", "d"], "answer": answer}
        for i, answer in ((1, 0), (2, 3))
    ]
    assert json.loads((folder / fetching.MANIFEST).read_text())["revision"] == source.revision


def test_fetching_goes_on_where_it_stopped(tmp_path):
    with pytest.raises(HybretError, match=r"cannot download .*test.* \(Name or service not known\).*finished files"):
        fetching.fetch("mmlu", tmp_path, Hub(tmp_path, fails=[TEST]))
    with pytest.raises(HybretError, match="run `hybret fetch mmlu` once"):
        fetching.files("mmlu", tmp_path)
    hub, said = Hub(tmp_path), []
    fetching.fetch("mmlu", tmp_path, hub, said.append)
    assert [file for _, _, file in hub.asked] == [TEST] and said[0].endswith("(there already)")
    assert len(fetching.files("mmlu", tmp_path)) == 4


def test_changed_data_are_noticed_and_restored(tmp_path):
    fetching.fetch("mmlu", tmp_path, Hub(tmp_path))
    path = fetching.files("mmlu", tmp_path)["law/test.jsonl"]
    good = path.read_bytes()
    path.write_bytes(good.replace(b"q3", b"q4"))
    with pytest.raises(HybretError, match="are not what was fetched; run `hybret fetch mmlu`"):
        fetching.files("mmlu", tmp_path)
    hub = Hub(tmp_path)
    fetching.fetch("mmlu", tmp_path, hub)
    assert [file for _, _, file in hub.asked] == [TEST] and path.read_bytes() == good
    assert fetching.files("mmlu", tmp_path)


def test_data_of_another_revision_are_not_used(tmp_path):
    folder = fetching.fetch("mmlu", tmp_path, Hub(tmp_path))
    manifest = json.loads((folder / fetching.MANIFEST).read_text())
    (folder / fetching.MANIFEST).write_text(json.dumps(manifest | {"revision": "other"}))
    with pytest.raises(HybretError, match="run `hybret fetch mmlu` once"):
        fetching.files("mmlu", tmp_path)
    hub = Hub(tmp_path)
    fetching.fetch("mmlu", tmp_path, hub)
    assert len(hub.asked) == 2


def test_bad_names_and_folders(tmp_path):
    with pytest.raises(HybretError, match="choose one of glue, mmlu"):
        fetching.fetch("squad", tmp_path)
    (tmp_path / "mmlu").write_text("a file in the way")
    with pytest.raises(HybretError, match="cannot write"):
        fetching.fetch("mmlu", tmp_path, Hub(tmp_path))


def test_every_task_of_glue_is_fetched():
    from hybret.harness import tasks as benchmarks

    kept = set(fetching.SOURCES["glue"].files.values())
    for name, folder in benchmarks._GLUE.items():
        file = "mismatch" if name == "mnli_mismatch" else "default"
        definition = benchmarks._definition(benchmarks._lm_eval_tasks() / "glue" / folder / f"{file}.yaml")
        assert f"{folder}/{definition['validation_split']}.jsonl" in kept
        assert definition["task"] == name and definition["dataset_path"] == fetching.SOURCES["glue"].repository
