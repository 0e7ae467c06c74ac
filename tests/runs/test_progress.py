"""How progress shows itself."""

from __future__ import annotations

import os
import subprocess
import sys

from support import progress_bar

import hybret as hb

BAR = """
from hybret.sweeping import progress_bar
with progress_bar(True, "model", total=2) as bar:
    bar.update(2)
"""


def test_a_log_gets_a_few_lines_and_not_one_for_every_answer(capsys):
    with progress_bar(True, "model", total=2000) as bar:
        for _ in range(2000):
            bar.update()
    log = capsys.readouterr().err
    assert "2000/2000" in log and log.count("model") <= 2


def test_a_runner_turns_bars_off():
    """The book's runner sets TQDM_DISABLE, which tqdm reads when it is imported; `progress` itself stays on."""
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    done = subprocess.run([sys.executable, "-c", BAR], env=environment, capture_output=True, text=True, check=True)
    assert not done.stderr


def test_a_sweep_that_finds_all_of_its_rows_shows_no_bar(capsys, griffin, tmp_path):
    prompts = hb.niah.grid(griffin, (76,), 1)
    for begins in (True, False):
        hb.sweep(griffin, prompts, {"k=0": hb.KeepHeads(0)}, out=tmp_path, max_new_tokens=1)
        assert ("answer" in capsys.readouterr().err) is begins


def test_small_models_load_without_a_bar_and_the_setting_comes_back(capsys):
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    try:
        hb.load("griffin-tiny", device="cpu")
        assert "Loading" not in capsys.readouterr().err
        assert logging.is_progress_bar_enabled()
    finally:
        if not before:
            logging.disable_progress_bar()
