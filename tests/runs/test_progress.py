"""How progress shows itself."""

from support import progress_bar

import hybret as hb


def test_a_log_gets_a_few_lines_and_not_one_for_every_answer(capsys):
    with progress_bar(True, "model", total=2000) as bar:
        for _ in range(2000):
            bar.update()
    log = capsys.readouterr().err
    assert "2000/2000" in log and log.count("model") <= 2


def test_a_sweep_that_finds_all_of_its_rows_shows_no_bar(capsys, griffin, tmp_path):
    prompts = hb.niah.grid(griffin, (76,), 1)
    for begins in (True, False):
        hb.sweep(griffin, prompts, {"k=0": hb.KeepHeads(0)}, out=tmp_path, max_new_tokens=1)
        assert ("answer" in capsys.readouterr().err) is begins
