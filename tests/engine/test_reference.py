"""hybret against the second implementation in `reference`, layer by layer, on whole models and on random tensors."""

from __future__ import annotations

import math
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import reference
import torch
from conftest import random_ids
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AttentionInterface

import hybret as hb
from hybret import (
    CORRECTED,
    PAPER,
    Binary,
    Compose,
    Keep,
    KeepHeads,
    Mass,
    Null,
    Omit,
    Only,
    PerPhase,
    scoring,
)
from hybret.engine import attention, decode
from hybret.engine.attach import implementation
from hybret.engine.context import ForwardContext, current_context, forward_context
from hybret.engine.entropy import head_entropy, keep_lowest
from hybret.engine.scan import parallel_scans
from hybret.engine.state import empty_state, merge
from hybret.families import FAMILIES
from hybret.resolving import resolve
from hybret.tasks import niah

STEPS = 3
FIELDS = ("needle_span", "out_of_window", "binary", "entropy_dtype", "entropy_eps", "tie_break", "prompt_split")
FIELDS += ("jamba_manipulation",)


def examples(n):
    return settings(max_examples=n, derandomize=True, deadline=None, database=None)


# ---------------------------------------------------------------- what hybret did


@contextmanager
def listening(net):
    """Queries, keys, values and outputs of every attention layer and pass, in order, while hybret runs."""
    heard = []

    def spy(module, query, key, value, mask, scaling, **options):
        tensors = [x.double().numpy().copy() for x in (query, key, value)]
        output, weights = attention.attention(module, query, key, value, mask, scaling, **options)
        now = current_context()
        # Of rows that share the layers below, only one is handed on; the others are in the frame.
        whole = now.outputs if now.streams else output
        heard.append(
            (module.layer_idx, getattr(module, "sliding_window", None), scaling, *tensors, whole.numpy().copy())
        )
        return output, weights

    AttentionInterface.register(attention.NAME, spy)
    try:
        with parallel_scans(), implementation(net):
            yield heard
    finally:
        AttentionInterface.register(attention.NAME, attention.attention)


def margins(recipe):
    """How far a score may be off: norms and streamed entropies in float32, or two roundings of bfloat16."""

    def margin(metric, score):
        if metric == "l2":
            return 1e-5
        return 2**-6 * max(abs(score), 2**-6) if recipe.entropy_dtype == "bfloat16" else 1e-4

    return margin


