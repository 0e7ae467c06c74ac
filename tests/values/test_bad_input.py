"""Bad input, in one table: what is given, and the sentence that it ends with. Nothing runs before it.

What single subjects refuse stands with their tests as well; here is what crosses them: wrong types, files that are not
what they seem, configurations that lie, values at the edge.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

import hybret as hb
from book.paper import benchmark_scores as averages
from book.paper import figures as paper_figures
from book.paper import tipping, verdicts
from book.runner.runs import Project
from hybret import (
    CORRECTED,
    PAPER_NEEDLE,
    Compose,
    HybretError,
    Keep,
    KeepHeads,
    Needle,
    Null,
    Only,
    PerPhase,
    figures,
    metrics,
    scoring,
)
from hybret.checkpoints import CHECKPOINTS
from hybret.cli import app
from hybret.engine.schedule import Budget
from hybret.errors import LONGEST
from hybret.tasks import haystack, niah

REPO = Path(__file__).resolve().parents[2]
NAN, INF = float("nan"), float("inf")
PROSE = b"Rivers carve slow valleys. Snow falls late in the hills. "


@pytest.fixture(scope="module")
def world(griffin, tmp_path_factory):
    """What the cases are made of: a model that must not run, its prompts, rows of a sweep, a folder."""
    prompts = niah.grid(griffin, 2, 2) + niah.grid(griffin, 2, control=True)
    conditions = {c.label: c for c in (KeepHeads(0), KeepHeads(10), KeepHeads(3, during="generation"))}
    rows = hb.sweep(griffin, prompts, conditions, max_new_tokens=2, progress=False)
    rows = rows.assign(model="m", weights="abc")
    hook = griffin.net.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    folder = tmp_path_factory.mktemp("bad")
    yield SimpleNamespace(model=griffin, prompts=prompts[:4], rows=rows, folder=folder)
    hook.remove()


def grid(**given):
    return lambda w: niah.grid(w.model, **{"lengths": [200], "depths": [50], **given})


def sweep(**given):
    defaults = {"conditions": {"null": Null()}, "progress": False}
    return lambda w: hb.sweep(**{"model": w.model, "prompts": w.prompts, **defaults, **given})


def hay(data):
    """A folder with one .txt file of these bytes."""
    return lambda w: niah.grid(w.model, [200], [50], haystack=_folder(w, "a.txt", data))


def words(vocabulary, **given):
    """A tokenizer that knows these words alone."""
    found = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=found, unk_token="[UNK]", **given)


def only_texts(*texts):
    """A tokenizer for which these texts survive, but no full stop does."""
    return words(["[UNK]", *dict.fromkeys(word for text in texts for word in text.replace(".", " ").split())])


def checkpoint(organism="griffin-tiny", config=None, files=None, without=(), tensors=None):
    """An organism's folder, changed; it is loaded as any other folder is."""

    def call(w):
        folder = Path(w.folder) / f"model-{len(list(w.folder.iterdir()))}"
        shutil.copytree(CHECKPOINTS / organism, folder)
        fields = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(fields | (config or {})))
        for name, data in (files or {}).items():
            (folder / name).write_bytes(data((folder / name).read_bytes()) if callable(data) else data)
        for name in without:
            (folder / name).unlink()
        if tensors:
            held = load_file(folder / "model.safetensors")
            tensors(held)
            save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
        try:
            hb.load(str(folder), device="cpu")
        finally:
            shutil.rmtree(folder)

    return call


def spoil(name, value):
    def change(held):
        held[name].view(-1)[3] = value

    return change


TURN = "<user> {{ messages[0]['content'] }} <model> "
EMBEDDING, BIAS = "model.embed_tokens.weight", "model.layers.7.mlp_block.up_proj.bias"

