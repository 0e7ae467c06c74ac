"""The runner and the pages, on a tiny book written into a temporary folder."""

import io
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from IPython.core.formatters import DisplayFormatter
from rich.console import Console
from support import ENGINE_DIGEST
from tiny_book import tiny

from book.runner import build as book
from book.runner import publish as publishing
from book.runner.outputs import first_request
from book.runner.runs import Project
from hybret import HybretError

REPO = Path(__file__).resolve().parents[2]


def build(root, **options):
    out = io.StringIO()
    book.build(root=root, console=Console(file=out, width=200, highlight=False), **options)
    return out.getvalue()


def ran(root):
    path = root / "ran.txt"
    return path.read_text().split() if path.exists() else []


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tiny(tmp_path_factory.mktemp("built"))
    return root, build(root)


def metadata(root, run):
    return nbformat.read(root / "book" / "executed" / f"{run}.ipynb", as_version=4).metadata["hybret"]


def test_every_notebook_runs_once_after_what_it_needs_and_says_where_it_came_from(built):
    root, said = built
    assert ran(root) == ["draw", "read"]
    assert re.search(r"done\s+read\s+[\d.]+ s\s+\(2/2\)", said) and re.search(r"pages\s+[\d.]+", said)
    assert str(root / "_build" / "html" / "index.html") in said
    meta = metadata(root, "draw")
    assert meta["model"] == "tiny" and meta["recipe"] == "CORRECTED"
    assert meta["parameters"] == {"count": 4} and set(meta["files"]) == {"home.pdf", "home.svg"}
    assert {"key", "source", "package", "commit", "dirty", "python", "device", "started", "seconds"} <= set(meta)
    assert not list((root / "book" / "executed").glob("*.running.ipynb"))
    source = nbformat.read(root / "notebooks" / "draw.ipynb", as_version=4)
    assert not any(c.get("outputs") for c in source.cells)


@pytest.fixture
def done(built, tmp_path):
    """A copy of the built project without its pages, which a test may change."""
    root = tmp_path / "copy"
    shutil.copytree(built[0], root, ignore=shutil.ignore_patterns("_build"))
    return root


def states(project):
    return [project.status(n).state for n in project.plan]


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("path", "old", "new", "states_after", "reason"),
    [
        ("notebooks/draw.ipynb", "# Drawing", "# Drawing again", ["current", "current"], ""),
        ("notebooks/read.ipynb", "'x' * 4000", "'y'", ["current", "stale"], "the notebook's code"),
        ("notebooks/draw.ipynb", "range(count)", "range(2)", ["stale", "stale"], "the notebook's code"),
        ("notebooks/runs.yml", "count: 4", "count: 5", ["stale", "stale"], "its parameters"),
    ],
)
def test_what_makes_a_run_stale(done, path, old, new, states_after, reason):
    edit(done / path, old, new)
    project = Project(done)
    assert states(project) == states_after
    assert any(reason in project.status(name).reason for name in project.plan)


def test_a_run_is_stale_when_its_figure_file_is_gone_or_replaced_and_a_published_one_stands_in(done):
    figure = done / "book" / "results" / "home.svg"
    figure.write_text(figure.read_text() + "<!-- of another run -->")
    assert states(Project(done)) == ["stale", "current"] and "is another run's" in Project(done).status("draw").reason
    figure.unlink()
    project = Project(done)
    assert states(project) == ["stale", "current"] and "is gone" in project.status("draw").reason
    project.published.mkdir()
    own = project.executed / "read.ipynb"
    shutil.copy(own, project.published)
    assert project.find("read") == own
    own.unlink()
    assert project.find("read") == project.published / "read.ipynb"
    assert project.status("read").state == "current"


