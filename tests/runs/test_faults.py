"""What a run survives: kills at random moments, a full disk, damaged files, two processes, an interruption.

`HYBRET_FAULTS=100 pytest tests/runs/test_faults.py` kills that often; the default is a few times.
"""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from support import Budget, run, write_table
from tiny_book import notebook

import hybret as hb
from book.runner import build as book
from book.runner.runs import Project
from hybret import HybretError, Keep, KeepHeads, Omit

CONDITIONS = {"keep": Keep(), "k=0": KeepHeads(0), "k=2": KeepHeads(2, during="generation"), "omit": Omit()}
OPTIONS = {"max_new_tokens": 3, "budget": Budget(2, 200), "progress": False}
MAIN = ["-c", "from hybret.cli import app; app()"]


def sweep(model, out, lengths=(76, 128), depths=(0, 100), **options):
    return hb.sweep(model, hb.niah.grid(model, lengths, depths), CONDITIONS, out=out, **(OPTIONS | options))


def files(folder):
    """What is there, but for files that a killed process never finished."""
    paths = (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def written(folder, pattern):
    """Finished files and when they were written: a file that is lost or made again shows."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(pattern) if not path.name.startswith(".")}


@pytest.fixture(scope="module")
def undisturbed(griffin, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    sweep(griffin, out)
    return files(out)


def forked(model, out):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            sweep(model, out)
            status = 0
        finally:
            os._exit(status)
    return child


def test_a_sweep_killed_at_random_moments_ends_with_the_same_bytes(griffin, undisturbed, tmp_path):
    moment, killed, runs, began = random.Random(7), 0, 0, time.perf_counter()
    sweep(griffin, tmp_path / "timed")
    whole = time.perf_counter() - began
    while killed < int(os.environ.get("HYBRET_FAULTS", 4)):
        out, before, status = tmp_path / f"run-{runs}", {}, signal.SIGKILL
        while os.WIFSIGNALED(status):
            child = forked(griffin, out)
            time.sleep(moment.uniform(0, 1.2 * whole))
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
            after = written(out, "answers/*.parquet")
            assert before.items() <= after.items(), "a finished batch was lost, or ran again"
            before, killed = after, killed + os.WIFSIGNALED(status)
        runs += 1
        assert files(out) == undisturbed


def test_two_processes_in_one_folder_end_with_the_same_bytes(undisturbed, griffin, tmp_path):
    """Forked at once, both from the beginning; each computes all, neither breaks what the other wrote."""
    children = [forked(griffin, tmp_path) for _ in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert files(tmp_path) == undisturbed


def test_a_damaged_table_is_noticed_and_computed_again(griffin, undisturbed, tmp_path):
    sweep(griffin, tmp_path)
    path = sorted(tmp_path.glob("answers/*.parquet"))[1]
    data = path.read_bytes()
    middle = len(data) // 2
    for damaged in (data[:middle], data[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(HybretError, match=f"{path.name} is damaged; remove it"):
            sweep(griffin, tmp_path)
    path.unlink()
    sweep(griffin, tmp_path)
    assert files(tmp_path) == undisturbed
    (path,) = tmp_path.glob("rows-*.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(HybretError, match=f"{path.name} is damaged"):
        hb.diff(tmp_path, tmp_path)


def test_any_flipped_bit_is_noticed(tmp_path):
    write_table(tmp_path / "t", pd.DataFrame({"answer": ["eat a sandwich", ""], "score": [1.0, 0.0]}))
    (path,) = tmp_path.glob("t.*.parquet")
    data = path.read_bytes()
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
        with pytest.raises(HybretError, match="is damaged"):
            hb.diff(path, path)


@pytest.mark.parametrize("note", ["run.json", "made"])
def test_a_changed_note_is_refused(griffin, tmp_path, note):
    sweep(griffin, tmp_path)
    path = tmp_path / note if note == "run.json" else next(tmp_path.glob("made-*.json"))
    text = path.read_text()
    path.write_text(text.replace("float32", "float33").replace('"x86_64', '"x86_65').replace("aarch64", "aarch65"))
    if note == "made":  # by another process than this one, which would write its own note anew
        path.rename(path.with_name("made-000000000000.json"))
        for old in sorted(tmp_path.glob("answers/*.parquet")):
            part = pd.read_parquet(old).assign(made="000000000000")
            old.unlink()
            write_table(old.parent / old.name.partition(".")[0], part)
    says = r'dtype: "float33" there, "float32" here' if note == "run.json" else "made-000000000000.json is damaged"
    with pytest.raises(HybretError, match=says):
        sweep(griffin, tmp_path)


@pytest.mark.parametrize(("at", "code"), [(0, errno.EROFS), (3, errno.EDQUOT), (None, errno.ENOSPC)])
def test_a_disk_that_fills_up_costs_nothing_that_was_finished(griffin, undisturbed, tmp_path, monkeypatch, at, code):
    original, calls = os.fsync, []
    at = sum(name.startswith("answers/") for name in undisturbed) if at is None else at

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 2 + at:  # the two notes
            raise OSError(code, os.strerror(code))
        return original(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(HybretError, match="rows are kept" if code == errno.ENOSPC else "cannot write") as caught:
            sweep(griffin, tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    before = written(tmp_path, "answers/*")
    assert len(before) == at and not list(tmp_path.rglob(".*")) and not list(tmp_path.glob("rows-*"))
    sweep(griffin, tmp_path)
    assert before.items() <= written(tmp_path, "answers/*").items()
    assert files(tmp_path) == undisturbed


def test_what_killed_writers_left_goes_after_an_hour_and_others_can_read_the_rest(griffin, undisturbed, tmp_path):
    sweep(griffin, tmp_path)
    assert files(tmp_path) == undisturbed  # the same sweep again writes the same bytes
    os.umask(umask := os.umask(0))
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()} == {0o666 & ~umask}
    old, new = (tmp_path / "answers" / f".hybret-{age}" for age in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 3600,) * 2)
    sweep(griffin, tmp_path)
    assert not old.exists() and new.exists()


@contextmanager
def passes(stop=None):
    """The rows of every forward pass, of whatever model; Ctrl-C in the one after `stop`."""
    made: list[int] = []

    def listen(net, _, logits):
        if hasattr(net, "lm_head"):
            made.append(len(logits.logits))
            if len(made) == stop:
                raise KeyboardInterrupt

    handle = torch.nn.modules.module.register_module_forward_hook(listen)
    try:
        yield made
    finally:
        handle.remove()


WORDS = ["sweep", "--lengths", "128,", "--depths", "0,100", "--k", "0", "--k", "10", "--rows-per-batch", "2", "--json"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What the command prints and writes, and how many forward passes it makes."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    with passes() as made:
        return run(*WORDS, "--out", folder).stdout, folder, len(made)


def test_ctrl_c_says_what_is_kept_and_the_same_command_goes_on(whole, tmp_path):
    words, (printed, folder, many) = [*WORDS, "--out", tmp_path / "out"], whole
    with passes(many):  # in the last step of the second of two batches
        stopped = run(*words)
    assert stopped.exit_code == 130 and stopped.stderr.count("\n") <= 2
    assert "interrupted: with --out, finished answers are kept; the same command" in stopped.stderr
    (kept,) = written(tmp_path / "out", "answers/*").items()
    with passes() as more:
        again = run(*words)
    assert again.exit_code == 0 and 0 < len(more) < many
    assert kept in written(tmp_path / "out", "answers/*").items()
    assert again.stdout == printed and files(tmp_path / "out") == files(folder)
    for command, says in ((WORDS, "with --out, finished answers"), (["bench", *WORDS[1:5]], "nothing is kept")):
        with passes(1):
            stopped = run(*command)
        assert stopped.exit_code == 130 and "interrupted: " in stopped.stderr and says in stopped.stderr


TABLE = """import pathlib, time
time.sleep(0.3)
pathlib.Path(results).mkdir(exist_ok=True)
pathlib.Path(results, "{0}.csv").write_text("\\n".join(str(count * i) for i in range(1000)))"""


def project(root, b=None):
    (root / "notebooks").mkdir(parents=True, exist_ok=True)
    for name, cell in {"a": TABLE.format("a"), "b": b or TABLE.format("b"), "c": TABLE.format("c")}.items():
        notebook(root / "notebooks" / f"{name}.ipynb", name, (cell, {}))
    (root / "notebooks" / "runs.yml").write_text("a: {}\nb: {}\nc: {needs: [a]}\n")
    return root


def states(root):
    plan = Project(root)
    return [plan.status(name).state for name in plan.plan]


def gone(root):
    """Whether every process that works in a project ends within ten seconds."""
    until = time.time() + 10
    while time.time() < until:
        time.sleep(0.1)
        inside = (p for p in psutil.process_iter(["cwd", "status"]) if p.info["status"] != psutil.STATUS_ZOMBIE)
        if not any(Path(p.info["cwd"] or "/").is_relative_to(root) for p in inside):
            return True
    return False


def test_a_killed_worker_of_the_book_takes_no_other_run_with_it(tmp_path):
    root = project(tmp_path / "p", b="import os, signal\nos.kill(os.getppid(), signal.SIGKILL)")
    with pytest.raises(book.BuildError, match="failed: b$"):
        book.build(root=root, html=False, jobs=2)
    assert states(root) == ["current", "not run", "current"]


# A terminal, which tells all of its processes; and what nobody can handle.
@pytest.mark.parametrize(
    ("end", "number"), [(os.killpg, signal.SIGINT), (os.kill, signal.SIGKILL)], ids=["interrupted", "killed"]
)
def test_a_book_that_is_stopped_ends_its_notebooks_and_keeps_the_finished(tmp_path, end, number):
    root = project(tmp_path / "p", b="import time\ntime.sleep(600)")
    words = [sys.executable, *MAIN, "book", "--only", "b", "--only", "c"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job in the background is started deaf
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    main = subprocess.Popen(words, cwd=root, **pipes, preexec_fn=heard, start_new_session=True)
    until = time.time() + 90
    while not (root / "book" / "executed" / "c.ipynb").exists() and time.time() < until:
        time.sleep(0.1)
    end(main.pid, number)
    said = main.communicate(timeout=60)[1]
    if number == signal.SIGINT:
        assert said == "interrupted: finished notebooks are kept; the same command computes the rest\n"
    assert main.returncode == (130 if number == signal.SIGINT else -number)
    assert gone(root)
    assert states(root) == ["current", "not run", "current"]


def test_the_same_command_prints_the_same_in_another_process_whatever_its_threads(whole, tmp_path):
    words, (printed, folder, _) = [sys.executable, *MAIN, *WORDS, "--out", str(tmp_path)], whole
    two = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}  # a thread that waits takes no core
    there = subprocess.run(words, env=two, capture_output=True, text=True, check=True)
    assert there.stdout == printed
    threads = hb.diff(folder, tmp_path)
    assert threads.same and threads.provenance == {"threads": ([1], [2])}
