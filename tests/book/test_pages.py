"""The prose side of the book: claims on top of pages, the reference, workflows, the packed book, links."""

import contextlib
import html
import inspect
import io
import json
import re
import zipfile
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from rich.console import Console
from tiny_book import one_page

import hybret as hb
from book._ext import api, figures
from book.paper.numbers import LIMITS
from book.paper.verdicts import CLAIMS
from book.runner import build as book
from book.runner import pack as packing
from book.runner.runs import Project
from hybret import HybretError

REPO = Path(__file__).resolve().parents[2]
PAGES = [*sorted((REPO / "book").glob("*.md")), *sorted((REPO / "notebooks").glob("*.ipynb"))]


INDEX = """# Tiny

```{answer}
```

```{limits}
```

```{claim} no-attention-generation tipping-point-order
```

```{verdict-counts}
```

```{verdict-changes}
```
"""


def verdict(claim, model, recipe, said, ours="", **more):
    line = {"claim": claim, "model": model, "recipe": recipe, "verdict": said, "ours": ours}
    return line | {"why": "", "exactly": "", "interval": ""} | more


def read(root, verdicts, said=None):
    """The page, with these verdicts; it is read again because the file has changed."""
    (root / "book" / "results").mkdir(exist_ok=True)
    (root / "book" / "results" / "verdicts.json").write_text(json.dumps(verdicts))
    book.pages(Project(root), Console(file=said or io.StringIO(), width=200))
    return shown(root)


def shown(root):
    page = (root / "_build" / "html" / "book" / "index.html").read_text()
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_a_page_shows_the_papers_number_above_ours_and_follows_the_verdicts_and_a_warning_fails_it(tmp_path):
    name, root = "no-attention-generation", one_page(tmp_path, INDEX)
    found = [
        verdict(name, "one", "CORRECTED", "agrees", "0 of 100", interval="0.0 to 4.1 %; n = 100, 90 of them different"),
        verdict(name, "two", "CORRECTED", "not run", why="k = 9"),
        verdict(name, "one", "PAPER", "contradicts", "9 of 100", exactly="agrees"),
    ]
    page = read(root, found)
    assert "not judged yet: make book" in page  # the other claim
    assert CLAIMS[name].says in page and f"the paper {CLAIMS[name].paper}" in page
    assert "one 0 of 100 [0.0 to 4.1 %; n = 100, 90 of them different] ● agrees" in page
    assert "Not run: two (k = 9)" in page and "PAPER: one ✕ contradicts (by exact answers: agrees)" in page
    assert "nothing is retrieved by one" in page and all(line in page.replace("’", "'") for line in LIMITS)
    assert "Retrieval depends on attention alone: 1 agrees, 1 not run" in page and "on each of one, two." in page
    assert "1 of the 1 verdicts that were reached under both recipes differ" in page and "agrees): 9 of 100" in page
    (root / "book" / "index.md").write_text(INDEX + "{numref}`nowhere`\n\n```{claim} no-such\n```\n")
    said = io.StringIO()
    with pytest.raises(book.BuildError, match="whole log"):
        read(root, [verdict(name, "one", "CORRECTED", "contradicts", "30 of 100 <b>")], said)
    assert "nowhere" in said.getvalue() and "no-such" in said.getvalue()
    page = shown(root)
    assert "Not attention alone, everywhere. Without it, something is left in one" in page
    assert "30 of 100 &lt;b&gt;" in page  # what a run brings is text


@pytest.fixture(scope="module")
def reference():
    pages = sorted((REPO / "book" / "reference").glob("*.md"))
    named = [module for page in pages for marks in api.MARK.findall(page.read_text()) for module in marks.split()]
    assert sorted(named) == sorted(api.public()), "every public module stands on one page of the reference"
    index, toc = (REPO / "book" / "api.md").read_text(), (REPO / "_toc.yml").read_text()
    assert all(f"(reference/{p.name})" in index and f"book/reference/{p.stem}\n" in toc for p in pages)
    return "\n".join(map(api.names_of, named))


def test_the_reference_has_every_public_name(reference):
    for name in hb.__all__:
        value = getattr(hb, name)
        if not inspect.ismodule(value):
            assert len(re.findall(rf":: hybret\.[\w.]+\.{name}\n", reference)) == 1, f"{name} is not there once"
            continue
        own = [n for n, v in vars(value).items() if n[0] != "_" and getattr(v, "__module__", "") == value.__name__]
        for part in getattr(value, "__all__", own):
            assert re.search(rf":: hybret\.[\w.]+\.{part}\n", reference), f"{name}.{part} is not in the reference"


def test_what_pages_use_of_hybret_is_in_the_reference(reference):
    for page in PAGES:
        for module, name in set(re.findall(r"\bhb\.(\w+)\.(\w+)", page.read_text())):
            if inspect.ismodule(getattr(hb, module)):
                assert re.search(rf":: hybret\.[\w.]+\.{name}\n", reference), f"{page.stem}: hb.{module}.{name}"


verify = cache(hb.verify)