def test_the_package_and_its_checkpoints_count_but_the_runner_does_not(tmp_path):
    root = tiny(tmp_path / "p")
    package = root / "hybret"
    (package / "organisms").mkdir(parents=True)
    (package / "core.py").write_text("x = 1")
    weights = package / "organisms" / "model.safetensors"
    weights.write_bytes(b"1")
    before = Project(root).plan["draw"].key
    for path in ("hybret/cli/book.py", "book/runner/build.py", "tests/test_core.py"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("# cannot change what a run computes")
    assert Project(root).plan["draw"].key == before
    weights.write_bytes(b"2")
    changed = Project(root).plan["draw"].key
    assert changed != before
    (package / "core.py").write_text("x = 2")
    assert Project(root).plan["draw"].key not in (before, changed)


@pytest.mark.parametrize(
    ("code", "said"), [("raise KeyError('gone')", "KeyError: 'gone'"), ("import os; os._exit(1)", "")]
)
def test_a_failure_or_a_killed_kernel_keeps_the_old_run_and_skips_what_needs_it(done, code, said):
    old = (done / "book" / "executed" / "draw.ipynb").read_bytes()
    edit(done / "notebooks" / "draw.ipynb", "ax.plot(range(count))", code)
    out = io.StringIO()
    with pytest.raises(book.BuildError, match="draw"):
        book.build(root=done, html=False, console=Console(file=out, width=200))
    assert said in out.getvalue() and re.search(r"skipped\s+read", out.getvalue())
    assert (done / "book" / "executed" / "draw.ipynb").read_bytes() == old
    assert (done / "book" / "executed" / "draw.failed.ipynb").exists()
    assert Project(done).status("draw").state == "stale"


PART = """part: {notebook: draw, parameters: {count: 2}}
draw: {parameters: {count: 4}, needs: [part]}
read: {needs: [part]}
"""


def test_a_part_of_a_chapter_is_a_run_of_its_notebook(done):
    (done / "notebooks" / "runs.yml").write_text(PART)
    (done / "ran.txt").unlink()
    build(done, html=False)
    assert ran(done)[0] == "draw" and sorted(ran(done)) == ["draw", "draw", "read"]
    project = Project(done)
    assert states(project) == ["current"] * 3
    meta = metadata(done, "part")
    assert meta["parameters"] == {"count": 2, "results": "../book/results/part"} and "part/home.svg" in meta["files"]
    assert (done / "book" / "results" / "part" / "home.svg").exists()  # not in the place of its chapter's
    edit(done / "notebooks" / "runs.yml", "count: 2", "count: 3")
    assert states(Project(done)) == ["stale"] * 3  # the chapter reads what its part left


def test_a_part_is_left_out_where_its_parameter_is_overridden(done):
    (done / "notebooks" / "runs.yml").write_text(PART)
    plan = Project(done, {"count": 5}).plan
    assert list(plan) == ["draw", "read"] and plan["read"].needs == ("draw",) and plan["draw"].needs == ()
    plan = Project(done, {"flag": True}).plan
    assert list(plan) == ["part", "draw", "read"]
    assert plan["part"].parameters["results"] == "../book/results/flag-True/part"


@pytest.mark.parametrize(
    ("model", "variant"),
    [
        ("griffin-small", "griffin-small"),
        ("google/recurrentgemma-2b,griffin-tiny", "recurrentgemma-2b-griffin-tiny"),
        ("random:google/recurrentgemma-2b", "random-recurrentgemma-2b"),
    ],
)
def test_this_books_notebooks_can_be_run_on_another_model_in_a_folder_that_names_it(model, variant):
    other = Project(REPO, {"model": model})
    assert other.variant == variant
    assert set(other.plan) == {run.notebook for run in Project(REPO).plan.values()}
    assert other.plan["benchmarks"].needs == ("sparsification",)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"parameters": {"conut": 3}}, "no notebook has a parameter named 'conut'"),
        ({"parameters": {"count": "3"}}, "'count' must be int, not '3'"),
        ({"parameters": {"flag": "false"}}, "'flag' must be bool, not 'false'"),
        ({"parameters": {"count": True}}, "'count' must be int, not True"),
        ({"parameters": {"lengths": [1, "2"]}}, r"'lengths' must be list\[int\]"),
        ({"parameters": {"limit": "none"}}, r"'limit' must be int \| None"),
        ({"model": 7}, "'model' must be str"),
        ({"only": ["drawing"]}, "no notebook 'drawing'; runs.yml has draw, read"),
        ({"jobs": 0}, "jobs must be at least 1"),
    ],
)
def test_bad_input_is_said_before_anything_runs(tmp_path, options, says):
    root = tiny(tmp_path / "p")
    with pytest.raises(HybretError, match=says):
        build(root, **options)
    assert not (root / "book" / "executed").exists()
    for value in (None, 3):
        assert Project(root, {"limit": value}).plan["draw"].parameters["limit"] == value


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("draw: {parameters: {nothing: 1}}", "draw.ipynb has no parameter 'nothing'"),
        ("lost: {}", "'lost', but"),
        ("read: {needs: [draw]}\ndraw: {}", "must stand above"),
        ("draw: {params: {}}", "may only hold"),
        ("draw: [", "not valid YAML"),
    ],
)
def test_a_wrong_runs_file_is_said_in_one_sentence(tmp_path, spec, says):
    with pytest.raises(HybretError, match="clone of the project"):
        build(tmp_path)
    root = tiny(tmp_path / "p")
    (root / "notebooks" / "runs.yml").write_text(spec)
    with pytest.raises(HybretError, match=says):
        _ = Project(root).plan


