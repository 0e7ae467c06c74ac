"""What each intervention does to one attention layer, against a slow second implementation written as loops."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import random_ids

import hybret as hb
from hybret import CORRECTED, PAPER, Binary, Compose, HybretError, Keep, KeepHeads, Mass, Null, Omit, Only, PerPhase
from hybret.engine import decode
from hybret.engine.attach import implementation
from hybret.engine.attention import attention
from hybret.engine.attention import mask as made_mask
from hybret.engine.context import Frame, frame
from hybret.engine.entropy import head_entropy, keep_lowest
from hybret.fitting import validate

HEADS, KV_HEADS, DIM, WINDOW = 6, 2, 4, 7
MODULE = SimpleNamespace(num_key_value_groups=HEADS // KV_HEADS, training=False, layer_idx=0, config=object())
# Keys, position of the last query, needle: a whole prompt as prefill, and a ragged batch of one-token steps whose
# second row is left-padded by two keys and whose first row no longer sees its first tokens.
ASKED = {"questions": ((6, 8), (4, 6))}
PREFILL = {"queries": 9, "keys": 9, "last": (8, 8), "spans": (((3, 6),), ((1, 3), (5, 7))), **ASKED}
STEP = {"queries": 1, "keys": 7, "last": (11, 4), "spans": (((7, 9),), ((1, 4),)), "questions": ((6, 10), (2, 4))}
# The needle has left the window of the first row (keys 5 to 11), not of the second one.
GONE = {"queries": 1, "keys": 7, "last": (11, 4), "spans": (((1, 4),), ((1, 4),)), **ASKED}
SETTINGS = {"prefill": PREFILL, "generation": STEP}


def tensors(queries, keys, seed=0, dtype=torch.float32):
    """Random q, k, v whose heads differ clearly in focus, so that no rounding decides which head is kept."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(2, HEADS, queries, DIM, generator=generator)
    q = q * torch.linspace(0.3, 4, HEADS)[torch.randperm(HEADS, generator=generator)][None, :, None, None]
    k, v = (torch.randn(2, KV_HEADS, keys, DIM, generator=generator) for _ in range(2))
    return q.to(dtype), k.to(dtype), v.to(dtype)


def visible_keys(queries, keys, last):
    """bool (rows, queries, keys): causal, at most WINDOW keys back, no key before the prompt's first token."""
    seen = np.zeros((len(last), queries, keys), dtype=bool)
    for row, end in enumerate(last):
        for i in range(queries):
            for j in range(keys):
                query, key = end - (queries - 1) + i, end - (keys - 1) + j
                seen[row, i, j] = 0 <= key <= query and query - key < WINDOW
    return seen


def run(setting, rows, recipe=CORRECTED, seed=0, phase=None):
    """hybret's attention on the random layer: output (rows, queries, heads, dim) and weights."""
    q, k, v = tensors(setting["queries"], setting["keys"], seed)
    seen = torch.from_numpy(visible_keys(setting["queries"], setting["keys"], setting["last"]))
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
    phase = phase or ("generation" if setting["queries"] == 1 else "prefill")
    last, questions = torch.tensor(setting["last"]), setting["questions"]
    now = Frame(phase, [tuple(row) for row in rows], setting["spans"], last, recipe, questions=questions)
    with frame(now):
        output, weights = attention(MODULE, q, k, v, mask, DIM**-0.5)
    return output.numpy(), weights.numpy()


