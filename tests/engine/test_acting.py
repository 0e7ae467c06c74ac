"""What cannot act is refused, what did not act is noticed, and a row says on how many tokens its condition acted.

An intervention that does nothing in silence would give the untouched model's numbers.
"""

from __future__ import annotations

import copy
import dataclasses

import pandas as pd
import pytest
import torch
from conftest import random_ids

import hybret as hb
from hybret import CORRECTED, PAPER, Binary, HybretError, Keep, KeepHeads, Mass, Null, Omit, Only, PerPhase
from hybret.engine import attention, decode, schedule, streaming
from hybret.engine.acting import settle
from hybret.engine.attach import implementation
from hybret.engine.context import Frame
from hybret.engine.likelihood import log_likelihoods
from hybret.fitting import validate
from hybret.interventions import PHASES, resolve
from hybret.tasks import niah

STEPS = 5
# One for each way in which something acts, streamed and not, alone and after another.
EVERY_WAY = {
    "entropy": KeepHeads(2),
    "l2": KeepHeads(1, "l2"),
    "omit": Omit(),
    "only": Only(),
    "only, renormalised": Only(renormalise=True, also=("self",)),
    "binary": Binary(),
    "null": Null(),
    "mass": Mass(0.5),
    "omit & heads": Omit() & KeepHeads(2),
    "two at once": Only() & Omit(),
    "answering": PerPhase(generation=Omit(), prefill=Keep()),
}


@pytest.fixture(scope="module")
def cells(griffin):
    return niah.grid(griffin, (76, 100), (0, 100))


def run(model, prompts, conditions, **options):
    return hb.sweep(model, prompts, conditions, progress=False, **{"max_new_tokens": STEPS, **options})


# ---------------------------------------------------------------- what was done is counted


@pytest.mark.parametrize("streaming", [False, True], ids=["weights", "streamed"])
@pytest.mark.parametrize("condition", EVERY_WAY.values(), ids=EVERY_WAY.keys())
def test_every_layer_counts_what_it_did(model, condition, streaming, monkeypatch):
    """By layer: attention once, and each action on the rows that it is meant for."""
    seen = []
    monkeypatch.setattr(decode, "settle", lambda frame, of: (seen.append(dict(frame.acted)), settle(frame, of)))
    ids, spans = random_ids(model, 40), ((20, 26),)
    rows = [(), condition.at("prefill")] if streaming else [condition.at("prefill")]
    with implementation(model.net):
        state = decode.prefill(model, ids, rows, spans, CORRECTED, streaming=streaming)
        one = state.select(torch.tensor([len(rows) - 1]))
        decode.decode(model, one, [condition.at("generation")], [spans], CORRECTED, 2)
    acted = {phase: {a.metric if isinstance(a, KeepHeads) else a: 1 for a in condition.at(phase)} for phase in PHASES}
    whole = [{(i, what): 1 for i in model.attention_layers for what in ("attention", *acted[p])} for p in acted]
    assert len(seen) == 3
    # Where nothing is declared, nothing has to be done, but it is counted that attention ran.
    assert [{key: n for key, n in each.items() if n} for each in seen] == [whole[0], whole[1], whole[1]]


def test_rows_say_on_how_many_tokens_the_condition_acted(model, cells):
    prompts = [*niah.grid(model, (76, 100), (100,)), *niah.grid(model, (76,), control=True)]
    conditions = {
        "keep": Keep(),
        "all": KeepHeads(model.heads),
        "generation": KeepHeads(1, during="generation"),
        "prefill": Only("prefill"),
        "both": Omit(),
        "one layer": Only("generation", layers=model.attention_layers[:1]),
    }
    phases = {
        "keep": (0, 0),
        "all": (0, 0),
        "generation": (0, 1),
        "prefill": (1, 0),
        "both": (1, 1),
        "one layer": (0, 1),
    }
    for recipe in (CORRECTED, PAPER):
        stages = schedule.Timings()
        rows = run(model, prompts, conditions, recipe=recipe, stages=stages)
        ignored = recipe is PAPER and model.family == "jamba"
        for row in rows.to_dict("records"):
            p = next(p for p in prompts if p.key == row["prompt"])
            reading = decode.prompt_tokens(model, p.ids, recipe)
            reads, answers = phases[row["condition"]]
            if ignored and row["condition"] in ("prefill", "both", "one layer"):
                reads = answers = 0
            effect = resolve(conditions[row["condition"]], model, recipe).key
            steps = min(len(stages.tokens[p.key, effect]) + 1, STEPS) - (reading == len(p.ids))
            assert (row["acted_prefill"], row["acted_generation"]) == (reads * reading, answers * steps)


