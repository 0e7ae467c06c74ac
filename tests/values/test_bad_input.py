"""Bad input, in tables: what is given, and what the one sentence that it ends with names. Nothing runs before it."""

import copy
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import idle, run
from transformers import AutoTokenizer

import hybret as hb
from book.paper import benchmark_scores, benchmarks, forest, maps, only_keep, tipping, verdicts
from hybret import CORRECTED, HybretError, Keep, KeepHeads, Needle, Null, figures, metrics, niah, scoring

REPO = Path(__file__).resolve().parents[2]
NAN, INF = float("nan"), float("inf")
PROSE = b"Rivers carve slow valleys. Snow falls late in the hills. "
LONGEST = 1505  # characters of a sentence, whatever it quotes


@pytest.fixture(scope="module")
def world(griffin, tmp_path_factory):
    """What the cases are made of: a model that must not run, its prompts, rows of a sweep, a folder."""
    prompts = niah.grid(griffin, 2, 2) + niah.grid(griffin, 2, control=True)
    conditions = {c.label: c for c in (KeepHeads(0), KeepHeads(10), KeepHeads(3, during="generation"))}
    rows = hb.sweep(griffin, prompts, conditions, max_new_tokens=2, progress=False).assign(model="m", weights="abc")
    with idle(griffin):
        yield SimpleNamespace(model=griffin, prompts=prompts[:4], rows=rows, folder=tmp_path_factory.mktemp("bad"))


def refusal(call):
    with pytest.raises(HybretError) as caught:
        call()
    said = str(caught.value)
    assert said.isprintable() and len(said) <= LONGEST
    return said


def grid(w, **given):
    return niah.grid(w.model, **{"lengths": [200], "depths": [50], **given})


def sweep(w, **given):
    return hb.sweep(**{"model": w.model, "prompts": w.prompts, "conditions": {"a": Null()}, "progress": False, **given})


def make(kind, **defaults):
    return lambda w, **given: kind(**defaults | given)


NEEDLE = make(Needle, name="n", sentence="A key of red stone!", question="?")
ARGUMENTS = [
    (grid, "lengths", [None, "300", True, ["300"], [NAN], [-300], [250.5], 10**9]),
    (grid, "depths", [{50: 1}, [NAN], [INF], [None], [100.1]]),
    (grid, "buffer", [NAN]),
    (grid, "seed", ["1", -1, 10**30]),
    (grid, "template", [None]),
    (grid, "recipe", ["paper"]),
    (grid, "needle", [None]),
    (grid, "haystack", [None, PROSE, "no-such-folder", "my texts/of 2024"]),
    (NEEDLE, "sentence", ["", None]),
    (NEEDLE, "name", [""]),
    (NEEDLE, "question", [" "]),
    (NEEDLE, "keywords", ["key", ("key", ""), ("key", "lamp"), ("key stone",), ("!",)]),
    (sweep, "model", ["griffin-tiny"]),
    (sweep, "conditions", [[Null()], Null(), {}]),
    (sweep, "max_new_tokens", [NAN, 10**12]),
    (sweep, "budget", [3]),
    (sweep, "recipe", [["PAPER"]]),
    (sweep, "out", [3, "", "a\0b"]),
    (sweep, "engine", [None]),
    (lambda w, **given: hb.look(w.model, w.prompts[0], **given), "conditions", [{}]),
    (lambda w, **given: hb.look(w.model, w.prompts[0], **given), "max_new_tokens", [0]),
    (lambda w, prompt: w.model.generate(prompt), "prompt", ["", b"x"]),
    (lambda w, **given: w.model.generate("x", **given), "max_new_tokens", [0]),
    (lambda w, model: hb.attach(model, Null()).__enter__(), "model", [None]),
    (make(CORRECTED.replace), "binary", ["scaler"]),
    (make(CORRECTED.replace), "tie_break", [None]),
    (make(CORRECTED.replace), "entropy_eps", [NAN, -1.0]),
    (make(CORRECTED.replace), "rubric", [None, " "]),
    (make(hb.Recipe), "name", [""]),
    (lambda w, recipe: hb.recipe.recipe(recipe), "recipe", ["AUTHORS"]),
    (make(KeepHeads), "k", [NAN, -1, True, "2"]),
    (make(KeepHeads, k=1), "metric", [None, "variance"]),
    (make(KeepHeads, k=1), "during", [["prefill"], "decoding"]),
    (make(KeepHeads, k=1), "seed", [3, -1]),
    (make(Null), "during", [""]),
    (make(hb.Mass), "total", [-0.1, NAN, "self", True]),
    (make(hb.Only), "also", [3, "self", ("self", "bos")]),
    (make(hb.Only), "renormalise", ["no"]),
    (make(hb.Only), "layers", [3, (), (0, "2")]),
    (make(hb.Compose), "items", [("x",), Null()]),
    (make(hb.PerPhase, prefill=Keep()), "generation", [None]),
    (make(hb.Ray), "workers", [1.5, 0]),
    (make(hb.Ray), "gpus_per_worker", [NAN]),
    (make(hb.Ray), "address", [3]),
    (make(hb.verify), "model", [None, "bambba"]),
    (make(hb.verify, model="bamba"), "tokens", [3, 10**12]),
    (make(scoring.score), "answer", [None]),
    (make(scoring.score, answer="x"), "rubric", [None]),
    (lambda w, out: hb.run_folder(out, w.model), "out", [3]),
    (lambda w, model: hb.models.named(model), "model", [None]),
    (lambda w, model: hb.load(model), "model", [None, Path("griffin-tiny"), "a/b\0", "a/b\n", "../.."]),
    (make(hb.load, name="random-griffin"), "device", [None, "cpu:7"]),
    (make(hb.load, name="random-griffin"), "dtype", [torch.float32, "int8"]),
    (make(hb.load, name="random-griffin"), "seed", [None, -1]),
    (make(hb.load, name="griffin-tiny"), "weights", [None, "none"]),
    (make(hb.load, name="griffin-tiny"), "revision", [""]),
    (make(hb.load, name="griffin-tiny"), "device_map", [""]),
]  # fmt: skip


