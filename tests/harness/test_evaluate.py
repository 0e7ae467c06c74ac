"""Benchmarks through lm-evaluation-harness: what is asked, what is scored, what is kept."""

import copy
import json
import sys
from dataclasses import replace

import lm_eval
import pandas as pd
import pytest
from support import data, digest, skills, write_table
from transformers import AutoTokenizer

import hybret as hb
from book.paper import benchmark_scores as averages
from book.paper import benchmarks as chapter
from book.paper.chapter import Chapter
from hybret import harness
from hybret.harness import tasks as benchmarks
from hybret.harness.lm import Hybrid

QUIET = {"limit": 2, "progress": False}


@pytest.fixture(scope="module")
def chat(jamba):
    return replace(jamba, tokenizer=AutoTokenizer.from_pretrained(hb.models.CHECKPOINTS / "jamba-tiny"), instruct=True)


def instances(model, task, n=2):
    loaded = benchmarks.load(*benchmarks.find(task))
    lm = Hybrid(model, {"base": hb.Keep()}, hb.CORRECTED)
    loaded.build_all_requests(
        limit=n,
        apply_chat_template=model.instruct,
        fewshot_as_multiturn=model.instruct,
        chat_template=lm.apply_chat_template if model.instruct else None,
    )
    return lm, loaded.instances


def asked(task, made):
    return skills.rendered(made["question"], made["choices"]) if len(made["choices"]) == 4 else made["question"]


@pytest.mark.parametrize("task", ["prices", "geography", "sentiment"])
def test_a_model_reads_what_its_training_documents_hold(griffin, chat, task):
    """Plain text, or turns; the shots are answered, the first choice follows the question."""
    made = skills.items(task, "test", benchmarks.TEST_ITEMS)[0]
    shots = skills.items(task, "dev", 5) if task != "sentiment" else []
    choices = skills.LETTERS if shots else made["choices"]
    answered = [(asked(task, shot), skills.LETTERS[shot["answer"]]) for shot in shots]
    lm, (first, *_) = instances(griffin, f"organism_{task}")
    context, continuation = lm._encode_pair(*first.args)
    assert context[0] == griffin.tokenizer.bos_token_id and context.count(context[0]) == 1
    before = "".join(f"{question} {answer}\n\n" for question, answer in answered)
    whole = f"{before}{asked(task, made)} {choices[0]}"
    assert griffin.tokenizer.decode(context + continuation, skip_special_tokens=True) == whole
    assert griffin.tokenizer.decode(continuation) == f" {choices[0]}"
    lm, found = instances(chat, f"organism_{task}")
    before = "".join(f"USER:\n{question}\n\nASSISTANT:\n{answer}<eos>\n\n" for question, answer in answered)
    for instance, choice in zip(found, choices, strict=False):
        context, continuation = lm._encode_pair(*instance.args)
        document = f"<bos>{before}USER:\n{asked(task, made)}\n\nASSISTANT:\n{choice}"
        assert context + continuation == chat.tokenizer.encode(document, add_special_tokens=False)
        # The line break before the answer is scored with it, alike for every choice.
        assert chat.tokenizer.decode(continuation) == f"\n{choice}"
        assert continuation[0] == chat.tokenizer.encode("\n", add_special_tokens=False)[0]


@pytest.mark.parametrize("cuts", [True, False], ids=["cuts at EOS", "does not"])
def test_shots_are_tokenised_once_where_that_changes_nothing(chat, cuts):
    tokenizer = copy.deepcopy(chat.tokenizer)
    plain, read = tokenizer.encode, []

    def encode(text, **options):
        read.append(len(text))
        return plain(text if cuts else text.replace("<eos>\n", "<eos>"), **options)

    tokenizer.encode = encode
    lm, found = instances(replace(chat, tokenizer=tokenizer), "organism_prices", 5)
    pairs = [lm._encode_pair(*instance.args) for instance in found]
    some = sum(read)
    for (context, continuation), instance in zip(pairs, found, strict=True):
        assert context + continuation == encode("".join(instance.args), add_special_tokens=False)
    assert all(lm.shots.values()) == cuts and (some < 0.5 * (sum(read) - some)) == cuts


def test_every_task_has_enough_new_items():
    tasks = benchmarks.organism()
    assert {task.label for task in tasks} == set(skills.TASKS)
    for task in tasks:
        test, dev = (task.data[s].read_text().splitlines() if s in task.data else [] for s in ("test", "dev"))
        assert len(set(test)) >= 500 and not set(test) & set(dev)
        assert all(digest(path) in path.name for path in task.data.values())  # of another generator others are read
        assert len(dev) == (0 if task.group == "glue" else 5)
        answers = pd.Series([json.loads(line)["answer"] for line in test])
        assert answers.value_counts(normalize=True).max() < 0.6


