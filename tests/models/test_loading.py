"""Loading real checkpoints and full-size random ones: what is refused, in which words, and before anything is built."""

from __future__ import annotations

import errno
import json
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import transformers.utils.hub
from conftest import random_ids
from huggingface_hub import errors
from test_cli import run
from test_models import ORGANISM, with_config
from transformers import AutoModelForCausalLM

import hybret as hb
from book.paper import verdicts
from hybret import figures, models, presets, sources
from hybret.engine import attention, decode, placing, sizing
from hybret.engine import context as frame
from hybret.engine.attach import implementation
from hybret.engine.scan import parallel_scans
from hybret.engine.sizing import GIB
from hybret.engine.state import merge
from hybret.presets import CONFIGS, PAPER_MODELS, paper_config
from hybret.tasks import niah

REAL = "google/recurrentgemma-2b"


def hub_error(kind, status=403):
    return kind("no", response=SimpleNamespace(status_code=status, headers={}, request=None))


PROBLEMS = {
    "gated, no token": (
        lambda: hub_error(errors.GatedRepoError, 401), None,
        "its repository is gated and no token is set; run `hf auth login`, after accepting its terms at https://hugg",
    ),
    "gated, no access": (lambda: hub_error(errors.GatedRepoError), "hf_x", "gated and your token has no access, after"),
    "no such repository": (
        lambda: hub_error(errors.RepositoryNotFoundError, 404), None, "no such repository, or it is private; check the"
    ),
    "no such revision": (lambda: hub_error(errors.RevisionNotFoundError, 404), None, "no such revision; https://hugg"),
    "token refused": (lambda: hub_error(errors.HfHubHTTPError, 401), "hf_x", "refuses access; check your token with"),
    "no network": (lambda: errors.LocalEntryNotFoundError("no"), None, "cannot be reached and the model is not in the"),
    "server trouble": (lambda: hub_error(errors.HfHubHTTPError, 503), None, "huggingface.co cannot be reached"),
    "offline": (lambda: errors.OfflineModeIsEnabled("no"), None, "HF_HUB_OFFLINE is set; unset it, or fetch the model"),
    "disk full": (lambda: OSError(errno.ENOSPC, "No space left"), None, "no space is left for its files; free some"),
}  # fmt: skip


@pytest.mark.parametrize("case", PROBLEMS)
def test_the_hubs_problems_are_said_with_a_remedy(case, monkeypatch, tmp_path):
    problem, token, words = PROBLEMS[case]

    def refuse(*_, **__):
        raise problem()

    monkeypatch.setattr(transformers.utils.hub, "hf_hub_download", refuse)
    monkeypatch.setattr(sources, "get_token", lambda: token)
    with pytest.raises(hb.HybretError) as caught:
        hb.load("nobody/nothing-here", device="cpu", revision="0123abc")
    said = str(caught.value)
    assert said.startswith("cannot read the configuration of 'nobody/nothing-here': ") and words in said
    assert "\n" not in said


def test_a_misspelt_repository_is_answered_with_the_name_that_it_resembles(monkeypatch):
    def refuse(*_, **__):
        raise hub_error(errors.RepositoryNotFoundError, 404)

    monkeypatch.setattr(transformers.utils.hub, "hf_hub_download", refuse)
    with pytest.raises(
        hb.HybretError, match=r"check the name \(did you mean google/recurrentgemma-2b\?\), or your token"
    ):
        hb.load("google/recurentgemma-2b@0123abc", device="cpu")
    with pytest.raises(hb.HybretError, match="check the name, or your token"):
        hb.load(f"{REAL}@0123abc", device="cpu")


def test_weights_are_asked_for_after_the_configuration_and_the_memory(monkeypatch):
    """A gated checkpoint whose configuration is in the cache: refused for its size before any download."""
    monkeypatch.setattr(sources, "read_config", lambda name, *_: paper_config(name))
    monkeypatch.setattr(sizing, "free_bytes", lambda _: 2 * GIB)
    with pytest.raises(hb.HybretError, match="does not fit: its weights take 5.0 GiB in bfloat16, and cpu has 2.0 GiB"):
        hb.load(REAL, device="cpu", dtype="bfloat16")
    monkeypatch.setattr(sizing, "free_bytes", lambda _: 6 * GIB)
    with pytest.raises(hb.HybretError, match=r'10.0 GiB in float32.*; dtype="bfloat16" needs half as much'):
        hb.load(REAL, device="cpu")

    def gated(*_, **__):
        raise hub_error(errors.GatedRepoError)

    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", gated)
    with pytest.raises(hb.HybretError, match=f"cannot load '{REAL}': its repository is gated"):
        hb.load(REAL, device="cpu", dtype="bfloat16")


