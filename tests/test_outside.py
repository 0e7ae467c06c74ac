"""What other people's situations broke: no wrong number without a word (public reports about other tools)."""

import copy
import io
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import pytest
import torch
from huggingface_hub import constants
from rich.console import Console
from tiny_book import tiny

import hybret as hb
from book.runner.build import BuildError, build
from hybret import HybretError, KeepHeads, Needle, Omit, Reweight, harness, provenance, store
from hybret.devices import Budget
from hybret.engine.likelihood import log_likelihoods
from hybret.engine.schedule import answer_key
from hybret.models import CHECKPOINTS
from hybret.prompts import words
from hybret.resolving import resolve


@pytest.fixture
def griffin(griffin):
    """A model of one's own, which a test may change."""
    return copy.deepcopy(griffin)


def grid(model, **options):
    return hb.niah.grid(model, [200], [0, 50], **options)


def sweep(model, prompts=None, out=None, **options):
    conditions = {"keep": hb.KeepHeads(model.heads)}
    return hb.sweep(model, prompts or grid(model), conditions, out=out, max_new_tokens=4, progress=False, **options)


@pytest.mark.parametrize(
    ("needle", "other"),
    [
        ("🙂🙂🙂", "no idea at all"), ("🙂🙂🙂", ""), ("The code is 4.5.", "The code is 45."),
        ("The code is -7.", "The code is 7."), ("The code is 7.", "The code is -7."),
        ("It costs $3.50.", "It costs 350"),
        ("The bus leaves at 1:15.", "The bus leaves at 11:5."), ("The code is C++.", "The code is C#."),
        ("The address is 10.0.0.12.", "The address is 100.0.12"), ("It is 1,5.", "It is 15"), ("x is 12", "x is 12.5"),
        ("The special magic number is 12.", "The special magic number is 1234567."),
        ("The password is cat.", "The password is catastrophe"), ("रहस्य शब्द कि है।", "रहस्य शब्द की है।"),
        ("秘密代码是猫。", "秘密代码是狗。"),
    ],
)  # fmt: skip
def test_different_texts_are_different_and_a_needle_is_found_in_a_sentence_about_it(needle, other):
    value = Needle("n", needle, "?")
    assert not hb.scoring.score(other, needle=value).exact
    assert hb.scoring.score(f"Sure: “{needle}” Is that all?", needle=value).exact


def test_a_keyword_is_not_found_inside_a_number():
    needle = Needle("n", "One of the special magic numbers for amber is 7.", "?", ("7",))
    points = [hb.scoring.score(text, needle=needle).points for text in ("Not 8 but 1987", "7.5", "It is 7.")]
    assert points == [0, 0, 3]
    assert words("The range is 3-5; see fig. 2!") == ["the", "range", "is", "3-5", "see", "fig", "2"]


@pytest.mark.parametrize("recipe", ["CORRECTED", "PAPER"])
def test_depths_that_a_text_cannot_give_are_refused(griffin, recipe):
    for text in ("word ", "河边有一座老房子", "a,b;"):
        with pytest.raises(HybretError, match="depth 50 would hide the needle at 0 per cent"):
            grid(griffin, haystack=text * 4000, recipe=recipe)
    assert len(hb.niah.grid(griffin, [200], [0, 100], haystack="word " * 4000, recipe=recipe)) == 2


@pytest.mark.parametrize(
    "sentence", ["नदी के किनारे एक पुराना घर है। ", "河边有一座老房子。", "a,b,c,1\n", "ندی کے کنارے گھر ہے۔ "]
)
def test_sentence_ends_of_other_scripts_and_lines_place_a_needle(griffin, sentence):
    prompts = hb.niah.grid(griffin, [1500], [0, 25, 50, 75], haystack=sentence * 500)
    assert len({p.key for p in prompts}) == 4
    assert all(abs(p.position - p.depth / 100) < 0.25 for p in prompts)


@pytest.mark.parametrize("template", ["base", "jrt"])
def test_prompts_of_the_other_recipe_are_refused(griffin, template):
    for theirs, ours in (("CORRECTED", "PAPER"), ("PAPER", "CORRECTED")):
        prompts, says = grid(griffin, template=template, recipe=theirs), f"built with insertion .*, but {ours} has"
        with pytest.raises(HybretError, match=says):
            sweep(griffin, prompts, recipe=ours)
        with pytest.raises(HybretError, match=says):
            hb.look(griffin, prompts[0], recipe=ours)
        with hb.attach(griffin, Omit(), ours), pytest.raises(HybretError, match=says):
            griffin.generate(prompts[0])
        griffin.generate(prompts[0], 1)  # a plain answer is of no recipe