def slow(setting, rows, recipe=CORRECTED, seed=0, phase=None):
    """The same in plain loops over rows, heads, queries and keys, in fp64."""
    q, k, v = (x.double().numpy() for x in tensors(setting["queries"], setting["keys"], seed))
    queries, keys = setting["queries"], setting["keys"]
    seen = visible_keys(queries, keys, setting["last"])
    phase = phase or ("generation" if queries == 1 else "prefill")
    output = np.zeros((len(rows), queries, HEADS, DIM))
    used = np.zeros((len(rows), HEADS, queries, keys))
    for b, actions in enumerate(rows):
        shift = 1 if recipe.needle_span == "shifted" else 0
        needle = [
            j
            for j in range(keys)
            if any(s - shift <= setting["last"][b] - (keys - 1) + j < e - shift for s, e in setting["spans"][b])
        ]
        plain = np.zeros((HEADS, queries, keys))
        for h in range(HEADS):
            for i in range(queries):
                shared = h // (HEADS // KV_HEADS)
                exponentials = {
                    j: math.exp(sum(q[b, h, i] * k[b, shared, j]) / math.sqrt(DIM))
                    for j in range(keys)
                    if seen[b, i, j]
                }
                for j, e in exponentials.items():
                    plain[h, i, j] = e / sum(exponentials.values())
        weights = plain.copy()
        in_sight = any(seen[b, i, j] for i in range(queries) for j in needle)
        untouched = phase == "generation" and recipe.out_of_window == "untouched" and not in_sight
        for action in () if untouched else actions:
            if isinstance(action, Mass):
                weights = slow_mass(action, weights, plain, needle)
            elif isinstance(action, Only) and action.also:
                weights = slow_also(action, weights, needle, setting["last"][b], setting["questions"][b])
            else:
                weights = slow_manipulation(action, weights, seen[b], needle, recipe)
        for i in range(queries):
            kept = set(range(HEADS))
            for action in actions:
                if isinstance(action, KeepHeads):
                    kept &= slow_choice(action, plain[:, i], v[b], recipe)
            for h in kept:
                for j in range(keys):
                    output[b, i, h] += weights[h, i, j] * v[b, h // (HEADS // KV_HEADS), j]
        used[b] = weights
    return output, used


def slow_choice(action, plain, v, recipe):
    """Heads of one query that `action` keeps."""
    score = []
    for h in range(HEADS):
        if action.metric == "entropy":
            eps = recipe.entropy_eps
            score.append(-sum((w + eps) * math.log2(w + eps) for w in plain[h] if w + eps > 0))
        else:
            mixed = sum(plain[h, j] * v[h // (HEADS // KV_HEADS), j] for j in range(plain.shape[1]))
            score.append(-math.sqrt(sum(x * x for x in mixed)))
    return set(sorted(range(HEADS), key=lambda h: (round(score[h], 9), h))[: action.k])


def slow_also(action, weights, needle, last, question):
    """Only, with more than the needle left; each of its names in its own words."""
    heads, queries, keys = weights.shape
    changed = np.zeros_like(weights)
    for i in range(queries):
        left = set(needle)
        for j in range(keys):
            position, here = last - (keys - 1) + j, last - (queries - 1) + i
            if "self" in action.also and position == here:
                left.add(j)
            if "first" in action.also and position == 0:
                left.add(j)
            if "question" in action.also and question[0] <= position:
                left.add(j)
            if "answer" in action.also and question[1] <= position:
                left.add(j)
        for h in range(heads):
            total = sum(weights[h, i, j] for j in left)
            for j in left:
                changed[h, i, j] = weights[h, i, j] / total if action.renormalise and total > 0 else weights[h, i, j]
    return changed


def slow_mass(action, weights, plain, needle):
    heads, queries, _ = weights.shape
    changed = np.zeros_like(weights)
    for h in range(heads):
        for i in range(queries):
            wanted = sum(plain[h, i, j] for j in needle) if action.total == "needle" else action.total
            if (total := weights[h, i].sum()) > 0:
                changed[h, i] = weights[h, i] / total * wanted
    return changed


def slow_manipulation(action, weights, seen, needle, recipe):
    if isinstance(action, KeepHeads):
        return weights
    heads, queries, keys = weights.shape
    changed = np.zeros_like(weights)
    one_value = sum(weights[h, i, j] for h in range(heads) for i in range(queries) for j in needle)
    one_value = one_value / heads / max(len(needle), 1)
    for h in range(heads):
        for i in range(queries):
            row = weights[h, i]
            left = sum(row[j] for j in needle)
            in_row = [j for j in needle if seen[i, j]]
            for j in range(keys):
                if isinstance(action, Omit):
                    changed[h, i, j] = 0 if j in needle else row[j]
                elif isinstance(action, Only) and j in needle:
                    changed[h, i, j] = row[j] / left if action.renormalise and left > 0 else row[j]
                elif isinstance(action, Binary) and recipe.binary == "scalar" and j in needle:
                    changed[h, i, j] = one_value
                elif isinstance(action, Binary) and recipe.binary == "per-row" and j in in_row:
                    changed[h, i, j] = left / len(in_row)
    return changed


CONDITIONS = {
    "keep": (),
    "k=0": (KeepHeads(0),),
    "k=1": (KeepHeads(1),),
    "k=3": (KeepHeads(3),),
    "all heads": (KeepHeads(HEADS),),
    "k=2 by l2": (KeepHeads(2, "l2"),),
    "omit": (Omit(),),
    "only": (Only(),),
    "only renormalised": (Only(renormalise=True),),
    "binary": (Binary(),),
    "null": (Null(),),
    "omit & k=2": (Omit(), KeepHeads(2)),
    "k=2 & only": (KeepHeads(2), Only()),
    "binary & k=2 by l2": (Binary(), KeepHeads(2, "l2")),
    "only & omit": (Only(), Omit()),
    "only renormalised & binary": (Only(renormalise=True), Binary()),
    "entropy & l2": (KeepHeads(3), KeepHeads(3, "l2")),
    "k=4 & k=2": (KeepHeads(4), KeepHeads(2)),
    "only + self": (Only(also=("self",)),),
    "only + self, renormalised": (Only(renormalise=True, also=("self",)),),
    "only + first": (Only(also=("first",)),),
    "only + answer": (Only(also=("answer",)),),
    "only + question": (Only(also=("question",)),),
    "only + question, renormalised": (Only(renormalise=True, also=("question",)),),
    "only + self + first": (Only(also=("first", "self")),),
    "mass .5": (Mass(0.5),),
    "mass of the needle": (Mass("needle"),),
    "only & mass 2": (Only(), Mass(2.0)),
    "binary & mass .7": (Binary(), Mass(0.7)),
    "only + question & mass of the needle": (Only(also=("question",)), Mass("needle")),
    "only + self & k=2": (Only(also=("self",)), KeepHeads(2)),
}
ONE_FIELD = {
    f"CORRECTED, {name}": CORRECTED.replace(**{name: getattr(PAPER, name)})
    for name in ("needle_span", "out_of_window", "binary", "entropy_eps")
}
# What decides between equal scores under PAPER (bf16, torch.topk) has tests of its own.
UNTIED_PAPER = PAPER.replace(tie_break="lowest-index", entropy_dtype="float32")
VARIANTS = {"CORRECTED": CORRECTED, "PAPER": UNTIED_PAPER, **ONE_FIELD}


@pytest.mark.parametrize("recipe", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("setting", [PREFILL, STEP, GONE], ids=["prefill", "generation", "needle gone"])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_layer_is_the_slow_layer(condition, setting, recipe):
    rows = [CONDITIONS[condition]] * 2
    output, weights = run(setting, rows, recipe)
    expected, expected_weights = slow(setting, rows, recipe)
    np.testing.assert_allclose(weights, expected_weights, atol=2e-6)
    np.testing.assert_allclose(output, expected, atol=1e-5)


@pytest.mark.parametrize("phase", SETTINGS)
def test_each_row_of_a_batch_has_its_own_intervention(phase):
    for one, two in (("k=1", "k=3"), ("omit", "keep"), ("binary & k=2 by l2", "k=2 & only"), ("null", "k=2 by l2")):
        rows = [CONDITIONS[one], CONDITIONS[two]]
        np.testing.assert_allclose(run(SETTINGS[phase], rows)[0], slow(SETTINGS[phase], rows)[0], atol=1e-5)


@pytest.mark.parametrize("phase", SETTINGS)
def test_the_order_of_a_row_is_kept_where_rows_share_its_end(phase):
    rows = [(Omit(), Mass(2.0)), (Only(), Mass(2.0))]
    for both in (rows, rows[::-1]):
        np.testing.assert_allclose(run(SETTINGS[phase], both)[1], slow(SETTINGS[phase], both)[1], atol=5e-6)


@pytest.mark.parametrize("found", ["outputs", "calls", "acted", "due", "keep_heads", "manipulations", "streams"])
def test_what_a_frame_finds_out_cannot_be_given(found):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{found}'"):
        Frame("prefill", [()], [()], torch.tensor([3]), CORRECTED, **{found: None})


@pytest.mark.parametrize(("phase", "known"), [("prefill", "streaming"), ("generation", "right_aligned")])
def test_no_mask_is_made_where_it_is_known_what_each_query_sees(phase, known):
    """It would be as large as the weights that such a pass does without."""
    with frame(Frame(phase, [()], [()], torch.tensor([3]), CORRECTED, **{known: True})):
        assert made_mask("whatever transformers passes on") is None


def test_without_a_mask_the_padding_of_right_aligned_rows_alone_is_hidden():
    """Rows of 2 and 4 tokens in front of 4 keys; a mask that is given is the one that counts."""
    q, k, v = tensors(1, 4)
    given = torch.zeros(2, 1, 1, 4)
    given[..., 1] = torch.finfo(torch.float32).min
    everything, but_one = [[0, 1, 2, 3]] * 2, [[0, 2, 3]] * 2
    for right_aligned, mask, seen in (
        (True, None, [[2, 3], [0, 1, 2, 3]]),
        (False, None, everything),
        (True, given, but_one),
        (False, given, but_one),
    ):
        for actions in ((), (KeepHeads(HEADS),), (Mass(1.0),)):
            last = torch.tensor([1, 3])
            now = Frame("generation", [actions] * 2, [(), ()], last, CORRECTED, right_aligned=right_aligned)
            with frame(now):
                _, weights = attention(MODULE, q, k, v, mask, DIM**-0.5)
            assert [sorted({int(j) for j in (row > 0).nonzero()[:, -1]}) for row in weights] == seen
            torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS, 1))


@pytest.mark.parametrize(("rows", "keys", "dim"), [(6, 5, 4), (2, 6, 4), (3, 5, 6), (3, 2, 2)])
def test_heads_share_keys_whatever_else_is_as_many(rows, keys, dim):
    """As many rows, keys or dimensions as there are heads: the same as with a copy of the keys for each head."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(rows, HEADS, 1, dim, generator=generator)
    k, v = (torch.randn(rows, KV_HEADS, keys, dim, generator=generator) for _ in range(2))
    own = SimpleNamespace(**{**vars(MODULE), "num_key_value_groups": 1})
    copies = [x.repeat_interleave(HEADS // KV_HEADS, 1) for x in (k, v)]
    for actions in ((Omit(),), (KeepHeads(2, "l2"),)):
        last = torch.full((rows,), keys - 1)
        with frame(Frame("generation", [actions] * rows, [((1, 2),)] * rows, last, CORRECTED, right_aligned=True)):
            shared = attention(MODULE, q, k, v, None, dim**-0.5)
            torch.testing.assert_close(shared, attention(own, q, *copies, None, dim**-0.5))


def test_dropout_is_what_is_asked_for_and_for_training_alone():
    learning = SimpleNamespace(**{**vars(MODULE), "training": True})
    none, all_of_it, plain = (
        attention(module, *tensors(3, 3), None, 1.0, **options)[1]
        for module, options in ((learning, {}), (learning, {"dropout": 1.0}), (MODULE, {"dropout": 1.0}))
    )
    assert torch.equal(none, plain) and (plain > 0).all() and not all_of_it.any()


def test_every_row_of_a_frame_has_a_question_or_none_has():
    with pytest.raises(ValueError, match="shorter"):
        Frame("prefill", [(), ()], [(), ()], torch.tensor([3, 3]), CORRECTED, questions=[(1, 2)])


def test_bins_hold_the_weights_on_their_positions():
    """Keys 0 to 3 of one row, 2 to 5 of the other; nothing stands at position 6 yet, and its bin is there."""
    bins, last = [0, 0, 1, 2, 2, 1, 3], (3, 5)
    weights = torch.rand(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    found = Frame("generation", [()] * 2, [()] * 2, torch.tensor(last), CORRECTED).binned(weights, torch.tensor(bins))
    expected = torch.zeros(2, 3, 4, 2)
    for row in range(2):
        for key in range(4):
            expected[row, :, bins[last[row] - 3 + key]] += weights[row, ..., key]
    torch.testing.assert_close(found, expected)


def test_a_frame_follows_a_layer_to_its_device():
    """Its tensors, not its counts: what every layer did stands in one place."""
    rows, last = [(Omit(), KeepHeads(2)), (Only(also=("question",)),)], torch.tensor([8, 8])
    now = Frame("prefill", rows, PREFILL["spans"], last, CORRECTED, questions=PREFILL["questions"])
    moved = now.on(torch.device("meta"))

    def devices(of):
        pairs = [*of.keep_heads.values(), *of.manipulations]
        return {
            x.device.type
            for x in (of.last, of.bounds, of.asked, *(x for p in pairs for x in p))
            if hasattr(x, "device")
        }

    assert (devices(now), devices(moved)) == ({"cpu"}, {"meta"})
    assert now.on(last.device) is now and moved.acted is now.acted
    assert (
        [a for a, _ in moved.manipulations] == [a for a, _ in now.manipulations] == [Omit(), Only(also=("question",))]
    )
    assert list(moved.keep_heads) == list(now.keep_heads) == ["entropy"]


@pytest.mark.parametrize("phase", SETTINGS)
def test_conditions_differ_on_the_random_layer(phase):
    """Otherwise the comparisons above could not tell one intervention from another."""
    outputs = {name: run(SETTINGS[phase], [actions] * 2)[0] for name, actions in CONDITIONS.items()}
    same = {
        tuple(sorted((a, b)))
        for a in outputs
        for b in outputs
        if a != b and np.allclose(outputs[a], outputs[b], atol=1e-5)
    }
    # A query without a needle token in sight has nothing left to omit, hence only & omit = nothing at all = k=0.
    assert same == {("all heads", "keep"), ("k=0", "null"), ("k=0", "only & omit"), ("null", "only & omit")}


def test_weights_are_not_renormalised():
    plain = run(PREFILL, [(), ()])[1]
    inside = np.zeros(9, dtype=bool)
    inside[3:6] = True
    for action, share in ((Omit(), plain[0][..., ~inside].sum(-1)), (Only(), plain[0][..., inside].sum(-1))):
        weights = run(PREFILL, [(action,)] * 2)[1][0]
        np.testing.assert_allclose(weights.sum(-1), share, atol=1e-6)
        assert (weights.sum(-1) < 0.999).any()
    total = run(PREFILL, [(Only(renormalise=True),)] * 2)[1][0].sum(-1)
    np.testing.assert_allclose(total[:, :3], 0, atol=1e-6)  # nothing of the needle in sight yet
    np.testing.assert_allclose(total[:, 3:], 1, atol=1e-6)


def test_only_binary_and_null_remove_attention_to_oneself():
    for action in (Only(), Binary(), Null()):
        weights = run(PREFILL, [(action,)] * 2)[1][0]
        assert weights[:, 8, 8].max() == 0 < run(PREFILL, [(), ()])[1][0][:, 8, 8].min()


def test_binary_per_row_is_causal_and_the_scalar_is_not():
    seen = visible_keys(9, 9, (8, 8))
    per_row = run(PREFILL, [(Binary(),)] * 2)[1]
    scalar = run(PREFILL, [(Binary(),)] * 2, CORRECTED.replace(binary="scalar"))[1]
    assert per_row[:, :, ~seen[0]].max() == 0
    assert scalar[0, :, 0, 3:6].min() > 0  # the first token attends to a needle that comes later
    assert len(np.unique(scalar[0])) == 2  # 0 and one value, whatever the head and the query
    assert scalar.sum(-1).max() > 1
    assert len(np.unique(per_row[0])) > HEADS


@pytest.mark.parametrize("binary", ["per-row", "scalar"])
def test_binary_on_a_needle_of_one_token(binary):
    """The mean over one token is its weight: the scalar is that of all queries and heads."""
    one = {**PREFILL, "spans": (((3, 4),), ((1, 2),))}
    recipe = CORRECTED.replace(binary=binary)
    np.testing.assert_allclose(
        run(one, [(Binary(),)] * 2, recipe)[1], slow(one, [(Binary(),)] * 2, recipe)[1], atol=2e-6
    )


@pytest.mark.parametrize("action", [Omit(), Only(), Only(renormalise=True), Binary(), Null()], ids=repr)
def test_needle_out_of_the_window(action):
    plain = run(GONE, [(), ()])[1]
    untouched = run(GONE, [(action,)] * 2, CORRECTED.replace(out_of_window="untouched"))[1]
    acting = run(GONE, [(action,)] * 2)[1]
    np.testing.assert_array_equal(untouched[0], plain[0])
    np.testing.assert_array_equal(acting[0], plain[0] if isinstance(action, Omit) else np.zeros_like(plain[0]))
    np.testing.assert_array_equal(untouched[1], acting[1])  # this row still sees its needle
    assert not np.allclose(untouched[1], plain[1])


@pytest.mark.parametrize("recipe", [CORRECTED, PAPER], ids=["CORRECTED", "PAPER"])
def test_without_a_needle(recipe):
    """The control prompts: prefill acts under both recipes, generation leaves the weights alone under PAPER."""
    for setting in (PREFILL, STEP):
        bare = {**setting, "spans": ((), ())}
        plain = run(bare, [(), ()])[1]
        np.testing.assert_array_equal(run(bare, [(Omit(),)] * 2, recipe)[1], plain)
        acts = setting is PREFILL or recipe is CORRECTED
        np.testing.assert_array_equal(run(bare, [(Only(),)] * 2, recipe)[1], plain * (not acts))


def test_shifted_span_is_one_token_early():
    def changed(recipe):
        plain, omitted = run(PREFILL, [(), ()])[1], run(PREFILL, [(Omit(),)] * 2, recipe)[1]
        return [sorted({int(j) for j in np.nonzero((plain[row] != omitted[row]).any((0, 1)))[0]}) for row in (0, 1)]

    assert changed(CORRECTED) == [[3, 4, 5], [1, 2, 5, 6]]
    assert changed(CORRECTED.replace(needle_span="shifted")) == [[2, 3, 4], [0, 1, 4, 5]]


def test_scores_come_from_the_untouched_weights():
    """Heads kept under a manipulation are those kept without it, though the manipulation would reorder them."""
    kept = np.abs(run(PREFILL, [(KeepHeads(2),)] * 2)[0]).sum(-1) > 0
    together = np.abs(run(PREFILL, [(Binary(), KeepHeads(2))] * 2)[0]).sum(-1) > 0
    after = slow(PREFILL, [(Binary(),)] * 2)[1]
    assert (together <= kept).all()
    assert (together[:, 3:] == kept[:, 3:]).all()  # from the needle on, what is kept is not zero
    flat = [slow_choice(KeepHeads(2), after[0, :, i], np.zeros((KV_HEADS, 9, DIM)), CORRECTED) for i in range(3, 9)]
    assert any(chosen != set(np.nonzero(kept[0, 3 + n])[0]) for n, chosen in enumerate(flat))


@pytest.mark.parametrize("metric", ["entropy", "l2"])
@pytest.mark.parametrize("k", range(HEADS + 1))
def test_ties_go_to_the_lowest_heads(k, metric):
    """Queries of zeros make every head uniform: the same entropy, and with shared values the same norm."""
    q, key, v = tensors(5, 5)
    v = v[:, :1].expand(-1, KV_HEADS, -1, -1)
    with frame(Frame("prefill", [(KeepHeads(k, metric),)] * 2, [(), ()], torch.tensor([4, 4]), CORRECTED)):
        output, _ = attention(MODULE, q * 0, key, v, None, 0.5)
    kept = output.abs().sum(-1) > 0
    assert kept[..., :k].all() and not kept[..., k:].any()


def test_at_the_first_token_every_head_has_entropy_0():
    kept = np.abs(run(PREFILL, [(KeepHeads(2),)] * 2)[0][:, 0]).sum(-1) > 0
    assert kept.tolist() == [[True, True, False, False, False, False]] * 2


@pytest.mark.parametrize("recipe", [CORRECTED, PAPER], ids=["CORRECTED", "PAPER"])
@pytest.mark.parametrize("n", [1, 2, 8, 64])
def test_entropy_is_in_bits(n, recipe):
    weights = torch.zeros(3, 64)
    weights[:, :n] = 1 / n
    torch.testing.assert_close(head_entropy(weights, recipe), torch.full((3,), math.log2(n)), atol=1e-6, rtol=0)


def test_entropies_of_many_rows_are_those_of_each_row():
    weights = torch.rand(40, 32, 1, 300, generator=torch.Generator().manual_seed(0)).softmax(-1)
    assert torch.equal(head_entropy(weights), torch.cat([head_entropy(row[None]) for row in weights]))


def test_entropy_precision_and_guard_follow_the_recipe():
    weights = torch.softmax(torch.randn(200, 40, generator=torch.Generator().manual_seed(0)), -1)
    exact = -(weights.double() * weights.double().log2()).sum(-1)
    fine, coarse = head_entropy(weights), head_entropy(weights, PAPER)
    torch.testing.assert_close(fine.double(), exact, atol=1e-5, rtol=0)
    torch.testing.assert_close(coarse.double(), exact, atol=0.05, rtol=0)
    assert torch.equal(coarse, coarse.bfloat16().float()) and len(coarse.unique()) < len(fine.unique())
    sharp = torch.tensor([[1.0, 0.0, 0.0]])
    assert head_entropy(sharp).item() == 0
    guarded = head_entropy(sharp, CORRECTED.replace(entropy_eps=1e-3)).item()
    assert guarded == pytest.approx(-2 * 1e-3 * math.log2(1e-3) - 1.001 * math.log2(1.001), abs=1e-6)


@pytest.mark.parametrize("recipe", [CORRECTED, PAPER], ids=["CORRECTED", "PAPER"])
def test_keep_lowest_keeps_k_per_row_and_token(recipe):
    scores = torch.randint(0, 3, (4, HEADS, 50), generator=torch.Generator().manual_seed(0)).float()
    kept = keep_lowest(scores, torch.tensor([0, 1, 4, HEADS]), recipe)
    assert torch.equal(kept.sum(1), torch.tensor([0, 1, 4, HEADS])[:, None].expand(-1, 50))
    highest_kept = scores.masked_fill(~kept, -1).amax(1)
    lowest_dropped = scores.masked_fill(kept, 9).amin(1)
    assert (highest_kept <= lowest_dropped).all()
    if recipe is CORRECTED:
        order = [sorted(range(HEADS), key=lambda h: (scores[2, h, t].item(), h))[:4] for t in range(50)]
        assert [sorted(heads) for heads in order] == [kept[2, :, t].nonzero()[:, 0].tolist() for t in range(50)]


@pytest.mark.parametrize("recipe", [CORRECTED, PAPER], ids=["CORRECTED", "PAPER"])
@pytest.mark.parametrize("action", [KeepHeads(0), Null()], ids=repr)
def test_without_heads_only_the_output_bias_is_left(model, action, recipe):
    """RecurrentGemma's o_proj has a bias, Jamba's has none."""
    seen = []
    layers = [model.net.model.layers[i] for i in model.attention_layers]
    projections = [m for layer in layers for name, m in layer.named_modules() if name.endswith("o_proj")]
    hooks = [m.register_forward_hook(lambda m, _, out: seen.append((m.bias, out))) for m in projections]
    try:
        with implementation(model.net):
            decode.generate(model, random_ids(model, 12), action, ((3, 6),), recipe, max_new_tokens=2)
    finally:
        for hook in hooks:
            hook.remove()
    assert len(projections) == len(model.attention_layers) and len(seen) >= 2 * len(projections)
    acts = not (model.family == "jamba" and recipe is PAPER and isinstance(action, Null))
    for bias, out in seen:
        left = torch.zeros_like(out) if bias is None else bias.expand_as(out)
        assert (bias is None) == (model.family == "jamba")
        assert torch.equal(out, left) == acts


@pytest.mark.parametrize("phase", SETTINGS)
def test_only_acts_in_the_layers_that_it_names(phase):
    """The layer of `MODULE` is number 0; another row acts in every layer."""
    plain, only = run(SETTINGS[phase], [(), ()])[0], run(SETTINGS[phase], [(Only(),)] * 2)[0]
    here, elsewhere = (run(SETTINGS[phase], [(Only(layers=layers),), (Only(),)])[0] for layers in ((0, 2), (2,)))
    np.testing.assert_array_equal(here, only)
    np.testing.assert_array_equal(elsewhere[0], plain[0])
    np.testing.assert_array_equal(elsewhere[1], only[1])


def test_a_question_that_is_not_known_cannot_be_kept():
    for action in (Only(also=("question",)), Only(also=("self", "answer"))):
        with pytest.raises(HybretError, match="does not say where its question is"):
            run({**STEP, "questions": ((6, 10), None)}, [(action,)] * 2)
    run({**STEP, "questions": ((6, 10), None)}, [(Only(also=("question",)),), (Only(also=("self",)),)])


def test_only_is_one_value_whatever_the_order_and_its_plain_repr_stays():
    assert Only(also=("question", "self")) == Only(also=("self", "question", "self"))
    assert Only(layers=(5, 2, 5)) == Only(layers=(2, 5)) != Only()
    assert repr(Only()) == "Only(during='both', renormalise=False)"  # the key of rows that are stored already
    assert repr(Only("prefill", also=("self",))) == "Only(during='prefill', renormalise=False, also=('self',))"
    assert Only("generation", True, ("answer", "self"), (5,)).label == (
        "only (generation) + self + answer in layer 5, renormalised"
    )
    assert KeepHeads(2, "l2", "generation").label == "k=2, l2 (generation)"
    assert Only(layers=(5, 2)).label == "only in layer 2, 5"
    assert (Mass(2).label, Mass("needle", "prefill").label) == ("mass 2", "mass that on the needle (prefill)")
    assert Mass(1) == Mass(1.0) != Mass(0) and repr(Mass(1)) == repr(Mass(1.0))


@pytest.mark.parametrize("base", [hb.Intervention, hb.interventions.Elementary])
def test_an_intervention_that_does_not_say_when_it_acts_is_none(base):
    """What is left out of one of one's own is said; its label is its value."""

    class Mine(base):
        pass

    with pytest.raises(NotImplementedError):
        Mine().at("prefill")
    if base is hb.Intervention:
        assert Mine().label == repr(Mine())


def test_interventions_are_values():
    assert KeepHeads(2) == KeepHeads(2, "entropy", "both") != KeepHeads(2, "l2")
    assert len({Omit(), Omit("both"), Omit("prefill"), Only(), Only(renormalise=True)}) == 4
    for value in (
        KeepHeads(3, "l2", "prefill"),
        Only("generation", True),
        Only(also=("self", "question"), layers=(2, 5)),
        Only("prefill", layers=(0,)) & Mass("needle"),
        Omit() & KeepHeads(1),
        PerPhase(Null(), Keep()),
    ):
        assert eval(repr(value)) == value
    with pytest.raises(AttributeError):
        KeepHeads(2).k = 3


def test_composition_keeps_order_and_is_flat():
    both = Omit() & KeepHeads(2) & Only("generation")
    assert both == Compose((Omit(), KeepHeads(2), Only("generation")))
    assert both.at("prefill") == (Omit(), KeepHeads(2))
    assert both.at("generation") == (Omit(), KeepHeads(2), Only())
    assert both.label == "omit & k=2 (prefill + generation) & only (generation)"


@pytest.mark.parametrize("kind", [Omit, Only, Binary, Null, lambda during: KeepHeads(3, during=during)])
def test_phases_of_an_intervention(kind):
    always = (kind("both"),)
    assert (kind("prefill").at("prefill"), kind("prefill").at("generation")) == (always, ())
    assert (kind("generation").at("prefill"), kind("generation").at("generation")) == ((), always)
    assert kind("both").at("prefill") == kind("both").at("generation") == always
    assert PerPhase(generation=kind("both"), prefill=Keep()).at("generation") == always
    assert PerPhase(generation=kind("both"), prefill=Keep()).at("prefill") == ()


def test_table_1_has_every_pair_once():
    table = hb.table1_conditions()
    assert list(table)[:5] == ["Keep-Keep", "Omit-Keep", "Only-Keep", "Binary-Keep", "Keep-Omit"]
    assert len(table) == 20 and len({(c.at("prefill"), c.at("generation")) for c in table.values()}) == 20
    assert table["Only-Null"] == PerPhase(generation=Only(), prefill=Null())
    assert not any(c.generation == Null() for c in table.values())


@pytest.mark.parametrize("k", [-1, 1.0, True, "2", None])
def test_k_must_be_a_whole_number(k):
    with pytest.raises(HybretError, match="whole number from 0"):
        KeepHeads(k)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KeepHeads(1, "variance"), "unknown head metric 'variance'; choose one of entropy, l2"),
        (lambda: KeepHeads(1, during="decoding"), "during is one of prefill, generation, both"),
        (lambda: Omit("answer"), "unknown phase 'answer'"),
        (lambda: Only("answer"), "unknown phase 'answer'"),
        (lambda: Binary("answer"), "unknown phase 'answer'"),
        (lambda: Null(""), "unknown phase ''"),
        (lambda: Omit(np.array(["prefill", "both"])), "unknown phase array"),
        (lambda: Compose([Omit(), Only()]), "a composition is made of a tuple of interventions, not of"),
        (lambda: Mass(1.0, "answer"), "unknown phase 'answer'"),
        (lambda: Mass(-0.1), "the attention mass is -0.1; it must be a number from 0 on, or 'needle'"),
        (lambda: Mass(float("nan")), "the attention mass is nan"),
        (lambda: Mass("self"), "the attention mass is 'self'"),
        (lambda: Mass(True), "the attention mass is True"),
        (lambda: Mass(math.inf), "the attention mass is inf"),
        (lambda: Only(also="self"), "Only cannot keep 'self'; also is a tuple of some of self, first, question"),
        (lambda: Only(also=("self", "bos")), "Only cannot keep 'bos'"),
        (lambda: Only(layers=(0, "2")), "^a layer is '2'; give a whole number"),
        (lambda: validate(Only(layers=(2, 3)), 6, (2, 5)), "layer 3 is no attention layer of this model; choose some"),
        (lambda: validate(KeepHeads(7), 6), "choose k from 0 to 6"),
        (lambda: validate(Omit() & KeepHeads(7, during="generation"), 6), "k is 7, but this model has 6 heads"),
        (lambda: validate(PerPhase(generation=KeepHeads(7), prefill=Keep()), 6), "k is 7"),
        (lambda: validate("omit", 6), "'omit' is not an intervention"),
        (lambda: CORRECTED.replace(insert="character"), "field of a recipe 'insert'"),
        (lambda: CORRECTED.replace(rubric=" "), "rubric is ' '"),
        (lambda: hb.recipe.Recipe(""), "name is ''"),
        (lambda: hb.recipe.recipe("AUTHORS"), "unknown recipe 'AUTHORS'; choose one of PAPER, CORRECTED"),
    ],
)
def test_bad_values_are_refused_in_one_sentence(make, message):
    with pytest.raises(HybretError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


DECISIONS = {
    "insertion": ("character", "token-id"),
    "needle_span": ("exact", "shifted"),
    "out_of_window": ("act", "untouched"),
    "binary": ("per-row", "scalar"),
    "entropy_dtype": ("float32", "bfloat16"),
    "entropy_eps": (0.0, 1e-12),
    "tie_break": ("lowest-index", "topk"),
    "prompt_split": ("last-token", "family"),
    "jamba_manipulation": ("acts", "no-op"),
    "rubric": ("table2", "table2-code"),
}


def test_the_two_recipes_are_what_text_and_code_say():
    """In full, so that no decision changes its side unseen; a value of neither side is refused."""
    for recipe, side in ((CORRECTED, 0), (PAPER, 1)):
        assert vars(recipe) == {"name": recipe.name} | {name: values[side] for name, values in DECISIONS.items()}
        assert hb.recipe.recipe(recipe.name) is hb.recipe.recipe(recipe) is recipe
        assert len(recipe.engine_key) == 12
    assert list(hb.recipe.RECIPES) == ["PAPER", "CORRECTED"]
    for name in DECISIONS.keys() - {"rubric", "entropy_eps"}:
        with pytest.raises(HybretError, match=f"{name} 'other'; choose one of {', '.join(DECISIONS[name])}"):
            CORRECTED.replace(**{name: "other"})
    for eps in (-1e-12, 1, float("nan")):
        with pytest.raises(HybretError, match="^entropy_eps is"):
            CORRECTED.replace(entropy_eps=eps)
    with pytest.raises(HybretError, match="a recipe has no field 'name'"):
        CORRECTED.replace(name="mine")
    with pytest.raises(AttributeError):
        CORRECTED.binary = "scalar"


def test_recipes_say_what_differs():
    derived = CORRECTED.replace(binary="scalar", entropy_eps=1e-12)
    assert derived.name == "CORRECTED(binary=scalar, entropy_eps=1e-12)"
    assert (derived.binary, derived.entropy_eps, derived.tie_break) == ("scalar", 1e-12, "lowest-index")
    assert derived.engine_key != CORRECTED.engine_key != PAPER.engine_key
    assert CORRECTED.replace(rubric="table2-code", insertion="token-id").engine_key == CORRECTED.engine_key