@pytest.mark.parametrize("page", ["README.md", "book/your-model.md"])
def test_the_code_that_a_newcomer_copies_runs(page, tmp_path, monkeypatch):
    code = "\n".join(re.findall(r"```python\n(.*?)```", (REPO / page).read_text(), re.DOTALL))
    if page == "README.md":
        assert len(code.strip().splitlines()) <= 11
    for grid, small in (("10, 10", "2, 2"), ("lengths=5, depths=5", "lengths=2, depths=2")):
        code = code.replace(grid, small)  # what is tried is the code, not the model
    code = code.replace("range(model.heads + 1)", "(0, model.heads)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hb, "verify", lambda model: verify("random-griffin"))  # once, of a small one
    space: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, page, "exec"), space)
    assert len(space["rows"]) and any((tmp_path / "runs").rglob("rows-*.parquet"))


def test_workflows_are_valid_pinned_and_call_what_exists():
    targets = set(re.findall(r"^([a-z]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    for path in sorted((REPO / ".github" / "workflows").glob("*.yml")):
        flow = yaml.safe_load(path.read_text())
        assert flow["permissions"] == {"contents": "read"} and flow["concurrency"]["group"]
        assert "secrets." not in path.read_text()  # it must work on a fork
        for name, job in flow["jobs"].items():
            assert job["timeout-minutes"] and job["steps"]
            assert job.get("permissions") == ({"pages": "write", "id-token": "write"} if name == "publish" else None)
            for step in job["steps"]:
                if "uses" in step:
                    assert re.fullmatch(r"actions/[\w-]+@v\d+\.\d+\.\d+", step["uses"]), step["uses"]
                else:
                    assert set(re.findall(r"make ([a-z]+)", step["run"])) <= targets and step["run"].startswith("make ")


def test_the_zip_is_the_same_whenever_the_pages_are(tmp_path):
    with pytest.raises(HybretError, match="no built pages.*make book"):
        packing.pack(tmp_path)
    built = tmp_path / "_build" / "html"
    (built / "_static").mkdir(parents=True)
    for name in ("index.html", "_static/b.css", ".nojekyll", ".buildinfo"):
        (built / name).write_text(name)
    target = packing.pack(tmp_path)
    assert target.name == f"hybret-book-{hb.__version__}.zip"
    first = target.read_bytes()
    (built / "index.html").touch()
    assert packing.pack(tmp_path).read_bytes() == first
    names = zipfile.ZipFile(target).namelist()
    folder = target.stem
    assert names == [f"{folder}/.nojekyll", f"{folder}/_static/b.css", f"{folder}/index.html"]


def broken(built):
    """Links of built pages to files or anchors that are not there."""
    pages = {path.resolve(): path.read_text() for path in built.rglob("*.html") if "_static" not in path.parts}
    ids = {path: set(re.findall(r'\s(?:id|name)="([^"]+)"', text)) for path, text in pages.items()}
    lost = []
    for path, text in pages.items():
        for link in dict.fromkeys(re.findall(r'<(?!link)\w[^>]*?\s(?:href|src)="([^"]+)"', text)):
            parts = urlsplit(html.unescape(link))
            if parts.scheme or parts.netloc or link == "#":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists() or (
                parts.fragment and unquote(parts.fragment) not in ids.get(target, parts.fragment)
            ):
                lost.append(f"{path.relative_to(built.resolve())}: {link}")
    return lost


def test_no_link_of_the_built_book_is_broken(tmp_path):
    (tmp_path / "a.html").write_text('<p id="here"><a href="#here"></a><a href="#gone"></a><a href="b.html"></a>')
    assert broken(tmp_path) == ["a.html: #gone", "a.html: b.html"]

    built = REPO / "_build" / "html"
    if not (built / "index.html").is_file():  # the last file of a whole build: one that was cut off has other pages
        pytest.skip("there is no built book here: make book")
    if not (REPO / "book" / "executed" / "verdicts.ipynb").is_file():
        pytest.skip("the book was built without runs, whose figures its links lead to")
    assert not broken(built)


ACTING = (
    "<script>1</script>",
    '<g onload="1"/>',
    "<foreignObject/>",
    '<image xlink:href="https://example.org/x.png"/>',
    '<path style="fill: url(https://example.org/x.svg)"/>',
)


@pytest.mark.parametrize("part", ["", *ACTING])
def test_a_figure_takes_the_colours_of_its_page_unless_it_could_act(part, tmp_path):
    figure = hb.figures.style.canvas(2)
    figure.text(0.5, 0.5, "</text><b>", color=hb.figures.style.INK, clip_on=True)
    path = hb.figures.save(figure, "one", tmp_path).svg
    path.write_text(path.read_text().replace("</svg>", f"{part}</svg>"))
    shown = figures.inlined(path, 'two "words"')
    assert (shown is None) == bool(part)
    if shown:
        assert "fill: var(--pst-color-text-base)" in shown and "fill: var(--pst-color-background)" in shown
        assert "&lt;b&gt;" in shown and "<style" not in shown and 'aria-label="two &quot;words&quot;"' in shown
        names = set(re.findall(r'\bid="([^"]+)"', shown))
        assert set(re.findall(r'(?:href="|url\()#([\w-]+)', shown)) <= names and not any(
            n.startswith("text") for n in names
        )