def test_place_and_depth_differ_visibly_in_rows_tables_and_maps(griffin):
    prompts = hb.niah.grid(griffin, [90, 160], [0, 50, 100])
    rows = sweep(griffin, prompts)
    table = hb.metrics.accuracy(rows, ["length", "depth"])
    assert table["place"].tolist() == [100 * p.position for p in prompts] and (table["place"] <= table["depth"]).all()
    off = (table["depth"] - table["place"]).max()
    shown = [text.get_text() for text in hb.figures.retrieval_maps(rows).texts]
    assert off > 5 and any(f"needles up to {off:.0f} points before their depth" in text for text in shown)
    true = rows.assign(place=rows["depth"] - 4)
    assert not any("before their depth" in text.get_text() for text in hb.figures.retrieval_maps(true).texts)


def set_data(tensor, value):
    """As code does that never tells autograd."""
    tensor.data.copy_(value)


def buffer_of(net):
    return next(value for name, value in net.named_buffers() if name not in net.state_dict())


CHANGES = {
    "one weight": lambda r, net: set_data(net.model.layers[1].temporal_pre_norm.weight[3], torch.tensor(0.1)),
    "rows change places": lambda r, net: set_data(net.lm_head.weight[:8], net.lm_head.weight[[7, 1, 2, 3, 4, 5, 6, 0]]),
    "buffer": lambda r, net: buffer_of(net).mul_(2),
    "adapter": lambda r, net: net.model.layers[2].add_module("lora", torch.nn.Linear(2, 2)),
    "dtype": lambda r, net: net.to(torch.bfloat16),
    "autocast": lambda r, net: torch.set_autocast_enabled("cpu", True),
    "hook": lambda r, net: net.model.layers[2].register_forward_hook(lambda _, __, out: 0 * out),
    "configuration": lambda r, net: setattr(net.config, "rms_norm_eps", 1.0),
    "window": lambda r, net: setattr(r["model"], "window", 7),
    "tokenizer": lambda r, net: r["model"].tokenizer.add_special_tokens({"pad_token": "river"}),
    "end of an answer": lambda r, net: setattr(r["model"], "eos", frozenset({5})),
    "tokens": lambda r, net: r.update(prompt=replace(r["prompt"], ids=r["prompt"].ids[:-1])),
    "needle's place": lambda r, net: r.update(prompt=moved(r["prompt"], "needle")),
    "question's place": lambda r, net: r.update(prompt=moved(r["prompt"], "question")),
    "heads": lambda r, net: r.update(condition=KeepHeads(1)),
    "measure of heads": lambda r, net: r.update(condition=KeepHeads(2, metric="output-norm")),
    "phase": lambda r, net: r.update(condition=KeepHeads(2, during="prefill")),
    "intervention": lambda r, net: r.update(condition=Omit()),
    **{
        f"recipe's {name}": lambda r, net, name=name: r.update(
            recipe=hb.CORRECTED.replace(**{name: hb.PAPER.deciding[name]})
        )
        for name in hb.PAPER.deciding
    },
    "length of answers": lambda r, net: r.update(max_new_tokens=9),
    "rows of a batch": lambda r, net: r.update(budget=Budget(5, 100)),
    "tokens of a pass": lambda r, net: r.update(budget=Budget(4, 101)),
}


def moved(prompt, span):
    return replace(prompt, spans={**prompt.spans, span: tuple((a + 1, b) for a, b in prompt.spans[span])})


def key_of(model, prompt, condition, recipe, **options):
    return store.name_of(store.run_key(model, recipe, **options)), *answer_key(
        prompt, resolve(condition, model, recipe)
    )


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_an_answer_changes_its_key_or_is_refused(griffin, change):
    run = {"model": griffin, "prompt": grid(griffin)[0], "condition": KeepHeads(2), "recipe": hb.CORRECTED}
    run |= {"max_new_tokens": 8, "budget": Budget(4, 100)}
    before = key_of(**run)
    assert key_of(**run) == before
    try:
        CHANGES[change](run, griffin.net)
        if change in ("autocast", "hook"):
            with pytest.raises(HybretError, match=f"{change}.* rows would (not )?(say|name)"):
                key_of(**run)
        else:
            assert key_of(**run) != before
    finally:
        torch.set_autocast_enabled("cpu", False)