GRIDS = {
    "lengths None": (grid(lengths=None), "lengths is None"),
    "lengths text": (grid(lengths="300"), "lengths is '300'"),
    "lengths True": (grid(lengths=True), "lengths is True"),
    "lengths of texts": (grid(lengths=["300"]), "length is '300'"),
    "length nan": (grid(lengths=[NAN]), "length is nan"),
    "length negative": (grid(lengths=[-300]), "length is -300"),
    "length 250.5": (grid(lengths=[250.5]), "length is 250.5"),
    "lengths without end": (grid(lengths=10**9), "number of lengths is 1000000000"),
    "depths a mapping": (grid(depths={50: 1}), "depths is {50: 1}"),
    "depth nan": (grid(depths=[NAN]), "depth is nan"),
    "depth infinite": (grid(depths=[INF]), "depth is inf"),
    "depth None": (grid(depths=[None]), "depth is None"),
    "depths as fractions": (grid(depths=[0, 0.5, 1]), "0.5 is a fraction; give 50"),
    "depth as a fraction": (grid(depths=[0.25]), "0.25 is a fraction; give 25"),
    "depth 100.1": (grid(depths=[100.1]), "depth 100.1"),
    "buffer nan": (grid(buffer=NAN), "buffer is nan"),
    "seed text": (grid(seed="1"), "seed is '1'"),
    "seed negative": (grid(seed=-1), "seed is -1"),
    "seed too large": (grid(seed=10**30), "at most 4294967295"),
    "template None": (grid(template=None), "template None"),
    "recipe unknown": (grid(recipe="paper"), "recipe 'paper'"),
    "instruct without a chat template": (grid(template="instruct"), "no chat template"),
    "no model": (lambda w: niah.grid(None), "no character offsets"),
    "no needle, for a control": (grid(needle=None, control=True), "needle is None"),
    "tokenizer without a full stop": (
        lambda w: niah.grid(
            only_texts(PROSE.decode(), PAPER_NEEDLE.sentence, PAPER_NEEDLE.question),
            [400], [50], recipe=hb.PAPER, haystack=PROSE.decode() * 200,
        ),
        "no token for '.'",
    ),
    "chat template divides by zero": (
        lambda w: niah.grid(_chat(w, "{{ 1 / 0 }}"), [400], [50], "instruct"), "template fails (division by zero)"
    ),
    "chat template without end": (
        lambda w: niah.grid(_chat(w, "{% for i in range(10 ** 9) %}x{% endfor %}"), [400], [50], "instruct"),
        "template fails (Range too big",
    ),
    "chat template unfinished": (lambda w: niah.grid(_chat(w, "{% if %}"), [400], [50], "instruct"), "template fails"),
}  # fmt: skip

NEEDLES = {
    "needle empty": (lambda w: Needle("n", "", "?"), "sentence is ''"),
    "needle None": (lambda w: Needle("n", None, "?"), "sentence is None"),
    "name empty": (lambda w: Needle("", "A key.", "?"), "name is ''"),
    "question blank": (lambda w: Needle("n", "A key.", " "), "question is ' '"),
    "keywords a text": (lambda w: Needle("n", "A key.", "?", "key"), "keywords is 'key'"),
    "keyword empty": (lambda w: Needle("n", "A key.", "?", ("key", "")), "keywords is ''"),
    "keyword that is not in the needle": (lambda w: Needle("n", "A red key.", "?", ("key", "lamp")), "keyword 'lamp'"),
    "keyword of words apart": (
        lambda w: Needle("n", "A key of red stone.", "?", ("key stone",)),
        "keyword 'key stone'",
    ),
    "keyword without a word": (lambda w: Needle("n", "A key!", "?", ("!",)), "keyword '!'"),
}

HAYSTACKS = {
    "None": (grid(haystack=None), "haystack is None"),
    "bytes": (grid(haystack=PROSE), "haystack is b'"),
    "no such folder": (grid(haystack="no-such-folder"), "no haystack folder 'no-such-folder'"),
    "no such path": (grid(haystack=Path("no folder")), "no haystack folder 'no folder'"),
    "no such folder, a blank in its name": (grid(haystack="my texts/of 2024"), "no haystack folder 'my texts/of 2024'"),
    "name too long": (grid(haystack=Path("x" * 5000)), "File name too long"),
    "without .txt": (lambda w: niah.grid(w.model, haystack=_folder(w, "notes.md")), "holds no text"),
    "folder of folders": (lambda w: niah.grid(w.model, haystack=_folder(w, "b/a.txt")), "holds no text"),
    "binary": (hay(bytes(range(256)) * 40), "not UTF-8"),
    "latin-1": (hay("Cafés étroits. ".encode("latin-1") * 400), "not UTF-8"),
    "UTF-16 with its mark": (hay(("Hills are high. " * 400).encode("utf-16")), "not UTF-8"),
    "UTF-16 without": (hay(("Hills are high. " * 400).encode("utf-16-le")), "binary or not UTF-8"),
    "NUL": (hay(b"Hills\0 are high. " * 400), "binary or not UTF-8"),
    "half a character": (grid(haystack="A \ud800 hill. " * 400), "binary or not UTF-8"),
    "empty": (hay(b""), "holds no text"),
    "blank": (hay(b" \n" * 1000), "holds no text"),
    "too short": (hay(PROSE), "tokens, but the longest length needs"),
    "folder named as a file": (
        lambda w: niah.grid(w.model, haystack=_folder(w, "a.txt/b")),
        "a.txt is no regular file",
    ),
    "pipe": (lambda w: niah.grid(w.model, haystack=_pipe(w)), "a.txt is no regular file"),
    "link to a device": (lambda w: niah.grid(w.model, haystack=_link(w, "/dev/zero")), "a.txt is no regular file"),
    "link to nothing": (lambda w: niah.grid(w.model, haystack=_link(w, "/no/such")), "a.txt is no regular file"),
    "a file": (lambda w: niah.grid(w.model, haystack=_folder(w, "a.txt") / "a.txt"), "a.txt is a file"),
    "a file as text": (lambda w: niah.grid(w.model, haystack=str(_folder(w, "a.bin") / "a.bin")), "a.bin is a file"),
}

