"""Loading real checkpoints and full-size random ones: what is refused before anything is built, and devices."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from test_models import ORGANISM, with_config
from transformers import AutoModelForCausalLM

import hybret as hb
from book.paper import verdicts
from hybret import checkpoints, figures, models
from hybret.devices import GIB, Machine, check_on_gpus, free_bytes, weight_bytes
from hybret.families import CONFIGS, PAPER_MODELS, has_random_weights, paper_config
from hybret.hybrid import PAPER_LENGTHS
from hybret.tasks import niah

JAMBA = "random:ai21labs/AI21-Jamba-Mini-1.6"


def machine(gpus=0, accelerate=True, free=20, cpu=20):
    """GiB free on each GPU and on the CPU."""
    return Machine(gpus, accelerate, lambda device: (cpu if device == "cpu" else free) * GIB)


def full_size(folder, name):
    """A folder with the configuration of one of the paper's models and no weights."""
    folder.mkdir()
    paper_config(name).save_pretrained(folder)
    return str(folder)


FITS = {
    "CPU": ({"device": "cpu"}, machine(), "take 192.1 GiB in float32, and cpu has 20.0 GiB free; use a larger machine; "
            'dtype="bfloat16" needs half as much'),
    "one GPU of two": ({"device": "cuda"}, machine(2),
                       'in bfloat16, and cuda has 20.0 GiB free; spread it over the GPUs with device_map'),
    "auto takes both": ({}, machine(2), "and cuda:0 and cuda:1 have 40.0 GiB free"),
    "spread": ({"device_map": "balanced"}, machine(2), "and cuda:0 and cuda:1 have 40.0 GiB free"),
    "auto without accelerate": ({}, machine(2, accelerate=False), "and cuda has 20.0 GiB free"),
}  # fmt: skip


@pytest.mark.parametrize("case", FITS)
def test_weights_that_do_not_fit_are_refused(case):
    options, there, words = FITS[case]
    with pytest.raises(hb.HybretError, match=words):
        hb.load(JAMBA, **options, machine=there)


def test_auto_takes_one_gpu_where_it_has_room():
    there, config = machine(2), paper_config("google/recurrentgemma-2b")
    place = there.fitted("x", config, "bfloat16", there.placement(), auto=True, read=True)
    assert (place.devices, place.device_map, place.spread) == (["cuda"], {"": "cuda"}, False)
    assert there.placement(device_map="auto").devices == ["cuda:0", "cuda:1"]
    assert machine(1, accelerate=False).placement().device_map is None and machine().placement().devices == ["cpu"]


def test_memory_is_checked_before_weights_are_read(tmp_path):
    folder = full_size(tmp_path / "griffin", "google/recurrentgemma-2b")
    with pytest.raises(hb.HybretError, match="does not fit: its weights take 5.0 GiB in bfloat16, and cpu has 2.0 GiB"):
        hb.load(folder, device="cpu", dtype="bfloat16", machine=machine(cpu=2))
    with pytest.raises(hb.HybretError, match="cannot load"):  # there are none
        hb.load(folder, device="cpu", dtype="bfloat16", machine=machine(cpu=6))
    with pytest.raises(hb.HybretError, match="cpu has 2.0 GiB free; install accelerate, which reads weights straight"):
        hb.load(folder, device="cuda", machine=machine(1, accelerate=False, free=80, cpu=2))


@pytest.mark.parametrize(
    ("options", "there", "words"),
    [
        ({"device_map": "sideways"}, machine(2), "unknown device_map 'sideways'; choose one of auto, balanced"),
        ({"device_map": "auto"}, machine(), "spreads a model over GPUs, and there is none"),
        ({"device_map": "auto"}, machine(2, accelerate=False), "needs accelerate; pip install accelerate"),
        ({"device": "cuda"}, machine(), "device 'cuda' is not available; choose auto, cpu"),
        ({"device": "cuda:2"}, machine(2), "device 'cuda:2' is not available"),
        ({"device": "tpu"}, machine(2), "device 'tpu' is not available"),
        ({"device": "meta"}, machine(2), "device 'meta' is not available"),
    ],
)
def test_devices_that_are_not_there(options, there, words):
    with pytest.raises(hb.HybretError, match=words):
        hb.load("griffin-tiny", **options, machine=there)