def compare(record, row, intervention, where, recipe, wrong=False):
    """One row of one layer of one pass against the reference; how many queries were too near a tie to say.

    `wrong`: return instead whether anything differs.
    """
    layer, window, scaling, q, k, v, out = record
    where.layer, where.window = layer, window
    q, k, v = (x[row if len(x) > 1 else 0] for x in (q, k, v))
    out = out[row].transpose(1, 0, 2)
    expected, choices = reference.layer(q, k, v, scaling, intervention, where, recipe)
    unsure, differs = 0, False
    for i in range(q.shape[1]):
        audible = {h for h in range(len(q)) if np.abs(expected[h, i]).max() > 1e-4}
        heard = {h for h in range(len(q)) if np.abs(out[h, i]).max() > 0}
        if choices:
            kept, sure = reference.kept_heads(choices, i, heard, margins(recipe), recipe)
            unsure += not sure
            differs |= kept & audible != heard & audible
            assert wrong or kept & audible == heard & audible
            for h in set(range(len(q))) - kept:
                expected[h, i] = 0
    if wrong:
        return differs or not np.allclose(out, expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(out, expected, atol=1e-5, rtol=1e-5)
    return unsure


def run(model, prompts, conditions, recipe, streaming=True, parts=(), steps=STEPS):
    """All prompts under all conditions as the engine runs them: one prefill for each prompt, one ragged batch.

    Yields
    ------
    (record, row, condition, where) of every attention layer, pass and row.
    """
    with listening(model.net) as heard:
        states, passes = [], []
        for ids, spans, question in prompts:
            until = decode.prompt_tokens(model, ids, recipe)
            state = empty_state(model, len(conditions))
            rows = [resolve(c, model, recipe).prefill for c in conditions]
            for end in (*(p for p in parts if p < until), until):
                before = len(heard)
                state = decode.prefill_chunk(model, state, ids, end, rows, spans, recipe, streaming, question=question)
                passes.append((heard[before:], "prefill", [end - 1] * len(conditions), [(spans, question)], conditions))
            states.append(state)
        merged = merge(states)
        before, last = len(heard), [int(p) for p in merged.position]
        many = [c for _ in prompts for c in conditions]
        places = [(spans, question) for _, spans, question in prompts for _ in conditions]
        decode.decode(
            model,
            merged,
            [resolve(c, model, recipe).generation for c in many],
            [spans for spans, _ in places],
            recipe,
            steps + int(merged.answered),
            questions=[question for _, question in places],
        )
        layers = len(model.attention_layers)
        for step in range((len(heard) - before) // layers):
            at = heard[before + step * layers : before + (step + 1) * layers]
            passes.append((at, "generation", [p + step for p in last], places, many))
    for records, phase, ends, places, rows in passes:
        for record in records:
            for row, condition in enumerate(rows):
                spans, question = places[row if len(places) > 1 else 0]
                yield record, row, condition, reference.Where(phase, ends[row], spans, question, family=model.family)


def check(model, prompts, conditions, recipe, **options):
    """hybret does what the reference does; how many queries were compared, and how many were too near a tie."""
    compared = unsure = 0
    for record, row, condition, where in run(model, prompts, conditions, recipe, **options):
        unsure += compare(record, row, condition, where, recipe)
        compared += record[3].shape[2]
    return compared, unsure


# ---------------------------------------------------------------- whole models

ONE_CHANGE = [
    Keep(),
    KeepHeads(0),
    KeepHeads(2),
    KeepHeads(3, "l2"),
    KeepHeads(1, during="generation"),
    KeepHeads(4, during="prefill"),
    KeepHeads(3) & KeepHeads(4, "l2"),
    Omit(),
    Only(),
    Only(renormalise=True, also=("self",)),
    Only(also=("first", "answer")),
    Binary(),
    Null("generation"),
    Omit() & KeepHeads(2),
    Only(also=("question",)) & KeepHeads(5),
    PerPhase(generation=Binary(), prefill=Omit()),
    PerPhase(generation=Only() & KeepHeads(3, "l2"), prefill=Null()),
]
TWO_CHANGES = [
    Mass(0.5),
    Mass("needle", "generation"),
    Only() & Mass(1.0),
    Binary() & Omit("prefill"),
    KeepHeads(3) & KeepHeads(4, "l2") & Only(renormalise=True),
    Omit() & KeepHeads(2, "l2"),
]
# Past the window of 32 tokens with the needle far, near, twice; inside it; and as short as BOS and one token.
LENGTHS = (
    (50, ((11, 16),), (38, 45)),
    (36, ((2, 5), (25, 29)), (33, 35)),
    (17, ((3, 8),), (10, 15)),
    (2, ((1, 2),), (1, 2)),
)


def prompts_of(model, lengths=LENGTHS):
    return [(random_ids(model, n, seed=n), spans, question) for n, spans, question in lengths]


@pytest.mark.parametrize("recipe", [CORRECTED, PAPER], ids=lambda r: r.name)
@pytest.mark.parametrize(
    ("conditions", "streaming", "parts"),
    [(ONE_CHANGE, True, (9,)), (ONE_CHANGE, False, ()), (TWO_CHANGES, True, (9,))],
    ids=["streamed, in two parts", "weights", "several changes"],
)
def test_every_layer_pass_and_row(model, recipe, conditions, streaming, parts):
    if recipe is PAPER:
        parts = ()  # the authors' scalar is about the whole prefill
    lengths = LENGTHS if conditions is TWO_CHANGES or streaming else LENGTHS[1:3]
    compared, unsure = check(model, prompts_of(model, lengths), conditions, recipe, streaming=streaming, parts=parts)
    assert compared > 500
    # In bfloat16 near ties are common, that is the point; in float32 they are not.
    assert unsure < (0.4 if recipe is PAPER else 0.02) * compared


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"recurrent_gemma", "jamba"}))
def test_every_family(family):
    model = hb.load(family, device="cpu")
    conditions = [KeepHeads(1), KeepHeads(1, "l2"), Omit(), Only(renormalise=True, also=("self",)), Binary()]
    for streaming in (True, False):
        compared, unsure = check(model, prompts_of(model, LENGTHS[1:2]), conditions, CORRECTED, streaming=streaming)
        assert compared > 100 and unsure < 0.05 * compared