SWEEPS = {
    "model a name": (sweep(model="griffin-tiny"), "model is 'griffin-tiny'"),
    "prompts None": (sweep(prompts=None), "prompts are a list of Prompt, not NoneType"),
    "prompts a text": (sweep(prompts="x"), "prompts are a list of Prompt, not str"),
    "prompts of texts": (sweep(prompts=["x"]), "prompts are a list of Prompt"),
    "prompt twice": (lambda w: sweep(prompts=w.prompts + w.prompts[:1])(w), "1 prompts are given twice"),
    "two haystacks of one name": (
        lambda w: sweep(
            prompts=[
                _changed(
                    w.prompts[0], labels={**w.prompts[0].labels, "haystack": "mine", "length": n}, haystack_sha256=text
                )
                for n, text in ((1, "a"), (2, "b"))
            ]
        )(w),
        "two different haystacks are called 'mine'",
    ),
    "prompt of another tokenizer": (
        lambda w: sweep(prompts=[_changed(w.prompts[0], ids=(1, 10**6))])(w),
        "holds the token 1000000, and random-griffin has 2048",
    ),
    "prompts of another model": (
        lambda w: sweep(prompts=niah.grid(hb.load("jamba-tiny", "cpu"), [200], [50]))(w),
        "a prompt of template 'base' is for another tokenizer or chat template than that of random-griffin",
    ),
    "prompt of another model looked at": (
        lambda w: hb.look(w.model, niah.grid(hb.load("jamba-tiny", "cpu"), [200], [50])[0]),
        "a prompt of template 'base' is for another tokenizer or chat template than that of random-griffin",
    ),
    "prompt of another tokenizer looked at": (
        lambda w: hb.look(w.model, _changed(w.prompts[0], ids=(1, 10**6))),
        "holds the token 1000000, and random-griffin has 2048",
    ),
    "prompts of another chat template": (
        lambda w: sweep(
            prompts=niah.grid(_chat(w, TURN), [300], [50], "instruct"),
            model=_changed(w.model, tokenizer=_chat(w, TURN.replace("user", "guest"))),
        )(w),
        "a prompt of template 'instruct' is for another tokenizer or chat template",
    ),
    "prompts of a chat template for a model without": (
        lambda w: sweep(prompts=niah.grid(_chat(w, TURN), [300], [50], "instruct"))(w),
        "has no chat template",
    ),
    "prompt without a token": (lambda w: sweep(prompts=[_changed(w.prompts[0], ids=())])(w), "without a token"),
    "prompt beyond the positions": (
        lambda w: sweep(model=_positions(w.model, 150))(w),
        "are more than the 150 positions of random-griffin",
    ),
    "conditions a list": (sweep(conditions=[Null()]), "conditions are [Null(during='both')]"),
    "conditions one intervention": (sweep(conditions=Null()), "conditions are Null(during='both')"),
    "conditions empty": (sweep(conditions={}), "conditions are {}"),
    "condition a class": (sweep(conditions={"x": KeepHeads}), "is not an intervention"),
    "condition without a label": (sweep(conditions={"": Null()}), "the label of a condition is ''"),
    "label None": (sweep(conditions={None: Null()}), "the label of a condition is None"),
    "k beyond the heads": (sweep(conditions={"x": KeepHeads(11)}), "k is 11, but this model has 10 heads"),
    "max_new_tokens nan": (sweep(max_new_tokens=NAN), "max_new_tokens is nan"),
    "max_new_tokens without end": (sweep(max_new_tokens=10**12), "at most 4096"),
    "budget a number": (sweep(budget=3), "budget is 3"),
    "budget of half a row": (lambda w: Budget(1.5, 100), "max_sequences is 1.5"),
    "recipe a list": (sweep(recipe=["PAPER"]), "unknown recipe ['PAPER']"),
    "out a number": (sweep(out=3), "out is 3"),
    "out empty": (sweep(out=""), "out is ''"),
    "out with NUL": (sweep(out="a\0b"), "out is 'a\\x00b'"),
    "out too long": (sweep(out="x" * 5000), "File name too long"),
    "out a device": (sweep(out="/dev/null"), "cannot write rows in /dev/null"),
    "engine None": (sweep(engine=None), "unknown engine None"),
    "generate nothing": (lambda w: w.model.generate(""), "prompt is ''"),
    "generate bytes": (lambda w: w.model.generate(b"x"), "prompt is b'x'"),
    "generate no tokens": (lambda w: w.model.generate("x", 0), "max_new_tokens must be at least 1"),
    "attach to nothing": (lambda w: hb.attach(None, Null()).__enter__(), "model is None"),
}

