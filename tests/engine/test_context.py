"""What cannot act is refused, a layer that was not reached is noticed, and rows say on how many tokens something acted.

An intervention that does nothing in silence would give the unmodified model's numbers.
"""

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch
from conftest import random_ids
from transformers import AttentionInterface

import hybret as hb
from hybret import CORRECTED, PAPER, Binary, HybretError, Keep, KeepHeads, Mass, Null, Omit, Only, PerPhase
from hybret.engine.context import ForwardContext, forward_context
from hybret.engine.likelihood import log_likelihoods

STEPS = 5
GENERATION = KeepHeads(1, during="generation")


@pytest.fixture(scope="module")
def cells(griffin):
    return hb.niah.grid(griffin, (76, 100), (0, 100))


def placed(prompt, **spans):
    return dataclasses.replace(prompt, spans={**prompt.spans, **spans})


def run(model, prompts, conditions, **options):
    return hb.sweep(model, prompts, conditions, progress=False, **{"max_new_tokens": STEPS, **options})


def test_rows_say_on_how_many_tokens_the_condition_acted(model):
    conditions = {  # and whether it acts in prefill and in generation
        "keep": (Keep(), 0, 0),
        "all": (KeepHeads(model.heads), 0, 0),
        "generation": (GENERATION, 0, 1),
        "prefill": (Only("prefill"), 1, 0),
        "both": (Omit(), 1, 1),
        "one layer": (Only("generation", layers=model.attention_layers[:1]), 0, 1),
    }
    for recipe in (CORRECTED, PAPER):
        whole = recipe is PAPER and model.family == "jamba"  # its first answer token comes from prefill
        grid = {"lengths": (76, 100), "depths": (100,), "recipe": recipe}
        prompts = [p for control in (False, True) for p in hb.niah.grid(model, control=control, **grid)]
        rows = run(model, prompts, {name: value[0] for name, value in conditions.items()}, recipe=recipe)
        for row in rows.to_dict("records"):
            condition, reads, answers = conditions[row["condition"]]
            if whole and not isinstance(condition, KeepHeads):
                reads = answers = 0  # and the authors' code never reads its manipulations
            assert row["acted_prefill"] == reads * (row["tokens"] - (not whole))
            assert row["acted_generation"] == answers * (STEPS - whole)


def test_steps_are_counted_as_the_loop_makes_them(model):
    (prompt,) = (dataclasses.replace(p, insertion="") for p in hb.niah.grid(model, (76,), (100,)))
    with hb.attach(model, KeepHeads(1)):
        answer = model.tokenizer(model.generate(prompt, STEPS), add_special_tokens=False).input_ids
    for eos in (frozenset(), *(frozenset({token}) for token in answer[::2])):
        ending = dataclasses.replace(model, eos=eos)
        for recipe in (CORRECTED, PAPER):
            passes = []
            hook = model.net.register_forward_hook(lambda m, _, out, passes=passes: passes.append(out.logits.shape))
            rows = run(ending, [prompt], {"only": KeepHeads(1)}, recipe=recipe)
            hook.remove()
            # The first pass reads the prompt; an answer that prefill ended has no step at all.
            assert rows["acted_generation"].item() == len(passes) - 1


@pytest.fixture(params=["elsewhere", "without the context"])
def faulty(request, model, monkeypatch):
    """A model whose last attention layer is not reached."""
    layer = model.net.model.layers[model.attention_layers[-1]]
    module = next(m for m in layer.modules() if hasattr(m, "k_proj"))
    if request.param == "elsewhere":  # it has gone on with transformers' own attention
        monkeypatch.setattr(module, "config", copy.deepcopy(module.config))
        module.config._attn_implementation_internal = "eager"
        return model
    forward = module.forward

    def lost(*args, **options):
        with forward_context(None):  # as a thread that was started for the layer has none
            return forward(*args, **options)

    monkeypatch.setattr(module, "forward", lost)
    return model


@pytest.mark.parametrize("condition", [KeepHeads(1), Omit("generation"), Null("prefill")], ids=repr)
def test_a_layer_that_is_not_reached_is_noticed(faulty, condition):
    model, prompts = faulty, hb.niah.grid(faulty, (76, 100), (100,))
    layer = model.attention_layers[-1]
    for conditions in ({"one": condition}, {"one": condition, "keep": Keep()}):
        with pytest.raises(HybretError, match=f"acted 0 times instead of 1 in layer {layer} of {model.name}"):
            run(model, prompts, conditions)
    assert model.net.config._attn_implementation == "eager"