@pytest.mark.parametrize(
    ("field", "family", "condition"),
    [
        ("needle_span", "griffin", Omit()),
        ("out_of_window", "griffin", Only("generation")),
        ("binary", "griffin", Binary("prefill")),
        ("prompt_split", "jamba", KeepHeads(0, during="generation")),
        ("jamba_manipulation", "jamba", Omit()),
    ],
)
def test_a_decision_of_the_code_changes_a_layer(field, family, condition, request):
    """With it hybret does what the reference does with it, which is not what it does without."""
    model = request.getfixturevalue(family)
    recipe = CORRECTED.replace(**{field: getattr(PAPER, field)})
    found = list(run(model, prompts_of(model, LENGTHS[:1]), [condition], recipe))
    for record, row, done, where in found:
        assert compare(record, row, done, where, recipe) == 0
    if field == "prompt_split":
        # The reference is told the phase of each pass: the decision shows in what is one.
        assert found[0][0][3].shape[2] == 50 and found[1][3].last == 50
        assert next(run(model, prompts_of(model, LENGTHS[:1]), [condition], CORRECTED))[0][3].shape[2] == 49
    else:
        assert any(compare(*each, CORRECTED, wrong=True) for each in found)


# ---------------------------------------------------------------- random models, prompts and interventions

during = st.sampled_from(["prefill", "generation", "both"])
always = st.sampled_from([Omit(), Only(), Only(renormalise=True, also=("self",)), Binary(), Null(), Mass("needle")])
also = st.lists(st.sampled_from(["self", "first", "question", "answer"]), max_size=2).map(tuple)
manipulation = st.one_of(
    st.builds(Omit, during),
    st.builds(Only, during, st.booleans(), also),
    st.builds(Binary, during),
    st.builds(Null, during),
    st.builds(Mass, st.sampled_from([0.3, 2.0, "needle"]), during),
)
gate = st.builds(KeepHeads, st.integers(0, 8), st.sampled_from(["entropy", "l2"]), during)
alone = st.one_of(gate, manipulation)
condition = st.one_of(
    alone,
    st.lists(alone, min_size=2, max_size=3).map(tuple).map(Compose),
    st.builds(PerPhase, always, st.one_of(st.just(Keep()), st.builds(KeepHeads, st.integers(0, 8)))),
)
recipes = st.sets(st.sampled_from(FIELDS)).map(lambda names: CORRECTED.replace(**{n: getattr(PAPER, n) for n in names}))


@st.composite
def prompt(draw):
    n = draw(st.integers(3, 60))
    cuts = sorted(draw(st.lists(st.integers(1, n - 1), min_size=2, max_size=4, unique=True)))
    spans = tuple(zip(cuts[::2], cuts[1::2], strict=False)) or ((1, 2),)
    asked = draw(st.integers(1, n - 1))
    return n, spans, (asked, draw(st.integers(asked, n)))


@examples(10)
@given(
    st.sampled_from(["griffin", "jamba"]),
    st.lists(prompt(), min_size=1, max_size=3, unique_by=lambda p: p[0]),
    st.lists(condition, min_size=1, max_size=4),
    recipes,
    st.booleans(),
    st.integers(0, 40),
)
def test_any_prompts_under_any_interventions(models, name, lengths, conditions, recipe, streaming, part):
    scalar = recipe.binary == "scalar"
    parts = () if scalar or not part else (part,)
    check(
        models[name], prompts_of(models[name], lengths), conditions, recipe, streaming=streaming, parts=parts, steps=2
    )


@pytest.fixture(scope="module")
def models(griffin, jamba):
    return {"griffin": griffin, "jamba": jamba}


