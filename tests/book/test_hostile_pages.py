"""What strangers wrote, in a browser: nothing of it runs, leaves its place, leaves the page, or stretches it.

Each page is read beside a harmless twin, made in the same way of plain words: both hold the same elements.
"""

import io
import json
import re
import unicodedata
from dataclasses import replace

import nbformat
import pandas as pd
import pytest
from rich.console import Console
from support import HOSTILE, a_prompt, printable, toy
from tiny_book import notebook, one_page, tiny

import hybret as hb
from book.paper import maps
from book.runner import build as book
from book.runner.runs import Project

HIT = "window.pwned=1"
EVIL = HOSTILE | {
    "handler": f"<img src=x onerror={HIT}><svg onload={HIT}><script>{HIT}</script>",
    "attribute": f"\"'><script>{HIT}</script>",
    "comment": "<!--<script>",
    "text area": f"</textarea></title></style></select><iframe srcdoc='<script>parent.{HIT}</script>'>",
    "template": "${" + HIT + "} {{" + HIT + "}} \\" + "u003cscript>",
    "markdown": f"![x](https://example.org/x.png) <https://example.org> [a](javascript:{HIT})\n\n# head\n\n[b](c.md)",
    "formula": f"$\\href{{javascript:{HIT}}}{{x}}$ \\(y\\) $$z$$",
    "separators": "a\u2028b\u2029c\x85d",
    "osc": "\x1b]8;;https://example.org\x1b\\link\x1b]8;;\x1b\\\x9b31m",
    "long": "w" * 5000,
    "empty": "\u200b",
}
EVIL["surrogate"] = "a\ufffdb"  # what is left of half a pair once it is in a table
CREATED = (
    *("script", "img", "iframe", "svg", "style", "a", "h1", "h2", "h3", "table", "select", "title"),
    *("[onerror]", "[onload]", "[href^=javascript]"),
)


@pytest.fixture
def watched(page):
    page.dialogs = []
    page.on("dialog", lambda dialog: (page.dialogs.append(dialog.message), dialog.dismiss()))
    yield page
    page.wait_for_timeout(100)
    assert not page.dialogs and not page.requests and not page.problems
    assert page.evaluate("window.pwned") is None


def elements(page, where=":root"):
    """How many elements there are, in each of these places, of every kind that a text could bring."""
    count = "kinds => kinds.map(kind => place.querySelectorAll(kind).length)"
    return page.evaluate(f"kinds => [...document.querySelectorAll('{where}')].map(place => ({count})(kinds))", CREATED)