VALUES = {
    "recipe field": (lambda w: CORRECTED.replace(binary="scaler"), "binary 'scaler'"),
    "recipe field None": (lambda w: CORRECTED.replace(tie_break=None), "tie_break None"),
    "recipe eps nan": (lambda w: CORRECTED.replace(entropy_eps=NAN), "entropy_eps is nan"),
    "recipe eps negative": (lambda w: CORRECTED.replace(entropy_eps=-1.0), "entropy_eps is -1.0"),
    "recipe rubric": (lambda w: CORRECTED.replace(rubric=None), "rubric is None"),
    "k nan": (lambda w: KeepHeads(NAN), "k is nan"),
    "metric None": (lambda w: KeepHeads(1, None), "metric None"),
    "during a list": (lambda w: KeepHeads(1, during=["prefill"]), "during ['prefill']"),
    "also a number": (lambda w: Only(also=3), "also is 3"),
    "renormalise a text": (lambda w: Only(renormalise="no"), "renormalise is 'no'"),
    "layers a number": (lambda w: Only(layers=3), "layers is 3"),
    "layers none": (lambda w: Only(layers=()), "layers is ()"),
    "layer a text": (lambda w: Only(layers=("2",)), "layers is '2'"),
    "pair of nothing": (lambda w: PerPhase(None, Keep()), "generation is None"),
    "composition of a text": (lambda w: Compose(("x",)), "items is 'x'"),
    "and a number": (lambda w: Keep() & 3, "items is 3"),
    "bare Intervention": (lambda w: Compose((hb.Intervention(),)), "is not an intervention"),
    "workers half": (lambda w: hb.Ray(workers=1.5), "workers is 1.5"),
    "workers none": (lambda w: hb.Ray(workers=0), "workers must be at least 1"),
    "gpus nan": (lambda w: hb.Ray(gpus_per_worker=NAN), "gpus_per_worker is nan"),
    "address a number": (lambda w: hb.Ray(address=3), "address is 3"),
    "verify nothing": (lambda w: hb.verify(None), "model is None"),
    "verify few tokens": (lambda w: hb.verify("bamba", 3), "tokens must be at least 12"),
    "verify tokens without end": (lambda w: hb.verify("bamba", 10**12), "at most 100000"),
    "score nothing": (lambda w: scoring.score(None), "answer is None"),
    "score rubric None": (lambda w: scoring.score("x", None), "unknown rubric None"),
    "run folder a number": (lambda w: hb.run_folder(3, w.model), "out is 3"),
    "names None": (lambda w: hb.models.named(None), "model is None"),
}

