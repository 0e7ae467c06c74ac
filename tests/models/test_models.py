"""Loading: the embedded organism as shipped, what a model knows about itself, and what is refused."""

import json
import shutil
import xml.etree.ElementTree as ET

import pytest
import torch
import transformers

import hybret as hb
from hybret import HybretError, KeepHeads
from hybret.models import CHECKPOINTS, load, named, organisms

ORGANISM = CHECKPOINTS / "griffin-tiny"
PAPER_LENGTHS = tuple(hb.niah.labels(250, 4096, 10))
FACTS = {
    "griffin": ("recurrent_gemma", 10, (2, 5), 32),
    "jamba": ("jamba", 8, (4,), None),
    "tiny": ("recurrent_gemma", 10, (2, 5), 256),
}


def with_config(folder, **changes):
    """A folder with the organism's tokenizer, and its configuration with changes; no weights."""
    folder.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ORGANISM / name, folder)
    (folder / "config.json").write_text(json.dumps(json.loads((ORGANISM / "config.json").read_text()) | changes))
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
    layers = [{name for name, _ in layer.named_modules()} for layer in model.net.model.layers]
    assert model.attention_layers == tuple(i for i, names in enumerate(layers) if any("q_proj" in n for n in names))
    assert (model.dtype, model.device.type, model.instruct) == ("float32", "cpu", False)
    assert not model.net.training and model.net.config._attn_implementation == "eager"
    assert model.embedded == (fixture == "tiny")
    assert len(model.digest) == 12 and int(model.digest, 16) >= 0
    assert model.eos == {2} and model.tokenizer.eos_token_id == 2
    assert model.lengths == tuple(hb.niah.labels(128, 512, 10)) and model.buffer == 40
    assert model.embedded or model.ks == tuple(range(model.heads + 1))


@pytest.mark.parametrize(("declared", "seen"), [(2048, 2049), (40, 40)])
def test_deepminds_checkpoints_see_one_token_more(tmp_path, declared, seen):
    """Theirs, also in a local copy, means window + 1 positions; other models keep the window they were trained with."""
    shutil.copytree(ORGANISM, tmp_path, dirs_exist_ok=True)
    model = load(with_config(tmp_path, attention_window_size=declared), device="cpu")
    assert model.window == model.net.config.attention_window_size == seen
    assert (model.lengths, model.buffer) == (PAPER_LENGTHS, 200) and PAPER_LENGTHS[-1] == 2 * 2048
    if seen < 60:
        with hb.attach(model, weights=True) as trace, hb.phase("prefill", [59]), torch.inference_mode():
            model.net(torch.randint(3, 2000, (1, 60)), use_cache=False)
        for (weights,) in trace.weights.values():
            assert int((weights[:, -1].amax(0) > 0).sum()) == model.window


def test_random_weights_of_a_folder(tmp_path):
    folder = with_config(tmp_path / "config-only", num_hidden_layers=3)
    (tmp_path / "config-only" / "tokenizer.json").unlink()
    model = load(folder, device="cpu", weights="random", dtype="bfloat16", seed=5)
    assert (model.name, model.digest, model.dtype) == (f"random:{folder}", "random000005", "bfloat16")
    assert model.attention_layers == (2,) and not model.embedded and model.lengths == PAPER_LENGTHS
    again = load(f"random:{folder}", device="cpu", dtype="bfloat16", seed=5)
    assert again.name == model.name and named(f"griffin-tiny, random:{folder}")
    pairs = zip(model.net.parameters(), again.net.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert len(hb.niah.grid(model, (250,), (50,))[0].ids) <= 250  # the organisms' tokenizer serves it
    assert load("random-griffin", weights="random", seed=3).digest == "random000003"


def test_rows_of_random_weights_are_marked_everywhere(tmp_path):
    model = load(with_config(tmp_path / "config-only", num_hidden_layers=3), device="cpu", weights="random")
    grid = ((256,), (0, 100))
    prompts = [*hb.niah.grid(model, *grid), *hb.niah.grid(model, *grid, control=True)]
    conditions = {c.label: c for c in (KeepHeads(k, during="generation") for k in (0, 10))}
    rows = hb.sweep(model, prompts, conditions, max_new_tokens=2, progress=False)
    assert rows["model"].str.startswith("random:").all() and rows["weights"].str.startswith("random").all()
    trained = rows.assign(model="griffin-tiny", weights="2f1c7d02e197")
    for table, marked in ((rows, True), (trained, False), (trained.assign(model="random-jamba"), True)):
        picture = hb.figures.save(hb.figures.accuracy_by_k(table), f"figure-{marked}", tmp_path)
        svg = picture.svg.read_text()
        assert ("random weights</text>" in svg) == marked == ("nothing here is a result" in svg)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (transformers.RecurrentGemmaConfig(num_hidden_layers=2, block_types=["recurrent"]), "has no attention layers"),
        (transformers.MambaConfig(num_hidden_layers=2), "no attention"),
        (transformers.BloomConfig(vocab_size=2048, hidden_size=16, n_layer=2, n_head=2), "attention interface"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_a_model_without_attention_or_its_interface_is_refused(tmp_path, config, says):
    with_config(tmp_path)
    config.save_pretrained(tmp_path)
    if config.model_type == "bloom":
        transformers.BloomForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(HybretError, match=says):
        load(str(tmp_path), device="cpu")


def test_code_of_a_repository_does_not_run(tmp_path):
    folder = with_config(tmp_path / "own", model_type="own", auto_map={"AutoConfig": "own.Config"})
    (tmp_path / "own" / "own.py").write_text("raise SystemExit('code of a repository ran')")
    with pytest.raises(HybretError, match="cannot read the configuration"):
        load(folder, device="cpu")


@pytest.mark.parametrize("version", ["4.57.1", "5.13.0"])
def test_an_old_transformers_is_refused(monkeypatch, version):
    monkeypatch.setattr(hb.models.transformers, "__version__", version)
    with pytest.raises(HybretError, match=rf"transformers {version} is too old.* install transformers>=5.13.1"):
        load("griffin-tiny")


def test_several_models_are_named_in_one_string_and_checked_before_any_is_loaded():
    three = ["griffin-tiny", "random-jamba", "google/recurrentgemma-2b"]
    assert named(f" {three[0]}, {three[1]},{three[2]} ") == three and named("griffin-tiny, someone/griffin@refs/pr/2")
    with pytest.raises(HybretError, match="unknown model 'griffin-huge'"):
        named("griffin-tiny,griffin-huge")
    for text in (" , ", "griffin-tiny,griffin-tiny"):
        with pytest.raises(HybretError, match="at least one model, each once"):
            named(text)


@pytest.mark.parametrize("name", ["random-jamba", "falcon_h1", "nemotron_h"])
def test_the_picture_has_every_layer_and_fills_those_with_attention(name):
    model = hb.load(name, device="cpu")
    picture = ET.fromstring(model._repr_html_().replace("<br>", "<br/>"))
    layers = [g for g in picture.iter() if g.tag.endswith("}g")]
    filled = [i for i, g in enumerate(layers) if g[1].get("fill") != "none"]
    assert len(layers) == model.net.config.num_hidden_layers and filled == list(model.attention_layers)
    assert [i for i, layer in enumerate(layers) if "attention" in "".join(layer.itertext())] == filled
    assert "random weights" in repr(model) and "global attention" in repr(model)