def test_steps_are_counted_as_the_loop_makes_them(model, monkeypatch):
    """Forward passes in which a row was still answering, against what its row says; some answers end early."""
    (prompt,) = niah.grid(model, (76,), (100,))
    answer = generation_of(model, prompt, KeepHeads(1))
    for eos in (frozenset(), *(frozenset({token}) for token in dict.fromkeys(answer))):
        ending = dataclasses.replace(model, eos=eos)
        for recipe in (CORRECTED, PAPER):
            passes = []
            hook = model.net.register_forward_hook(lambda m, _, out, passes=passes: passes.append(out.logits.shape))
            rows = run(ending, [prompt], {"one": KeepHeads(1)}, recipe=recipe, budget=schedule.Budget(1, 10**6))
            hook.remove()
            # The first pass reads the prompt; an answer that prefill ended has no step at all.
            assert rows["acted_generation"].item() == len(passes) - 1


def generation_of(model, prompt, condition):
    with implementation(model.net):
        return decode.generate(model, prompt.ids, condition, prompt.needle_spans, CORRECTED, STEPS)


def test_counts_survive_a_stop(griffin, cells, tmp_path):
    """They are stored with the answers, and do not depend on what shares a batch."""
    first = run(griffin, cells, EVERY_WAY, out=tmp_path)
    again = run(griffin, cells, EVERY_WAY, out=tmp_path)
    pd.testing.assert_frame_equal(first, again)
    other, own = run(griffin, cells, EVERY_WAY, budget=schedule.Budget(3, 40)), ["run", "batch"]
    pd.testing.assert_frame_equal(first.drop(columns=own), other.drop(columns=own))
    assert (first["acted_prefill"] > 0).sum() == len(cells) * (len(EVERY_WAY) - 1) and first["acted_generation"].all()


# ---------------------------------------------------------------- what did nothing is noticed


def test_a_layer_that_attention_never_reaches_is_noticed(model, monkeypatch):
    """Its module has gone on with transformers' own attention."""
    layer, prompts = model.attention_layers[-1], niah.grid(model, (76, 100), (100,))
    module = next(m for m in model.net.model.layers[layer].modules() if hasattr(m, "k_proj"))
    own = copy.deepcopy(module.config)
    own._attn_implementation_internal = "eager"
    monkeypatch.setattr(module, "config", own)
    assert len(run(model, prompts, {"keep": Keep()})) == len(prompts)  # nothing was to be done there
    for condition in (KeepHeads(1), Omit("generation"), Null("prefill")):
        with pytest.raises(HybretError, match=f"attention acted 0 times instead of 1 in layer {layer} of {model.name}"):
            run(model, prompts, {"one": condition, "keep": Keep()})


def forget(frame):
    bare = copy.copy(frame)  # it counts what it does in the same place
    bare.keep_heads, bare.manipulations = {}, []
    return bare


@pytest.mark.parametrize("condition", [KeepHeads(1), Omit(), Only(), Binary(), Null()], ids=repr)
def test_a_path_that_forgets_is_noticed(model, condition, monkeypatch):
    """Prefills that stream, for one row and for rows that share layers; steps of an answer; and benchmarks."""
    prompts, context = niah.grid(model, (76,), (100,)), random_ids(model, 30)
    said = (
        f"in prefill, {'the choice of heads' if isinstance(condition, KeepHeads) else condition.label}.* acted 0 times"
    )
    with monkeypatch.context() as patch:
        patch.setattr(attention, "stream", lambda *args: streaming.prefill(*args[:5], forget(args[5]), args[6]))
        for conditions in ({"one": condition}, {"one": condition, "two": KeepHeads(3), "keep": Keep()}):
            with pytest.raises(HybretError, match=said):
                run(model, prompts, conditions)
        if isinstance(condition, KeepHeads):
            for conditions in ([condition], [condition, Keep()]):
                with pytest.raises(HybretError, match=said):
                    log_likelihoods(model, [(context, (5,)), (context, (6, 7))], conditions, CORRECTED)
    with monkeypatch.context() as patch:
        original = Frame.on
        patch.setattr(Frame, "on", lambda self, d: original(self, d) if self.phase == "prefill" else forget(self))
        with pytest.raises(HybretError, match=said.replace("prefill", "generation")):
            run(model, prompts, {"one": condition})
    assert model.net.config._attn_implementation == "eager"


