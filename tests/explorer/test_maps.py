"""The retrieval-map explorer: its page is safe, and it does what its controls say."""

import json
import re

import pandas as pd
import pytest
from support import FULL, NASTY, run, toy

import hybret as hb


def test_answers_cannot_leave_the_state_and_the_fallback_is_a_table_of_accuracies():
    view = hb.explore(toy(model="<b>"), prompts=[])
    page = view.page()
    assert page.count("</script>") == 2 and "<img" not in page
    state = re.search(r'class="hb-state">(.*?)</script>', page, re.DOTALL)
    assert state and NASTY in json.loads(state[1])["answers"]
    assert view.fallback.count("<tr") == 5 and "30.0 %" in view.fallback
    assert "&lt;b&gt;" in view.fallback and "<b>" not in view.fallback


def test_a_picked_cell_gives_its_rows():
    pytest.importorskip("anywidget")
    view = hb.explore(toy(), prompts=[])
    assert view.selected is None
    view.live.picked = {"a": [0], "b": [len(view.state["rows"]["place"]) - 1], "c": [1]}
    assert [(row["map"], row["k"]) for row in view.selected] == [("A", 8), ("B", 0)]
    assert set(toy().columns) <= set(view.selected[0])
    assert {type(view.selected[0][name]) for name in ("k", "length", "score")} <= {int, float}


@pytest.mark.parametrize("name", ["missing", "empty", "damaged", "changed"])
def test_a_folder_without_rows_is_one_sentence(tmp_path, name):
    if name != "missing":
        (tmp_path / name).mkdir()
    if name == "damaged":
        (tmp_path / name / "rows-1.parquet").write_bytes(b"PAR1")
    if name == "changed":  # whole, and not what its name says
        toy().assign(score=5.0).to_parquet(tmp_path / name / f"rows-1.{'0' * 12}.parquet")
    refused = run("explore", tmp_path / name)
    assert refused.exit_code == 2 and re.search("holds no finished rows|is damaged", refused.stderr)


@pytest.fixture
def view(page, tmp_path):
    def opened(rows, width=1200, **context):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(**context)
        page.goto(hb.explore(rows, prompts=[]).save(tmp_path / "page.html").as_uri())
        page.locator(".hb-maps canvas").nth(2).wait_for()
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


def test_play_goes_from_all_heads_to_none(view):
    page = view(toy())
    page.locator(".hb-maps-play").click()
    for k in (8, 4, 2, 0):
        page.locator("b", has_text=f"B · toy · k = {k}").wait_for()
    assert page.locator(".hb-maps-play").text_content() == "Play over k"


def manipulated(names, **more):
    """Rows of conditions that are no order of k, by what happens while answering."""
    rows = [
        toy(ks=(8,), **more).assign(
            k=pd.NA, condition=name, intervention=name, during=None, generation=name, prefill="keep"
        )
        for name in names
    ]
    return pd.concat(rows, ignore_index=True).astype({"k": "Int64"})


NAMES = ("keep", "omit", "only + question & mass that on the needle")


def test_conditions_have_names_and_a_square_has_one_place(view):
    few = manipulated(NAMES[2:], lengths=(300, 400), depths=(50, 100))
    page = view(pd.concat([manipulated(NAMES[:2]), few], ignore_index=True))
    line = page.locator(".hb-maps-condition")
    assert line.locator("span:first-child").all_text_contents() == [
        "Keep-Keep", "Omit-Keep", "Only + question at the needle's total attention while answering"
    ]  # fmt: skip
    assert "n = 4" in line.last.text_content() and "n =" not in line.first.text_content()
    line.last.click()
    assert titles(page)[1].startswith("B · toy · Only + question") and line.last.get_attribute("aria-pressed") == "true"
    for canvas in page.locator("canvas").all():  # the same way leads to the same square
        for key in ("Home", "ArrowUp", "ArrowUp"):
            canvas.press(key)
        said = page.locator(".hb-maps-readout").text_content()
        assert said.startswith("Length 100, depth 0 %.") and "attention while answering): not run" in said