def test_only_safetensors_are_read_and_no_code_runs(tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(ORGANISM, folder)
    net = AutoModelForCausalLM.from_pretrained(folder)
    torch.save(net.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(hb.HybretError, match="cannot load .*safetensors"):
        hb.load(str(folder), device="cpu")
    own = json.loads((ORGANISM / "config.json").read_text()) | {
        "model_type": "own", "auto_map": {"AutoConfig": "own.Config"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(own))
    (folder / "own.py").write_text("raise SystemExit('code of a repository ran')")
    with pytest.raises(hb.HybretError, match="cannot read the configuration"):
        hb.load(str(folder), device="cpu")


def test_the_revision_reaches_every_file(monkeypatch, tiny):
    calls = []

    def loader(value):
        def from_pretrained(source, **options):
            calls.append(options)
            return value

        return SimpleNamespace(from_pretrained=from_pretrained)

    monkeypatch.setattr(checkpoints, "AutoConfig", loader(tiny.net.config))
    monkeypatch.setattr(models, "AutoModelForCausalLM", loader((tiny.net, {})))
    monkeypatch.setattr(models, "AutoTokenizer", loader(tiny.tokenizer))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    there = Machine(free=lambda _: 2**50)
    monkeypatch.setattr(Machine, "fitted", lambda self, name, config, dtype, place, auto, read: place)
    hb.load("someone/griffin", device="cpu", revision="5f3c", machine=there)
    assert hb.load("someone/griffin@refs/pr/2", device="cpu", machine=there).name == "someone/griffin@refs/pr/2"
    assert [options["revision"] for options in calls] == ["5f3c"] * 3 + ["refs/pr/2"] * 3
    assert [options["trust_remote_code"] for options in calls] == [False] * 6 and calls[1]["use_safetensors"]
    assert models.named("griffin-tiny, someone/griffin@refs/pr/2")
    with pytest.raises(hb.HybretError, match="'griffin-tiny' has no revisions"):
        hb.load("griffin-tiny", revision="5f3c")


@pytest.mark.parametrize("name", PAPER_MODELS)
def test_the_papers_configurations_name_their_source(name):
    fields = json.loads((CONFIGS / f"{PAPER_MODELS[name].lower()}.json").read_text())
    assert "arXiv" in fields["_source"] and not hasattr(paper_config(name), "_source")


def test_the_estimate_of_memory_is_exact(griffin):
    assert weight_bytes(griffin.net.config, "float32") == 4 * griffin.parameters
    assert weight_bytes(griffin.net.config, "bfloat16") == 2 * griffin.parameters
    assert 2**20 < free_bytes("cpu") < 2**60


def test_random_weights_of_a_folder(tmp_path):
    """A folder with nothing but its configuration, as it would be at full size; both spellings; the seed counts."""
    folder = with_config(tmp_path / "config-only", num_hidden_layers=3)
    (tmp_path / "config-only" / "tokenizer.json").unlink()
    model = hb.load(folder, device="cpu", weights="random", dtype="bfloat16", seed=5)
    assert (model.name, model.digest, model.dtype) == (f"random:{folder}", "random000005", "bfloat16")
    assert model.attention_layers == (2,) and not model.embedded and model.lengths == PAPER_LENGTHS
    again = hb.load(f"random:{folder}", device="cpu", dtype="bfloat16", seed=5)
    assert again.name == model.name and models.named(f"griffin-tiny, random:{folder}")
    pairs = zip(model.net.parameters(), again.net.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert len(niah.grid(model, (250,), (50,))[0].ids) <= 250  # the organisms' tokenizer serves it
    with pytest.raises(hb.HybretError, match="random weights are made for .* and for folders with config.json"):
        hb.load("someone/else", device="cpu", weights="random")


def test_rows_of_random_weights_are_marked_everywhere(tmp_path, griffin):
    """In the table, on the figure, and refused by the verdicts; a trained model's are not."""
    folder = with_config(tmp_path / "config-only", num_hidden_layers=3)
    model = hb.load(folder, device="cpu", weights="random")
    prompts = [*niah.grid(model, (256,), (0, 100)), *niah.grid(model, (256,), (0, 100), control=True)]
    conditions = {c.label: c for c in (hb.KeepHeads(k, during="generation") for k in (0, 10))}
    rows = hb.sweep(model, prompts, conditions, max_new_tokens=2, progress=False)
    assert (
        all(map(has_random_weights, rows["model"], rows["weights"])) and rows["model"].str.startswith("random:").all()
    )
    with pytest.raises(hb.HybretError, match="random:.* has random weights: what it answers means nothing"):
        verdicts.of(rows)
    trained = rows.assign(model="griffin-tiny", weights="2f1c7d02e197")
    for table, marked in ((rows, True), (trained, False), (trained.assign(model="random-jamba"), True)):
        picture = figures.save(figures.accuracy_by_k(table), f"figure-{marked}", tmp_path)
        svg = picture.svg.read_text()
        assert ("random weights</text>" in svg) == marked == ("nothing here is a result" in svg)
    mixed = pd.concat([rows, trained])
    assert sum(map(has_random_weights, mixed["model"], mixed["weights"])) == len(rows)


def test_a_model_that_is_partly_off_the_gpus_is_refused():
    whole, partly = (SimpleNamespace(hf_device_map=m) for m in ({"": 0}, {"model.layers.0": 0, "lm_head": "cpu"}))
    check_on_gpus("x", whole)
    with pytest.raises(hb.HybretError, match="x does not fit on the GPUs: accelerate left lm_head in slower memory"):
        check_on_gpus("x", partly)