@pytest.mark.parametrize(("call", "name", "values"), ARGUMENTS, ids=[f"{i} {a[1]}" for i, a in enumerate(ARGUMENTS)])
def test_a_value_is_refused_by_its_parameters_name(world, call, name, values):
    """And the value is quoted, or that of its entries which is wrong, the last one."""
    for value in values:
        said = refusal(lambda value=value: call(world, **{name: value}))
        wrong = value[-1] if isinstance(value, list | tuple) and value else value
        assert name.rstrip("s") in said and (repr(value) in said or repr(wrong) in said), said


def folder_of(w, name, data=PROSE * 100):
    """A folder with one file; a name that ends with a slash is a folder too."""
    folder = Path(w.folder) / f"folder-{len(list(w.folder.iterdir()))}"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(data)
    return folder


def hay(data, name="a.txt"):
    return lambda w: grid(w, haystack=folder_of(w, name, data))


def odd_file(make):
    def call(w):
        folder = folder_of(w, "notes.md")
        make(folder / "a.txt")
        grid(w, haystack=folder)

    return call


def chatty(w, template="<user> {{ messages[0]['content'] }} <model> "):
    tokenizer = copy.deepcopy(w.model.tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def told(w):
    return niah.grid(chatty(w), [300], [50], "instruct")


def foreign(w):
    return niah.grid(AutoTokenizer.from_pretrained(hb.models.CHECKPOINTS / "jamba-tiny"), [200], [50], buffer=40)


def changed(w, **fields):
    return [replace(w.prompts[0], **fields)]


def of_one_name(w):
    labels = [{**w.prompts[0].labels, "haystack": "mine", "length": n} for n in (1, 2)]
    return [replace(w.prompts[0], labels=at, haystack_sha256=text) for at, text in zip(labels, "ab", strict=True)]


def bounded(model, most):
    config = SimpleNamespace(max_position_embeddings=most, vocab_size=2048)
    return replace(model, net=SimpleNamespace(config=config))


UTF16 = ("Hills are high. " * 400).encode("utf-16")
TOO_LARGE = "holds the token 1000000, and random-griffin has 2048"
ANOTHER = "a prompt of template 'base' is for another tokenizer or chat template than that of random-griffin"
CALLS = {
    "depths as fractions": (lambda w: grid(w, depths=[0, 0.5, 1]), "0.5 is a fraction; give 50"),
    "depth as a fraction": (lambda w: grid(w, depths=[0.25]), "0.25 is a fraction; give 25"),
    "instruct without a chat template": (lambda w: grid(w, template="instruct"), "no chat template"),
    "grid of no model": (lambda w: niah.grid(None), "no character offsets"),
    "haystack of a long name": (lambda w: grid(w, haystack=Path("x" * 5000)), "there is no haystack folder"),
    "haystack without .txt": (hay(PROSE, "notes.md"), "holds no text"),
    "haystack folder named as a file": (hay(PROSE, "a.txt/b"), "a.txt is no regular file"),
    "haystack binary": (hay(bytes(range(256)) * 40), "not UTF-8"),
    "haystack UTF-16 without": (hay(UTF16[2:]), "binary or not UTF-8"),
    "haystack NUL": (hay(b"Hills\0 are high. " * 400), "binary or not UTF-8"),
    "haystack half a character": (lambda w: grid(w, haystack="A \ud800 hill. " * 400), "binary or not UTF-8"),
    "haystack folder not UTF-8": (lambda w: grid(w, haystack=str(folder_of(w, "\udce9/a.txt") / "\udce9")), "not UTF-8"),
    "needle not UTF-8": (lambda w: NEEDLE(w, sentence="caf\udce9."), "not UTF-8"),
    "question not UTF-8": (lambda w: NEEDLE(w, question="caf\udce9?"), "not UTF-8"),
    "name not UTF-8": (lambda w: hb.load("models/mod\udce9l"), "not UTF-8"),
    "haystack blank": (hay(b" \n" * 1000), "holds no text"),
    "haystack too short": (hay(PROSE), "tokens, but the longest length needs"),
    "haystack a pipe": (odd_file(os.mkfifo), "a.txt is no regular file"),
    "haystack linked to nothing": (odd_file(lambda path: path.symlink_to("/no/such")), "a.txt is no regular file"),
    "haystack of 256 MiB": (odd_file(lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 2**28 + 1)),
                            "more than 256 MiB"),  # takes no space
    "haystack a file": (lambda w: grid(w, haystack=folder_of(w, "a.txt") / "a.txt"), "a.txt is a file"),
    "haystack a file as text": (lambda w: grid(w, haystack=str(folder_of(w, "a.bin") / "a.bin")), "a.bin is a file"),
    "needle without words": (lambda w: Needle("n", "!!! ??? !!!", "?"), "holds no word"),
    "keyword a part of a word": (lambda w: Needle("n", "A poplar grows.", "?", ("oplar",)), "oplar"),
    "no prompts": (lambda w: sweep(w, prompts=[]), "there are no prompts to run"),
    "recipe of an unknown rubric": (
        lambda w: sweep(w, recipe=CORRECTED.replace(rubric="stars")), "unknown rubric 'stars'; choose one of"
    ),
    "prompts None": (lambda w: sweep(w, prompts=None), "a list of Prompt, not NoneType"),
    "prompts of texts": (lambda w: sweep(w, prompts=["x"]), "a list of Prompt"),
    "prompt twice": (lambda w: sweep(w, prompts=w.prompts + w.prompts[:1]), "1 prompts are given twice"),
    "two haystacks of one name": (lambda w: sweep(w, prompts=of_one_name(w)), "different haystacks are called 'mine'"),
    "prompt of another tokenizer": (lambda w: sweep(w, prompts=changed(w, ids=(1, 10**6))), TOO_LARGE),
    "prompt of another tokenizer looked at": (lambda w: hb.look(w.model, *changed(w, ids=(1, 10**6))), TOO_LARGE),
    "prompts of another model": (lambda w: sweep(w, prompts=foreign(w)), ANOTHER),
    "prompt of another model looked at": (lambda w: hb.look(w.model, *foreign(w)), ANOTHER),
    "prompts of another chat template": (
        lambda w: sweep(w, prompts=told(w), model=replace(w.model, tokenizer=chatty(w, "{{ messages[0]['content'] }}"))),
        "a prompt of template 'instruct' is for another tokenizer or chat template",
    ),
    "prompts of a chat template for a model without": (lambda w: sweep(w, prompts=told(w)), "has no chat template"),
    "prompt without a token": (lambda w: sweep(w, prompts=changed(w, ids=())), "without a token"),
    "prompt beyond the positions": (
        lambda w: sweep(w, model=bounded(w.model, 150)), "are more than the 150 positions of random-griffin"
    ),
    "condition a class": (lambda w: sweep(w, conditions={"x": KeepHeads}), "is not an intervention"),
    "condition without a label": (lambda w: sweep(w, conditions={"": Null()}), "the label of a condition is ''"),
    "out too long": (lambda w: sweep(w, out="x" * 5000), "File name too long"),
    "out a device": (lambda w: sweep(w, out="/dev/null"), "cannot write rows in /dev/null"),
    "and a number": (lambda w: Keep() & 3, "items is 3"),
    "recipe field": (lambda w: CORRECTED.replace(insert="character"), "field of a recipe 'insert'"),
    "name misspelt": (lambda w: hb.load("grifin-tiny"), "unknown model 'grifin-tiny' (did you mean griffin-tiny?)"),
    "name too long": (lambda w: hb.load("x" * 5000), "for a tiny random model"),
    "random weights of a small model": (lambda w: hb.load("griffin-tiny", weights="random"), "random weights are made for"),
    "random weights of no folder": (lambda w: hb.load("someone/else", weights="random"), "for folders with config.json"),
    "revision of a small model": (lambda w: hb.load("griffin-tiny", revision="5f3c"), "'griffin-tiny' has no revisions"),
    "random weights of a name misspelt": (
        lambda w: hb.load("random:google/recurrentgema-2b"), "(did you mean google/recurrentgemma-2b?)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CALLS)
def test_bad_input_is_one_sentence_before_anything_runs(world, case):
    call, sentence = CALLS[case]
    assert sentence in (said := refusal(lambda: call(world))), said


EMBEDDING, BIAS = "model.embed_tokens.weight", "model.layers.7.mlp_block.up_proj.bias"
INDEX = b'{"metadata": {}, "weight_map": {"a": "../../../etc/hostname"}}'


def shape(name, rows):
    return lambda held: held.update({name: held[name][:rows].clone()})


def prefixed(prefix):
    return lambda held: [held.update({prefix + key: held.pop(key)}) for key in list(held)]


def spoilt(name, value):
    return lambda held: held[name].view(-1)[3].fill_(value)


CONFIGS = [  # of griffin-tiny, changed
    ({"attention_window_size": 0}, "has sliding_window = 0"),
    ({"attention_window_size": "x"}, "'attention_window_size' expected int, got str"),
    ({"num_attention_heads": 0}, "cannot read the configuration"),
    ({"num_key_value_heads": 0}, "has num_key_value_heads = 0"),
    ({"num_key_value_heads": 3}, "has 10 heads, which is no multiple of its 3 key-value heads"),
    ({"num_hidden_layers": 12}, "such as model.layers."),
    ({"num_hidden_layers": 6}, "tensors that its configuration has no place for"),
    ({"block_types": []}, "must be equal to the"),
    ({"block_types": ["x"]}, "hold tensors that its configuration has no place for (78"),
    ({"model_type": "gpt2"}, "are of different models"),
    ({"vocab_size": 0}, "has vocab_size = 0"),
    ({"vocab_size": 100}, "another shape than its configuration (1, such as ('model.embed_tokens.weight'"),
]
TENSORS = [
    (spoilt(EMBEDDING, -INF), f"are not finite: {EMBEDDING} holds NaN or an infinity"),
    (spoilt(BIAS, NAN), f"not finite: {BIAS} holds"),
    (shape(BIAS, 5), f"another shape than its configuration (1, such as ('{BIAS}"),
    (lambda held: held.update(evil=torch.zeros(3)), "no place for (1, such as evil)"),
    *((prefixed(prefix), f"such as {prefix}") for prefix in ("x.", "_orig_mod.", "module.")),
]
FILES = [  # name: its bytes, or what becomes of them; None where it is gone
    ({"model.safetensors": lambda b: b[: len(b) // 2]}, "SafetensorError"),
    ({"model.safetensors": lambda b: (2**62).to_bytes(8, "little") + b[8:]}, "SafetensorError"),
    ({"model.safetensors": None, "pytorch_model.bin": b"\x80\x04cos\nsystem\n"}, "there is no *.safetensors"),
    ({"model.safetensors": None, "model.safetensors.index.json": INDEX}, "cannot load"),
    ({"config.json": None}, "a folder that holds config.json"),
    ({"config.json": b'{"a": "\xe9"}'}, "is not a valid JSON file"),
    ({"config.json": b"[" * 100_000}, "cannot read the configuration"),
    ({"tokenizer.json": None}, "there is no tokenizer.json"),
    ({"tokenizer.json": b"\xff\xfe"}, "cannot read the tokenizer"),
    ({"tokenizer_config.json": lambda b: json.dumps(json.loads(b) | {"model_max_length": ""}).encode()}, "TypeError"),
]
CHECKPOINTS = [
    *(({"config": config}, sentence) for config, sentence in CONFIGS),
    ({"config": {"num_experts_per_tok": 99}, "organism": "jamba-tiny"}, "4 experts, and chooses 99 of them"),
    *(({"tensors": tensors}, sentence) for tensors, sentence in TENSORS),
    *(({"files": files}, sentence) for files, sentence in FILES),
    ({"config": {"vocab_size": 2040}, "tensors": shape(EMBEDDING, 2040)}, "has 2048 tokens and its model 2040"),
    (  # code of its own is not run: its weights must fit
        {"config": {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "tensors": lambda held: held.pop(BIAS)},
        f"lack tensors that its configuration names (1, such as {BIAS})",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), CHECKPOINTS, ids=[f"{i} {c[1]}" for i, c in enumerate(CHECKPOINTS)])
def test_a_checkpoint_that_lies_is_refused(tmp_path, changes, sentence):
    folder = shutil.copytree(hb.models.CHECKPOINTS / changes.get("organism", "griffin-tiny"), tmp_path / "model")
    if config := changes.get("config"):
        (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | config))
    for name, data in changes.get("files", {}).items():
        path = folder / name
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data(path.read_bytes()) if callable(data) else data)
    if tensors := changes.get("tensors"):
        held = load_file(folder / "model.safetensors")
        tensors(held)
        save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    assert sentence in (said := refusal(lambda: hb.load(str(folder), device="cpu"))), said
    shutil.rmtree(folder)


def by_k(table):
    return metrics.accuracy(table, "k")


NO_FRAME, GONE = "rows are a pandas.DataFrame, not NoneType", ...
ROWS = [  # the rows of a sweep with these columns instead, or without them; what reads them; what the sentence names
    ({"score": "x"}, by_k, "the column 'score' of these rows holds no numbers"),
    ({"score": 1j}, by_k, "holds no numbers"),
    ({"score": INF}, by_k, "some scores are outside 0 and their rubric's maximum"),
    ({"score": 7.0}, by_k, "score them with rescore() first"),
    ({"rubric": "stars"}, by_k, "unknown rubric 'stars' in these rows"),
    ({"needle": GONE}, metrics.floor, "no column 'needle'"),
    ({"distance": "x"}, lambda r: metrics.by_distance(r, 32, [0, 1]), "'distance' of these rows"),
    ({"answer": None}, lambda r: scoring.rescore(r, "table2"), "answer is None"),
    ({"model": GONE}, tipping.shortest_apart, "no column 'model'"),
    ({"k": "x"}, tipping.tipping_points, "the column 'k' of these rows holds no"),
    ({"k": "x"}, verdicts.of, "the column 'k' of these rows holds no numbers"),
    ({"k": GONE}, figures.accuracy_by_k, "no column 'k'"),
    ({"k": pd.NA}, figures.accuracy_by_k, "no rows that keep heads"),
    ({"model": NAN}, verdicts.of, "the column 'model' of these rows has"),
    ({"model": NAN}, maps.home, "the column 'model' of these rows has gaps"),
    ({"depth": NAN}, figures.retrieval_maps, "'depth' of these rows has gaps"),
    ({"prefill": GONE}, figures.table1, "no column 'prefill'"),
    ({}, lambda r: by_k(pd.concat([r, r[["score"]]], axis=1)), "have the column 'score' twice"),
    ({}, lambda r: figures.retrieval_maps(r, "colour"), "no column 'colour'"),
    ({}, lambda r: figures.by_distance(r, 0), "window must be at least 1"),
    ({}, lambda r: only_keep.doses(r, "mass", "mass", "k"), "no column 'mass'"),
    ({}, lambda r: forest.variants(r, "", ""), "no column 'variant'"),
    *(({}, use, "no column 'claim'") for use in (verdicts.count, verdicts.html)),
    *(({}, use, "no column 'benchmark'") for use in (benchmark_scores.averages, benchmarks.sides)),
    *(({}, lambda r, use=use: use(None), NO_FRAME) for use in (by_k, tipping.tipping_points, figures.accuracy_by_k)),
    ({}, lambda r: metrics.departures(r, None), NO_FRAME),
    ({}, lambda r: metrics.model_table(["x"]), "'x' is no model"),
]


@pytest.mark.parametrize(("columns", "use", "sentence"), ROWS, ids=[f"{i} {r[2]}" for i, r in enumerate(ROWS)])
def test_rows_that_do_not_fit_are_refused(world, columns, use, sentence):
    kept = world.rows.drop(columns=[name for name, value in columns.items() if value is GONE], errors="ignore")
    changed = kept.assign(**{name: value for name, value in columns.items() if value is not GONE})
    assert sentence in (said := refusal(lambda: use(changed))), said


def test_a_column_that_only_labels_may_hold_anything(world):
    odd = world.rows.assign(intervention=[NAN] * len(world.rows))
    assert not verdicts.of(odd).empty and len(tipping.heads_kept(odd)) == len(world.rows)


OWN = ["sweep", "--needle", "It is blue.", "--question", "What?", "--keywords"]
COMMANDS = [
    (["sweep", "--k", "11"], "k from 0 to 10"),
    (["sweep", "--k", "-1"], "'--k'"),
    (["sweep", "--during", "later"], "'later' is not one of"),
    (["sweep", "--engine", "slurm"], "'slurm' is not one of"),
    (["sweep", "--device", "toaster"], "'toaster' is not available"),
    (["sweep", "--rows-per-batch", "0"], "'--rows-per-batch'"),
    (["sweep", "--limit", "0"], "'--limit'"),
    (["sweep", "--lengths", "many"], "give a count"),
    (["sweep", "--depths", "0.5,"], "give a count such as 10, or values such as 50,100"),
    (["sweep", "--haystack", str(REPO / "notebooks")], "holds no text"),
    (["sweep", "--needle", "It is blue."], "give both, or neither"),
    (["sweep", "--needle", "", "--question", "What?"], "sentence is ''"),
    (["sweep", "--keywords", "blue"], "a needle of your own is --needle SENTENCE and"),
    ([*OWN, "blue,red"], "keyword 'red'"),
    (["sweep", "--workers", "2"], "are for --engine ray"),
    (["sweep", "--model", "\x1b[31m[red]x[/]"], "unknown model '\\x1b[31m[red]x[/]'"),
    (["sweep", "--out", __file__, "--k", "0", "--limit", "1"], "cannot write rows in"),
    (["sweep", "--heads", "2"], "No such option"),
    (["verify", "--model", "griffin_tiny"], "unknown model 'griffin_tiny' (did you mean griffin-tiny?)"),
    (["verify", "jamba", "--model", "lfm2"], "two models, 'jamba' and 'lfm2'"),
    (["fetch", "../glue"], "unknown model '../glue'"),
    (["bench", "--what", "figure9"], "unknown sweep 'figure9'"),
    (["bench", "--weights", "random"], "random weights are made for google/recurrentgemma-2b"),
    (["bench", "--stock-prompts", "0"], "'--stock-prompts'"),
]


@pytest.mark.parametrize(("words", "sentence"), COMMANDS, ids=[" ".join(c[0])[:40] for c in COMMANDS])
def test_a_bad_command_ends_with_one_sentence_and_status_2(words, sentence):
    done = run(*words)
    assert done.exit_code == 2 and not done.stdout
    assert sentence in " ".join(done.stderr.replace("│", " ").split())
    assert sum(line.lower().startswith("error") for line in done.stderr.splitlines()) == 1
    assert "Traceback" not in done.output and "\x1b" not in done.output


def test_a_haystack_of_another_system_is_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + PROSE.replace(b". ", b".\r\n") * 100)
    assert niah.load_haystack(tmp_path).text.startswith("Rivers carve slow valleys.\nSnow")


def test_an_error_is_one_line_whatever_it_quotes():
    said = str(HybretError("a\nb\x1b[31m\u202e\u0000" + "y" * 10_000 + " choose another"))
    assert said.startswith("a b\\x1b[31m\\u202e\\x00yy") and said.endswith("choose another")
    assert said.isprintable() and len(said) <= LONGEST