def html(root, page):
    return (root / "_build" / "html" / f"{page}.html").read_text()


def test_a_page_shows_its_run_and_every_figure_leads_to_its_cell(built):
    page, index = html(built[0], "notebooks/draw"), html(built[0], "book/index")
    for text in ("Run of tiny", "prompt lengths (tokens)", "/draw.ipynb", "hb-figure", 'id="cell-c2"'):
        assert text in page
    assert "not been run" not in page and "out of date" not in page
    links = [re.findall(r'hb-made-by[^>]*href="([^"]+)"', text) for text in (page, index)]
    assert links == [["#cell-c2"], ["../notebooks/draw.html#cell-c2"]]
    # Code that shows nothing is in the fold at the end, although it comes first in the notebook.
    assert page.index('id="cell-c2"') < page.index('class="hb-fold"') < page.index('id="cell-c1"')
    assert html(built[0], "book/runs").count("<td><p>current</p></td>") == 2


@pytest.mark.parametrize("folder", ["<img src=x onerror=alert(1)>", "a](b"])
def test_a_published_folder_has_a_name_that_hybret_gives(tmp_path, folder):
    root = tiny(tmp_path)
    (root / "book" / "published" / folder).mkdir(parents=True)
    shutil.copy(root / "notebooks" / "draw.ipynb", root / "book" / "published" / folder)
    with pytest.raises(HybretError, match="rename it"):
        book.pages(Project(root), Console(file=io.StringIO()))


AUTO = "from tqdm.auto import tqdm; from tqdm.notebook import tqdm as drawn\n"
BARS = {  # the last ones do not ask the environment, as a library may
    "huggingface_hub": "from huggingface_hub.utils import tqdm\nfor _ in tqdm(range(3)): pass",
    "tqdm.auto": AUTO + "for _ in tqdm(range(3)): pass",
    "widgets": AUTO + "for _ in drawn(range(3), disable=False):\n    for _ in drawn(range(3), disable=False): pass",
    "text": "from tqdm import tqdm\nfor _ in tqdm('abc', disable=False):\n    for _ in tqdm('ab', disable=False): pass",
    "html": "from IPython.display import HTML\nHTML('<progress value=1 max=3></progress>')",
}


SHOWN = "from IPython.display import HTML, Javascript\n"
REQUESTS = {
    "import ipywidgets\nipywidgets.IntSlider()": "the scripts of a widget",
    SHOWN + "HTML('<p><img alt=x src=\"https://example.org/x.png\">')": "the src of <img>",
    SHOWN + "HTML('<link rel=stylesheet href=//example.org/x.css>')": "the href of <link>",
    SHOWN + "HTML('<style>@import \"x.css\"</style>')": "what its style names (@import)",
    SHOWN + "HTML('<p style=\"background: url(http://example.org/x)\">')": "what its style names (url(http://)",
    SHOWN + "HTML('<script>require([\"plotly\"], f)</script>')": "what its script names (require()",
    SHOWN + "Javascript('import(\"https://example.org/x.js\")')": 'what its script names (import("https://)',
    SHOWN + "HTML('<a href=https://example.org>src=http://x</a><script>1</script>require(1) @import')": "",
}