@torch.no_grad()
def test_passes_of_a_benchmark_and_direct_ones_are_checked_too(faulty):
    ids = random_ids(faulty, 30)
    for conditions in ([KeepHeads(1)], [KeepHeads(1), Keep()]):
        with pytest.raises(HybretError, match="attention acted 0 times instead of 1"):
            log_likelihoods(faulty, [(ids, (5,)), (ids, (6, 7))], conditions, CORRECTED)
    never = pytest.raises(HybretError, match="attention acted 0 times instead of 2|no declared phase")
    with never, hb.attach(faulty, KeepHeads(1)), hb.phase("prefill", [29]):
        for _ in range(2):
            faulty.net(torch.tensor([ids]))


@torch.no_grad()  # the state of a pass stays in the model, which others copy
def test_any_number_of_direct_passes_is_right(model):
    ids = torch.tensor([random_ids(model, 20)])
    with hb.attach(model, KeepHeads(1)):
        for passes in (0, 1, 2):
            with hb.phase("prefill", [19]):
                for _ in range(passes):
                    model.net(ids)


@pytest.mark.parametrize("unknown", [None, -1])
def test_layers_that_do_not_know_their_number_come_in_order(unknown):
    config = SimpleNamespace(
        model_type="zamba", layers_block_type=["mamba", "hybrid", "mamba", "hybrid", "hybrid"], num_attention_heads=2
    )
    current = ForwardContext("prefill", [()], [()], torch.tensor([3]), CORRECTED)
    module = SimpleNamespace(config=config, layer_idx=unknown)
    assert [current.enter(module) for _ in range(7)] == [1, 3, 4, 1, 3, 4, 1]
    assert current.calls == {1: 3, 3: 2, 4: 2}


ELSEWHERE = torch.device("meta")  # another device without one: mixing its tensors with the CPU's raises
QUESTION = Only(also=("question",))


@pytest.mark.parametrize("phase", ["prefill", "streamed prefill", "generation"])
@pytest.mark.parametrize(
    "action",
    [KeepHeads(1), KeepHeads(1, "output-norm"), Omit(), QUESTION, Null(), Only() & Mass(1.0), Binary()],
    ids=lambda a: a.label,
)
def test_a_layer_on_another_device(action, phase, griffin):
    """The context is declared where the first layer is; the attention of a layer elsewhere runs where that layer is."""
    if phase.startswith("streamed") and isinstance(action, Binary):
        pytest.skip("it looks up columns, which a device without memory cannot")
    module = griffin.net.model.layers[2].temporal_block
    streaming, phase = phase.startswith("streamed"), phase.split()[-1]
    rows, last, step = [action.at(phase), ()], torch.tensor([5, 5]), phase == "generation"
    how = {"streaming": streaming, "right_aligned": step, "questions": [(3, 5), None]}
    current = ForwardContext(phase, rows, [((1, 3),)] * 2, last, CORRECTED, **how)
    query = torch.empty(2, 10, 1 if step else 6, 8, device=ELSEWHERE)
    key, value = (torch.empty(2, 1, 6, 8, device=ELSEWHERE) for _ in range(2))
    with forward_context(current):
        output, _ = AttentionInterface()["hybret"](module, query, key, value, None, 1.0)
    assert output.device == ELSEWHERE and output.shape == (2, query.shape[2], 10, 8)
    assert current.last.device.type == "cpu" and (current.outputs is not None) == current.streams
    assert current.calls == {2: 1}


def test_every_row_of_a_context_has_a_question_or_none_has():
    def of(rows, questions):
        return ForwardContext("prefill", rows, [(), ()], torch.tensor([3, 3]), CORRECTED, questions=questions)

    for action in (Only(also=("question",)), Only(also=("self", "answer"))):
        with pytest.raises(HybretError, match="does not say where its question is"):
            of([(action,), (action,)], [(1, 2), None])
        of([(action,), (Only(also=("self",)),)], [(1, 2), None])


@pytest.mark.parametrize(
    "condition",
    [
        PerPhase(generation=Omit("prefill"), prefill=Keep()),
        PerPhase(generation=Keep(), prefill=GENERATION & Omit()),
        PerPhase(generation=PerPhase(generation=Omit(), prefill=Only()), prefill=Keep()),
        Omit() & PerPhase(generation=Keep(), prefill=Null("generation")),
    ],
    ids=repr,
)
def test_a_part_in_the_wrong_phase_is_refused(condition, griffin, cells, asleep):
    with pytest.raises(HybretError, match="would never act in .* a phase that it leaves out"):
        run(griffin, cells, {"keep": Keep(), "never": condition})
    with pytest.raises(HybretError, match="would never act"), hb.attach(griffin, condition):
        pytest.fail("attached")