def test_rows_scored_in_another_way_are_not_taken_for_these(griffin, tmp_path):
    needles = [Needle("n", "The blue gate is seven.", "Which gate?", keywords) for keywords in ((), ("gate",))]
    first, second = (grid(griffin, needle=needle) for needle in needles)
    folder = hb.run_folder(tmp_path, griffin, max_new_tokens=4)
    sweep(griffin, first, out=folder)
    loaded = [hb.load_rows(tmp_path, griffin, prompts, max_new_tokens=4) for prompts in (first, second)]
    assert [p.key for p in first] == [p.key for p in second] and [len(rows) for rows in loaded] == [2, 0]
    other = replace(hb.CORRECTED, rubric="2025-05")
    assert hb.load_rows(tmp_path, griffin, first, other, max_new_tokens=4).empty


def test_prompts_of_one_text_with_other_intervals_are_two_prompts(jamba, tmp_path):
    (prompt, *_) = grid(jamba)
    start, end = prompt.needle_spans[0]
    other = replace(
        prompt, labels={**prompt.labels, "needle": "elsewhere"}, spans={**prompt.spans, "needle": ((end, end + 20),)}
    )
    question = replace(other, spans={**prompt.spans, "question": ((start, end),)})
    assert len({prompt.key, other.key, question.key}) == 3

    def answers(*prompts, out=None):
        rows = hb.sweep(jamba, prompts, {"omit": Omit()}, out=out, max_new_tokens=8, progress=False)
        return list(rows["answer"])

    alone = answers(prompt) + answers(other)
    assert alone[0] != alone[1]
    assert answers(prompt, other) == alone and answers(other, prompt) == alone[::-1]
    assert answers(prompt, out=tmp_path) + answers(other, out=tmp_path) == alone


@dataclass(frozen=True)
class Broken(Reweight):
    during: str = "both"

    def weights(self, weights, unmodified, keys):
        return weights * math.nan


def test_logits_that_are_no_numbers_stop_the_run(griffin):
    """Activations that are no numbers from layer 1 on, as after an overflow."""

    def attached(model, prompts):
        with hb.attach(model, hb.KeepHeads(1)):
            model.generate(prompts[0])

    def scored(model, prompts):
        log_likelihoods(model, [(prompts[0].ids[:9], (5, 6))], [hb.KeepHeads(1)], hb.CORRECTED)

    prompts = grid(griffin)
    with pytest.raises(HybretError, match=r"float32 gives NaN or infinite numbers under Broken\(.*; look at its"):
        hb.sweep(griffin, prompts, {"b": Broken()}, max_new_tokens=2, progress=False)
    griffin.net.model.layers[1].temporal_pre_norm.weight.data.fill_(math.nan)
    for measure in (sweep, lambda model, prompts: model.generate(prompts[0]), attached, scored):
        with pytest.raises(HybretError, match=r"float32 gives NaN or infinite numbers from layer 1 on"):
            measure(griffin, prompts)


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(CHECKPOINTS / "griffin-tiny", tmp_path / "model")


@pytest.mark.parametrize("base", [True, False])
def test_an_adapter_is_not_passed_over(folder, base):
    (folder / "adapter_config.json").write_text("{}")
    if not base:
        for name in ("config.json", "model.safetensors"):
            (folder / name).unlink()
    with pytest.raises(HybretError, match=r"adapter.*merge"):
        hb.load(str(folder))


@pytest.mark.parametrize("name", ["griffin-tiny", "jamba"])
def test_a_folder_is_not_passed_over_for_a_name(folder, name, monkeypatch):
    folder.rename(folder.parent / name)
    monkeypatch.chdir(folder.parent)
    with pytest.raises(HybretError, match=f"./{name}"):
        hb.load(name)
    assert hb.load(f"./{name}").name == f"./{name}"


def test_a_window_that_the_attention_does_not_use_is_not_believed(tmp_path):
    model = hb.load("jamba")
    config = json.loads(model.net.config.to_json_string()) | {"sliding_window": 40}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert hb.load(str(tmp_path), weights="random").window is None
    assert hb.load("griffin-tiny").window == 256


@pytest.mark.parametrize("variable", ["GIT_DIR", "GIT_WORK_TREE"])
def test_the_commit_is_that_of_the_code_whatever_a_hook_sets(tmp_path, monkeypatch, variable):
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "other"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *command], cwd=tmp_path, check=True)
    truth = dict(provenance.commit.__wrapped__(provenance.HERE))
    monkeypatch.setenv(variable, str(tmp_path / ".git" if variable == "GIT_DIR" else tmp_path))
    assert provenance.commit.__wrapped__(provenance.HERE) == truth


def test_a_commit_that_git_does_not_say_is_not_clean(tmp_path):
    assert provenance.commit.__wrapped__(tmp_path) == {"commit": os.environ.get("HYBRET_COMMIT"), "dirty": None}