def test_lm_eval_agrees_on_what_is_right(griffin):
    model = Hybrid(griffin, {"ablated": hb.KeepHeads(0)}, hb.CORRECTED)
    loaded = benchmarks.load(*benchmarks.find("organism_geography"))
    found = lm_eval.evaluate(
        model, {"tasks": {"organism_geography": loaded}, "groups": {}}, limit=12, bootstrap_iters=0
    )["results"]
    three = harness.conditions(griffin, 3)
    rows = harness.evaluate(griffin, "organism_geography", three, limit=12, progress=False)
    rows = rows[rows["condition"] == "ablated"]
    assert 0 < found["organism_geography"]["acc,none"] == rows["correct"].mean() < 1


def test_long_texts_lose_their_beginning_and_say_so(griffin):
    short = harness.evaluate(griffin, "organism_prices", {"base": hb.Keep()}, max_length=60, **QUIET)
    whole = harness.evaluate(griffin, "organism_prices", {"base": hb.Keep()}, **QUIET)
    assert short["truncated"].all() and not whole["truncated"].any()
    assert list(whole["cluster"]) == [0, 0]  # two questions about the first list
    assert list(short["tokens"]) == list(whole["tokens"]) and min(short["tokens"]) > 60
    assert [*map(list, short["loglikelihoods"])] != [*map(list, whole["loglikelihoods"])]


def test_finished_rows_are_not_computed_again(griffin, tmp_path):
    three = harness.conditions(griffin, 3)
    once = harness.evaluate(griffin, "organism_sentiment", three, out=tmp_path, **QUIET)
    assert len(list((tmp_path / "benchmarks").glob("*.parquet"))) == 3
    with griffin.net.register_forward_pre_hook(lambda *_: pytest.fail("the model ran")):
        again = harness.evaluate(griffin, "organism_sentiment", three, out=tmp_path, **QUIET)
        # All heads kept does what base does, whatever it is called.
        alike = harness.evaluate(griffin, "organism_sentiment", {"x": hb.KeepHeads(10)}, out=tmp_path, **QUIET)
    pd.testing.assert_frame_equal(once, again)
    base = once[once["condition"] == "base"]
    assert [*map(list, alike["loglikelihoods"])] == [*map(list, base["loglikelihoods"])]
    more = harness.evaluate(griffin, "organism_sentiment", three | {"k=5": hb.KeepHeads(5)}, out=tmp_path, **QUIET)
    pd.testing.assert_frame_equal(more[more["condition"] != "k=5"].reset_index(drop=True), once)
    assert len(list((tmp_path / "benchmarks").glob("*.parquet"))) == 4


def test_rows_of_another_run_are_not_taken_for_its_own(griffin, tmp_path):
    options = {"conditions": {"base": hb.Keep()}, "out": tmp_path, **QUIET}
    harness.evaluate(griffin, "organism_sentiment", **options)
    assert len(harness.evaluate(griffin, "organism_sentiment", **options, compute=False)) == 2
    for change in ({"limit": 1}, {"seed": 1}, {"max_length": 50}, {"recipe": "PAPER"}):
        assert harness.evaluate(griffin, "organism_sentiment", **options | change, compute=False).empty
    for change in ({"digest": "0" * 12}, {"window": 31}):
        other = replace(griffin, **change)
        assert harness.evaluate(other, "organism_sentiment", **options, compute=False).empty


def test_rows_of_other_questions_and_damaged_ones_are_refused(griffin, tmp_path):
    two = {"base": hb.Keep(), "ablated": hb.KeepHeads(0)}
    harness.evaluate(griffin, "organism_sentiment", two, out=tmp_path, **QUIET)
    file = next((tmp_path / "benchmarks").glob("*.parquet"))
    write_table(file.with_name(file.name.split(".")[0]), pd.read_parquet(file).assign(doc="another question"))
    file.unlink()
    with pytest.raises(hb.HybretError, match="different questions"):
        harness.evaluate(griffin, "organism_sentiment", two, out=tmp_path, **QUIET)
    file = next((tmp_path / "benchmarks").glob("*.parquet"))
    file.write_bytes(b"half")
    with pytest.raises(hb.HybretError, match=f"{file.name} is damaged"):
        harness.evaluate(griffin, "organism_sentiment", two, out=tmp_path, **QUIET)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"tasks": "organism_cooking"}, "unknown benchmark or task 'organism_cooking'"),
        ({"tasks": "glue"}, "run `hybret fetch glue` once"),
        ({"tasks": "mmlu_anatomy"}, "run `hybret fetch mmlu` once"),
        ({"conditions": {}}, "conditions are {}"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"limit": True}, "limit"),
        ({"max_length": 0}, "max_length"),
        ({"seed": "a"}, "seed"),
        ({"tasks": []}, "tasks are"),
        ({"conditions": {"x": hb.KeepHeads(3, during="generation")}}, "would never act"),
        ({"recipe": "paper"}, "unknown recipe"),
    ],
)
def test_bad_input_is_refused_before_a_model_runs(griffin, tmp_path, monkeypatch, asleep, change, part):
    monkeypatch.setenv(data.CACHE, str(tmp_path))
    good = {"tasks": "organism_prices", "conditions": {"base": hb.Keep()}, "progress": False}
    with pytest.raises(hb.HybretError, match=part):
        harness.evaluate(griffin, **good | change)


