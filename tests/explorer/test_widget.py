"""The base of the interactive views: escaping, several on one page, the shim of anywidget's model."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybret import HybretError
from hybret.explorer.widget import Widget, escaped_json

ESM = """
export default {
  render({model, el}) {
    const button = document.createElement("button");
    button.textContent = model.get("state").text;
    button.onclick = () => { model.set("picked", model.get("state").n); model.save_changes(); };
    model.on("change:picked", () => { button.dataset.picked = model.get("picked"); });
    el.append(button);
  },
};
"""
NASTY = "</script><img src=x onerror=alert(1)> \u2028 \x1b[31m &lt; [a](javascript:alert(1)) <!--"


def small(text=NASTY, n=1):
    return Widget(ESM, ".small { color: red; }", {"text": text, "n": n}, "<table></table>", f"View <{n}>")


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_a_state_survives_its_escaping(value):
    written = escaped_json({"value": value})
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == {"value": value}


def test_what_cannot_be_shown_is_refused(tmp_path):
    for value in (float("nan"), object(), {1, 2}):
        with pytest.raises((TypeError, ValueError), match="JSON"):
            Widget(ESM, "", {"value": value}, "", "label")
    (tmp_path / "file").write_text("")
    with pytest.raises(HybretError, match="choose another file"):
        small().save(tmp_path / "file" / "page.html")


def test_views_on_one_page_keep_to_themselves(page, tmp_path):
    views = [small("first", 1), small(NASTY, 2), small("first", 1)]
    path = small().save(tmp_path / "new" / "page.html")
    page.goto(path.as_uri())
    page.locator(".hb-view button").wait_for()
    assert page.title() == "View <1>"  # a saved page stands alone
    path.write_text(f"<!doctype html><meta charset=utf-8>{''.join(view.html() for view in views)}", encoding="utf-8")
    page.goto(path.as_uri())
    buttons = page.locator(".hb-view button")
    buttons.nth(2).wait_for()
    assert buttons.all_text_contents() == ["first", NASTY, "first"]
    buttons.nth(1).click()
    assert [buttons.nth(i).get_attribute("data-picked") for i in range(3)] == [None, "2", None]
    assert not page.requests and not page.problems
    assert page.locator(".hb-fallback:visible").count() == 0


def test_a_view_that_a_front_end_shows_is_live_too(monkeypatch):
    pytest.importorskip("anywidget")
    view = small()
    assert set(view._repr_mimebundle_()) == {"text/plain", "text/html"}  # nobody watches
    monkeypatch.setattr("hybret.explorer.widget.attended", lambda: True)
    bundle = view._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == view.live.model_id
    assert view.live.state == view.state and "hb-view" in bundle["text/html"]