def test_what_is_left_alone_on_purpose_and_what_needs_no_needle_is_allowed(griffin, cells):
    ends = placed(cells[0], needle=((len(cells[0].ids) - 2, len(cells[0].ids)), (0, 1)))
    assert len(run(griffin, [ends], {"omit": Omit()})) == 1
    for condition in (KeepHeads(1), Mass(0.5)):
        with hb.attach(griffin, condition):
            griffin.generate("The market opens at nine.", 1)
    for condition in (
        PerPhase(generation=Keep(), prefill=Keep()),
        PerPhase(generation=PerPhase(generation=Omit(), prefill=Keep()), prefill=Only("prefill") & Keep()),
        *hb.table1_conditions().values(),
    ):
        with hb.attach(griffin, condition):
            pass


@pytest.mark.parametrize(
    "condition",
    [Omit(), Only("generation"), Binary("prefill"), Mass("needle"), KeepHeads(1) & Only(also=("question",))],
    ids=repr,
)
def test_a_needle_that_is_not_there_is_refused(condition, griffin, cells, asleep):
    n = len(cells[0].ids)
    for spans, problem in (
        ((), "this prompt has none"),
        (((5, 5),), r"its intervals \[\(5, 5\)\] hold no token"),
        (((7, 9), (n - 1, n + 1)), "its intervals .* hold no token"),
        (((-1, 3),), "its intervals .* hold no token"),
    ):
        broken = placed(cells[0], needle=spans)
        with pytest.raises(HybretError, match=f"acts on the needle, and {problem}"):
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


def test_a_question_that_is_not_known_is_refused(griffin, cells, asleep):
    condition, unknown = Only(also=("question",)), placed(cells[0], question=())
    with pytest.raises(HybretError, match="needs the question, and this prompt has none"):
        run(griffin, [*cells[1:], unknown], {"keep": Keep(), "one": condition})
    with hb.attach(griffin, condition), pytest.raises(HybretError, match="needs the question"):
        griffin.generate(unknown)
    with pytest.raises(HybretError, match="needs the question"):
        hb.look(griffin, unknown, {"one": condition})


def test_controls_have_no_needle_on_purpose(model):
    """What a manipulation leaves of a prompt without the needle: everything under Omit, nothing under Only."""
    (control,) = hb.niah.grid(model, (76,), control=True, recipe=PAPER)
    control = dataclasses.replace(control, insertion="")
    conditions = {"keep": Keep(), "omit": Omit(), "only": Only(), "binary": Binary(), "null": Null()}
    rows = run(model, [control], conditions).set_index("condition")
    answers = rows["answer"]
    assert answers["omit"] == answers["keep"] != answers["null"]
    assert answers["only"] == answers["binary"] == answers["null"]
    assert (rows.loc["omit", ["acted_prefill", "acted_generation"]] > 0).all()
    with hb.attach(model, Omit()):
        assert model.generate(control, STEPS) == answers["omit"]
    scalar = run(model, [control], conditions, recipe=CORRECTED.replace(binary="scalar")).set_index("condition")
    assert (scalar["answer"] == answers).all()
    generation = {name: PerPhase(generation=c, prefill=Keep()) for name, c in conditions.items()}
    # Without a needle in the window the authors' code leaves the weights alone, in every mode.
    assert run(model, [control], generation, recipe=PAPER)["answer"].nunique() == 1


def test_the_only_token_of_an_answer_may_come_from_prefill(jamba):
    """Jamba under PAPER: nothing that is declared for generation alone can then act."""
    prompts = hb.niah.grid(jamba, (76,), (100,), recipe=PAPER)
    never = pytest.raises(HybretError, match="would never act in generation: the first token of an answer comes from")
    pair = PerPhase(generation=KeepHeads(1), prefill=KeepHeads(2))
    for condition in (GENERATION, pair):
        with never:
            run(jamba, prompts, {"one": condition}, recipe=PAPER, max_new_tokens=1)
        with never, hb.attach(jamba, condition, PAPER):
            jamba.generate(prompts[0], 1)
    with hb.attach(jamba, pair, PAPER):
        jamba.generate(prompts[0], 2)
    rows = run(jamba, prompts, {"both": KeepHeads(1), "ignored": Omit("generation")}, recipe=PAPER, max_new_tokens=1)
    assert rows["acted_prefill"].tolist() == [len(prompts[0].ids), 0] and not rows["acted_generation"].any()
    rows = run(jamba, hb.niah.grid(jamba, (76,), (100,)), {"one": GENERATION}, max_new_tokens=1)
    assert rows["acted_generation"].tolist() == [1]


def test_a_prompt_of_one_token_has_no_prefill(griffin, cells):
    bare = dataclasses.replace(cells[0], ids=cells[0].ids[:1], spans={})
    for condition in (KeepHeads(0, during="prefill"), KeepHeads(0, during="prefill") & GENERATION):
        with hb.attach(griffin, condition), pytest.raises(HybretError, match="would never act in prefill"):
            griffin.generate(bare, 2)
    with hb.attach(griffin, KeepHeads(0)):
        griffin.generate(bare, 2)


@torch.no_grad()
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
