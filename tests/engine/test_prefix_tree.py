"""Prompts that begin alike, read as a tree, against each read by itself."""

from __future__ import annotations

import copy
import dataclasses
from itertools import product

import pytest
import torch

import hybret as hb
from book.speed.stock import answer
from hybret import CORRECTED, PAPER, Binary, Keep, KeepHeads, Mass, Null, Omit, Only, PerPhase
from hybret.engine import prefix_tree
from hybret.engine.attach import implementation
from hybret.engine.decode import decode
from hybret.engine.decode import prefill as whole_prefill
from hybret.engine.scan import parallel_scans
from hybret.engine.schedule import Budget, Timings
from hybret.interventions import resolve
from hybret.tasks import niah


@pytest.mark.parametrize("recipe", [CORRECTED, PAPER], ids=lambda r: r.name)
@pytest.mark.parametrize("tokens", [40, 100_000])
def test_a_sweep_answers_what_single_prompts_answer(model, recipe, tokens):
    """Ragged prompts past the window, with two needles, none, and one that begins another."""
    grid = {"haystack": "embedded", "recipe": recipe}
    prompts = [
        *niah.grid(model, [76, 128], [0, 40, 41, 100], **grid),
        *niah.grid(model, [76, 128], [0], control=True, **grid),
        *niah.grid(model, [100], [0, 70], "jrt", **grid),
        *niah.grid(model, [76], [50], seed=1, **grid),
    ]
    conditions = {
        "keep": Keep(),
        "k=3": KeepHeads(3),
        "l2": KeepHeads(2, metric="l2", during="prefill"),
        "k=1, generation": KeepHeads(1, during="generation"),
        "Only-Omit": PerPhase(generation=Only(), prefill=Omit()),
        "Binary-Binary": PerPhase(generation=Binary(), prefill=Binary()),
        "Omit-Null": PerPhase(generation=Omit(), prefill=Null()),
        "Keep-Only": PerPhase(generation=Keep(), prefill=Only()),
        "both": Omit() & KeepHeads(4),
        "twice": Only(renormalise=True) & Omit(),
        "self-question": PerPhase(generation=Only(also=("self",)), prefill=Only(also=("question",))),
        "question-self": PerPhase(generation=Only(renormalise=True, also=("question",)), prefill=Only(also=("self",))),
        "one layer": Only(layers=model.attention_layers[-1:]),
        "mass": PerPhase(generation=Only() & Mass(1.5), prefill=Keep()),
    }
    rows = hb.sweep(model, prompts, conditions, recipe, max_new_tokens=6, budget=Budget(23, tokens), progress=False)
    by_key = {p.key: p for p in prompts}
    answers = rows.drop_duplicates(["prompt", "condition"])
    assert len(answers) == len(by_key) * len(conditions) and answers["answer"].nunique() > len(by_key)
    for row in answers.to_dict("records"):
        with hb.attach(model, conditions[row["condition"]], recipe):
            assert row["answer"] == model.generate(by_key[row["prompt"]], 6), row["condition"]


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
def test_a_sweep_answers_what_transformers_own_loop_answers(model, device):
    """A second implementation: `generate` with a registered hook, one condition at a time."""
    model = dataclasses.replace(model, net=copy.deepcopy(model.net).to(device))
    prompts = niah.grid(model, [76, 128], [0, 60])
    conditions = {"k": KeepHeads(3), "g": KeepHeads(2, during="generation")} | hb.interventions.table1_conditions()
    conditions |= {
        repr(only): PerPhase(generation=only, prefill=Only(also=("self", "answer")))
        for only in (Only(renormalise=True, also=("first", "question")), Only(layers=model.attention_layers[:1]))
    }
    conditions["mass"] = PerPhase(generation=Binary() & Mass(1.0), prefill=Mass("needle"))
    timings = Timings()
    hb.sweep(model, prompts, conditions, max_new_tokens=6, progress=False, stages=timings)
    assert len({tuple(tokens) for tokens in timings.tokens.values()}) > 10
    for prompt in prompts[::3]:
        for condition in conditions.values():
            expected = answer(model, prompt, condition, 6)
            assert timings.tokens[prompt.key, resolve(condition, model, CORRECTED).key] == expected


def test_a_prompt_that_begins_another_ends_where_it_ends(model):
    long = niah.grid(model, [100], [0])[0]
    prompts = [dataclasses.replace(long, ids=long.ids[:n], key=str(n)) for n in (1, 2, 30, 31, len(long.ids))]
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
    read = []
    hook = tiny.net.register_forward_pre_hook(
        lambda _, __, named: read.append(named["input_ids"].numel()), with_kwargs=True
    )
    prompts = niah.grid(tiny, [128, 256, 384, 512], 5)
    with parallel_scans(), implementation(tiny.net):
        states = {p.key: state for p, state in prefix_tree.prefill(tiny, prompts, [()], CORRECTED, 2400)}
    hook.remove()
    assert set(states) == {p.key for p in prompts}
    assert all(int(states[p.key].position[0]) == len(p.ids) - 1 for p in prompts)
    assert sum(read) < 0.7 * sum(len(p.ids) - 1 for p in prompts)


def test_some_prompts_are_read_with_the_bits_of_all(model):
    prompts, row = niah.grid(model, (76, 100, 128), (0, 50, 100)), (KeepHeads(2),)
    with implementation(model.net):
        every = {p.key: state for p, state in prefix_tree.prefill(model, prompts, [row], CORRECTED, 40)}
        chosen = set(list(every)[1::3])
        some = {p.key: state for p, state in prefix_tree.prefill(model, prompts, [row], CORRECTED, 40, chosen)}
    assert list(every) == [p.key for p in prefix_tree.order(model, prompts, CORRECTED)]
    assert list(some) == [key for key in every if key in chosen]
    for key, state in some.items():
        pairs = zip([*state.recurrent, *state.cache], [*every[key].recurrent, *every[key].cache], strict=True)
        assert all(torch.equal(a, b) for a, b in pairs if isinstance(a, torch.Tensor))