@examples(250)
@given(st.data())
def test_any_shape_of_a_layer(data):
    """Heads, groups, dimensions, windows, rows and needles of any kind, streamed and not, in prefill and in a step."""
    shared, groups = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    heads, dim = shared * groups, data.draw(st.integers(1, 6))
    window = data.draw(st.one_of(st.none(), st.integers(1, 12)))
    recipe = data.draw(recipes)
    step = data.draw(st.booleans())
    rows = data.draw(st.integers(1, 3))
    draw_gate = st.builds(KeepHeads, st.integers(0, heads), st.sampled_from(["entropy", "l2"]))
    kind = st.one_of(
        draw_gate, manipulation, st.lists(st.one_of(draw_gate, manipulation), max_size=3).map(tuple).map(Compose)
    )
    conditions = data.draw(st.lists(kind, min_size=rows, max_size=rows))
    phase = "generation" if step else "prefill"
    length = data.draw(st.integers(2, 24))
    keys = min(length, window or length) if step else length
    queries = 1 if step else data.draw(st.integers(1, length))
    # Steps are ragged: rows whose prompts are shorter than the keys have padding on their left.
    ends = [data.draw(st.integers(0, length - 1)) for _ in range(rows)] if step else [length - 1] * rows
    spans, asked = zip(*(data.draw(prompt())[1:] for _ in range(rows)), strict=True)
    if not step:
        spans, asked = spans[:1] * rows, asked[:1] * rows
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**16)))
    q = torch.randn(rows, heads, queries, dim, generator=generator) * 2
    k, v = (torch.randn(rows, shared, keys, dim, generator=generator) for _ in range(2))
    module = SimpleNamespace(
        num_key_value_groups=groups, training=False, layer_idx=0, sliding_window=window, config=None
    )
    acting = [c.at(phase) for c in conditions]
    now = ForwardContext(
        phase,
        acting,
        spans,
        torch.tensor(ends),
        recipe,
        streaming=data.draw(st.booleans()),
        right_aligned=step,
        questions=asked,
    )
    mask = None
    if not step and not now.streams:
        at = torch.arange(keys)
        hidden = at > (at[-queries:, None]) if queries < keys else at > at[:, None]
        hidden = hidden if window is None else hidden | (at <= at[-queries:, None] - window)
        mask = torch.zeros(1, 1, queries, keys).masked_fill(hidden, torch.finfo(torch.float32).min)
    with forward_context(now):
        out, _ = attention.attention(module, q, k, v, mask, dim**-0.5)
    arrays = [x.double().numpy() for x in (q, k, v)]
    for row, rule in enumerate(conditions):
        where = reference.Where(phase, ends[row], spans[row], asked[row])
        compare((0, window, dim**-0.5, *arrays, out.numpy()), row, rule, where, recipe)


# ---------------------------------------------------------------- the authors' formulas, where no layer shows them


def softmaxed(shape, seed=0, sharp=1.0):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * sharp).softmax(-1)


def test_entropies_are_the_authors_to_the_bit():
    weights = softmaxed((300, 40), sharp=3)
    paper = head_entropy(weights, PAPER).tolist()
    assert paper == [reference.entropy(w, PAPER) for w in weights.numpy()]
    exact = [reference.entropy(w, CORRECTED) for w in weights.numpy()]
    np.testing.assert_allclose(head_entropy(weights, CORRECTED).numpy(), exact, atol=2e-6)
    assert np.mean(np.array(paper) == np.array(exact, np.float32)) < 0.05


def test_bfloat16_entropies_tie_and_keep_other_heads():
    """About one token in fifty or more keeps another head than in float32, and many scores are equal."""
    weights = softmaxed((1, 10, 400, 60))
    k = torch.tensor([4])
    coarse, fine = head_entropy(weights, PAPER), head_entropy(weights, CORRECTED)
    kept = [keep_lowest(scores, k, CORRECTED) for scores in (coarse, fine)]
    assert (kept[0] != kept[1]).any(1).float().mean() > 0.02
    ties = [len(set(token)) < 10 for token in coarse[0].T.tolist()]
    assert np.mean(ties) > 0.5 and all(len(set(token)) == 10 for token in fine[0].T.tolist())


def test_the_guard_counts_hidden_keys():
    """(a + 1e-12) log2(a + 1e-12): each key that a query does not see adds a little, and a sure head has not 0 bits."""
    guarded = CORRECTED.replace(entropy_eps=PAPER.entropy_eps)
    for hidden in (1, 1000):
        sure = torch.tensor([[1.0, *[0.0] * hidden]])
        expected = -hidden * 1e-12 * math.log2(1e-12)
        assert head_entropy(sure, guarded).item() == pytest.approx(expected, rel=1e-4) != 0
        assert head_entropy(sure, CORRECTED).item() == 0
        assert reference.entropy(sure[0].double().numpy(), guarded) == pytest.approx(expected, abs=2e-12)