def test_a_direct_pass_is_checked_too(model, monkeypatch):
    ids = torch.tensor([random_ids(model, 20)])
    with hb.attach(model, KeepHeads(1)):
        for passes in (0, 1, 2):
            with hb.phase("prefill", [19]):
                for _ in range(passes):
                    model.net(ids)
    monkeypatch.setattr(Frame, "on", lambda self, _: forget(self))
    with (
        pytest.raises(HybretError, match="heads by entropy acted 0 times instead of 2"),
        hb.attach(model, KeepHeads(1)),
        hb.phase("prefill", [19]),
    ):
        model.net(ids)
        model.net(ids)


@pytest.mark.parametrize("family", ["zamba2", "bamba", "minimax"])
def test_families_pass_the_check(family):
    """Layers that share a module, or have a cache of their own."""
    model = hb.load(family, device="cpu")
    rows = run(
        model, niah.grid(model, (128,), (0, 100)), {"k": KeepHeads(1), "o": Omit("generation")}, max_new_tokens=2
    )
    assert rows["acted_generation"].tolist() == [2] * 4


# ---------------------------------------------------------------- what cannot act is refused


@pytest.fixture
def asleep(griffin, jamba):
    """Models that fail the test when they run."""
    hooks = [m.net.register_forward_pre_hook(lambda *_: pytest.fail("the model ran")) for m in (griffin, jamba)]
    yield
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(
    "condition",
    [
        PerPhase(generation=Omit("prefill"), prefill=Keep()),
        PerPhase(generation=Keep(), prefill=KeepHeads(1, during="generation") & Omit()),
        PerPhase(generation=PerPhase(generation=Omit(), prefill=Only()), prefill=Keep()),
        Omit() & PerPhase(generation=Keep(), prefill=Null("generation")),
    ],
    ids=repr,
)
def test_a_part_in_the_wrong_phase_is_refused(condition, griffin, cells, asleep):
    with pytest.raises(HybretError, match="would never act in .* a phase that it leaves out"):
        validate(condition, 10)
    with pytest.raises(HybretError, match="would never act"):
        run(griffin, cells, {"keep": Keep(), "never": condition})
    with pytest.raises(HybretError, match="would never act"), hb.attach(griffin, condition):
        pytest.fail("attached")


def test_what_is_left_alone_on_purpose_is_allowed():
    for condition in (
        Keep(),
        PerPhase(generation=Keep(), prefill=Keep()),
        PerPhase(generation=Omit("generation"), prefill=Omit("both")),
        PerPhase(generation=PerPhase(generation=Omit(), prefill=Keep()), prefill=Only("prefill") & Keep()),
        *hb.table1_conditions().values(),
    ):
        validate(condition, 10)


def test_only_in_no_layer_is_refused():
    """It would act nowhere, under the key of the `Only` that acts everywhere."""
    with pytest.raises(HybretError, match=r"layers is \(\); give a tuple"):
        Only(layers=())


@pytest.mark.parametrize(
    "condition",
    [Omit(), Only("generation"), Binary("prefill"), Mass("needle"), KeepHeads(1) & Only(also=("question",))],
    ids=repr,
)
def test_a_needle_that_is_not_there_is_refused(condition, griffin, cells, asleep):
    n = len(cells[0].ids)
    for spans, said in (
        ((), "this prompt has none"),
        (((5, 5),), r"its intervals \[\(5, 5\)\] hold no token"),
        (((7, 9), (n - 1, n + 1)), "its intervals .* hold no token"),
        (((-1, 3),), "its intervals .* hold no token"),
    ):
        broken = dataclasses.replace(cells[0], spans={**cells[0].spans, "needle": spans})
        with pytest.raises(HybretError, match=f"acts on the needle, and {said}"):
            run(griffin, [*cells[1:], broken], {"keep": Keep(), "one": condition})
        with hb.attach(griffin, condition), pytest.raises(HybretError, match="acts on the needle"):
            griffin.generate(broken)
    phase = "prefill" if condition.at("prefill") else "generation"
    with hb.attach(griffin, condition):
        with pytest.raises(HybretError, match="this prompt has none"):
            griffin.generate("plain text")
        for spans in ([], [((3, 20),)]):
            with pytest.raises(HybretError, match="acts on the needle"), hb.phase(phase, [18], spans):
                pytest.fail("declared")


