"""Models that several test files share: loaded once, never changed (a test that needs other ones copies them)."""

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

import hybret as hb
from hybret.files import cache_folder

# Wider registers sum in another order, which decides ties of random models. PyTorch asks for this at its first sum.
os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
USERS = cache_folder()
THREADS = 1  # the tensors are tiny: a second thread costs more than it computes
# Freshly initialised layers write almost nothing into the residual stream: every condition would give one answer.
LOUDER = {"q_proj": 3, "k_proj": 3, "v_proj": 3, "o_proj.weight": 3, "linear_out.weight": 30, "out_proj.weight": 3}


def random_model(name, seed=0):
    """A tiny random hybrid whose layers matter: interventions on its attention change what it answers."""
    model = hb.load(name, device="cpu", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in model.net.named_parameters():
            for part, factor in LOUDER.items():
                if part in parameter_name:
                    parameter.mul_(factor)
            if parameter_name.endswith("o_proj.bias"):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def random_ids(model, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, model.net.config.vocab_size, (n - 1,), generator=generator)
    return (model.net.config.bos_token_id, *ids.tolist())


@pytest.fixture(scope="session", autouse=True)
def _threads():
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def griffin():
    """RecurrentGemma, 6 layers, 10 heads that share one key-value head, window of 32 tokens."""
    return random_model("random-griffin")


@pytest.fixture(scope="session")
def jamba():
    """Jamba, 8 layers, 8 heads in 2 key-value groups, global attention, mixture of experts."""
    return random_model("random-jamba")


@pytest.fixture(scope="session")
def tiny():
    return hb.load("griffin-tiny", device="cpu")


@pytest.fixture
def asleep(griffin, jamba):
    """Until the test ends, the random models fail it when they run."""
    from support import idle

    with idle(griffin), idle(jamba):
        yield


@pytest.fixture(scope="session")
def trained_jamba(tmp_path_factory):
    """The folder of a training of jamba-tiny that ended after one step."""
    from hybret.organisms.training.recipes import RECIPES
    from hybret.organisms.training.train import train

    folder = tmp_path_factory.mktemp("jamba") / "run"
    train(replace(RECIPES["jamba-tiny"].smoke(), steps=1), folder, device="cpu", say=lambda _: None)
    return folder


@pytest.fixture(params=["griffin", "jamba"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def figures_of():
    @cache
    def names(notebook):
        path = Path(__file__).resolve().parents[1] / "notebooks" / f"{notebook}.ipynb"
        cells = json.loads(path.read_text())["cells"]
        return {cell["metadata"].get("mystnb", {}).get("figure", {}).get("name") for cell in cells}

    return names


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """A folder of its own for data that are generated or fetched: the user's cache is neither read nor written."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRET_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def users_cache():
    """A block in which the user's cache is read; a test is skipped, with the command, where what it wants is absent."""

    @contextmanager
    def reading():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HYBRET_CACHE", str(USERS))
            try:
                yield
            except hb.HybretError as absent:
                pytest.skip(str(absent))

    return reading


@pytest.fixture(scope="session")
def chromium():
    """The system's chromium without a window; tests that need it are skipped, with the reason, where it is missing."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not found:
        pytest.skip("there is no chromium on the PATH, so pages are not tried in a browser: install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e .[dev]")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def window(browser):
    """A browser page that reads files alone, for a fixture.

    Its ``requests`` lists every URL it asked for besides files, each of them refused; ``problems`` what the console
    called an error, and exceptions of scripts.
    """
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    found = context.new_page()
    found.requests, found.problems = [], []

    def only_files(route):
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            found.requests.append(route.request.url)
            route.abort()

    context.route("**/*", only_files)
    found.on("console", lambda line: found.problems.append(line.text) if line.type == "error" else None)
    found.on("pageerror", lambda error: found.problems.append(str(error)))
    yield found
    context.close()


@pytest.fixture
def page(chromium):
    yield from window(chromium)