def test_only_safetensors_are_read_and_no_code_runs(tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(ORGANISM, folder)
    net = AutoModelForCausalLM.from_pretrained(folder)
    torch.save(net.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(hb.HybretError, match="there are no safetensors in .* hybret reads no other weights"):
        hb.load(str(folder), device="cpu")
    own = json.loads((ORGANISM / "config.json").read_text()) | {
        "model_type": "own", "auto_map": {"AutoConfig": "own.Config"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(own))
    (folder / "own.py").write_text("raise SystemExit('code of a repository ran')")
    with pytest.raises(hb.HybretError, match="code of its own, which hybret does not run"):
        hb.load(str(folder), device="cpu")


def test_the_revision_reaches_every_file(monkeypatch, tiny):
    asked = []

    def config(source, **options):
        asked.append(options)
        return tiny.net.config

    class Net:
        @staticmethod
        def from_pretrained(source, **options):
            asked.append(options)
            return tiny.net, {}

    class Tokenizer(Net):
        @staticmethod
        def from_pretrained(source, **options):
            asked.append(options)
            return tiny.tokenizer

    monkeypatch.setattr(sources.AutoConfig, "from_pretrained", config)
    monkeypatch.setattr(models, "AutoModelForCausalLM", Net)
    monkeypatch.setattr(models, "AutoTokenizer", Tokenizer)
    hb.load("someone/griffin", device="cpu", revision="5f3c")
    assert hb.load("someone/griffin@refs/pr/2", device="cpu").name == "someone/griffin@refs/pr/2"
    assert [options["revision"] for options in asked] == ["5f3c"] * 3 + ["refs/pr/2"] * 3
    assert models.named("griffin-tiny, someone/griffin@refs/pr/2")
    assert [options["trust_remote_code"] for options in asked] == [False] * 6 and asked[1]["use_safetensors"]
    with pytest.raises(hb.HybretError, match="'griffin-tiny' has no revisions here"):
        hb.load("griffin-tiny", revision="5f3c")


def test_a_device_map_is_for_gpus(monkeypatch):
    with pytest.raises(hb.HybretError, match="unknown device_map 'sideways'; choose auto or balanced"):
        placing.spread("sideways")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(hb.HybretError, match="spreads a model over GPUs, and there is none"):
        hb.load("griffin-tiny", device_map="auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(placing, "find_spec", lambda _: None)
    with pytest.raises(hb.HybretError, match="needs accelerate; pip install accelerate"):
        placing.spread("auto")
    monkeypatch.setattr(placing, "find_spec", lambda name: name)
    assert placing.spread("auto") == ["cuda:0", "cuda:1"]
    assert placing.placement(["cuda:0"], None) == {"": "cuda:0"} and placing.placement(["cpu"], None) is None
    monkeypatch.setattr(sizing, "free_bytes", lambda _: 20 * GIB)
    with pytest.raises(hb.HybretError, match=r"take 96.1 GiB in bfloat16, and cuda:0 and cuda:1 have 40.0 GiB free"):
        hb.load("ai21labs/AI21-Jamba-Mini-1.6", weights="random", device_map="auto")
    with pytest.raises(hb.HybretError, match=r"cuda:0 has 20.0 GiB free; spread it over the GPUs with device_map"):
        sizing.require_room("x", paper_config("ai21labs/AI21-Jamba-Mini-1.6"), "bfloat16", ["cuda:0"])


def test_auto_takes_all_gpus_where_the_first_has_no_room(monkeypatch):
    """So that a notebook, whose parameter is `device`, runs a model that is larger than one of a node's GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(placing, "find_spec", lambda name: name)
    monkeypatch.setattr(sizing, "free_bytes", lambda _: 20 * GIB)
    monkeypatch.setattr(sources, "read_config", lambda name, *_: paper_config(name))
    jamba, small = (paper_config(name) for name in ("ai21labs/AI21-Jamba-Mini-1.6", REAL))
    assert placing.several(jamba, "bfloat16") == "auto" and placing.several(small, "bfloat16") is None
    with pytest.raises(hb.HybretError, match="and cuda:0 and cuda:1 have 40.0 GiB free"):
        hb.load("random:ai21labs/AI21-Jamba-Mini-1.6")
    with pytest.raises(hb.HybretError, match=r"and cuda has 20.0 GiB free; spread it over the GPUs with device_map"):
        hb.load("random:ai21labs/AI21-Jamba-Mini-1.6", device="cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert placing.several(jamba, "bfloat16") is None


def test_weights_for_a_gpu_pass_through_this_machines_memory(monkeypatch):
    """Without accelerate, which reads them straight onto the GPU."""
    monkeypatch.setattr(sources, "read_config", lambda name, *_: paper_config(name))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(sizing, "free_bytes", lambda device: (80 if device == "cuda" else 2) * GIB)
    monkeypatch.setattr(placing, "find_spec", lambda _: None)
    with pytest.raises(hb.HybretError, match="cpu has 2.0 GiB free; install accelerate, which reads weights straight"):
        hb.load(REAL, device="cuda")


@pytest.mark.parametrize("name", PAPER_MODELS)
def test_the_papers_configurations_say_where_they_are_from(name):
    fields = json.loads((CONFIGS / f"{PAPER_MODELS[name].lower()}.json").read_text())
    assert "arXiv" in fields["_source"] and not hasattr(paper_config(name), "_source")


def test_the_estimate_of_memory_is_exact(griffin):
    assert sizing.weight_bytes(griffin.net.config, "float32") == 4 * griffin.parameters
    assert sizing.weight_bytes(griffin.net.config, "bfloat16") == 2 * griffin.parameters
    assert 2**20 < sizing.free_bytes("cpu") < 2**60


def test_random_weights_of_a_folder(tmp_path, monkeypatch):
    """A folder with nothing but its configuration, as it would be at full size; both spellings; the seed counts."""
    folder = with_config(tmp_path / "config-only", num_hidden_layers=3)
    (tmp_path / "config-only" / "tokenizer.json").unlink()
    model = hb.load(folder, device="cpu", weights="random", dtype="bfloat16", seed=5)
    assert (model.name, model.digest, model.dtype) == (f"random:{folder}", "random000005", "bfloat16")
    assert model.attention_layers == (2,) and not model.embedded and model.lengths == models.PAPER_LENGTHS
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
    assert presets.made_up(rows["model"], rows["weights"]).all() and rows["model"].str.startswith("random:").all()
    with pytest.raises(hb.HybretError, match="random:.* has random weights: what it answers means nothing"):
        verdicts.of(rows)
    trained = rows.assign(model="griffin-tiny", weights="2f1c7d02e197")
    for table, marked in ((rows, True), (trained, False), (trained.assign(model="random-jamba"), True)):
        picture = figures.save(figures.accuracy_by_k(table), f"figure-{marked}", tmp_path)
        svg = picture.svg.read_text()
        assert ("random weights</text>" in svg) == marked == ("nothing here is a result" in svg)
    mixed = pd.concat([rows, trained])
    assert presets.made_up(mixed["model"], mixed["weights"]).sum() == len(rows)
    note = figures.footnote
    for text, marked in ((f"model x ({model.digest[:8]}) · n = 3", True), ("model x (2f1c7d02)", False)):
        figure = figures.canvas(2)
        note(figure, text)
        assert any("random weights" in t.get_text() for t in figure.texts) == marked


def test_the_command_says_what_does_not_fit(monkeypatch):
    monkeypatch.setattr(sizing, "free_bytes", lambda _: GIB)
    found = run("bench", "--model", "ai21labs/AI21-Jamba-Mini-1.6", "--weights", "random", "--device", "cpu")
    assert found.exit_code == 2 and "its weights take 192.1 GiB in float32" in found.stderr
    assert found.stderr.count("\n") <= 2


ELSEWHERE = torch.device("meta")  # another device without one: mixing its tensors with the CPU's raises


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("phase", ["prefill", "generation"])
@pytest.mark.parametrize(
    "action",
    [hb.KeepHeads(1), hb.KeepHeads(1, "l2"), hb.Omit(), hb.Only(), hb.Null(), hb.Only() & hb.Mass(1.0), hb.Binary()],
    ids=lambda a: a.label,
)
def test_a_layer_on_another_device(action, phase, streaming, griffin):
    """The frame is declared where the first layer is; the attention of a layer elsewhere runs where that layer is."""
    if streaming and isinstance(action, hb.Binary):
        pytest.skip("it looks up columns, which a device without memory cannot")
    module = griffin.net.model.layers[2].temporal_block
    queries = 6 if phase == "prefill" else 1
    last = torch.tensor([5, 5])
    acting = [action.at(phase), ()]
    now = frame.Frame(
        phase, acting, [((1, 3),)] * 2, last, hb.CORRECTED, None, streaming, right_aligned=phase == "generation"
    )
    query = torch.empty(2, 10, queries, 8, device=ELSEWHERE)
    key, value = (torch.empty(2, 1, 6, 8, device=ELSEWHERE) for _ in range(2))
    with frame.frame(now):
        output, _ = attention.attention(module, query, key, value, None, 1.0)
    assert output.device == ELSEWHERE and output.shape == (2, queries, 10, 8)
    assert now.last.device.type == "cpu" and (now.outputs is not None) == (now.streams)


def test_a_state_that_is_spread_over_devices(jamba):
    ids = random_ids(jamba, 12)
    with parallel_scans(), implementation(jamba.net):
        state = decode.prefill(jamba, ids, [()], (), hb.CORRECTED)
    for layer in state.cache.layers[4:]:
        for name in ("keys", "values"):
            if isinstance(getattr(layer, name, None), torch.Tensor):
                setattr(layer, name, getattr(layer, name).to(ELSEWHERE))
    merged = merge([state.select(torch.tensor([0, 0])), state.select(torch.tensor([0]))]).preallocate(3)
    assert merged.cache.layers[4].key_room.device == ELSEWHERE and merged.cache.layers[4].key_room.shape[0] == 3


def test_a_model_that_is_partly_elsewhere_is_refused():
    whole, partly = (SimpleNamespace(hf_device_map=m) for m in ({"": 0}, {"model.layers.0": 0, "lm_head": "cpu"}))
    placing.require_on_gpus("x", whole)
    with pytest.raises(hb.HybretError, match="x does not fit on the GPUs: accelerate left lm_head in slower memory"):
        placing.require_on_gpus("x", partly)
