"""The training recipe, on a small model and a few steps."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hybret import HybretError
from hybret.organisms.training import train as recipe
from hybret.organisms.training.loss import causal_mask
from hybret.organisms.training.recipes import RECIPES
from hybret.organisms.training.train import Training, main, train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    assert main(["--smoke", "--out", str(out)]) == 0
    return out


def test_smoke_writes_a_model_a_log_and_a_checkpoint(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", "ready", *["evaluation"] * 3, "end", "answers"]
    assert lines[-2]["step"] == 3
    assert lines[-2]["tokens"] == 3 * 256
    assert lines[-3]["probe"]["outside"]["all"]["n"] > 0
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    assert model.dtype == torch.bfloat16
    assert lines[0]["parameters"] == sum(p.numel() for p in model.parameters())
    assert model.config.head_dim == 96
    assert AutoTokenizer.from_pretrained(run / "model")("a")["input_ids"][0] == 1


def test_resume_goes_on_from_the_saved_state(run, tmp_path):
    training = Training().smoke()
    model = recipe.build(training)
    optimizer = recipe.optimizer_of(training, model, fused=False)
    assert recipe.saved_state(run, training)["step"] == 3
    averaged = recipe.build(training)
    recipe.load(run, 3, model, averaged, optimizer)
    shipped = AutoModelForCausalLM.from_pretrained(run / "model")
    assert shipped.dtype == torch.bfloat16
    for ours, rounded in zip(averaged.parameters(), shipped.parameters(), strict=True):
        assert torch.equal(ours, rounded.float())
    assert any(not torch.equal(p, p.bfloat16().float()) for p in model.parameters())  # finer than the shipped weights
    longer = replace(training, steps=4, every=10)
    assert train(longer, tmp_path / "more", resume=run, device="cpu", say=lambda _: None)["step"] == 4
    with pytest.raises(HybretError, match="Nothing left"):
        train(training, tmp_path / "none", resume=run, device="cpu", say=lambda _: None)
    with pytest.raises(HybretError, match="Cannot resume jamba-tiny .* griffin-tiny"):
        recipe.saved_state(run, RECIPES["jamba-tiny"].smoke())
    wider = recipe.build(replace(training, config={**training.config, "lru_width": 160}))
    with pytest.raises(HybretError, match="does not fit"):
        recipe.load(run, 3, wider, wider, recipe.optimizer_of(training, wider, fused=False))


def test_jamba_resumes_too(trained_jamba, tmp_path):
    longer = replace(RECIPES["jamba-tiny"].smoke(), steps=2, every=9, lengths=((128, 1.0),))
    assert train(longer, tmp_path / "two", resume=trained_jamba, device="cpu", say=lambda _: None)["step"] == 2


def test_recipes_build_organisms_that_fit_into_git_and_a_twin_without_attention():
    for name, heads in {"griffin-tiny": 10, "griffin-small": 16, "jamba-tiny": 32}.items():
        model = recipe.build(RECIPES[name])
        assert 2 * sum(p.numel() for p in model.parameters()) < 17e6  # bytes of the shipped bfloat16 weights
        assert model.config.num_attention_heads == heads
    for smoke in (Training().smoke(), RECIPES["jamba-tiny"].smoke()):
        kinds = [recipe.build(training).config.layers_block_type for training in (smoke.attention_free(), smoke)]
        assert [len(set(found)) for found in kinds] == [1, 2]


def test_rate_is_a_trapezoid():
    training = Training()
    assert training.rate(0.0) < training.rate(0.01) < training.lr
    assert training.rate(0.02) == training.rate(0.5) == training.lr
    assert training.lr > training.rate(0.8) > training.rate(1.0) == pytest.approx(0.01 * training.lr)


def test_mask_is_the_one_of_transformers():
    training = Training().smoke()
    model = recipe.build(training).eval()
    ids = torch.randint(3, 500, (2, 128), generator=torch.Generator().manual_seed(0))
    mask = causal_mask(128, 64, torch.device("cpu"))
    with torch.no_grad():
        stock = model(ids, use_cache=False).logits
        assert torch.allclose(model(ids, use_cache=False, attention_mask=mask).logits, stock, atol=1e-6)
        full = causal_mask(128, 128, torch.device("cpu"))
        assert not torch.allclose(model(ids, use_cache=False, attention_mask=full).logits, stock, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--minutes", "-1"], "positive length"), (["--smoke", "--resume", "nowhere"], "is missing")],
)
def test_bad_input_is_one_sentence_and_status_2(run, arguments, message, tmp_path, capsys):
    assert main(["--smoke", "--out", str(run)]) == 2
    assert "already holds" in capsys.readouterr().err  # an earlier run is not overwritten
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "log.jsonl").exists()
