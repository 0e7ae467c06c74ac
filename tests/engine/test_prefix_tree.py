"""Prompts that begin alike, read as a tree, against each read by itself."""

import copy
import dataclasses
from itertools import product

import pytest
import torch
from support import inputs_of, resolve

import hybret as hb
from book.speed.stock import answer
from hybret import CORRECTED, PAPER, Binary, Keep, KeepHeads, Omit, Only, PerPhase
from hybret.engine import prefix_tree
from hybret.engine.attach import implementation
from hybret.engine.decode import decode
from hybret.engine.decode import prefill as whole_prefill
from hybret.engine.scan import parallel_scans
from hybret.engine.schedule import Budget, Timings


def test_a_sweep_of_the_authors_recipe_answers_what_single_prompts_answer(model):
    """Ragged prompts past the window, with two needles or none; `test_matrix` has the other recipe."""
    grid = {"recipe": PAPER}
    prompts = [
        *hb.niah.grid(model, [76, 128], [0, 40], **grid),
        *hb.niah.grid(model, [76], [0], control=True, **grid),
        *hb.niah.grid(model, [100], [70], "jrt", **grid),
    ]
    conditions = {
        "keep": Keep(), "k=3": KeepHeads(3), "output-norm": KeepHeads(2, metric="output-norm", during="prefill"),
        "Only-Omit": PerPhase(generation=Only(), prefill=Omit()),
        "Keep-question": PerPhase(generation=Keep(), prefill=Only(also=("question",))),
        "Binary-Binary": PerPhase(generation=Binary(), prefill=Binary()),
    }  # fmt: skip
    rows = hb.sweep(model, prompts, conditions, PAPER, max_new_tokens=4, budget=Budget(23, 40), progress=False)
    by_key = {p.key: p for p in prompts}
    answers = rows.drop_duplicates(["prompt", "condition"])
    assert len(answers) == len(by_key) * len(conditions) and answers["answer"].nunique() > len(by_key)
    for row in answers.to_dict("records"):
        with hb.attach(model, conditions[row["condition"]], PAPER):
            assert row["answer"] == model.generate(by_key[row["prompt"]], 4), row["condition"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_answers_on_the_gpu_are_those_of_transformers_own_loop(model):
    model = dataclasses.replace(model, net=copy.deepcopy(model.net).cuda())
    prompts = hb.niah.grid(model, [76, 128], [0, 60])
    conditions = {"k": KeepHeads(3), "g": KeepHeads(2, during="generation")} | hb.interventions.table1_conditions()
    timings = Timings()
    hb.sweep(model, prompts, conditions, max_new_tokens=6, progress=False, stages=timings)
    for prompt in prompts[::3]:
        for condition in conditions.values():
            expected = answer(model, prompt, condition, 6)
            assert timings.tokens[prompt.key, resolve(condition, model, CORRECTED).key] == expected


def test_a_prompt_that_begins_another_ends_where_it_ends(model):
    long = hb.niah.grid(model, [100], [0])[0]
    prompts = [dataclasses.replace(long, ids=long.ids[:n]) for n in (1, 2, 30, 31, len(long.ids))]
    rows = [(), (KeepHeads(2),)]
    with parallel_scans(), implementation(model.net):
        together = {
            p.key: decode(model, state, rows, [(), ()], CORRECTED, 5)
            for p, state in prefix_tree.prefill(model, prompts, rows, CORRECTED, 64)
        }
        for p, i in product(prompts, range(2)):
            alone = whole_prefill(model, p.ids, [rows[i]], p.needle_spans, CORRECTED)
            assert [together[p.key][i]] == decode(model, alone, [rows[i]], [()], CORRECTED, 5)


def test_prompts_of_one_grid_share_their_haystack(tiny):
    prompts = hb.niah.grid(tiny, [128, 256, 384, 512], 5)
    with inputs_of(tiny.net) as read, parallel_scans(), implementation(tiny.net):
        states = {p.key: state for p, state in prefix_tree.prefill(tiny, prompts, [()], CORRECTED, 2400)}
    assert set(states) == {p.key for p in prompts}
    assert all(int(states[p.key].position[0]) == len(p.ids) - 1 for p in prompts)
    assert sum(rows * tokens for rows, tokens in read) < 0.7 * sum(len(p.ids) - 1 for p in prompts)


def tensors(state):
    collected = list(state.recurrent)
    state.map(lambda x: collected.append(x) or x)
    return collected


def test_some_prompts_are_read_with_the_bits_of_all(model):
    prompts, row = hb.niah.grid(model, (76, 100, 128), (0, 50, 100)), (KeepHeads(2),)
    with implementation(model.net):
        every = {p.key: state for p, state in prefix_tree.prefill(model, prompts, [row], CORRECTED, 40)}
        chosen = set(list(every)[1::3])
        some = {p.key: state for p, state in prefix_tree.prefill(model, prompts, [row], CORRECTED, 40, chosen)}
    assert list(every) == [p.key for p in prefix_tree.order(model, prompts, CORRECTED)]
    assert list(some) == [key for key in every if key in chosen]
    for key, state in some.items():
        assert len(tensors(state)) > 4
        assert all(torch.equal(a, b) for a, b in zip(tensors(state), tensors(every[key]), strict=True))
