"""Loading: the embedded organism as shipped, what a model knows about itself, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, RecurrentGemmaConfig

import hybret as hb
from hybret import HybretError, Keep, KeepHeads, models, sweep
from hybret.families import RANDOM_MODELS, attention_layers, paper_config
from hybret.hybrid import ORGANISM_LENGTHS, PAPER_LENGTHS
from hybret.models import CHECKPOINTS, Model, load, organisms
from hybret.tasks import niah

ORGANISM = CHECKPOINTS / "griffin-tiny"
FACTS = {
    "griffin": ("recurrent_gemma", 10, (2, 5), 32),
    "jamba": ("jamba", 8, (4,), None),
    "tiny": ("recurrent_gemma", 10, (2, 5), 256),
}


def with_config(folder, **changes):
    """A folder like the organism's with another configuration and without weights."""
    folder.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ORGANISM / name, folder)
    config = json.loads((ORGANISM / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_curves_of_embedded_models_take_wider_steps_where_nothing_happens():
    ks = {name: load(name, device="cpu").ks for name in organisms()}
    assert ks["griffin-tiny"] == (*range(9), 10)
    assert ks["griffin-small"] == (*range(9), 12, 16)
    assert ks["jamba-tiny"] == (*range(9), 12, 16, 24, 32)


@pytest.mark.parametrize("fixture", FACTS)
def test_what_a_model_knows_about_itself(fixture, request):
    model = request.getfixturevalue(fixture)
    assert (model.family, model.heads, model.attention_layers, model.window) == FACTS[fixture]
    assert (model.dtype, model.device.type, model.instruct) == ("float32", "cpu", False)
    assert not model.net.training and model.net.config._attn_implementation == "eager"
    assert model.embedded == (fixture == "tiny")
    assert len(model.digest) == 12 and int(model.digest, 16) >= 0
    assert model.eos == {2} and model.tokenizer.eos_token_id == 2
    assert len(model.lengths) == 10 and model.buffer == 40
    assert model.embedded or model.ks == tuple(range(model.heads + 1))


def test_attention_layers_are_those_with_queries(model):
    found = {
        i for i, layer in enumerate(model.net.model.layers) if any("q_proj" in n for n, _ in layer.named_modules())
    }
    assert set(model.attention_layers) == found


def test_the_organism_as_shipped(tiny):
    files = [p for p in ORGANISM.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 16 * 2**20
    assert [p.name for p in files if p.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")] == []
    assert [p.name for p in files if p.suffix == ".safetensors"] == ["model.safetensors"]
    assert "griffin-tiny" in organisms()
    assert tiny.lengths[-1] == 2 * tiny.window  # as the paper's 4096 is two of RecurrentGemma's windows


@pytest.mark.parametrize("text", ["The city of San Francisco.", "naïve façade, 東京, 🙂\n\ttabs", "x" * 50])
def test_the_organisms_tokenizer_handles_any_text(tiny, text):
    ids = tiny.tokenizer(text).input_ids
    assert ids[0] == tiny.tokenizer.bos_token_id
    assert tiny.tokenizer.decode(ids, skip_special_tokens=True) == text


def test_a_copied_folder_is_the_same_model(tiny, tmp_path):
    shutil.copytree(ORGANISM, tmp_path / "copy")
    copy = load(str(tmp_path / "copy"), device="cpu")
    assert (copy.digest, copy.embedded, copy.window) == (tiny.digest, False, 256)
    with torch.no_grad():
        copy.net.model.layers[3].mlp_block.down_proj.weight[0, 0] += 1e-3
    copy.net.save_pretrained(tmp_path / "copy")
    assert load(str(tmp_path / "copy"), device="cpu").digest != tiny.digest


@pytest.mark.parametrize("name", RANDOM_MODELS)
def test_random_models_follow_their_seed(name):
    digests = [load(name, device="cpu", seed=seed).digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(("dtype", "expected"), [("auto", "float32"), ("bfloat16", "bfloat16")])
def test_dtype(dtype, expected):
    model = load("griffin-tiny", device="cpu", dtype=dtype)
    assert model.dtype == expected
    assert isinstance(model.generate("The market opens at", 3), str)


@pytest.mark.parametrize(("declared", "seen"), [(2048, 2049), (40, 40)])
def test_deepminds_checkpoints_see_one_token_more(tmp_path, declared, seen):
    """Theirs, also in a local copy, means window + 1 positions; other models keep the window they were trained with."""
    folder = tmp_path / "recurrentgemma"
    shutil.copytree(ORGANISM, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_window_size": declared}))
    model = load(str(folder), device="cpu")
    assert model.window == model.net.config.attention_window_size == seen
    assert (model.lengths, model.buffer) == (PAPER_LENGTHS, 200)
    if seen < 60:
        with hb.attach(model, weights=True) as trace, hb.phase("prefill", [59]), torch.inference_mode():
            model.net(torch.randint(3, 2000, (1, 60)), use_cache=False)
        for (weights,) in trace.weights.values():
            assert int((weights[:, -1].amax(0) > 0).sum()) == model.window


def test_paper_grid():
    assert tuple(niah.labels(250, 4096, 10)) == PAPER_LENGTHS and PAPER_LENGTHS[-1] == 2 * 2048
    assert tuple(niah.labels(128, 512, 10)) == ORGANISM_LENGTHS


BAD = {
    "unknown": ({"name": "griffin-huge"}, "unknown model 'griffin-huge'; give one of griffin-small"),
    "no such folder": ({"name": "./not/here"}, "unknown model './not/here'"),
    "dtype": ({"name": "griffin-tiny", "dtype": "int8"}, "unknown dtype 'int8'; choose one of float32"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_sentence(case):
    arguments, message = BAD[case]
    with pytest.raises(HybretError, match=message) as caught:
        load(**arguments)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_configuration_is_refused(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(HybretError, match="unknown model .* a folder that holds config.json"):
        load(str(tmp_path))


@pytest.mark.parametrize("text", ["{", "{}", '{"model_type": "griffin-of-tomorrow"}'])
def test_an_unreadable_configuration_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(HybretError, match="cannot read the configuration") as caught:
        load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(HybretError, match="cannot load") as caught:
        load(with_config(tmp_path / "empty"))
    assert "\n" not in str(caught.value)


def test_a_model_without_attention_is_refused(tmp_path):
    config = RecurrentGemmaConfig(num_hidden_layers=2, block_types=["recurrent"])
    with pytest.raises(HybretError, match="'x' has no attention layers"):
        attention_layers(config, "x")
    config.save_pretrained(tmp_path)
    with pytest.raises(HybretError, match="has no attention layers; hybret intervenes on attention"):
        load(str(tmp_path))


def test_a_pure_state_space_model_is_refused(tmp_path):
    transformers.MambaConfig(num_hidden_layers=2).save_pretrained(tmp_path)
    with pytest.raises(HybretError, match="no attention"):
        load(str(tmp_path))


def test_a_pure_transformer_has_attention_everywhere():
    config = LlamaConfig(num_hidden_layers=3, num_attention_heads=4, hidden_size=16)
    assert attention_layers(config, "llama") == ((0, 1, 2), 4)


@pytest.mark.parametrize("version", ["4.57.1", "5.13.0"])
def test_an_old_transformers_is_refused(monkeypatch, version):
    monkeypatch.setattr(models.transformers, "__version__", version)
    with pytest.raises(HybretError, match=rf"transformers {version} is too old.* install transformers>=5.13.1"):
        load("griffin-tiny")


@pytest.fixture(scope="module")
def tiny_rows(tiny: Model):
    """A small grid: base at four lengths, JRT at two, with heads kept, silenced in generation, and silenced."""
    prompts = niah.grid(tiny, (128, 256, 427), (0, 50, 100))
    prompts += niah.grid(tiny, (128, 256), (0, 100), template="jrt")
    conditions = {"keep": Keep(), "generation": KeepHeads(0, during="generation"), "both": KeepHeads(0)}
    return sweep(tiny, prompts, conditions, progress=False)


@pytest.mark.parametrize("template", ["base", "jrt"])
def test_the_organism_retrieves_through_its_attention(tiny_rows, template):
    """The claim of the paper's Section 3 on the embedded model: full inside the window, nothing without heads."""
    rows = tiny_rows[tiny_rows["template"] == template]
    inside = rows[rows["in_window"]]
    accuracy = inside.groupby("condition")["score"].mean() / 5
    assert len(inside[inside["condition"] == "keep"]) >= 3
    assert accuracy["keep"] >= 0.97
    assert accuracy["generation"] <= 0.03 and accuracy["both"] <= 0.03


def test_the_organism_does_not_see_past_its_window(tiny_rows):
    outside = tiny_rows[(tiny_rows["template"] == "base") & ~tiny_rows["in_window"]]
    assert len(outside) >= 3 and outside["score"].mean() / 5 <= 0.1


def test_a_model_outside_the_attention_interface_is_refused(tmp_path):
    config = transformers.BloomConfig(vocab_size=2048, hidden_size=16, n_layer=2, n_head=2)
    transformers.BloomForCausalLM(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ORGANISM / name, tmp_path)
    with pytest.raises(HybretError, match="attention interface"):
        hb.load(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("name", "billions", "heads", "layers", "window"),
    [
        ("google/recurrentgemma-2b", 2.68, 10, 8, 2048),
        ("google/recurrentgemma-9b", 8.58, 16, 12, 2048),
        ("ai21labs/AI21-Jamba-Mini-1.6", 51.57, 32, 4, None),
    ],
)
def test_the_papers_models_have_their_size(name, billions, heads, layers, window):
    config = paper_config(name)
    with torch.device("meta"):  # shapes without memory
        net = AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in net.parameters()) / 1e9 == pytest.approx(billions, abs=0.005)
    found, queries = attention_layers(config, name)
    assert (len(found), queries, getattr(config, "sliding_window", None)) == (layers, heads, window)


def test_random_weights_are_for_names_that_have_a_configuration():
    with pytest.raises(HybretError, match="random weights are made for google/recurrentgemma-2b"):
        load("griffin-tiny", weights="random")
    with pytest.raises(HybretError, match="unknown weights 'none'; choose one of checkpoint, random"):
        load("griffin-tiny", weights="none")
    assert load("random-griffin", weights="random", seed=3).digest == "random000003"


def test_several_models_are_named_in_one_string_and_checked_before_any_is_loaded():
    assert models.named(" griffin-tiny, random-jamba,google/recurrentgemma-2b ") == [
        "griffin-tiny", "random-jamba", "google/recurrentgemma-2b",
    ]  # fmt: skip
    with pytest.raises(HybretError, match="unknown model 'griffin-huge'"):
        models.named("griffin-tiny,griffin-huge")
    for text in (" , ", "griffin-tiny,griffin-tiny"):
        with pytest.raises(HybretError, match="at least one model, each once"):
            models.named(text)
