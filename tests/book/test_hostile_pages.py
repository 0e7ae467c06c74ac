"""What strangers wrote, in a browser: nothing of it runs, leaves its place, leaves the page, or stretches it.

Each page is read beside a harmless twin, made in the same way of plain words: both hold the same elements.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from rich.console import Console
from support import HOSTILE, a_prompt, printable, toy
from tiny_book import notebook, tiny

import hybret as hb
from book.runner import build as book
from book.runner.runs import Project
from hybret import Needle

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
def watched(page: Any) -> Iterator[Any]:
    """A page on which nothing may happen by itself."""
    page.dialogs = []
    page.on("dialog", lambda dialog: (page.dialogs.append(dialog.message), dialog.dismiss()))
    yield page
    page.wait_for_timeout(100)
    assert not page.dialogs and not page.requests and not page.problems
    assert page.evaluate("window.pwned") is None


def elements(page: Any, where: str = ":root") -> dict[str, int]:
    """How many elements there are of each kind that a text could bring."""
    return {f"{where} {kind}": page.locator(f"{where} {kind}").count() for kind in CREATED}


def fits(page: Any) -> bool:
    """Whether a page is as narrow as a desk's window, and as a phone."""
    over = []
    for width in (1200, 360):
        page.set_viewport_size({"width": width, "height": 900})
        over.append(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
    return max(over) <= 0


def unseen(page: Any, where: str = ".hb-view") -> set[str]:
    """Characters that do something instead of being seen."""
    text = "".join(page.locator(where).all_text_contents())
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")} - set("\n\t")


def letters(text: str) -> str:
    """What is left of a text, raw or made visible, without the characters that cannot be seen by themselves."""
    text = re.sub("[\u2400-\u241f\u23ce]|⟨U\\+[0-9A-F]+⟩", "", text)
    return "".join(c for c in text if c.isprintable() and not c.isspace())


def seen(text: str) -> str:
    r"""A printed text as a page of the book shows it: control characters as ``\uXXXX``."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in text)


PLAIN = {name: f"plain {i}" for i, name in enumerate(EVIL)}


# ---------------------------------------------------------------- the explorers


def maps(texts: dict[str, str]) -> Any:
    """Every text in every place that a row has for one."""
    parts, needles = [], []
    for text in texts.values():
        part = toy(ks=(0, 8), lengths=(100, 200), depths=(0, 50))
        some = {name: text for name in ("model", "recipe", "template", "haystack", "device", "dtype", "answer")}
        part = part.assign(**some, condition=text, weights=text, intervention=text)
        part.loc[part["needle"] != "none", "needle"] = text
        name = text.replace("\0", "")  # a needle with the character is refused,
        phrase = f"{name} word"  # and so is a keyword without a word
        needles.append(Needle(name, phrase, name, (phrase,)))
        part["asked"] = needles[-1].digest
        part["prompt"] = [f"{len(needles) - 1}-{key}" for key in part["prompt"]]
        parts.append(part)
        other = part[part["k"] == 0].assign(k=pd.NA, condition=f"other {text}", during=None)
        parts.append(other)
    rows = pd.concat(parts, ignore_index=True).astype({"k": "Int64"})
    prompts = {}
    for number, key in enumerate(rows["prompt"].unique()):
        needle = needles[int(key.partition("-")[0])]
        text = f"{needle.sentence} before {needle.sentence} after {needle.sentence}"
        prompts[key] = hb.Prompt(text=text, ids=(number,), needle=needle, spans={"needle": ((0, 1),)})
    rows["prompt"] = rows["prompt"].map({key: prompt.key for key, prompt in prompts.items()})
    return hb.explore(rows, list(prompts.values()), needles)


def test_the_map_explorer_shows_what_strangers_wrote_as_text(watched: Any, tmp_path: Path) -> None:
    page, counts = watched, []
    for name, texts in (("harmless", PLAIN), ("hostile", EVIL)):
        page.goto(maps(texts).save(tmp_path / f"{name}.html").as_uri())
        page.locator(".hb-maps canvas").nth(2).wait_for()
        counts.append(elements(page))
    assert counts[0] == counts[1]
    models = page.get_by_label("Model of B")
    assert models.locator("option").all_text_contents() == [printable(text) for text in EVIL.values()]
    for i, text in enumerate(EVIL.values()):
        page.get_by_label("Model of B").select_option(index=i)
        page.get_by_label("Model of A").select_option(index=i)
        shown = printable(text)
        assert page.locator(".hb-maps-title b").nth(1).text_content().startswith(f"B · {shown} ·")
        assert f"recipe {shown}" in page.locator(".hb-maps-source").text_content()
        canvas = page.locator("canvas").nth(1)
        canvas.click(position={"x": 70, "y": 15})
        assert page.locator(".hb-maps-detail h3").text_content() == "Length 100, depth 0 %"
        for said in page.locator(".hb-maps-said").all_text_contents() + page.locator("blockquote").all_text_contents():
            assert letters(text) in letters(said)
        page.get_by_label("k of B").press("ArrowRight")
        page.get_by_label("k of B").press("Home")
        page.get_by_label("Conditions of B").select_option(index=1)
        assert fits(page), repr(text[:40])
        assert not unseen(page)
    assert page.locator(".hb-maps img, .hb-maps a, .hb-maps script, .hb-maps iframe").count() == 0


def heads(model: Any, texts: dict[str, str]) -> Any:
    """Every text as a token of a run that is called by it, and as a word of the prompt; all of them as other names."""
    record, said = hb.look(model, a_prompt(model), max_new_tokens=3), list(texts.values())
    (run,) = record.runs
    steps = len(run.reads)
    runs = [replace(run, condition=text, reads=(text,) * steps, gives=(text,) * steps) for text in said]
    bins = [replace(each, text=said[i % len(said)]) for i, each in enumerate(record.bins)]
    names = dict.fromkeys(("model", "digest", "recipe"), " ".join(said))
    return hb.explore_heads(replace(record, **names, bins=tuple(bins), runs=tuple(runs)))


def test_the_head_explorer_shows_what_strangers_wrote_as_text(watched: Any, tmp_path: Path, griffin: Any) -> None:
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
        page.locator(".hb-heads-tall").hover(position={"x": 10 + 10 * i, "y": 5})
        for place in (".hb-heads-answer button >> nth=1", ".hb-heads-summary"):
            assert letters(text) in letters(page.locator(place).text_content())
        assert fits(page), repr(text[:40])
        assert not unseen(page)
    prompt = letters(page.locator(".hb-heads-words").all_text_contents()[0])  # the needle, a token at a time
    assert sum(letters(text) in prompt for text in EVIL.values()) > 5
    assert page.locator(".hb-heads :is(img, a, script, iframe)").count() == 0


# ---------------------------------------------------------------- the book

CELLS = [
    ("rows", "import json\nimport pandas as pd\nfrom IPython.display import HTML, Markdown, display\n"
     "import hybret as hb\nfrom book.paper import figures as paper_figures\n"
     "from pathlib import Path\ntexts = json.loads(Path(f'../{name}.json').read_text())\n"
     "rows = pd.read_parquet(f'../{name}.parquet')\n"
     "display(rows[['model', 'answer', 'condition']].drop_duplicates())"),
    ("style", "rows[['answer']].drop_duplicates().style.hide(axis='index').format(escape='html')"),
    ("html", "HTML(rows[['answer']].drop_duplicates().to_html(escape=True))"),
    ("maps", "hb.explore(rows, prompts=[])"),
    ("print", "for text in texts.values():\n    print(text)"),
    ("repr", "list(texts.values())"),
    ("markdown", "Markdown('\\n\\n'.join(f'**{text}** said `{text}`' for text in texts.values()))"),
    ("raw", "for text in texts.values():\n    display(Markdown(text))"),
    ("figure", "table = pd.DataFrame({'variant': [*texts.values(), 'b'], 'accuracy': 0.5, 'low': 0.4, 'high': 0.6})\n"
     "hb.figures.save(paper_figures.variants(table, texts['closing'], texts['link']), 'variants', results)"),
    ("glue", "hb.figures.glue('said', ' '.join(texts.values()))"),
]  # fmt: skip
NAME = " ".join(text for text in EVIL.values() if text != EVIL["long"])  # of a model


def untypeset(text: str) -> str:
    """A text in one line without the quotes, dashes and backslashes that Sphinx sets in prose as printers do."""
    return re.sub(r"[\"'‘’“”–—\\-]|\s+", "", printable(text))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, chromium: Any) -> Path:
    """A book of two notebooks, one of hostile and one of harmless texts; the first is published for a model too."""
    root = tiny(tmp_path_factory.mktemp("hostile") / "p")
    (root / "book" / "index.md").write_text("# Tiny\n")
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n- {file: notebooks/hostile}\n- {file: notebooks/harmless}\n"
        "- {file: book/runs}\n"
    )
    plan = {}
    for name, texts in (("hostile", EVIL), ("harmless", PLAIN)):
        parameters = "".join(
            f'{parameter}: str = "{value}"  # of the run\n'
            for parameter, value in (("model", ""), ("name", name), ("recipe", "x"), ("results", ""))
        )
        caption = {"mystnb": {"figure": {"name": f"fig-{name}", "caption": "A figure."}}}
        cells = [(source, caption if kind == "figure" else {}) for kind, source in CELLS]
        path = root / "notebooks" / f"{name}.ipynb"
        notebook(path, name, *cells, parameters=parameters)
        nb = nbformat.read(path, as_version=4)
        nb.cells.append(nbformat.v4.new_markdown_cell("Glued: {glue:}`said`", id="glued"))
        nbformat.write(nb, path)
        (root / f"{name}.json").write_text(json.dumps(texts))
        parts = [toy(ks=(0, 8), lengths=(100, 200), model=t).assign(answer=t, condition=t) for t in texts.values()]
        pd.concat(parts).to_parquet(root / f"{name}.parquet")
        model = NAME if name == "hostile" else "plain"
        plan[name] = {"parameters": {"model": model, "results": f"../book/results/{name}"}}
    (root / "notebooks" / "runs.yml").write_text(json.dumps(plan))
    out = io.StringIO()
    try:
        book.build(root=root, html=False, console=Console(file=out, width=200))
        published = root / "book" / "published" / "other"
        published.mkdir(parents=True)
        shutil.copy(root / "book" / "executed" / "hostile.ipynb", published)
        book.pages(Project(root), Console(file=out, width=200))
    except book.BuildError as error:
        pytest.fail(f"{error}\n{out.getvalue()[-6000:]}")
    return root / "_build" / "html"


@pytest.mark.parametrize("name", ["notebooks/hostile", "book/published/other/hostile"])
def test_a_page_of_the_book_shows_what_strangers_wrote_as_text(watched: Any, built: Path, name: str) -> None:
    page, counts = watched, []
    for each in ("notebooks/harmless", name):
        page.goto((built / f"{each}.html").as_uri(), wait_until="load")
        page.locator("mjx-container").first.wait_for()
        page.locator(".hb-maps canvas").nth(2).wait_for()
        counts.append(elements(page, ".bd-content :is(.cell, .hb-card)") | elements(page, "head"))
    assert counts[0] == counts[1]
    assert page.locator("mjx-container").count() == 1  # the notebook's own formula
    printed = page.locator(".output.stream").text_content()
    assert all(seen(text) in printed for text in EVIL.values())
    assert untypeset(NAME) in untypeset(page.locator(".hb-card").text_content())
    assert page.locator(".bd-content .text_plain", has_text="</script></text></svg><img").count() == 2  # repr, glue
    assert page.locator(".bd-content strong", has_text="</textarea></title></style></select><iframe").count() == 1
    page.locator(".hb-maps canvas").nth(1).click(position={"x": 70, "y": 15})
    assert fits(page)
    assert not unseen(page, ".bd-content .cell_output")


def test_the_list_of_runs_shows_models_as_text(watched: Any, built: Path) -> None:
    page = watched
    page.goto((built / "book/runs.html").as_uri(), wait_until="load")
    rows = page.locator(".hb-runs tr").all_text_contents()
    assert sum(untypeset(NAME) in untypeset(row) for row in rows) == 2
    assert page.locator(".hb-runs :is(script, img, iframe, svg, [onerror])").count() == 0
    assert fits(page)
