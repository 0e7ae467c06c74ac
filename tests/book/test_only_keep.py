"""Only-Keep: its variants, prompts whose answer has begun, and where attention goes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support import resolve, rows_of

import hybret as hb
from book.paper import methods, only_keep
from hybret import CORRECTED, HybretError, Keep, Only, PerPhase, niah, sweep

WORDS = hb.PAPER_NEEDLE.sentence.split()


@pytest.fixture(scope="module")
def prompts(griffin):
    return niah.grid(griffin, [100, 128], [0, 50, 100])


def test_variants_fit_every_model_and_no_two_do_the_same(model):
    generation, prefill = only_keep.generation_variants(model), only_keep.prefill_variants()
    for phase, variants in (("generation", generation), ("prefill", prefill)):
        pairs = [PerPhase(**{"generation": Keep(), "prefill": Keep(), phase: action}) for action in variants.values()]
        assert len({resolve(pair, model, CORRECTED).key for pair in pairs}) == len(variants)
    first, *others = model.attention_layers
    layers = [action.layers for action in generation.values() if isinstance(action, Only) and action.layers]
    assert layers == ([(first,), tuple(others)] if others else [])


@pytest.mark.parametrize("words", [1, 2, 9, len(WORDS)])
def test_an_answer_that_has_begun_goes_on_from_the_needles_own_tokens(griffin, prompts, words):
    for prompt in prompts:
        begun = only_keep.begun(griffin, prompt, words)
        more = len(begun.ids) - len(prompt.ids)
        start, end = prompt.needle_spans[0]
        assert begun.ids == prompt.ids + prompt.ids[start : start + more] and words <= more <= end - start
        assert begun.answer_prefix == " ".join(WORDS[:words]) == griffin.tokenizer.decode(begun.ids[-more:]).strip()
        assert begun.text == prompt.text + begun.answer_prefix and begun.key != prompt.key
        assert (begun.needle_spans, begun.question_span) == (prompt.needle_spans, prompt.question_span)
    assert only_keep.begun(griffin, prompts[0], 0) is prompts[0]


def test_words_already_written_are_part_of_the_answer_that_is_scored(griffin, prompts):
    begun = [only_keep.begun(griffin, p, len(WORDS)) for p in prompts[:2]]
    rows = sweep(griffin, [*prompts[:2], *begun], {"keep": Keep(), "only": Only()}, max_new_tokens=4, progress=False)
    written = rows[rows["prompt"].isin([p.key for p in begun])]
    assert written["exact"].all() and (written["score"] == 5).all() and len(written) == 4
    assert not rows.drop(written.index)["exact"].any()
    kept = written[written["condition"] == "keep"]
    assert kept["answer"].tolist() == [f"{p.answer_prefix} {griffin.generate(p, 4)}" for p in begun]


def test_prompts_without_needle_or_question_are_refused_before_the_model_runs(griffin, prompts, asleep):
    (control,) = niah.grid(griffin, [100], control=True)
    for prompt, words in ((control, 1), (prompts[0], len(WORDS) + 1), (prompts[0], -1)):
        with pytest.raises(HybretError, match="cannot begin with"):
            only_keep.begun(griffin, prompt, words)
    for bad in ([], [control], [*prompts, control]):
        with pytest.raises(HybretError, match="prompts with a needle and a question"):
            only_keep.attention_parts(griffin, bad, 2)


def test_parts_of_attention_are_those_of_a_record(model):
    """With the query's own position a part of its own; `test_record` holds the record against recorded weights."""
    (prompt,) = niah.grid(model, [100], [100])  # the needle ends some tokens before the question does
    table = only_keep.attention_parts(model, [prompt], 3)
    record = hb.look(model, prompt, max_new_tokens=3)
    (run,), parts = record.runs, record.parts(record.runs[0])
    assert len(table) == len(record.layers) * 3 * len(only_keep.PARTS) and (table["n"] == 1).all()
    for line in table.to_dict("records"):
        layer, step = record.layers.index(int(line["layer"].split()[1])), line["step"]
        (own,) = (i for i, piece in enumerate(record.bins) if piece.start == run.position + step)
        itself = run.mass[layer, :, step, own]
        if line["part"] == "self":
            heads = itself
        else:
            heads = parts[line["part"]][layer, :, step] - itself * (record.bins[own].part == line["part"])
        assert line["mass"] == pytest.approx(heads.mean(), abs=1e-6)
    assert table.groupby(["layer", "step"])["mass"].sum().to_numpy() == pytest.approx(1, abs=1e-5)


def test_words_of_the_needle_that_the_question_holds(prompts):
    assert only_keep.words_asked(prompts[0]) == WORDS.index("eat") == 9
    assert only_keep.words_asked(replace(prompts[0], needle=replace(prompts[0].needle, question="Where to go?"))) == 0


def test_answers_that_hold_the_needles_content_are_counted_beside_exact_ones(prompts):
    end = " ".join(WORDS[WORDS.index("eat") :])
    said = [f"The town of San Francisco is {end}", " ".join(WORDS), "eat a sandwich and sit in Canal Park"]
    line = only_keep.wording(rows_of([3, 5, 1], model="m").assign(answer=said), prompts[0]).iloc[0]
    assert (line["answers"], line["right"], line["content"]) == (3, 1, 2) and line["accuracy"] == pytest.approx(0.6)


@pytest.mark.parametrize(("turn", "met"), [(0, 3), (1, 0)])
def test_a_peak_that_moves_with_the_answer_is_counted(turn, met):
    """One head looks at the token that follows, or at the one after it; the other looks elsewhere."""
    tokens = ["eat", " a", " sandwich"]
    bins = [SimpleNamespace(part="needle" if i else "context", text=text) for i, text in enumerate(["x", *tokens])]
    mass = np.zeros((1, 2, 4, 4), np.float32)
    mass[0, 1, :, 0] = 1.0
    for step in range(3):
        mass[0, 0, step, 1 + (step + turn) % 3] = 0.9
    run = SimpleNamespace(mass=mass, gives=(*tokens, "."))
    seen = SimpleNamespace(model="m", bins=bins, runs=(run,))
    assert methods.moving_peak(seen) == {"model": "m", "steps": 3, "met": met}
    run.mass = mass / 2  # no head has more than half of its attention on the needle
    assert methods.moving_peak(seen)["met"] == 0
