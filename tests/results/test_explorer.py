"""The retrieval-map explorer: its state is the rows, its page is safe, and it does what its controls say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import hybret as hb
from hybret.cli import app
from hybret.explorer import contexts, maps
from hybret.explorer.state import OTHER, checked, state_of
from hybret.scoring import score

FULL = hb.PAPER_NEEDLE.sentence
HALF = "You should eat a sandwich, in Dolores Park!"
NASTY = (
    "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'> "
    "\x1b[31m [a](javascript:alert(1)) \u202e"
)


def line(k, length, depth, answer, **more):
    points, exact, _ = score(answer, "table2")
    return {
        "model": "toy", "weights": "abc123abc123", "recipe": "CORRECTED", "condition": f"k={k} (generation)",
        "intervention": f"KeepHeads(k={k}, metric='entropy', during='generation')", "k": k, "during": "generation",
        "template": "base", "haystack": "embedded", "haystack_seed": 0, "needle": "paper",
        "asked": hb.PAPER_NEEDLE.digest,
        "length": length, "depth": float(depth), "tokens": length - 3, "distance": int(length * (100 - depth) / 100),
        "in_window": length * (100 - depth) / 100 < 150, "answer": answer, "score": points, "exact": exact,
        "rubric": "table2", "prompt": f"{length}-{depth}", "device": "cpu", "dtype": "float32", **more,
    }  # fmt: skip


def toy(ks=(0, 2, 4, 8), lengths=(100, 200, 300, 400), depths=(0, 50, 100), **more) -> pd.DataFrame:
    """Retrieval that is gone below k = 4, half there at 4, and whole with 8 heads."""
    said = {8: FULL, 4: HALF}
    rows = [line(k, n, d, said.get(k, NASTY), **more) for k in ks for n in lengths for d in depths]
    rows += [line(k, n, 0, "no", needle="none", distance=-1, in_window=False, **more) for k in ks for n in lengths]
    return pd.DataFrame(rows).astype({"k": "Int64"})


def decoded(state) -> pd.DataFrame:
    """The rows that a state stands for."""
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


# ---------------------------------------------------------------- the state


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


def test_steps_carry_accuracy_and_floor():
    state, _ = state_of(checked(toy()), {})
    assert [step["k"] for step in state["steps"]] == [8, 4, 2, 0]
    assert [step["accuracy"] for step in state["steps"]] == [1, 0.3, 0, 0]
    assert {step["floor"] for step in state["steps"]} == {0}


def test_the_first_view_sets_all_heads_beside_the_collapse():
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


def test_a_score_that_the_rubric_does_not_give_is_not_explained():
    state, _ = state_of(checked(toy().assign(score=2.5)), {})
    assert state["items"] == [[]]


def test_conditions_without_k_are_a_series_of_their_own():
    more = [
        line(None, n, d, FULL, condition="Keep-Keep", intervention="PerPhase()", during=None)
        for n in (1, 2)
        for d in (0, 9)
    ]
    state, _ = state_of(checked(pd.concat([toy(), pd.DataFrame(more)])), {})
    assert [s["setting"] for s in state["series"]][-1] == OTHER
    assert state["steps"][-1]["label"] == "Keep-Keep" and state["steps"][-1]["k"] is None
    named = pd.DataFrame(more).assign(condition="as in another chapter", generation="only + self", prefill="keep")
    assert state_of(checked(named), {})[0]["steps"][0]["label"] == "Only + self-Keep"


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


def test_own_needles_and_haystacks_are_shown_too(tiny, tmp_path):
    (tmp_path / "hills").mkdir()
    (tmp_path / "hills" / "a.txt").write_text("The hill is green, and the road is long. " * 80)
    lamp = hb.Needle("lamp", "A blue lamp stands in the boathouse.", "What stands in the boathouse?")
    prompts = hb.niah.grid(tiny, (128,), (50,), needle=lamp, haystack=tmp_path / "hills")
    rows = pd.DataFrame(
        line(1, p.length, p.depth, "", model="griffin-tiny", haystack=p.haystack, needle="lamp", prompt=p.key)
        | {"asked": lamp.digest}
        for p in prompts
    ).astype({"k": "Int64"})
    found = contexts.rebuilt(rows, [lamp], tmp_path / "hills")
    assert found == contexts.given(prompts) and "The hill is green" in found[prompts[0].key][0]
    assert contexts.rebuilt(rows, [lamp]) == contexts.rebuilt(rows, (), tmp_path / "hills") == {}


def test_the_command_takes_the_haystack_of_the_rows(tiny, tmp_path):
    (tmp_path / "hills").mkdir()
    (tmp_path / "hills" / "a.txt").write_text("The hill is green, and the road is long. " * 80)
    (p,) = hb.niah.grid(tiny, (128,), (50,), haystack=tmp_path / "hills")
    row = line(1, p.length, p.depth, "", model="griffin-tiny", haystack=p.haystack, prompt=p.key)
    pd.DataFrame([row]).astype({"k": "Int64"}).to_parquet(tmp_path / "rows-1.parquet")
    for options, there in (([], False), (["--haystack", str(tmp_path / "hills")], True)):
        assert CliRunner().invoke(app, ["explore", str(tmp_path), *options]).exit_code == 0
        assert ("The hill is green" in (tmp_path / "explorer.html").read_text()) == there


def test_the_context_is_what_the_model_read(tiny):
    prompts = hb.niah.grid(tiny, 2, 3) + hb.niah.grid(tiny, 2, 2, "jrt")
    given = contexts.given(prompts)
    for prompt in prompts:
        before, after = given[prompt.key]
        assert before.lstrip("…") + FULL + after.rstrip("…") in prompt.text
        assert len(before) + len(after) <= 300
    rows = pd.DataFrame(
        [line(1, p.length, p.depth, "", model="griffin-tiny", template=p.template, prompt=p.key) for p in prompts]
        + [line(1, prompts[0].length, 0, "", model="griffin-tiny", prompt="anotherone12")]
    )
    assert contexts.rebuilt(rows) == given


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (toy().drop(columns="depth"), "no column 'depth'"),
        (toy().drop(columns="answer"), "no column 'answer'"),
        (toy(rubric="mine"), "unknown rubric .mine.; choose one of 2025-05"),
        (toy().iloc[:0], "no rows to explore"),
        (toy().query("needle == 'none'"), "no row has a needle"),
        (toy().assign(depth=float("nan")), "no row has a needle with a length and a depth"),
        (toy().assign(score=float("nan")), "no score"),
        ([1], "not list"),
    ],
)
def test_rows_without_a_map_are_one_sentence(rows, message):
    with pytest.raises(hb.HybretError, match=message):
        hb.explore(rows)


# ---------------------------------------------------------------- the page


def test_answers_cannot_leave_the_state():
    page = hb.explore(toy(), prompts=[]).page()
    assert page.count("</script>") == 2 and "<img" not in page
    state = re.search(r'class="hb-state">(.*?)</script>', page, re.DOTALL)
    assert state and NASTY in json.loads(state[1])["answers"]


def test_the_fallback_is_a_table_of_accuracies():
    view = hb.explore(toy(model="<b>"), prompts=[])
    assert view.fallback.count("<tr>") == 5 and "30.0 %" in view.fallback
    assert "&lt;b&gt;" in view.fallback and "<b>" not in view.fallback


def test_a_picked_cell_gives_its_rows():
    pytest.importorskip("anywidget")
    view = hb.explore(toy(), prompts=[])
    assert view.selected is None
    view.live.picked = {"a": [0], "b": [len(view.state["rows"]["place"]) - 1], "c": [1]}
    assert [(row["map"], row["k"]) for row in view.selected] == [("A", 8), ("B", 0)]
    assert set(toy().columns) <= set(view.selected[0])
    assert {type(view.selected[0][name]) for name in ("k", "length", "score")} <= {int, float}


def test_the_command_writes_a_page_and_prints_its_path(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        toy(model=name).to_parquet(tmp_path / name / "rows-1.parquet")
    done = CliRunner().invoke(app, ["explore", str(tmp_path), "--out", str(tmp_path / "x.html")])
    assert done.exit_code == 0 and done.stdout.strip() == str(tmp_path / "x.html")
    assert all(name in (tmp_path / "x.html").read_text() for name in ("one", "two"))
    done = CliRunner().invoke(app, ["explore", str(tmp_path / "one")])
    assert Path(done.stdout.strip()) == tmp_path / "one" / "explorer.html"


@pytest.mark.parametrize("name", ["missing", "empty", "damaged", "changed"])
def test_a_folder_without_rows_is_one_sentence(tmp_path, name):
    if name != "missing":
        (tmp_path / name).mkdir()
    if name == "damaged":
        (tmp_path / name / "rows-1.parquet").write_bytes(b"PAR1")
    if name == "changed":  # whole, and not what its name says
        toy().assign(score=5.0).to_parquet(tmp_path / name / f"rows-1.{'0' * 12}.parquet")
    with pytest.raises(hb.HybretError, match="no run folder|holds no rows|is damaged"):
        maps.rows_of(tmp_path / name)


# ---------------------------------------------------------------- in a browser


@pytest.fixture
def view(page, tmp_path):
    """Open rows in the browser; returns the page."""

    def opened(rows, size=(1200, 900), copies=1, **context):
        page.set_viewport_size({"width": size[0], "height": size[1]})
        if context:
            page.emulate_media(**context)
        explorer = hb.explore(rows, prompts=[])
        path = tmp_path / "page.html"
        if copies == 1:
            explorer.save(path)
        else:
            path.write_text("<!doctype html><meta charset=utf-8>" + explorer.html() * copies, encoding="utf-8")
        page.goto(path.as_uri())
        page.locator(".hb-maps canvas").nth(3 * copies - 1).wait_for()
        return page

    yield opened
    assert not page.requests and not page.problems
    assert page.evaluate("window.hacked") is None


def titles(page):
    return page.locator(".hb-maps-map .hb-maps-title b").all_text_contents()


def test_the_slider_moves_the_map_and_the_curve(view):
    page = view(toy())
    assert titles(page) == ["A · toy · k = 8", "B · toy · k = 2", "B − A"]
    page.get_by_label("k of B").press("ArrowRight")
    assert titles(page)[1] == "B · toy · k = 4" and "30.0 %" in page.locator(".hb-maps-title").nth(1).text_content()
    page.locator("circle[data-step]").last.click()
    assert titles(page)[1] == "B · toy · k = 8"
    assert "0 points on average" in page.locator(".hb-maps-title").nth(2).text_content()


def test_a_cell_is_reached_by_keyboard_and_told(view):
    page = view(toy())
    canvas = page.locator("canvas").nth(1)
    canvas.focus()
    for key in ("Home", "ArrowUp", "ArrowUp", "ArrowRight", "ArrowDown"):
        canvas.press(key)
    said = page.locator(".hb-maps-readout").text_content()
    assert said.startswith("Length 200, depth 50 %.")
    assert "A (k = 8): score 5 of 5, full needle yes; B (k = 2): score 0 of 5, full needle no; B − A: −100" in said
    canvas.press("Enter")
    assert page.locator(".hb-maps-detail h3").text_content() == "Length 200, depth 50 %"


def test_jupyterlab_leaves_the_keys_of_a_view_alone(view):
    """Its shortcuts skip an element with the attribute; those with Ctrl, such as saving, stay."""
    page = view(toy())
    for part in (page.locator("canvas").first, page.get_by_label("k of B"), page.locator(".hb-maps-play")):
        for key, left in (("b", ""), ("Control+s", None), ("ArrowLeft", "")):
            part.press(key)
            assert part.get_attribute("data-lm-suppress-shortcuts") == left


def test_a_map_drawn_out_of_sight_keeps_its_width(view):
    """Notebooks hide the cells that are scrolled away; themes and Play draw on."""
    page = view(toy())
    assert (
        page.evaluate(
            """async () => {
        const box = document.querySelector(".hb-maps"), canvas = box.querySelector("canvas");
        const before = canvas.clientWidth;
        box.style.display = "none";
        document.documentElement.dataset.theme = "dark";
        await new Promise((heard) => queueMicrotask(() => queueMicrotask(heard)));
        box.style.display = "";
        return [before, canvas.clientWidth];
        }"""
        )
        == [page.locator(".hb-maps-canvas").first.evaluate("box => box.clientWidth")] * 2
    )


def test_a_click_shows_answers_as_text_with_what_was_found(view):
    page = view(toy())
    box = page.locator("canvas").nth(0).bounding_box()
    page.locator("canvas").nth(0).click(position={"x": box["width"] - 20, "y": 20})
    assert page.locator(".hb-maps-detail h3").text_content() == "Length 400, depth 0 %"
    said = page.locator(".hb-maps-said")
    assert said.nth(0).locator("mark").all_text_contents() == [FULL.rstrip(".")]
    assert said.nth(1).text_content() == NASTY.replace("\x1b", "␛").replace("\u202e", "⟨U+202E⟩")
    page.get_by_label("k of B").press("ArrowRight")
    assert said.nth(1).locator("mark").all_text_contents() == ["eat a sandwich", "Dolores Park"]
    found = page.locator(".hb-maps-answer").nth(1).locator("tr.hb-maps-found td:nth-child(2)").all_text_contents()
    assert found == ["eat a sandwich", "dolores park"]
    assert "give the prompts" in page.locator(".hb-maps-missing").text_content()


def test_play_runs_down_to_no_heads_and_stops(view):
    page = view(toy())
    page.get_by_label("k of B").press("End")
    button = page.get_by_role("button", name="Play over k")
    button.click()
    page.get_by_role("button", name="Pause").wait_for()
    page.locator(".hb-maps-title", has_text="B · toy · k = 0").wait_for(timeout=20_000)
    button.wait_for()


def test_the_choices_follow_each_other(view):
    wide = toy(model="wide", lengths=(111, 222), weights="ffff")
    page = view(pd.concat([toy(), toy(recipe="PAPER", ks=(0, 8)), wide]))
    page.get_by_label("Recipe of B").select_option("PAPER")
    assert titles(page)[1] in ("B · toy · k = 0", "B · toy · k = 8")
    page.get_by_label("Model of B").select_option("wide")
    assert page.get_by_label("Recipe of B").is_disabled()
    assert page.locator(".hb-maps-empty:visible").text_content().startswith("A and B share no prompt")
    assert "model wide (ffff)" in page.locator(".hb-maps-source").text_content()


def test_two_explorers_on_one_page_do_not_touch(view):
    page = view(toy(), copies=2)
    page.get_by_label("k of B").nth(1).press("ArrowRight")
    assert titles(page)[1] == "B · toy · k = 2" and titles(page)[4] == "B · toy · k = 4"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_dark_pages_have_dark_views(view, scheme):
    page = view(toy(), color_scheme=scheme)
    ink = "getComputedStyle(document.querySelector('.hb-maps')).color"
    first = page.evaluate(ink)
    assert (first == "rgb(230, 230, 230)") == (scheme == "dark")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert page.evaluate(ink) == "rgb(230, 230, 230)"
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    assert page.evaluate(ink) == "rgb(34, 34, 34)"


def test_a_phone_does_not_scroll_sideways(view):
    page = view(toy(model="a-model-with-a-long-name/and-an-owner-with-one-too"), size=(360, 700))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("canvas").nth(0).bounding_box()["width"] > 280


def test_random_weights_are_marked(view):
    page = view(toy(model="random-griffin", weights="random"))
    assert page.locator(".hb-maps-random:visible").count() == 3
    assert "nothing here is a result" in page.locator(".hb-maps-source").text_content()


def test_fifty_thousand_cells_are_quick(view):
    grid = {"lengths": range(100, 2100, 100), "depths": np.linspace(0, 100, 20).round(2)}
    rows = toy(ks=range(125), **grid)
    assert (rows["needle"] != "none").sum() == 50_000
    page = view(rows)
    slider = page.get_by_label("k of B")
    for _ in range(20):
        slider.press("ArrowRight")
    times = page.evaluate("performance.getEntriesByType('measure').map((m) => [m.name, m.duration])")
    first = [t for name, t in times if name.endswith(":first")]
    change = [t for name, t in times if name.endswith(":change")]
    print(f"first draw {first[0]:.0f} ms, change of k {np.median(change):.1f} ms (median of {len(change)})")
    assert len(change) == 20
    # The aims are 1000 and 50 ms; a machine that tests run on may be busy with others.
    assert first[0] < 5000 and np.median(change) < 250


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_a_readers_way(view, scheme):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is not installed: pip install .[dev]"
    )
    page = view(toy(), color_scheme=scheme)
    found = axe.Axe().run(page).response["violations"]
    inside = [(v["id"], n["target"]) for v in found for n in v["nodes"] if v["impact"] in ("serious", "critical")]
    assert not inside


def test_paper_has_the_colours_of_the_day(view):
    page = view(toy(), color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    page.wait_for_function("getComputedStyle(document.querySelector('.hb-maps')).color === 'rgb(34, 34, 34)'")
    assert not page.locator(".hb-maps-controls").is_visible() and page.locator("canvas").nth(1).is_visible()