def test_an_output_that_needs_a_host_is_found_and_stops_the_build(done):
    path = done / "book" / "executed" / "read.ipynb"
    nb = nbformat.read(path, as_version=4)
    for code, what in REQUESTS.items():
        *before, last = code.split("\n")
        space = {}
        exec("\n".join(before), space)  # what a cell would show, without a kernel
        data = DisplayFormatter().format(eval(last, space))[0]
        nb.cells[-1].outputs = [nbformat.v4.new_output("execute_result", data, execution_count=1)]
        assert first_request(nb) == ("c2" if what else "", what)
        if what.startswith("the src"):
            nbformat.write(nb, path)
    with pytest.raises(book.BuildError) as error:
        build(done)
    said = "book/executed/read.ipynb: the output of cell c2 asks another host for the src of <img>, and pages ask for"
    assert str(error.value).startswith(said) and str(error.value).isprintable()


LEAK = "import os, sys\nprint('in', os.getcwd(), os.path.expanduser('~/.cache/x'))\nprint('noise', file=sys.stderr)"


@pytest.fixture(scope="module")
def node(built, tmp_path_factory):
    """A clone with runs of its own, in which runs of two other models were published."""
    node = tmp_path_factory.mktemp("node") / "p"
    shutil.copytree(built[0], node, ignore=shutil.ignore_patterns("_build"))
    leaky = nbformat.read(node / "notebooks" / "read.ipynb", as_version=4)
    leaky.cells += [nbformat.v4.new_code_cell(code, id=f"id{i}") for i, code in enumerate([*BARS.values(), LEAK])]
    nbformat.write(leaky, node / "notebooks" / "read.ipynb")
    run = node / "runs" / "other-1b-0123"
    run.mkdir(parents=True)
    note = {"model": "somebody/other-1b@abc", "weights": "12ab", "dtype": "bfloat16", "engine": ENGINE_DIGEST}
    (run / "run.json").write_text(json.dumps(note))
    (run / "rows-1.parquet").write_bytes(b"rows")
    shutil.copytree(run, node / "runs" / "else")
    (node / "runs" / "else" / "run.json").write_text(json.dumps(note | {"model": "somebody/else"}))
    build(node, model="somebody/other-1b@abc", publish=True)
    build(node, model="random:a/b", only=["draw"], publish=True)
    return node


@pytest.fixture(scope="module")
def shared(built, node, tmp_path_factory):
    """A clone with a run that is out of date, and with those that somebody published."""
    clone = tiny(tmp_path_factory.mktemp("clone") / "p")
    shutil.copytree(node / "book" / "published", clone / "book" / "published")
    (clone / "book" / "executed").mkdir()
    shutil.copy(built[0] / "book" / "executed" / "draw.ipynb", clone / "book" / "executed")
    edit(clone / "notebooks" / "draw.ipynb", "range(count)", "range(2)")
    edit(clone / "notebooks" / "draw.ipynb", "# Drawing", "# Drawing again")
    (clone / "notebooks" / "runs.yml").write_text(
        "draw: {parameters: {count: 4}}\nread: {parameters: {model: smollm2-135m-instruct}}\n"
    )
    book.pages(Project(clone), Console(file=io.StringIO()))
    return clone


def test_no_progress_bar_becomes_an_output(node):
    nb = nbformat.read(node / "book" / "executed" / "other-1b-abc" / "read.ipynb", as_version=4)
    outputs = {cell.id: cell.outputs for cell in nb.cells if cell.id.startswith("id")}
    assert [outputs[f"id{i}"] for i in range(len(BARS))] == [[]] * len(BARS)
    assert outputs[f"id{len(BARS)}"] and "widgets" not in nb.metadata


def test_another_model_has_its_own_runs(built, node):
    assert metadata(node, "other-1b-abc/draw")["model"] == "somebody/other-1b@abc"
    assert (node / "book" / "results" / "other-1b-abc" / "home.svg").exists()
    own = Path("book") / "results" / "home.svg"
    assert (node / own).read_bytes() == (built[0] / own).read_bytes()
    assert Project(node).status("draw").state == "current" and ran(node)[:2] == ["draw", "read"]


