"""What each head looks at: the record against a slow recomputation, and what its view shows."""

import base64

import numpy as np
import pytest
import torch
from support import NEEDLE, QUESTION, a_prompt, answered

import hybret as hb
from hybret.explorer.record import PARTS


def slow_weights(model, ids):
    """transformers' own attention weights over a whole text read at once, ``(layers, heads, queries, keys)``."""
    seen = []
    modules = [m for m in model.net.modules() if hasattr(m, "o_proj")]
    handles = [m.register_forward_hook(lambda _, __, out: seen.append(out[1][0])) for m in modules]
    try:
        with torch.inference_mode():
            model.net(input_ids=torch.tensor([ids]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(seen).numpy()


def test_bins_hold_exactly_what_a_slow_recomputation_puts_there(model):
    prompt = a_prompt(model)
    record = hb.look(model, prompt, max_new_tokens=12)
    (run,) = record.runs
    whole = slow_weights(model, [*prompt.ids, *answered(model, prompt, 12)])
    steps = len(run.reads)
    assert run.position == len(prompt.ids) - 1 and steps > 3
    assert whole.shape[:2] == run.mass.shape[:2] == (len(model.attention_layers), model.heads)
    for layer, head, step in np.ndindex(run.entropy.shape):
        row = whole[layer, head, run.position + step]
        sums = [row[each.start : each.end].sum() for each in record.bins]
        np.testing.assert_allclose(run.mass[layer, head, step], sums, atol=2e-5)
        bits = -(row[row > 0] * np.log2(row[row > 0])).sum()
        assert run.entropy[layer, head, step] == pytest.approx(bits, abs=1e-3)
    np.testing.assert_allclose(run.mass.sum(-1), 1, atol=1e-5)
    assert run.mass.std(1).max() > 0.01  # heads that share keys differ all the same


def test_an_answer_without_a_generation_step_has_nothing_to_look_at(jamba):
    with pytest.raises(hb.HybretError, match="before its first generation step"):
        hb.look(jamba, a_prompt(jamba), recipe=hb.PAPER, max_new_tokens=1)


def test_random_weights_mean_nothing(griffin):
    record = hb.look(griffin, a_prompt(griffin), max_new_tokens=2)
    assert "random weights" in hb.explore_heads(record).state["note"]


def test_bins_cover_every_position_once_and_never_mix_parts(model):
    prompt = a_prompt(model)
    record = hb.look(model, prompt, max_new_tokens=3)
    edges = [each.start for each in record.bins] + [record.bins[-1].end]
    assert edges == sorted(set(edges)) and edges[0] == 0
    assert all(a.end == b.start for a, b in zip(record.bins, record.bins[1:], strict=False))
    part = {i: each.part for each in record.bins for i in range(each.start, each.end)}
    assert part[0] == "first"
    assert {i for i, p in part.items() if p == "needle"} == set(range(*NEEDLE))
    assert {i for i, p in part.items() if p == "question"} == set(range(*QUESTION))
    assert {i for i, p in part.items() if p == "answer"} == set(range(QUESTION[1], edges[-1]))


@pytest.mark.parametrize("changes", [{}, {"needle": ()}, {"question": ()}, {"needle": ((3, 40), (41, 200))}])
def test_a_long_prompt_takes_no_more_bins_than_a_byte_counts(griffin, changes):
    prompt = a_prompt(griffin, 600, spans={"needle": (NEEDLE,), "question": ((480, 560),), **changes})
    record = hb.look(griffin, prompt, max_new_tokens=5)
    assert 80 <= len(record.bins) <= 256
    np.testing.assert_allclose(record.runs[0].mass.sum(-1), 1, atol=1e-5)
    assert (record.bins[-1].end - 1) == record.runs[0].position + len(record.runs[0].reads) - 1


def test_rows_say_what_the_record_holds(model):
    conditions = {"all": hb.Keep(), "k=3": hb.KeepHeads(3, during="generation")}
    record = hb.look(model, a_prompt(model), conditions, max_new_tokens=4)
    rows = record.rows
    assert list(rows["condition"].unique()) == ["all", "k=3"]
    np.testing.assert_allclose(rows[list(PARTS)].sum(axis=1), 1, atol=1e-5)
    assert rows.loc[rows["condition"] == "all", "kept"].all()
    sparse = rows[rows["condition"] == "k=3"]
    assert (sparse.groupby(["layer", "step"])["kept"].sum() == 3).all()
    kept, silenced = (sparse[sparse["kept"] == k].groupby(["layer", "step"])["entropy"] for k in (True, False))
    assert (kept.max() <= silenced.min()).all()
    run = record.runs[1]
    line = rows[(rows["condition"] == "k=3") & (rows["layer"] == model.attention_layers[-1]) & (rows["head"] == 5)]
    np.testing.assert_array_equal(line["entropy"], run.entropy[-1, 5])
    assert tuple(line["reads"]) == run.reads and run.reads[1:] == run.gives[:-1]


def test_answers_are_those_of_the_model_under_the_same_condition(tiny):
    (prompt,) = hb.niah.grid(tiny, [256], [50])
    sparse = hb.KeepHeads(1, during="generation")
    record = hb.look(tiny, prompt, {"all": hb.Keep(), "k=1": sparse})
    with hb.attach(tiny, sparse):
        assert record.runs[1].answer == tiny.generate(prompt)
    assert record.runs[0].answer == prompt.needle.sentence
    # The first token that the question does not hold is copied: most heads of one layer are on that very token.
    step = record.telling(record.runs[0])
    assert record.runs[0].gives[step] == " eat"
    last = record.runs[0].mass[-1, :, step]
    assert [record.bins[i].text for i in last.argmax(-1)].count(" eat") >= 8


@pytest.fixture(scope="module")
def records():
    found = []
    for name in ("griffin-tiny", "jamba-tiny"):
        model = hb.load(name, device="cpu")
        (prompt,) = hb.niah.grid(model, [256], [50], "instruct" if model.instruct else "base")
        sparse = {f"k = {k}": hb.KeepHeads(k, during="generation") for k in (4, 1)}
        found.append(hb.look(model, prompt, {"all heads": hb.Keep(), **sparse}))
    return found


def test_the_view_holds_the_numbers_of_the_record(records):
    record = records[0]
    state = hb.explore_heads(record).state
    for run, shown in zip(record.runs, state["runs"], strict=True):
        layers, heads, steps, _ = run.mass.shape
        packed = np.frombuffer(base64.b64decode(shown["mass"]), np.uint8)
        counts, pairs = packed[: layers * heads * steps], packed[layers * heads * steps :].reshape(-1, 2)
        mass = np.zeros((len(counts), len(record.bins)))
        mass[np.repeat(np.arange(len(counts)), counts), pairs[:, 0]] = pairs[:, 1] / 255
        np.testing.assert_allclose(mass.reshape(run.mass.shape), np.where(run.mass < 0.005, 0, run.mass), atol=0.003)
        rows = record.rows[record.rows["condition"] == run.condition]
        for part in PARTS[:-1]:
            np.testing.assert_allclose(np.array(shown["parts"][part]) / 1000, rows[part], atol=6e-4)
        np.testing.assert_allclose(np.array(shown["entropy"]) / 100, rows["entropy"], atol=6e-3)
        kept = [True] * len(rows) if shown["kept"] is None else [c == "1" for c in shown["kept"]]
        assert kept == rows["kept"].tolist()
    assert state["runs"][0]["gives"][state["runs"][0]["step"]] == " eat"
    assert sum(len(hb.explore_heads(record).html().encode()) for record in records) < 500_000


def test_the_view_begins_with_the_token_that_is_looked_up_and_the_head_that_finds_it(page, records, tmp_path):
    page.set_viewport_size({"width": 360, "height": 800})
    page.goto(hb.explore_heads(records[0]).save(tmp_path / "heads.html").as_uri())
    page.wait_for_selector(".hb-heads-detail h3")
    assert page.locator(".hb-heads-answer [aria-pressed=true]").all_inner_texts() == [" eat"]
    first = page.locator(".hb-heads-list [role=option]").first
    assert first.get_attribute("aria-selected") == "true"
    assert "L5" in first.inner_text() and "100 %" in first.inner_text()
    assert "0 of 10 in layer 2, 8 of 10 in layer 5" in page.inner_text(".hb-heads-summary")
    assert page.evaluate("document.documentElement.scrollWidth") == 360  # nothing sticks out of a phone
    assert not page.locator(".hb-fallback").is_visible()
    page.get_by_label("Run").select_option(label="k = 4")
    tokens = page.locator(".hb-heads-answer button").all_inner_texts()
    assert "".join(tokens[:-1]) == "".join(records[0].runs[1].gives[:-1])
    assert page.locator(".hb-heads-list [aria-label$=kept]").count() == 4 * len(records[0].layers)
    assert not page.requests and not page.problems