def test_a_needle_that_ends_the_prompt_is_there(griffin, cells):
    ends = dataclasses.replace(
        cells[0], spans={**cells[0].spans, "needle": ((len(cells[0].ids) - 2, len(cells[0].ids)), (0, 1))}
    )
    assert len(run(griffin, [ends], {"omit": Omit()})) == 1
    with hb.attach(griffin, Omit()):
        assert griffin.generate(ends, 1) is not None


def test_controls_have_no_needle_on_purpose(model):
    """What a manipulation leaves of a prompt without the needle: everything under Omit, nothing under Only."""
    (control,) = niah.grid(model, (76,), control=True)
    conditions = {"keep": Keep(), "omit": Omit(), "only": Only(), "binary": Binary(), "null": Null()}
    rows = run(model, [control], conditions)
    answers = rows.set_index("condition")["answer"]
    assert answers["omit"] == answers["keep"] != answers["null"]
    assert answers["only"] == answers["binary"] == answers["null"]
    assert (rows.set_index("condition").loc["omit", ["acted_prefill", "acted_generation"]] > 0).all()
    with hb.attach(model, Omit()):
        assert model.generate(control, STEPS) == answers["omit"]
    code = run(model, [control], conditions, recipe=CORRECTED.replace(binary="scalar")).set_index("condition")["answer"]
    assert (code == answers).all()
    generation = {name: PerPhase(generation=c, prefill=Keep()) for name, c in conditions.items()}
    code = run(model, [control], generation, recipe=PAPER)
    assert code["answer"].nunique() == 1  # the authors' code leaves the weights alone, in every mode


def test_what_needs_no_needle_runs_without_one(griffin):
    for condition in (KeepHeads(1), Null(), Mass(0.5), Keep()):
        with hb.attach(griffin, condition):
            griffin.generate("The market opens at nine.", 1)


def test_the_only_token_of_an_answer_may_come_from_prefill(jamba):
    """Jamba under PAPER: nothing that is declared for generation alone can then act."""
    prompts = niah.grid(jamba, (76,), (100,))
    never = pytest.raises(HybretError, match="would never act in generation: the first token of an answer comes from")
    pair = PerPhase(generation=KeepHeads(1), prefill=KeepHeads(2))
    for condition in (KeepHeads(1, during="generation"), pair):
        with never:
            run(jamba, prompts, {"one": condition}, recipe=PAPER, max_new_tokens=1)
        with never, hb.attach(jamba, condition, PAPER):
            jamba.generate(prompts[0], 1)
    with hb.attach(jamba, pair, PAPER):
        jamba.generate(prompts[0], 2)
    rows = run(jamba, prompts, {"both": KeepHeads(1), "ignored": Omit("generation")}, recipe=PAPER, max_new_tokens=1)
    assert rows["acted_prefill"].tolist() == [len(prompts[0].ids), 0] and not rows["acted_generation"].any()
    rows = run(jamba, prompts, {"one": KeepHeads(1, during="generation")}, max_new_tokens=1)
    assert rows["acted_generation"].tolist() == [1]


def test_a_prompt_of_one_token_has_no_prefill(griffin, cells):
    bare = dataclasses.replace(cells[0], ids=cells[0].ids[:1], spans={})
    for condition in (
        KeepHeads(0, during="prefill"),
        KeepHeads(0, during="prefill") & KeepHeads(1, during="generation"),
    ):
        with (
            hb.attach(griffin, condition),
            pytest.raises(HybretError, match="would never act in prefill: the prompt has one"),
        ):
            griffin.generate(bare, 2)
    with hb.attach(griffin, KeepHeads(0)):
        griffin.generate(bare, 2)


def test_an_attached_intervention_that_never_acted_is_said(griffin):
    ids = torch.tensor([random_ids(griffin, 8)])

    def block(condition, phases):
        with hb.attach(griffin, condition):
            for phase in phases:
                with hb.phase(phase, [7], [((2, 4),)]):
                    griffin.net(ids)

    with pytest.raises(HybretError, match="was attached and never acted: the model ran in prefill alone"):
        block(Omit("generation"), ["prefill"])
    block(Omit("generation"), ["prefill", "generation"])
    block(Omit("generation"), [])
    for harmless in (Keep(), KeepHeads(10, during="generation")):
        block(harmless, ["prefill"])
    with pytest.raises(ZeroDivisionError), hb.attach(griffin, Omit("generation")):  # the first mistake is the one said
        with hb.phase("prefill", [7]):
            griffin.net(ids)
        raise ZeroDivisionError
