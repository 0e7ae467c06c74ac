"""The explorer's state is the rows: what is drawn of them, what is kept apart, and what the floor is."""

import json

import pandas as pd
import pytest
from support import FULL, HALF, toy

import hybret as hb
from hybret.explorer.state import checked, contexts_of, state_of


def decoded(state):
    found = []
    for step, (first, last) in enumerate(zip(state["starts"], state["starts"][1:], strict=False)):
        series = state["series"][state["steps"][step]["series"]]
        for place, said in zip(*(state["rows"][name][first:last] for name in ("place", "said")), strict=True):
            at = {name: values[place] for name, values in state["places"].items() if name not in ("before", "after")}
            what = {name: values[said] for name, values in state["said"].items() if name != "items"}
            what["answer"] = state["answers"][what["answer"]]
            names = {name: series[name] for name in ("model", "recipe", "template", "rubric", "weights")}
            found.append({**at, **what, **names, "k": state["steps"][step]["k"]})
    return pd.DataFrame(found)


@pytest.mark.parametrize("seed", range(4))
def test_the_state_is_the_rows(seed):
    rows = pd.concat(
        [toy(), toy(model="other", weights="def"), toy(recipe="PAPER"), toy(haystack_seed=1), toy(template="jrt")]
    ).sample(frac=0.7, random_state=seed)
    state, order = state_of(checked(rows), {})
    json.dumps(state, allow_nan=False)
    columns = [
        "model", "weights", "recipe", "template", "rubric", "k", "length", "depth", "tokens", "distance", "in_window",
        "haystack_seed", "needle", "haystack", "answer", "score", "exact",
    ]  # fmt: skip
    expected = rows[rows["needle"] != "none"][columns]

    def plain(table):
        table = table[columns].astype({"k": int, "depth": float, "score": float, "in_window": int, "exact": int})
        return table.sort_values(columns).reset_index(drop=True)

    pd.testing.assert_frame_equal(plain(decoded(state)), plain(expected), check_dtype=False)
    assert len(set(order)) == len(expected)


def test_steps_carry_accuracy_and_floor_and_the_first_view_sets_all_heads_beside_the_collapse():
    state, _ = state_of(checked(toy()), {})
    assert [step["k"] for step in state["steps"]] == [8, 4, 2, 0]
    assert [step["accuracy"] for step in state["steps"]] == [1, 0.3, 0, 0]
    assert {step["floor"] for step in state["steps"]} == {0}
    metrics = [toy(intervention=f"KeepHeads(k=1, metric={m!r})") for m in ("entropy", "weight-norm", "output-norm")]
    settings = {series["setting"] for series in state_of(checked(pd.concat(metrics)), {})[0]["series"]}
    assert len(settings) == 3 and sum("weight-norm" in setting for setting in settings) == 1
    state, _ = state_of(checked(pd.concat([toy(template="jrt"), toy()])), {})
    a, b = (state["steps"][state["start"][side]] for side in "ab")
    assert (a["k"], b["k"]) == (8, 2)
    assert state["series"][a["series"]]["template"] == "base"


def test_a_floor_is_that_of_the_rows_and_counts_each_control_once():
    rows = toy()
    control = rows["needle"] == "none"
    rows.loc[control & (rows["length"] == 100), "score"] = 1.0
    shown = state_of(checked(rows), {})[0]["steps"]
    assert {step["floor"] for step in shown} == {0.05}
    again = pd.concat([rows, rows[control & (rows["length"] == 100)]])  # of two sweeps that overlap
    assert state_of(checked(again), {})[0]["steps"] == shown
    longer = rows[control | (rows["length"] > 100)]
    assert {step["floor"] for step in state_of(checked(longer), {})[0]["steps"]} == {0.0}


def test_a_score_is_explained_item_by_item():
    state, _ = state_of(checked(toy()), {})
    half = state["answers"].index(HALF)
    said = state["said"]["answer"].index(half)
    items = {phrase: (points, found) for phrase, points, found, _ in state["items"][state["said"]["items"][said]]}
    assert items["eat a sandwich"] == (1, 1) and items["dolores park"] == (0.5, 1) and items["sunny day"] == (1, 0)
    state, _ = state_of(checked(toy().assign(score=2.5)), {})
    assert state["items"] == [[]]  # the rubric does not give such a score


@pytest.mark.parametrize(
    ("said", "more"),
    [
        ("needle lamp", {"needle": "lamp", "asked": "lamps"}),
        ("haystack texts", {"haystack": "texts"}),
        ("bfloat16 on cuda", {"device": "cuda", "dtype": "bfloat16"}),
        ("run 2", {"run": "2"}),
    ],
)
def test_needles_haystacks_devices_and_runs_are_kept_apart_and_named(said, more):
    rows = toy(ks=(0, 8), run="1").query("needle == 'paper'")
    one, other = rows.assign(score=1.0), rows.assign(score=2.0, **more)
    state, _ = state_of(checked(pd.concat([one, other])), {})
    assert [said in series["prompt"] for series in state["series"]] == [False, True]
    assert {(step["series"], step["accuracy"]) for step in state["steps"]} == {(0, 0.2), (1, 0.4)}
    (alone,) = state_of(checked(other), {})[0]["series"]
    assert alone["prompt"] == "standard prompt"


def test_the_floor_is_that_of_the_needle_itself():
    lamp = toy(ks=(8,)).replace({"needle": {"paper": "lamp"}}).assign(asked="lamps", score=5.0)
    paper = toy(ks=(8,))
    paper = paper[paper["needle"] != "none"]  # without a control of its own
    state, _ = state_of(checked(pd.concat([lamp, paper])), {})
    assert [step["floor"] for step in state["steps"]] == [1.0, None]


def test_the_context_is_what_the_model_read(tiny):
    prompts = hb.niah.grid(tiny, 2, 3) + hb.niah.grid(tiny, 2, 2, "jrt")
    contexts = contexts_of(prompts)
    for prompt in prompts:
        before, after = contexts[prompt.key]
        assert before.lstrip("…") + FULL + after.rstrip("…") in prompt.text
        assert len(before) + len(after) <= 300


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (toy().drop(columns="depth"), "no column 'depth'"),
        (toy().drop(columns="answer"), "no column 'answer'"),
        (toy(rubric="mine"), "unknown rubric .mine."),
        (toy().iloc[:0], "no rows to explore"),
        (toy().query("needle == 'none'"), "no row has a needle"),
        (toy().assign(depth=float("nan")), "no row has a needle with a length and a depth"),
        (toy().assign(score=float("nan")), "no score"),
        ([1], "not list"),
    ],
)
def test_rows_without_a_map_are_one_sentence(rows, message):
    with pytest.raises(hb.HybretError, match=message):
        checked(rows)
