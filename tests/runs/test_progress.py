"""How progress shows itself."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

import hybret as hb
from hybret import progress


class Log(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.isatty = lambda: terminal  # type: ignore[method-assign]


def shown(monkeypatch, kernel, terminal):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=kernel)))
    log = Log(terminal)
    monkeypatch.setattr(sys, "stderr", log)
    return log


@pytest.mark.parametrize("kernel", [None, SimpleNamespace(_allow_stdin=False)])
def test_a_log_gets_a_few_lines_and_not_one_for_every_answer(monkeypatch, kernel):
    log = shown(monkeypatch, kernel, terminal=False)
    with progress.bar(total=2000, desc="model") as bar:
        for _ in range(2000):
            bar.update()
    assert log.getvalue().count("model") <= 2 and "2000/2000" in log.getvalue()


def test_a_terminal_is_told_as_it_goes(monkeypatch):
    shown(monkeypatch, None, terminal=True)
    with progress.bar(total=2) as bar:
        assert bar.mininterval < 1


def test_a_notebook_gets_a_widget_only_where_it_can_show_one(monkeypatch):
    shown(monkeypatch, SimpleNamespace(_allow_stdin=True), terminal=False)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with progress.bar(total=2) as bar:
        assert type(bar).__module__ == "tqdm.std" and bar.mininterval < 1


def test_voila_is_a_front_end_though_nobody_can_be_asked(monkeypatch):
    shown(monkeypatch, SimpleNamespace(_allow_stdin=False), terminal=False)
    assert not progress.attended()
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.13")
    assert progress.attended()


def test_what_has_nothing_to_do_shows_no_bar(monkeypatch):
    log = shown(monkeypatch, None, terminal=True)
    with progress.bar(total=0, desc="model", disable=False):
        pass
    assert not log.getvalue()


def test_a_runner_turns_bars_off():
    """The book's runner sets TQDM_DISABLE, which tqdm reads when it is imported; `progress` itself stays on."""
    code = "from hybret import progress\nwith progress.bar(total=3, desc='model', disable=False) as bar: bar.update(3)"
    for disabled in ("", "1"):
        environment = {**os.environ, **({"TQDM_DISABLE": "1"} if disabled else {})}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert ("model" in done.stderr) is not bool(disabled)


def test_small_models_load_without_a_bar_and_the_setting_comes_back(capsys, monkeypatch):
    from transformers.utils import logging

    monkeypatch.setattr(logging, "_tqdm_active", True)
    hb.load("griffin-tiny", device="cpu")
    assert "Loading" not in capsys.readouterr().err
    assert logging.is_progress_bar_enabled()
