"""The book as its readers see it: every page of the real book, in a browser, without a network.

The pages are built from this clone: with the runs that it has, and with "not run" where it has none.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from rich.console import Console

from book.runner import build as book
from book.runner.runs import Project

REPO = Path(__file__).resolve().parents[2]
TOC = yaml.safe_load((REPO / "_toc.yml").read_text())
CHAPTERS = [chapter for part in TOC["parts"] for chapter in part["chapters"]]
FILES = [TOC["root"], *(c["file"] for chapter in CHAPTERS for c in (chapter, *chapter.get("sections", ())))]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, chromium: Any) -> Path:
    """The folder of the built pages. The package is a link: pages read its checkpoints' cards."""
    root = tmp_path_factory.mktemp("book") / "clone"
    keep = shutil.ignore_patterns("_build", "runs", ".*", "checkpoints", "__pycache__", "*.egg-info", "hybret", "tests")
    shutil.copytree(REPO, root, ignore=keep)
    (root / "hybret").symlink_to(REPO / "hybret")
    book.pages(Project(root), Console(file=io.StringIO()))
    return root / "_build" / "html"


@pytest.fixture(params=FILES)
def opened(request: pytest.FixtureRequest, built: Path, page: Any) -> Any:
    """Every page in turn, at a reader's desk."""
    page.goto((built / f"{request.param}.html").as_uri(), wait_until="load")
    return page


def test_a_page_asks_for_nothing_and_has_no_errors(opened: Any) -> None:
    opened.wait_for_timeout(200)
    if opened.locator(".math").count():
        opened.locator("mjx-container svg").first.wait_for(state="attached")
    assert opened.locator("mjx-merror").count() == 0
    assert opened.requests == []
    assert opened.problems == []
    assert opened.locator("h1").count() >= 1
    assert str(REPO) not in opened.content(), "a folder of this machine is published"


def test_a_page_fits_a_phone(opened: Any) -> None:
    opened.set_viewport_size({"width": 360, "height": 800})
    opened.wait_for_timeout(100)
    wide = opened.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 1, f"{wide} pixels wider than the screen"


def test_a_page_is_dark_where_the_reader_wants_it(opened: Any) -> None:
    """Text and ground change places, also in print nothing is lost."""

    def lightness() -> list[float]:
        shown = "['backgroundColor', 'color'].map(p => getComputedStyle(document.querySelector('h1'))[p])"
        body = "getComputedStyle(document.body).backgroundColor"
        colours = [opened.evaluate(body), opened.evaluate(shown)[1]]
        return [sum(map(float, c[c.index("(") + 1 : -1].split(",")[:3])) / 765 for c in colours]

    ground, ink = lightness()
    assert ground > 0.8 > 0.5 > ink
    opened.evaluate("document.documentElement.dataset.theme = 'dark'")
    ground, ink = lightness()
    assert ground < 0.3 and ink > 0.6
    opened.emulate_media(media="print")
    assert opened.locator("h1").first.is_visible()


def test_a_page_is_accessible(opened: Any) -> None:
    """axe-core's rules of serious and critical weight, on what the book itself writes."""
    found = Axe().run(opened, context="main").response["violations"]
    serious = {
        v["id"]: [n["html"][:160] for n in v["nodes"]][:3] for v in found if v["impact"] in ("serious", "critical")
    }
    assert serious == {}