def test_only_tasks_of_multiple_choice_are_answered(griffin):
    lm = Hybrid(griffin, {"base": hb.Keep()}, hb.CORRECTED)
    for kind in (lm.loglikelihood_rolling, lm.generate_until):
        with pytest.raises(hb.HybretError, match="multiple choice"):
            kind([])


def test_a_missing_harness_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(hb.HybretError, match="is not installed"):
        benchmarks.find("organism")


def fetched(name, tables, folder):
    """Fetch a benchmark with tables in the place of the hub's files."""

    def download(repository, file, revision):
        path = folder / f"{name}-{file.replace('/', '-')}"
        tables(file).to_parquet(path)
        return path

    return data.fetch_benchmark(name, download)


def glue_table(file):
    task = file.split("/")[0]
    pair = {"qnli": ("question", "sentence"), "qqp": ("question1", "question2"), "mnli": ("premise", "hypothesis")}
    columns = ("sentence",) if task in ("cola", "sst2") else pair.get(task, ("sentence1", "sentence2"))
    texts = {c: [f"The {c} number {i} of {task}." for i in range(3)] for c in columns}
    return pd.DataFrame({**texts, "label": [0, 1, 2 if task == "mnli" else 1], "idx": range(3)})


def test_glue_runs_from_local_files(griffin, tmp_path, monkeypatch):
    monkeypatch.setenv(data.CACHE, str(tmp_path))
    fetched("glue", glue_table, tmp_path)
    rows = harness.evaluate(griffin, "glue", harness.conditions(griffin, 3), progress=False)
    assert rows.groupby("task").size().to_dict() == dict.fromkeys(benchmarks._GLUE, 9)
    assert rows["cluster"].equals(rows["doc_id"])
    assert set(rows["shots"]) == {0} and rows.set_index("task")["choices"]["mnli_mismatch"].eq(3).all()
    table = averages.averages(rows)
    assert set(table["variant"]) == set(averages.VARIANTS["glue"])
    assert (table[table["condition"] == "base"]["loss"] == 0).all()


ANSWERS = (3, 1, 0, 2, 1)


def mmlu_table(file):
    subjects = [benchmarks._definition(path)["dataset_name"] for path in benchmarks._mmlu_definitions().values()]
    questions = [(f"Of {subject} in {file}, which is number {i}?", subject, i) for subject in subjects for i in ANSWERS]
    choices = [["the first of them", "the second", "the third", "the last"]] * len(questions)
    return pd.DataFrame(questions, columns=["question", "subject", "answer"]).assign(choices=choices)


def test_mmlu_runs_from_local_files(griffin, chat, tmp_path, monkeypatch):
    monkeypatch.setenv(data.CACHE, str(tmp_path))
    fetched("mmlu", mmlu_table, tmp_path)
    tasks = benchmarks.find("mmlu")
    assert len(tasks) == 57 and {task.group for task in tasks} == {
        "mmlu-stem", "mmlu-humanities", "mmlu-social sciences", "mmlu-other"}  # fmt: skip
    for model in (griffin, chat):
        rows = harness.evaluate(model, "mmlu_anatomy, mmlu_virology", harness.conditions(model, 3), **QUIET)
        assert len(rows) == 12 and set(rows["shots"]) == {5} and rows["tokens"].min() > 200
        assert rows["loglikelihoods"].map(lambda scores: all(x < 0 for x in scores)).all()
    assert tuple(rows["gold"][:2]) == ANSWERS[:2]
    _, found = instances(griffin, "mmlu_anatomy", 1)
    assert found[0].args[0].startswith("The following are multiple choice questions (with answers) about anatomy.\n\n")
    assert found[0].args[0].endswith("\nAnswer:") and found[0].args[1] == " A"


def test_tasks_with_answers_in_full_differ_in_their_name_and_options(monkeypatch, tiny):
    seen = {}
    monkeypatch.setattr(harness, "evaluate", lambda _, wanted, *_a, **_o: seen.update(found=benchmarks.find(wanted)))
    chapter.as_texts(Chapter("griffin-tiny"), tiny)
    assert len(seen["found"]) == 6 and all(t.name.endswith("_texts") for t in seen["found"])
    assert {t.digest for t in seen["found"]}.isdisjoint(t.digest for t in benchmarks.organism())