def fits(page):
    """Whether a page is as narrow as a desk's window, and as a phone."""
    over = []
    for width in (1200, 360):
        page.set_viewport_size({"width": width, "height": 900})
        over.append(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
    return max(over) <= 0


def unseen(page, where=".hb-view"):
    text = "".join(page.locator(where).all_text_contents())
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")} - set("\n\t")


def letters(text):
    """What is left of a text, raw or made visible, without the characters that cannot be seen by themselves."""
    text = re.sub("[\u2400-\u241f\u23ce]|⟨U\\+[0-9A-F]+⟩", "", text)
    return "".join(c for c in text if c.isprintable() and not c.isspace())


def seen(text):
    r"""A printed text as a page of the book shows it: control characters as ``\uXXXX``."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in text)


PLAIN = {name: f"plain {i}" for i, name in enumerate(EVIL)}


def heads(model, texts):
    record, said = hb.look(model, a_prompt(model), max_new_tokens=3), list(texts.values())
    (run,) = record.runs
    steps = len(run.reads)
    runs = [replace(run, condition=text, reads=(text,) * steps, gives=(text,) * steps) for text in said]
    bins = [replace(each, text=said[i % len(said)]) for i, each in enumerate(record.bins)]
    names = dict.fromkeys(("model", "digest", "recipe"), " ".join(said))
    return hb.explore_heads(replace(record, **names, bins=tuple(bins), runs=tuple(runs)))


def test_the_head_explorer_shows_what_strangers_wrote_as_text(watched, tmp_path, griffin):
    page, counts = watched, []
    for texts in (PLAIN, EVIL):
        page.goto(heads(griffin, texts).save(tmp_path / "heads.html").as_uri())
        page.locator(".hb-heads-detail h3").wait_for()
        counts.append(elements(page))
    assert counts[0] == counts[1]
    run = page.get_by_label("Run")
    assert run.locator("option").all_text_contents() == [printable(text) for text in EVIL.values()]
    assert f"model {printable(' '.join(EVIL.values()))} (" in page.locator(".hb-heads-note").text_content()
    for i, text in enumerate(EVIL.values()):
        run.select_option(index=i)
        page.locator(".hb-heads-answer button").nth(1).click()
        page.locator(".hb-heads-list [role=option]").nth(i % 20).click()
        for place in (".hb-heads-answer button >> nth=1", ".hb-heads-summary"):
            assert letters(text) in letters(page.locator(place).text_content())
        assert text != EVIL["long"] or fits(page)
        assert not unseen(page)
    prompt = letters(page.locator(".hb-heads-words").all_text_contents()[0])  # the needle, a token at a time
    assert sum(letters(text) in prompt for text in EVIL.values()) > 5
    assert page.locator(".hb-heads :is(img, a, script, iframe)").count() == 0


def test_the_front_page_moves_curve_map_and_answer_and_shows_what_models_wrote_as_text(watched, tmp_path):
    page, texts = watched, [*EVIL.values()]
    rows = pd.concat([toy(ks=(0, 4, 8), lengths=(100, 200)).assign(model=text) for text in (EVIL["closing"], "other")])
    wrote = {k: texts[i % len(texts)] for i, k in enumerate((8, 4, 0))}
    root = one_page(tmp_path, "# Tiny\n\n```{hero} moved\n```\n\n```{run-figure} home\nA caption.\n```\n")
    (root / "book" / "results").mkdir()
    for name, answers in (
        ("first", wrote),
        *((f"text {i}", dict.fromkeys(wrote, text)) for i, text in enumerate(texts)),
    ):
        made = maps.moved(rows.assign(answer=rows["k"].map(answers), in_window=rows["length"] < 150))
        (root / "book" / "results" / "moved.json").write_text(json.dumps(made))
        if name == "first":
            book.pages(Project(root), Console(file=io.StringIO(), width=200))
            page.goto((root / "_build" / "html" / "book" / "index.html").as_uri())
            script = page.locator("script.hb-hero").text_content()
            assert json.loads(script) == made and "<" not in script
            before = page.locator(".hb-moved .handle").get_attribute("cx")
            assert letters(wrote[8]) in letters(page.locator(".hb-moved .answer").text_content())
            page.get_by_label("Heads kept in each layer").fill("0")
            assert letters(wrote[0]) in letters(page.locator(".hb-moved .answer").text_content())
            assert "0 of 8 heads" in page.locator(".hb-moved output").text_content()
            assert page.locator(".hb-moved .handle").get_attribute("cx") != before and fits(page)
            page.get_by_label("Play").click()
            page.wait_for_function("document.querySelector('.hb-moved input').value == '0' && !document.hidden")
        else:
            page.evaluate(
                "made => { const script = document.querySelector('script.hb-hero'); script.textContent = made;"
                " document.querySelector('.hb-moved').remove(); hero(script); }",
                json.dumps(made),
            )
            page.locator(".hb-moved rect").nth(1).click()
            assert letters(made["answers"][0]) in letters(page.locator(".hb-moved .answer").text_content())
            assert not unseen(page, ".hb-moved")
    assert page.locator(".hb-moved :is(img, a, script, iframe)").count() == 0


SETUP = """import json
import pandas as pd
from IPython.display import HTML, Markdown, display
from pathlib import Path
import hybret as hb
from book.paper import forest"""
CELLS = [  # once for harmless texts and once for hostile ones, whose name stands for NAME
    "texts = json.loads(Path('../NAME.json').read_text())\nrows = pd.read_parquet('../NAME.parquet')\n"
    "display(rows[['model', 'answer', 'condition']].drop_duplicates())",
    "rows[['answer']].drop_duplicates().style.hide(axis='index').format(escape='html')",
    "HTML(rows[['answer']].drop_duplicates().to_html(escape=True))",
    "hb.explore(rows, prompts=[])",
    "for text in texts.values():\n    print(text)",
    "list(texts.values())",
    "Markdown('\\n\\n'.join(f'**{text}** said `{text}`' for text in texts.values()))",
    "for text in texts.values():\n    display(Markdown(text))",
    "table = pd.DataFrame({'variant': [*texts.values(), 'b'], 'accuracy': 0.5, 'low': 0.4, 'high': 0.6})\n"
    "hb.figures.save(forest.variants(table, texts['closing'], texts['link']), 'variants-NAME', results)",
    "hb.figures.glue('said-NAME', ' '.join(texts.values()))",
]
MODEL = " ".join(text for text in EVIL.values() if text != EVIL["long"])


def untypeset(text):
    """A text in one line without the quotes, dashes and backslashes that Sphinx sets in prose as printers do."""
    return re.sub(r"[\"'‘’“”–—\\-]|\s+", "", printable(text))


@pytest.fixture(scope="module")
def built(tmp_path_factory, chromium):
    """The pages of a book of one notebook, which was run on a model of a hostile name."""
    root = tiny(tmp_path_factory.mktemp("hostile") / "p")
    (root / "book" / "index.md").write_text("# Tiny\n")
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters: [{file: notebooks/texts}, {file: book/runs}]\n"
    )
    (root / "notebooks" / "runs.yml").write_text(json.dumps({"texts": {"parameters": {"model": MODEL}}}))
    cells: list[tuple[str, dict[str, object]]] = [(SETUP, {})]
    for name, texts in (("harmless", PLAIN), ("hostile", EVIL)):
        (root / f"{name}.json").write_text(json.dumps(texts))
        names = ("model", "recipe", "template", "haystack", "device", "dtype", "answer", "condition", "weights")
        parts = [toy(ks=(0, 8), lengths=(100, 200)).assign(**dict.fromkeys(names, t)) for t in texts.values()]
        pd.concat(parts).to_parquet(root / f"{name}.parquet")
        caption = {"mystnb": {"figure": {"name": f"fig-{name}", "caption": "A figure."}}}
        cells += [(cell.replace("NAME", name), caption if "variants" in cell else {}) for cell in CELLS]
    path = root / "notebooks" / "texts.ipynb"
    notebook(path, "Texts", *cells)
    nb = nbformat.read(path, as_version=4)
    nb.cells.append(nbformat.v4.new_markdown_cell("Glued: {glue:}`said-hostile`", id="glued"))
    nbformat.write(nb, path)
    out = io.StringIO()
    try:
        book.build(root=root, console=Console(file=out, width=200))
    except book.BuildError as error:
        pytest.fail(f"{error}\n{out.getvalue()[-6000:]}")
    return root / "_build" / "html"


def test_a_page_of_the_book_shows_what_strangers_wrote_as_text(watched, built):
    page, each = watched, len(CELLS)
    page.goto((built / "notebooks/texts.html").as_uri(), wait_until="load")
    page.locator("mjx-container").first.wait_for()
    page.locator(".hb-maps canvas").nth(5).wait_for()
    counts = elements(page, ".bd-content .cell:not(.hb-fold *)")
    assert counts[:each] == counts[each:] and len(counts) == 2 * each
    bad = "script, img, iframe, h1, [onerror], [onload], [href^=javascript]"
    assert page.locator(f".hb-card :is({bad})").count() == 0 and page.locator(".hb-card a").count() == 1
    assert page.locator("mjx-container").count() == 1  # the notebook's own formula
    printed = page.locator(".output.stream").last.text_content()
    assert all(seen(text) in printed for text in EVIL.values())
    assert untypeset(MODEL) in untypeset(page.locator(".hb-card").text_content())
    assert page.locator(".bd-content .text_plain", has_text="</script></text></svg><img").count() == 2  # repr, glue
    assert page.locator(".bd-content strong", has_text="</textarea></title></style></select><iframe").count() == 1
    page.locator(".hb-maps-choose summary").nth(1).click()
    models = page.get_by_label("Model of B").nth(1)
    assert models.locator("option").all_text_contents() == [printable(text) for text in EVIL.values()]
    for text in EVIL.values():
        models.select_option(index=list(EVIL.values()).index(text))
        assert f"B · {printable(text)} ·" in page.locator(".hb-maps-title b").nth(5).text_content()
    assert fits(page)
    assert not unseen(page, ".bd-content .cell_output")
    page.goto((built / "book/runs.html").as_uri(), wait_until="load")
    rows = page.locator(".hb-runs tr").all_text_contents()
    assert sum(untypeset(MODEL) in untypeset(row) for row in rows) == 1 and fits(page)
    assert page.locator(".hb-runs :is(script, img, iframe, svg, [onerror])").count() == 0