def test_what_else_can_be_compared_is_folded_away_and_menus_keep_their_order(view):
    two = [toy(model="one"), toy(model="two", template="jrt"), toy(model="two")]
    page = view(pd.concat([*two, toy(model="one", template="jrt")], ignore_index=True))
    menus = page.locator(".hb-maps-controls select")
    assert not any(menu.is_visible() for menu in menus.all())
    page.locator(".hb-maps-choose summary").click()
    order = []
    for model in ("one", "two"):
        page.get_by_label("Model of B").select_option(model)
        order.append(page.get_by_label("Prompt of B").locator("option").all_text_contents())
    assert order[0] == order[1] and len(order[0]) == 2


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
    # JupyterLab's shortcuts skip an element with the attribute; those with Ctrl, such as saving, stay.
    for part in (canvas, page.get_by_label("k of B"), page.locator(".hb-maps-play")):
        for key, left in (("b", ""), ("Control+s", None), ("ArrowLeft", "")):
            part.press(key)
            assert part.get_attribute("data-lm-suppress-shortcuts") == left


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


COLOUR = "getComputedStyle(document.querySelector('.hb-maps')).color"
DAY, NIGHT = "rgb(34, 34, 34)", "rgb(230, 230, 230)"


@pytest.mark.parametrize(("scheme", "ink"), [("light", DAY), ("dark", NIGHT)])
def test_dark_pages_have_dark_views_and_nothing_stands_in_a_readers_way(view, scheme, ink):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = view(toy(), color_scheme=scheme)
    found = axe.Axe().run(page).response["violations"]
    assert not [(v["id"], n["target"]) for v in found for n in v["nodes"] if v["impact"] in ("serious", "critical")]
    assert page.evaluate(COLOUR) == ink
    for theme, asked in (("dark", NIGHT), ("light", DAY)):
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        assert page.evaluate(COLOUR) == asked
    page.emulate_media(media="print", color_scheme=scheme)  # paper has the colours of the day
    page.wait_for_function(f"{COLOUR} === '{DAY}'")
    assert not page.locator(".hb-maps-controls").is_visible() and page.locator("canvas").nth(1).is_visible()


def test_a_phone_does_not_scroll_sideways_and_random_weights_are_marked(view):
    name = "random-model-with-a-long-name/and-an-owner-with-one-too"
    page = view(toy(model=name, weights="random"), width=360)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("canvas").nth(0).bounding_box()["width"] > 280
    assert page.locator(".hb-maps-random:visible").count() == 3
    assert "nothing here is a result" in page.locator(".hb-maps-source").text_content()


def test_a_square_opens_the_map_of_its_heads(page, griffin, tmp_path):
    prompts = hb.niah.grid(griffin, (76, 128), (0, 100))
    few = {f"k = {k}": hb.KeepHeads(k, during="generation") for k in (4, 1)}
    rows = hb.sweep(griffin, prompts, few, max_new_tokens=4)
    record = hb.look(griffin, prompts[0], few, max_new_tokens=4)
    with pytest.raises(hb.HybretError, match=f"random-griffin on prompt {record.prompt}"):
        hb.explore(rows[rows["prompt"] != record.prompt], heads=[record])
    page.goto(hb.explore(rows, prompts, heads=[record]).save(tmp_path / "page.html").as_uri())
    head = page.locator(".hb-maps-heads [role=option]")
    for side, label in ((0, "k = 4"), (1, "k = 1")):  # of its square, which is picked at first, and with its condition
        page.get_by_role("button", name="What each head looks at").nth(side).click()
        assert page.get_by_label("Run").locator("option:checked").text_content() == label
        assert head.count() == griffin.heads * len(griffin.attention_layers)
        page.get_by_role("button", name="Close the heads").first.click()
        assert head.count() == 0
    page.get_by_role("button", name="What each head looks at").first.click()
    page.get_by_label("k of B").press("ArrowRight")
    assert head.count() > 0  # the square is the same
    page.locator("canvas").first.press("ArrowRight")
    page.locator("canvas").first.press("Enter")
    assert head.count() == page.get_by_role("button", name="What each head looks at").count() == 0
    assert not page.requests and not page.problems