def test_home_is_meant_by_a_tilde(griffin, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    sweep(griffin, out="~/runs")
    assert (tmp_path / "runs" / "run.json").is_file() and not Path("~").exists()
    assert hb.run_folder("~/runs", griffin).parent == tmp_path / "runs"


def test_figures_do_not_depend_on_the_users_settings(griffin, monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)
    hb.figures.accuracy_by_k(sweep(griffin)).canvas.draw()


def test_benchmarks_run_without_an_end_token(griffin):
    griffin.tokenizer.eos_token = None
    rows = harness.evaluate(griffin, "organism_sentiment", {"base": hb.Keep()}, limit=2, progress=False)
    assert len(rows) == 2


def test_a_window_given_to_attention_alone_is_refused(tmp_path):
    model = hb.load("minimax")
    config = json.loads(model.net.config.to_json_string()) | {"sliding_window": 40}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = hb.load(str(tmp_path), weights="random")
    with pytest.raises(HybretError, match="window of 40 tokens"):
        model.generate("A river runs by the house.")


def test_the_cache_of_another_user_is_only_read(griffin, tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRET_CACHE", str(tmp_path))

    def rows():
        return harness.evaluate(griffin, "organism_sentiment", {"base": hb.Keep()}, limit=2, progress=False)

    rows()
    before = {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]}
    assert before and rows() is not None
    assert before == {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]}


def test_a_kernel_is_this_python_with_the_clones_hybret_or_does_not_start(tmp_path, monkeypatch):
    for path, text in (
        ("jupyter/kernels/python3/kernel.json", '{"argv": ["false"], "display_name": "", "language": "python"}'),
        ("path/sitecustomize.py", f"import sys; sys.path.insert(0, {str(tmp_path / 'other')!r})"),
        ("other/hybret.py", ""),
    ):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "path"), os.environ.get("PYTHONPATH", "")]))
    said = io.StringIO()
    with pytest.raises(BuildError, match="failed: draw"):
        build(root=tiny(tmp_path / "clone"), html=False, console=Console(file=said, width=999))
    assert f"the kernel's Python is {sys.executable}" in said.getvalue()
    assert f"imports hybret from {tmp_path}/other/hybret.py, and not from {hb.__file__}" in said.getvalue()


@pytest.mark.parametrize(
    ("name", "blocked", "says"),
    [
        ("br[ab]", "", r"br\[ab\] holds \[\], which Sphinx"), ("a*", "", "holds \\*, which Sphinx"),
        ("a", "_build", "cannot write in .*/a/_build"), ("a", "book/executed", "cannot write in .*/book/executed"),
        ("a", "book/results", "cannot write in .*/book/results"),
    ],
)  # fmt: skip
def test_a_clone_that_cannot_hold_a_book_is_refused_before_a_notebook_runs(tmp_path, name, blocked, says):
    root = tiny(tmp_path / name)
    if blocked:
        (root / blocked).touch()
    with pytest.raises(HybretError, match=says):
        build(root=root)
    assert not (root / "ran.txt").exists()


# ---------------------------------------------------------------- checkpoints that are not whole


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A model in a cache of Hugging Face, offline: links in its snapshot, the files among the blobs."""
    cache = tmp_path / "hub" / "models--lab--griffin"
    snapshot = cache / "snapshots" / ("a" * 40)
    for path in (cache / "refs", cache / "blobs", snapshot):
        path.mkdir(parents=True)
    (cache / "refs" / "main").write_text(snapshot.name)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(CHECKPOINTS / "griffin-tiny" / name, cache / "blobs" / name)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    for name, value in (("HF_HUB_CACHE", str(tmp_path / "hub")), ("HF_HUB_OFFLINE", True)):
        monkeypatch.setattr(constants, name, value)
    return cache, snapshot


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize(
    ("state", "says"),
    [("link", "download of its {} was broken off; fetch"), ("part", "download of its .* was broken off; fetch"),
     ("none", "there is no .*; get it again|not cached")],
)  # fmt: skip
def test_a_download_that_was_broken_off_is_said(cached, name, state, says):
    cache, snapshot = cached
    (cache / "blobs" / name).rename(cache / "blobs" / (name + (".incomplete" if state == "part" else ".gone")))
    if state != "link":
        (snapshot / name).unlink()
    with pytest.raises(HybretError, match=says.format(name)):
        hb.load("lab/griffin")


def test_a_home_of_hugging_face_that_is_a_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "file" / "token"))
    with pytest.raises(HybretError, match="HF_HOME is .*file, which is a file"):
        hb.load("lab/griffin")
