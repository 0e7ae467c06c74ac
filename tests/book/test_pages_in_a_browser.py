"""The book as its readers see it: every page of the real book, in a browser, without a network.

The pages are built from this clone: with the runs that it has, and with "not run" where it has none.
"""

import io
import shutil
from pathlib import Path

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from conftest import window
from rich.console import Console

from book.runner import build as book
from book.runner.runs import Project

REPO = Path(__file__).resolve().parents[2]
TOC = yaml.safe_load((REPO / "_toc.yml").read_text())
CHAPTERS = [chapter for part in TOC["parts"] for chapter in part["chapters"]]
WEIGHTS = ("serious", "critical")
FILES = [TOC["root"], *(c["file"] for chapter in CHAPTERS for c in (chapter, *chapter.get("sections", ())))]


@pytest.fixture(scope="module")
def built(tmp_path_factory, chromium):
    """The folder of the built pages. The package is a link: pages read its checkpoints' cards."""
    root = tmp_path_factory.mktemp("book") / "clone"
    keep = shutil.ignore_patterns("_build", "runs", ".*", "checkpoints", "__pycache__", "*.egg-info", "hybret", "tests")
    shutil.copytree(REPO, root, ignore=keep)
    (root / "hybret").symlink_to(REPO / "hybret")
    book.pages(Project(root), Console(file=io.StringIO()))
    return root / "_build" / "html"


@pytest.fixture(scope="module")
def reader(chromium):
    yield from window(chromium)


@pytest.fixture
def page(reader):
    """One window for all pages, as a reader has it: a new one would cost as much as a page."""
    reader.requests.clear()
    reader.problems.clear()
    reader.set_viewport_size({"width": 1200, "height": 900})
    reader.emulate_media(media="screen")
    return reader


def lightness(page):
    colours = [
        page.evaluate(f"getComputedStyle(document.querySelector('{at}')).{what}")
        for at, what in (("body", "backgroundColor"), ("h1", "color"))
    ]
    ground, ink = (sum(map(float, c[c.index("(") + 1 : -1].split(",")[:3])) / 765 for c in colours)
    return ground, ink


@pytest.mark.parametrize("name", FILES)
def test_a_page_can_be_read_everywhere(built, page, name):
    """It asks for nothing, has no errors, fits a phone, is dark where the reader wants it, loses nothing in print."""
    page.goto((built / f"{name}.html").as_uri(), wait_until="load")
    if page.locator(".math").count():
        page.locator("mjx-container svg").first.wait_for(state="attached")
    page.wait_for_timeout(200)
    assert page.requests == [] and page.problems == []  # before axe-core, which asks for the style sheets again
    # axe-core's rules of serious and critical weight, on what the book itself writes
    found = Axe().run(page, context="main").response["violations"]
    serious = {v["id"]: [n["html"][:160] for n in v["nodes"]][:3] for v in found if v["impact"] in WEIGHTS}
    assert serious == {}
    ground, ink = lightness(page)
    assert ground > 0.8 > 0.5 > ink
    page.set_viewport_size({"width": 360, "height": 800})
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    ground, ink = lightness(page)
    assert ground < 0.3 and ink > 0.6
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 1, f"{wide} pixels wider than the screen"
    page.emulate_media(media="print")
    assert page.locator("h1").first.is_visible() and page.locator("mjx-merror").count() == 0
    assert str(REPO) not in page.content(), "a folder of this machine is published"
