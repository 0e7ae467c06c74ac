"""The training recipe, on a small model and a few steps."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hybret import HybretError
from hybret.organisms.training import emergence
from hybret.organisms.training import train as recipe
from hybret.organisms.training.loss import causal_mask
from hybret.organisms.training.probe import paper_prompts
from hybret.organisms.training.recipes import RECIPES
from hybret.organisms.training.train import Training, main, train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    assert main(["--smoke", "--windows", "32", "64", "--out", str(out)]) == 0
    return out


def test_smoke_writes_a_model_a_log_and_a_checkpoint(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", "ready", *["evaluation"] * 3, "end"]
    assert (lines[-1]["step"], lines[-1]["tokens"]) == (3, 3 * 256)
    assert lines[-2]["probe"]["outside"]["all"]["n"] > 0 and lines[-2]["held_out_loss"] > 0
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    assert model.dtype == torch.bfloat16
    assert lines[0]["parameters"] == sum(p.numel() for p in model.parameters())
    assert AutoTokenizer.from_pretrained(run / "model")("a")["input_ids"][0] == 1


@pytest.mark.parametrize("name", ["griffin-tiny", "jamba-tiny"])
def test_resume_goes_on_from_the_saved_state(name, run, trained_jamba):
    folder, steps = (run, 3) if name == "griffin-tiny" else (trained_jamba, 1)
    training = RECIPES[name].smoke()
    model, averaged = recipe.build(training), recipe.build(training)
    optimizer = recipe.optimizer_of(training, model, fused=False)
    assert recipe.saved_state(folder, training)["step"] == steps
    recipe.load(folder, steps, model, averaged, optimizer)
    shipped = AutoModelForCausalLM.from_pretrained(folder / "model")
    for ours, rounded in zip(averaged.parameters(), shipped.parameters(), strict=True):
        assert torch.equal(ours, rounded.float())
    assert any(not torch.equal(p, p.bfloat16().float()) for p in model.parameters())  # finer than the shipped weights
    assert {int(moments["step"]) for moments in optimizer.state.values()} == {steps}


def test_a_resumed_training_ends_keeps_snapshots_and_tells_when_retrieval_formed(run, tmp_path, monkeypatch, capsys):
    training, quiet = Training().smoke(), {"device": "cpu", "say": lambda _: None}
    monkeypatch.setattr(recipe, "SNAPSHOTS", (4,))
    monkeypatch.setattr(recipe, "probe", lambda *_, **__: {})
    train(replace(training, steps=5, every=10), tmp_path / "more", resume=run, snapshots=True, **quiet)
    about, models = emergence.snapshots(tmp_path / "more")
    assert list(models) == [4, 5] and about["steps"] == 5
    monkeypatch.setattr(emergence, "paper_prompts", lambda *of: {"inside": paper_prompts(*of)["outside"][:2]})
    found = emergence.measure(models[4])
    assert list(found["exact"]) == list(range(11)) and (found["silent"], found["n"]) == (0, 2)
    kept = tmp_path / "emergence.jsonl"
    kept.write_text("{}\n")
    assert emergence.main([str(tmp_path / "more"), str(run), "--out", str(kept)]) == 2
    assert "no finished training with snapshots" in capsys.readouterr().err and kept.read_text() == "{}\n"
    ended = train(replace(training, steps=9, every=4), tmp_path / "part", session=1e-9, **quiet)
    *_, last, end = map(json.loads, (tmp_path / "part" / "log.jsonl").read_text().splitlines())
    assert ended == end and end["step"] == last["step"] == 1 and last["held_out_loss"] > 0  # a session ends evaluated
    with pytest.raises(HybretError, match="Nothing left"):
        train(training, tmp_path / "none", resume=run, **quiet)
    with pytest.raises(HybretError, match="Cannot resume jamba-tiny .* griffin-tiny"):
        recipe.saved_state(run, RECIPES["jamba-tiny"].smoke())
    wider = recipe.build(replace(training, config={**training.config, "lru_width": 160}))
    with pytest.raises(HybretError, match="does not fit"):
        recipe.load(run, 3, wider, wider, recipe.optimizer_of(training, wider, fused=False))


def test_controls_have_no_attention_and_may_start_as_copying_recurrences():
    for name in ("griffin-tiny", "jamba-tiny"):
        smoke = RECIPES[name].smoke()
        kinds = [recipe.build(training).config.layers_block_type for training in (smoke.attention_free(), smoke)]
        assert [len(set(found)) for found in kinds] == [1, 2]
    mamba = recipe.build(replace(RECIPES["jamba-tiny"].smoke(), mimetic=True)).model.layers[0].mamba
    assert torch.allclose(mamba.A_log.exp(), torch.tensor(0.01)) and mamba.conv1d.weight[..., :-1].abs().max() == 0


@torch.no_grad()
def test_mask_is_the_one_of_transformers():
    model = recipe.build(Training().smoke()).eval()
    ids = torch.randint(3, 500, (2, 128), generator=torch.Generator().manual_seed(0))
    stock = model(ids, use_cache=False).logits
    for window in (64, 128):
        mask = causal_mask(128, window, torch.device("cpu"))
        found = model(ids, use_cache=False, attention_mask=mask).logits
        assert torch.allclose(found, stock, atol=1e-6) == (window == 64)


def test_bad_input_is_one_sentence_and_status_2(run, tmp_path, capsys):
    for arguments, out, message in (
        ("--smoke", run, "already holds"),  # an earlier run is not overwritten
        ("--steps -1", tmp_path, "positive number of steps"),
        ("--smoke --resume nowhere", tmp_path, "is missing"),
        ("--mimetic", tmp_path, "no Mamba layers"),
        ("--attention-free --windows 9", tmp_path, "no windows to draw"),
    ):
        assert main([*arguments.split(), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "log.jsonl").exists()
