"""The chapter on Only-Keep: its arms, prompts whose answer has begun, and where attention goes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import hybret as hb
from book.paper import only_keep as puzzle
from hybret import CORRECTED, HybretError, Keep, Only, PerPhase
from hybret.fitting import validate
from hybret.interventions import resolve
from hybret.sweeping import sweep
from hybret.tasks import niah

WORDS = niah.PAPER_NEEDLE.sentence.split()


@pytest.fixture(scope="module")
def prompts(griffin):
    return niah.grid(griffin, [100, 128], [0, 50, 100])


def test_arms_fit_every_model_and_no_two_do_the_same(model):
    for phase, arms in (("generation", puzzle.generation_variants(model)), ("prefill", puzzle.prefill_variants())):
        for arm in arms.values():
            validate(arm, model.heads, model.attention_layers)
        pairs = [PerPhase(**{"generation": Keep(), "prefill": Keep(), phase: arm}) for arm in arms.values()]
        assert len({resolve(pair, model, CORRECTED).key for pair in pairs}) == len(arms)
    layers = [arm.layers for arm in puzzle.generation_variants(model).values() if isinstance(arm, Only) and arm.layers]
    first, *others = model.attention_layers
    assert layers == ([(first,), tuple(others)] if others else [])


@pytest.mark.parametrize("words", [1, 2, 9, len(WORDS)])
def test_an_answer_that_has_begun_goes_on_from_the_needles_own_tokens(griffin, prompts, words):
    for prompt in prompts:
        begun = puzzle.begun(griffin, prompt, words)
        more = len(begun.ids) - len(prompt.ids)
        start, end = prompt.needle_spans[0]
        assert begun.ids == prompt.ids + prompt.ids[start : start + more] and words <= more <= end - start
        assert begun.answer_prefix == " ".join(WORDS[:words]) == griffin.tokenizer.decode(begun.ids[-more:]).strip()
        assert begun.text == prompt.text + begun.answer_prefix
        assert (begun.needle_spans, begun.question_span) == (prompt.needle_spans, prompt.question_span)
        assert begun.key != prompt.key
    assert puzzle.begun(griffin, prompts[0], 0) is prompts[0]


def test_given_words_are_part_of_the_answer_that_is_scored(griffin, prompts):
    begun = [puzzle.begun(griffin, p, len(WORDS)) for p in prompts[:2]]
    rows = sweep(griffin, [*prompts[:2], *begun], {"keep": Keep(), "only": Only()}, max_new_tokens=4, progress=False)
    given = rows[rows["prompt"].isin([p.key for p in begun])]
    assert given["exact"].all() and (given["score"] == 5).all() and len(given) == 4
    assert not rows.drop(given.index)["exact"].any()
    kept = given[given["condition"] == "keep"]
    assert kept["answer"].tolist() == [f"{p.answer_prefix} {griffin.generate(p, 4)}" for p in begun]


def test_what_cannot_begin_is_refused(griffin, prompts):
    (control,) = niah.grid(griffin, [100], control=True)
    for prompt, words in ((control, 1), (prompts[0], len(WORDS) + 1), (prompts[0], -1)):
        with pytest.raises(HybretError, match="an answer cannot begin with"):
            puzzle.begun(griffin, prompt, words)


def test_a_kept_question_needs_a_prompt_that_names_it(griffin, prompts):
    """Said before the model runs, by every way to run it."""
    asked = PerPhase(generation=Only(also=("question",)), prefill=Keep())
    bare = replace(prompts[0], spans={"needle": prompts[0].needle_spans})
    hook = griffin.net.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    try:
        with pytest.raises(HybretError, match="does not say where its question is"):
            sweep(griffin, [prompts[1], bare], {"asked": asked}, progress=False)
        for prompt, said in ((bare, "does not say where its question is"), ("a plain text", "this prompt has none")):
            with hb.attach(griffin, asked), pytest.raises(HybretError, match=said):
                griffin.generate(prompt, 2)
    finally:
        hook.remove()


@pytest.mark.parametrize("name", ["griffin", "jamba"])
def test_parts_of_attention_are_those_of_a_recorded_run(name, request):
    """Each step's parts sum to 1; needle, own position and first token against the weights of a plain run."""
    model, steps = request.getfixturevalue(name), 3
    (prompt,) = niah.grid(model, [100], [100])  # the needle ends some tokens before the question does
    table = puzzle.attention_parts(model, [prompt], steps)
    with hb.attach(model, weights=True) as trace:
        model.generate(prompt, steps)
    index = table.set_index(["layer", "step", "part"])
    assert set(table["part"]) == set(puzzle.PARTS) and (table["n"] == 1).all()
    sums = table.groupby(["layer", "step"])["mass"].sum()
    assert len(sums) == steps * len(model.attention_layers)
    assert sums.to_numpy() == pytest.approx(1, abs=1e-5)
    start, end = prompt.needle_spans[0]
    asked, ended = prompt.question_span
    for layer, (_, *passes) in trace.weights.items():
        for step, weights in enumerate(passes):
            keys = weights.shape[-1]
            first = len(prompt.ids) + step - keys  # position of the first key in sight
            expected = dict.fromkeys(puzzle.PARTS, torch.zeros(model.heads))
            for key in range(keys):
                position = first + key
                part = (
                    "self" if key == keys - 1
                    else "needle" if start <= position < end
                    else "first" if position == 0
                    else "question" if asked <= position < ended
                    else "answer" if position >= ended
                    else "context"
                )  # fmt: skip
                expected[part] = expected[part] + weights[:, 0, key]
            for part, heads in expected.items():
                assert index.loc[(layer, step, part), "mass"] == pytest.approx(float(heads.mean()), abs=1e-5)
                assert index.loc[(layer, step, part), "top"] == pytest.approx(float(heads.max()), abs=1e-5)
    if model.window is None:
        assert index.xs("needle", level="part")["mass"].min() > 0


def test_attention_is_measured_on_prompts_with_a_needle(griffin, prompts):
    for bad in ([], niah.grid(griffin, [100], control=True), [*prompts, *niah.grid(griffin, [100], control=True)]):
        with pytest.raises(HybretError, match="prompts with a needle and a question"):
            puzzle.attention_parts(griffin, bad, 2)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("The best thing to do in Rome is", 6),
        (" the BEST, thing", 3),
        ("A best thing", 0),
        ("", 0),
        (niah.PAPER_NEEDLE.sentence + " And more.", len(WORDS)),
    ],
)
def test_words_right(answer, words):
    assert puzzle.words_right(answer, niah.PAPER_NEEDLE.sentence) == words


def test_words_that_the_question_holds_too(prompts):
    assert puzzle.words_asked(prompts[0]) == WORDS.index("eat") == 9
    other = replace(prompts[0], needle=replace(prompts[0].needle, question="Where to go?"))
    assert puzzle.words_asked(other) == 0