def test_ties_go_to_whatever_topk_returns():
    """Of equal scores the lowest heads, or the authors' `torch.topk`, which takes others."""
    scores = torch.tensor([2.0, 1, 1, 1, 1, 0, 1, 1])[None, :, None].expand(-1, -1, 3).contiguous()
    others = 0
    for k in range(9):
        by_index = keep_lowest(scores, torch.tensor([k]), CORRECTED)[0]
        by_topk = keep_lowest(scores, torch.tensor([k]), PAPER)[0]
        order = sorted(range(8), key=lambda h: (scores[0, h, 0].item(), h))
        expected = scores[0].topk(k, dim=0, largest=False).indices
        for token in range(3):
            assert by_index[:, token].nonzero()[:, 0].tolist() == sorted(order[:k])
            assert by_topk[:, token].nonzero()[:, 0].tolist() == sorted(expected[:, token].tolist())
        others += bool((by_index != by_topk).any())
    assert others > 0


class Words:
    """A tokenizer of words and marks, as much of one as a grid needs; ``."`` is one token."""

    is_fast, bos_token_id, bos_token, chat_template = True, 1, "<s>", None

    def __init__(self):
        self.words = ["", "<s>"]

    def __call__(self, texts, add_special_tokens=True, return_offsets_mapping=False, **_):
        import re

        one = isinstance(texts, str)
        ids, offsets = [], []
        for text in [texts] if one else texts:
            found = list(re.finditer(r'\."|\s*\w+|\s*[^\w\s]|\s+', text))
            for match in found:
                if match[0] not in self.words:
                    self.words.append(match[0])
            ids.append([1] * add_special_tokens + [self.words.index(m[0]) for m in found])
            offsets.append([(0, 0)] * add_special_tokens + [m.span() for m in found])
        return {"input_ids": ids[0] if one else ids, "offset_mapping": offsets[0] if one else offsets}

    def decode(self, ids):
        return "".join(self.words[i] for i in ids)


def authors_place(ids, stops, depth):
    """int(n * depth / 100) tokens, then back until the token before is a full stop; appended at 100."""
    at = len(ids) if depth == 100 else int(len(ids) * (depth / 100))
    while depth != 100 and at > 0 and ids[at - 1] not in stops:
        at -= 1
    return at


def test_the_needle_goes_where_the_authors_put_it():
    """By the token ``.``, which misses ``."`` and ``!``; the text says a sentence's end."""
    text = (
        'One two three. Four five six! Seven eight nine ten. He said eleven twelve." Then thirteen fourteen fifteen. '
        * 4
    )
    words = Words()
    needle = niah.Needle("few", "Blue is best.", "What is best?")
    depths = [0, 10, 33, 50, 55, 77, 90, 100]
    grids = {
        recipe.name: niah.grid(words, (70,), depths, haystack=text, needle=needle, buffer=10, recipe=recipe)
        for recipe in (CORRECTED, PAPER)
    }
    n = 70 - 10 - len(words(needle.insertion, add_special_tokens=False)["input_ids"])
    ids = words(text, add_special_tokens=False)["input_ids"][:n]
    stops = set(words(".", add_special_tokens=False)["input_ids"])
    for prompt, depth in zip(grids["PAPER"], depths, strict=True):
        at = authors_place(ids, stops, depth)
        assert prompt.position == at / n
        context = prompt.text.removeprefix("CONTEXT: ").partition("\n\nQUESTION")[0]
        assert context == words.decode(ids[:at]) + needle.insertion + words.decode(ids[at:])
    ends = {prompt.text.partition("\nBlue")[0][-2:] for prompt in grids["CORRECTED"][1:-1]}
    assert ends & {"x!", '."'}
    assert [p.text for p in grids["CORRECTED"]] != [p.text for p in grids["PAPER"]]


def test_the_rubric_of_the_code_asks_for_a_sunny_day_in_full():
    def points(answer, phrase):
        text = answer.lower()
        found = ("eat a sandwich" in text) + ("dolores park" in text) / 2 + ("sit in dolores park" in text) / 2
        return found + (phrase in text)

    answers = ["Eat a sandwich on a sunny day", "A sunny day in Dolores Park", "sit in Dolores Park", "rain"]
    text = [points(a, "sunny day") for a in answers]
    code = [points(a, "on a sunny day") for a in answers]
    assert [scoring.score(a, CORRECTED.rubric).points for a in answers] == text
    assert [scoring.score(a, PAPER.rubric).points for a in answers] == code != text


def test_every_decision_of_the_recipe_has_a_case_here():
    shown = {*FIELDS, "insertion", "rubric"}
    assert shown == {name for name in vars(CORRECTED) if getattr(CORRECTED, name) != getattr(PAPER, name)} - {"name"}