LOADS = {
    "name None": (lambda w: hb.load(None), "model is None"),
    "name a path": (lambda w: hb.load(Path("griffin-tiny")), "model is PosixPath('griffin-tiny')"),
    "name misspelt": (lambda w: hb.load("grifin-tiny"), "unknown model 'grifin-tiny' (did you mean griffin-tiny?)"),
    "name in capitals": (lambda w: hb.load("JAMBA_TINY"), "(did you mean jamba-tiny?)"),
    "family misspelt": (lambda w: hb.verify("bambba"), "(did you mean bamba?)"),
    "random weights of a name misspelt": (
        lambda w: hb.load("random:google/recurrentgema-2b"), "(did you mean google/recurrentgemma-2b?)"
    ),
    "name with NUL": (lambda w: hb.load("a/b\0"), "model is 'a/b\\x00'"),
    "name with a line end": (lambda w: hb.load("a/b\n"), "unknown model 'a/b\\n'"),
    "name too long": (lambda w: hb.load("x" * 5000), "for a tiny random model"),
    "name climbs": (lambda w: hb.load("../.."), "unknown model '../..'"),
    "device None": (lambda w: hb.load("random-griffin", None), "device None is not available"),
    "second CPU": (lambda w: hb.load("random-griffin", "cpu:7"), "device 'cpu:7' is not available"),
    "dtype of torch": (lambda w: hb.load("random-griffin", dtype=torch.float32), "unknown dtype torch.float32"),
    "seed None": (lambda w: hb.load("random-griffin", seed=None), "seed is None"),
    "seed negative": (lambda w: hb.load("random-griffin", seed=-1), "seed must be at least 0"),
    "weights None": (lambda w: hb.load("griffin-tiny", weights=None), "unknown weights None"),
    "revision empty": (lambda w: hb.load("griffin-tiny", revision=""), "revision is ''"),
    "device_map empty": (lambda w: hb.load("griffin-tiny", device_map=""), "unknown device_map ''"),
    "window of 0": (checkpoint(config={"attention_window_size": 0}), "has sliding_window = 0"),
    "window a text": (checkpoint(config={"attention_window_size": "x"}), "'attention_window_size' expected int, got str"),
    "no heads": (checkpoint(config={"num_attention_heads": 0}), "cannot read the configuration"),
    "no key-value heads": (checkpoint(config={"num_key_value_heads": 0}), "has num_key_value_heads = 0"),
    "heads not divisible": (
        checkpoint(config={"num_key_value_heads": 3}), "has 10 heads, which is no multiple of its 3 key-value heads"
    ),
    "no layers": (checkpoint(config={"num_hidden_layers": 0}), "cannot read the configuration"),
    "more layers than weights": (checkpoint(config={"num_hidden_layers": 12}), "such as model.layers."),
    "fewer layers than weights": (
        checkpoint(config={"num_hidden_layers": 6}), "tensors that its configuration has no place for"
    ),
    "layer types of another length": (checkpoint(config={"block_types": []}), "must be equal to the"),
    "unknown layer types": (checkpoint(config={"block_types": ["x"]}), "lack tensors that its configuration names (30"),
    "layer types of another family": (checkpoint(config={"layer_types": ["full_attention"]}), "cannot "),
    "another family's configuration": (checkpoint(config={"model_type": "gpt2"}), "are of different models"),
    "vocabulary of 0": (checkpoint(config={"vocab_size": 0}), "has vocab_size = 0"),
    "vocabulary smaller than the weights": (
        checkpoint(config={"vocab_size": 100}), "have another shape than its configuration (1, such as ('model.embed_tokens.weight'"
    ),
    "vocabulary smaller than the tokenizer": (
        checkpoint(config={"vocab_size": 2040}, tensors=lambda t: t.update({EMBEDDING: t[EMBEDDING][:2040].clone()})),
        "has 2048 tokens and its model 2040",
    ),
    "more experts chosen than there are": (
        checkpoint("jamba-tiny", config={"num_experts_per_tok": 99}), "4 experts, and chooses 99 of them"
    ),
    "attention offset beyond the period": (
        checkpoint("jamba-tiny", config={"attn_layer_offset": 99}), "attention layer offset (99) must be smaller"
    ),
    "code of its own is not run, its weights must fit": (
        checkpoint(config={"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, tensors=lambda t: t.pop(BIAS)),
        f"lack tensors that its configuration names (1, such as {BIAS})",
    ),
    "NaN in a weight": (checkpoint(tensors=spoil(BIAS, NAN)), f"are not finite: {BIAS} holds NaN or an infinity"),
    "infinity in a weight": (checkpoint(tensors=spoil(EMBEDDING, -INF)), f"not finite: {EMBEDDING} holds"),
    "a tensor of another shape": (
        checkpoint(tensors=lambda t: t.update({BIAS: t[BIAS][:5].clone()})), f"another shape than its configuration (1, such as ('{BIAS}"
    ),
    "a tensor too many": (checkpoint(tensors=lambda t: t.update(evil=torch.zeros(3))), "no place for (1, such as evil)"),
    "all tensors renamed": (
        checkpoint(tensors=lambda t: [t.update({f"x.{k}": t.pop(k)}) for k in list(t)]), "are of different models"
    ),
    "safetensors cut off": (checkpoint(files={"model.safetensors": lambda b: b[: len(b) // 2]}), "SafetensorError"),
    "safetensors empty": (checkpoint(files={"model.safetensors": b""}), "SafetensorError"),
    "safetensors of a web page": (checkpoint(files={"model.safetensors": b"<html>404</html>"}), "SafetensorError"),
    "safetensors with a giant header": (
        checkpoint(files={"model.safetensors": lambda b: (2**62).to_bytes(8, "little") + b[8:]}), "SafetensorError"
    ),
    "a pickle instead": (
        checkpoint(files={"pytorch_model.bin": b"\x80\x04cos\nsystem\n"}, without=["model.safetensors"]),
        "cannot load",
    ),
    "an index that climbs": (
        checkpoint(
            files={"model.safetensors.index.json": b'{"metadata": {}, "weight_map": {"a": "../../../etc/hostname"}}'},
            without=["model.safetensors"],
        ),
        "cannot load",
    ),
    "no config.json": (checkpoint(without=["config.json"]), "a folder that holds config.json"),
    "config.json a list": (checkpoint(files={"config.json": b"[]"}), "cannot read the configuration"),
    "config.json not UTF-8": (checkpoint(files={"config.json": b'{"a": "\xe9"}'}), "is not a valid JSON file"),
    "config.json nested": (checkpoint(files={"config.json": b"[" * 100_000}), "cannot read the configuration"),
    "no tokenizer": (checkpoint(without=["tokenizer.json"]), "cannot load"),
    "tokenizer without parts": (checkpoint(files={"tokenizer.json": b"{}"}), "cannot load"),
    "tokenizer of a length in words": (
        checkpoint(files={"tokenizer_config.json": lambda b: json.dumps(json.loads(b) | {"model_max_length": ""}).encode()}),
        "TypeError",
    ),
    "tokenizer binary": (checkpoint(files={"tokenizer.json": b"\xff\xfe"}), "cannot load"),
}  # fmt: skip


def rows(change, use):
    return lambda w: use(change(w.rows))


def by_k(table):
    return metrics.accuracy(table, "k")


ROWS = {
    "table of nothing": (rows(lambda r: None, by_k), "rows are a pandas.DataFrame, not NoneType"),
    "table of a number": (rows(lambda r: 3, by_k), "rows are a pandas.DataFrame, not int"),
    "score a text": (rows(lambda r: r.assign(score="x"), by_k), "the column 'score' of these rows holds no numbers"),
    "score complex": (rows(lambda r: r.assign(score=1j), by_k), "holds no numbers"),
    "score infinite": (rows(lambda r: r.assign(score=INF), by_k), "some scores are outside 0 and their rubric's maximum"),
    "score of another rubric": (rows(lambda r: r.assign(score=7.0), by_k), "score them with rescore() first"),
    "rubric unknown": (rows(lambda r: r.assign(rubric="stars"), by_k), "unknown rubric 'stars' in these rows"),
    "exact a text": (rows(lambda r: r.assign(exact="x"), by_k), "the column 'exact' of these rows holds no numbers"),
    "column twice": (rows(lambda r: pd.concat([r, r[["score"]]], axis=1), by_k), "have the column 'score' twice"),
    "floor without needles": (rows(lambda r: r.drop(columns="needle"), metrics.floor), "no column 'needle'"),
    "distance a text": (
        rows(lambda r: r.assign(distance="x"), lambda r: metrics.by_distance(r, 32, [0, 1])), "'distance' of these rows"
    ),
    "departures of nothing": (lambda w: metrics.departures(w.rows, None), "rows are a pandas.DataFrame, not NoneType"),
    "models of text": (lambda w: metrics.model_table(["x"]), "'x' is no model"),
    "rescore a list": (rows(lambda r: [1], lambda r: scoring.rescore(r, "table2")), "not list"),
    "rescore no answer": (
        rows(lambda r: r.assign(answer=None), lambda r: scoring.rescore(r, "table2")), "answer is None"
    ),
    "seeds of nothing": (lambda w: tipping.by_seed(None, ["k"]), "rows are a pandas.DataFrame"),
    "shortest without models": (rows(lambda r: r.drop(columns="model"), tipping.shortest_apart), "no column 'model'"),
    "tipping of nothing": (lambda w: tipping.tipping_points(None), "rows are a pandas.DataFrame"),
    "tipping k a text": (rows(lambda r: r.assign(k="x"), tipping.tipping_points), "the column 'k' of these rows holds no"),
    "averages of a sweep": (rows(lambda r: r, averages.averages), "no column 'benchmark'"),
    "verdicts of a list": (lambda w: verdicts.of([1]), "rows are a pandas.DataFrame, not list"),
    "verdicts k a text": (rows(lambda r: r.assign(k="x"), verdicts.of), "the column 'k' of these rows holds no numbers"),
    "verdicts without a model": (rows(lambda r: r.assign(model=NAN), verdicts.of), "the column 'model' of these rows has"),
    "verdicts said of rows": (rows(lambda r: r, verdicts.said), "no column 'claim'"),
    "verdicts as HTML of rows": (rows(lambda r: r, verdicts.html), "no column 'claim'"),
    "figure of nothing": (lambda w: figures.accuracy_by_k(None), "rows are a pandas.DataFrame, not NoneType"),
    "figure without k": (rows(lambda r: r.drop(columns="k"), figures.accuracy_by_k), "no column 'k'"),
    "figure of no k": (rows(lambda r: r.assign(k=pd.NA), figures.accuracy_by_k), "no rows that keep heads"),
    "figure k a text": (rows(lambda r: r.assign(k="x"), paper_figures.home), "the column 'k' of these rows holds no numbers"),
    "figure without a model": (rows(lambda r: r.assign(model=NAN), paper_figures.home), "the column 'model' of these rows has gaps"),
    "maps without depths": (rows(lambda r: r.assign(depth=NAN), figures.retrieval_maps), "'depth' of these rows has gaps"),
    "maps by a column that is not there": (
        rows(lambda r: r, lambda r: figures.retrieval_maps(r, "colour")), "no column 'colour'"
    ),
    "table 1 without pairs": (rows(lambda r: r.drop(columns="prefill"), figures.table1), "no column 'prefill'"),
    "distance figure, window 0": (rows(lambda r: r, lambda r: figures.by_distance(r, 0)), "window must be at least 1"),
    "doses without a dose": (rows(lambda r: r, lambda r: paper_figures.doses(r, "mass", "mass", "k")), "no column 'mass'"),
    "forest of rows": (rows(lambda r: r, lambda r: paper_figures.departures(r, "")), "no column 'field'"),
    "variants of rows": (rows(lambda r: r, lambda r: paper_figures.variants(r, "", "")), "no column 'variant'"),
    "verdict figure of rows": (rows(lambda r: r, paper_figures.verdicts), "no column 'claim'"),
    "benchmark figure of rows": (rows(lambda r: r, paper_figures.benchmarks), "no column 'benchmark'"),
}  # fmt: skip

BOOK = {
    "no such parameter": ({"modle": "x"}, "no notebook has a parameter named 'modle'"),
    "model a number": ({"model": 3}, "the parameter 'model' must be str, not 3"),
    "length a text": ({"lengths": "ten"}, "the parameter 'lengths' must be"),
    "count a truth": ({"depths": True}, "the parameter 'depths' must be"),
    "count half": ({"pearls": 2.5}, "the parameter 'pearls' must be int, not 2.5"),
}

COMMANDS = {
    "k twice": (["sweep", "--k", "3", "--k", "3"], "names a number of heads twice"),
    "seed negative": (["sweep", "--seed", "-1", "--lengths", "128,", "--depths", "50,"], "seed must be at least 0"),
    "rows per batch": (["sweep", "--rows-per-batch", "0"], "'--rows-per-batch'"),
    "depth as a fraction": (["sweep", "--depths", "0.5,"], "give a count such as 10, or per cents such as 0,50,100"),
    "no such haystack": (["sweep", "--haystack", "It is cold. So it is."], "no haystack folder"),
    "haystack a file": (["sweep", "--haystack", __file__], "is a file"),
    "haystack without text": (["sweep", "--haystack", str(REPO / "tests")], "holds no text"),
    "needle without its question": (["sweep", "--needle", "It is blue."], "give both, or neither"),
    "question without its needle": (["sweep", "--question", "What is it?"], "give both, or neither"),
    "keywords without their needle": (["sweep", "--keywords", "blue"], "a needle of your own is --needle SENTENCE and"),
    "needle empty": (["sweep", "--needle", "", "--question", "What?"], "sentence is ''"),
    "keyword that is not in the needle": (
        ["sweep", "--needle", "It is blue.", "--question", "What?", "--keywords", "blue,red"],
        "keyword 'red'",
    ),
    "keyword empty": (
        ["sweep", "--needle", "It is blue.", "--question", "What?", "--keywords", "blue,"],
        "keywords is ''",
    ),
    "workers without Ray": (["sweep", "--workers", "2"], "are for --engine ray"),
    "model misspelt": (
        ["verify", "--model", "griffin_tiny"],
        "unknown model 'griffin_tiny' (did you mean griffin-tiny?)",
    ),
    "model empty": (["sweep", "--model", ""], "model is ''"),
    "model of colours": (["sweep", "--model", "\x1b[31m[red]x[/]"], "unknown model '\\x1b[31m[red]x[/]'"),
    "bench unknown": (["bench", "--what", "figure9"], "unknown benchmark 'figure9'"),
    "verify two models": (["verify", "jamba", "--model", "lfm2"], "two models, 'jamba' and 'lfm2'"),
    "verify the model without a name": (["verify", "--model", ""], "model is ''"),
    "verify few tokens": (["verify", "bamba", "--tokens", "1"], "tokens must be at least 12"),
    "fetch unknown": (["fetch", "../glue"], "unknown model '../glue'"),
    "out is a file": (["sweep", "--out", __file__, "--k", "0", "--limit", "1"], "cannot write rows in"),
    "a number is no number": (["sweep", "--k", "two"], "Invalid value"),
    "no such option": (["sweep", "--heads", "2"], "No such option"),
}

CALLS = {
    f"{part}: {name}": case
    for part, cases in (
        ("grid", GRIDS), ("needle", NEEDLES), ("haystack", HAYSTACKS), ("run", SWEEPS),
        ("value", VALUES), ("load", LOADS), ("rows", ROWS),
    )
    for name, case in cases.items()
}  # fmt: skip


def _folder(w, name, data=PROSE * 100):
    folder = Path(w.folder) / f"folder-{len(list(w.folder.iterdir()))}"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(data)
    return folder


def _pipe(w):
    folder = _folder(w, "notes.md")
    os.mkfifo(folder / "a.txt")
    return folder


def _link(w, target):
    folder = _folder(w, "notes.md")
    (folder / "a.txt").symlink_to(target)
    return folder


def _chat(w, template):
    import copy

    tokenizer = copy.deepcopy(w.model.tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def _changed(prompt, **fields):
    from dataclasses import replace

    return replace(prompt, **fields)


def _positions(model, most):
    """The same model, its configuration bounded."""
    from dataclasses import replace

    config = SimpleNamespace(max_position_embeddings=most, vocab_size=2048)
    return replace(model, net=SimpleNamespace(config=config))


@pytest.mark.parametrize("case", CALLS)
def test_bad_input_is_one_sentence_before_anything_runs(world, case):
    call, sentence = CALLS[case]
    with pytest.raises(HybretError) as caught:
        call(world)
    said = str(caught.value)
    assert sentence in said
    assert said.isprintable() and len(said) <= LONGEST + 5


@pytest.mark.parametrize("case", BOOK)
def test_bad_parameters_of_notebooks_are_refused_before_papermill_runs(case):
    given, sentence = BOOK[case]
    with pytest.raises(HybretError) as caught:
        _ = Project(REPO, given).plan
    assert sentence in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize("case", COMMANDS)
def test_a_bad_command_ends_with_one_sentence_and_status_2(case):
    words, sentence = COMMANDS[case]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 2 and sentence in " ".join(found.stderr.replace("│", " ").split())
    assert "Traceback" not in found.output and "\x1b" not in found.output


def test_haystacks_that_only_look_odd_are_read(world, tmp_path):
    marked, huge = tmp_path / "marked", tmp_path / "huge"
    for folder in (marked, huge):
        folder.mkdir()
    (marked / "a.txt").write_bytes(b"\xef\xbb\xbf" + PROSE.replace(b". ", b".\r\n") * 100)
    assert niah.load_haystack(marked).text.startswith("Rivers carve slow valleys.\nSnow")
    with (huge / "a.txt").open("wb") as file:  # takes no space
        file.truncate(haystack.MOST_BYTES + 1)
    with pytest.raises(HybretError, match="more than 256 MiB"):
        niah.load_haystack(huge)


def test_an_unreadable_haystack_is_named(monkeypatch, tmp_path):
    (tmp_path / "a.txt").write_bytes(PROSE)

    def denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(HybretError, match="cannot read the haystack folder .*: Permission denied"):
        niah.load_haystack(tmp_path)


def test_an_error_is_one_line_whatever_it_quotes():
    wild = "a\nb\x1b[31m\u202e\u0000" + "y" * 10_000 + " choose another"
    said = str(HybretError(wild))
    assert said.startswith("a b\\x1b[31m\\u202e\\x00yy") and said.endswith("choose another")
    assert said.isprintable() and len(said) < LONGEST + 10
    assert str(HybretError(said)) == said or len(said) > LONGEST


def test_a_column_that_only_labels_may_hold_anything(world):
    odd = world.rows.assign(intervention=[NAN] * len(world.rows))
    assert not verdicts.of(odd).empty and len(tipping.heads_kept(odd)) == len(world.rows)