OTHER = "book/published/other-1b-abc"


def test_what_is_published_holds_outputs_and_where_it_came_from_but_no_place(shared):
    folder = shared / OTHER
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == {
        "draw.ipynb", "draw.json", "read.ipynb", "read.json",
        "rows/other-1b-0123/run.json", "rows/other-1b-0123/rows-1.parquet",
    }  # fmt: skip
    card = json.loads((folder / "draw.json").read_text())
    assert (card["model"], card["revision"], card["recipe"]) == ("somebody/other-1b@abc", "abc", "CORRECTED")
    assert card["weights"] == ["12ab"] and card["dtype"] == ["bfloat16"] and card["parameters"]["count"] == 4
    assert {"device", "seconds", "commit", "dirty", "python", "versions", "started", "key"} <= set(card)
    assert "torch" in card["versions"]
    text = (folder / "read.ipynb").read_text()
    assert "noise" not in text.replace("'noise'", "") and '"in ' in text
    for path in folder.glob("*.*"):
        assert str(Path.home()) not in path.read_text() and str(shared.parents[1]) not in path.read_text()


def test_a_clone_shows_published_runs_beside_its_own_and_says_which_is_out_of_date_or_not_run(shared):
    own, chapter, page = (html(shared, name) for name in ("notebooks/draw", "notebooks/read", f"{OTHER}/draw"))
    assert ran(shared) == [] and "has not happened here yet" in html(shared, "book/index")  # the figure of its own run
    assert "out of date: the notebook's code changed" in own.replace("’", "'")
    assert "Drawing again" in own  # prose is no part of the run
    assert (
        "it needs hybret fetch smollm2 once" in re.sub("<.*?>", "", chapter)
        and f'href="../{OTHER}/read.html"' in chapter
    )
    assert "Drawing: other-1b-abc" in page and 'href="../../../notebooks/draw.html"' in page
    assert "A published run of" in page and "Run of somebody/other-1b&#64;abc" in page and "/draw.json" in page
    runs = html(shared, "book/runs")
    assert runs.count("<td><p>published</p></td>") == 3 and "stale" in runs and "not run" in runs
    pages = [html(shared, "book/index"), own, page, html(shared, "book/published/random-b/draw")]
    assert ["The weights of this run are random" in page for page in pages] == [False, False, False, True]
    numbers = [re.findall(r"caption-number\">(Fig. \d+)", page) for page in pages]
    assert numbers == [["Fig. 1"], ["Fig. 2"], ["Fig. 3"], ["Fig. 4"]]
    assert 'id="other-1b-abc-fig-line"' in page and 'href="#cell-c2"' in page and "hb-figure" in page


def test_a_run_whose_model_was_not_fetched_is_left_out_and_says_what_to_do(shared):
    said = io.StringIO()
    chosen = [Project(shared), None, False, 1, Console(file=said, width=200, highlight=False)]
    assert [run.name for run in book.select(*chosen)] == ["draw"]
    assert said.getvalue() == "  left out read: it needs `hybret fetch smollm2` once, with a network\n"
    for changed in ({1: ["read"]}, {0: Project(shared, {"model": "smollm2-135m-instruct"})}):
        with pytest.raises(HybretError, match="cannot run: it needs `hybret fetch smollm2` once"):
            book.select(*(changed.get(i, value) for i, value in enumerate(chosen)))


def test_what_cannot_be_published_is_said(done):
    with pytest.raises(HybretError, match="only runs of another model are published; give one with --model"):
        build(done, publish=True)
    other = Project(done, {"model": "a/b"})
    with pytest.raises(HybretError, match="there is no run in"):
        publishing.publish(other)
    shutil.copytree(done / "book" / "executed", other.executed, ignore=shutil.ignore_patterns("b"))
    with pytest.raises(HybretError, match="the run of draw is out of date"):
        publishing.publish(other)
    with pytest.raises(HybretError, match="draw fewer points"):
        publishing.cleaned_notebook(other, other.plan["draw"], largest=100)
    assert not other.published.exists()
