"""What a run survives: kills at random moments, a full disk, damaged files, two processes, an interruption.

`pytest tests/test_faults.py --faults 100` kills that often (the book's runs a third as often); the default is a few.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from support import run
from tiny_book import notebook

import hybret as hb
from book.runner import build as book
from book.runner.runs import Project
from hybret import HybretError, Keep, KeepHeads, Omit, store
from hybret.engine.schedule import Budget
from hybret.files import read_table, write_table

CONDITIONS = {"keep": Keep(), "k=0": KeepHeads(0), "k=2": KeepHeads(2, during="generation"), "omit": Omit()}
OPTIONS = {"max_new_tokens": 3, "budget": Budget(2, 200), "progress": False}
MAIN = ["-c", "from hybret.cli import app; app()"]


def sweep(model, out, lengths=(76, 100, 128), depths=(0, 50, 100), **options):
    return hb.sweep(model, hb.niah.grid(model, lengths, depths), CONDITIONS, out=out, **(OPTIONS | options))


def files(folder: Path) -> dict[str, bytes]:
    """What is there, but for files that a killed process never finished."""
    paths = (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def written(folder: Path, pattern: str) -> dict[str, int]:
    """Finished files and when they were written: a file that is lost or made again shows."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(pattern) if not path.name.startswith(".")}


def report(capsys, fault: str, tried: int, lost: int) -> None:
    with capsys.disabled():
        print(f"\n{fault}: {tried} times, {lost} finished cells lost or repeated")


@pytest.fixture(scope="module")
def undisturbed(griffin, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    sweep(griffin, out)
    return files(out)


# ---------------------------------------------------------------- killed

# One process loads the model, and forks one that sweeps and is killed, again and again.
KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
import hybret as hb
sys.path[:0] = ["tests/runs", "tests"]
from test_faults import sweep, files, written
root, kills = Path(sys.argv[1]), int(sys.argv[2])
model, moment = hb.load("random-griffin", device="cpu"), random.Random(7)
began = time.perf_counter()
sweep(model, root / "undisturbed")
whole, wanted = time.perf_counter() - began, files(root / "undisturbed")
killed = finished = lost = 0
while killed < kills:
    out, before = root / f"run-{finished}", {}
    while True:
        child = os.fork()
        if child == 0:
            try:
                sweep(model, out)
            except BaseException as problem:
                print(problem, file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        time.sleep(moment.uniform(0, 1.2 * whole))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        after = written(out, "answers/*.parquet")
        lost += sum(after.get(name) != when for name, when in before.items())
        before = after
        if not os.WIFSIGNALED(status):
            break
        killed += 1
    finished += 1
    assert files(out) == wanted, "another table than without a kill"
print(json.dumps({"killed": killed, "finished": finished, "lost": lost, "batches": len(after)}))
"""


@pytest.mark.timeout(1800)
def test_a_sweep_killed_at_random_moments_ends_with_the_same_bytes(tmp_path, faults, capsys):
    here = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path, str(faults)], cwd=here, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    report(capsys, f"kill -9 of a sweep ({found['finished']} sweeps of {found['batches']} batches)", found["killed"], 0)
    assert found["killed"] >= faults and found["lost"] == 0 and found["batches"] > 5


TABLE = """import pathlib, time
time.sleep(0.3)
pathlib.Path(results).mkdir(exist_ok=True)
pathlib.Path(results, "{0}.csv").write_text("\\n".join(str(count * i) for i in range(1000)))"""


def project(root: Path) -> Path:
    """Three tiny notebooks, the last of which needs the first."""
    (root / "notebooks").mkdir(parents=True)
    for name in "abc":
        notebook(root / "notebooks" / f"{name}.ipynb", name, (TABLE.format(name), {}))
    (root / "notebooks" / "runs.yml").write_text("a: {}\nb: {}\nc: {needs: [a]}\n")
    return root


def states(root: Path) -> list[str]:
    plan = Project(root)
    return [plan.status(name).state for name in plan.plan]


def builder(root: Path) -> subprocess.Popen[str]:
    script = "import sys; from book.runner.build import build; build(root=sys.argv[1], html=False, jobs=2)"
    return subprocess.Popen([sys.executable, "-c", script, root], cwd=root, stdout=subprocess.DEVNULL, text=True)


def processes(root: Path) -> list[int]:
    """Processes that work in this project."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            inside = Path(os.readlink(path / "cwd")).is_relative_to(root)
            if inside and path.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(int(path.name))
        except OSError:
            continue
    return found


def gone(root: Path) -> bool:
    """Whether every process of a project ends within ten seconds."""
    until = time.time() + 10
    while processes(root) and time.time() < until:
        time.sleep(0.1)
    return not processes(root)


@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_book_killed_at_random_moments_ends_with_the_same_tables(tmp_path, faults, capsys):
    kills, moment = max(2, faults // 3), random.Random(7)
    began = time.perf_counter()
    assert builder(project(tmp_path / "undisturbed")).wait() == 0
    whole = time.perf_counter() - began
    wanted = files(tmp_path / "undisturbed" / "book" / "results")
    killed = finished = 0
    while killed < kills:
        root, before = project(tmp_path / f"p{finished}"), {}
        while True:
            main = builder(root)
            try:
                main.wait(moment.uniform(0, whole))
            except subprocess.TimeoutExpired:
                main.kill()
            status = main.wait()
            assert gone(root), "a notebook of the killed build still runs"
            after = written(root / "book" / "executed", "?.ipynb")
            assert before.items() <= after.items(), "a finished notebook was lost, or ran again"
            before = after
            if status == 0:
                break
            assert status == -signal.SIGKILL
            killed += 1
        finished += 1
        assert files(root / "book" / "results") == wanted
        assert states(root) == ["current"] * 3
        report(capsys, f"kill -9 of hybret book ({finished} books of 3 notebooks)", killed, 0)


def test_a_killed_worker_of_the_book_takes_no_other_run_with_it(tmp_path):
    root = project(tmp_path / "p")
    path = root / "notebooks" / "b.ipynb"
    notebook(path, "b", ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", {}))
    with pytest.raises(book.BuildError, match="failed: b$"):
        book.build(root=root, html=False, jobs=2)
    assert states(root) == ["current", "not run", "current"]


# ---------------------------------------------------------------- files


def test_a_damaged_table_is_noticed_and_computed_again(griffin, undisturbed, tmp_path):
    sweep(griffin, tmp_path)
    path = sorted(tmp_path.glob("answers/*.parquet"))[1]
    data = path.read_bytes()
    middle = len(data) // 2
    for damaged in (data[:middle], data[:-1], data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]):
        path.write_bytes(damaged)
        with pytest.raises(HybretError, match=f"{path.name} is damaged; remove it") as caught:
            sweep(griffin, tmp_path)
        assert "\n" not in str(caught.value)
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
            read_table(path)


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
    """After so many batches, or before the table of rows."""
    original, calls = os.fsync, []
    at = sum(name.startswith("answers/") for name in undisturbed) if at is None else at

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 2 + at:  # the two notes
            raise OSError(code, os.strerror(code))
        return original(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(HybretError, match="finished rows are kept" if code == errno.ENOSPC else "") as caught:
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
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()} == {0o644}
    old, new = (tmp_path / "answers" / f".hybret-{age}" for age in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * store.ABANDONED,) * 2)
    sweep(griffin, tmp_path)
    assert not old.exists() and new.exists()


# ---------------------------------------------------------------- at the same time, interrupted


def test_two_processes_in_one_folder_end_with_the_same_bytes(undisturbed, griffin, tmp_path):
    """Forked at once, both from the beginning; each computes all, neither breaks what the other wrote."""
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                sweep(griffin, tmp_path)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert files(tmp_path) == undisturbed


@contextmanager
def passes(stop: int | None = None) -> Iterator[list[int]]:
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


def test_ctrl_c_says_what_is_kept_and_the_same_command_goes_on(tmp_path):
    words = [*WORDS, "--out", tmp_path / "out"]
    with passes() as all_of_them:
        whole = run(*WORDS, "--out", tmp_path / "whole")
    with passes(len(all_of_them)):  # in the last step of the second of two batches
        stopped = run(*words)
    assert stopped.exit_code == 130 and stopped.stderr.count("\n") <= 2
    assert f"interrupted: finished answers are kept in {tmp_path / 'out'}; the same command" in stopped.stderr
    (kept,) = written(tmp_path / "out", "answers/*").items()
    with passes() as more:
        again = run(*words)
    assert again.exit_code == 0 and 0 < len(more) < len(all_of_them)
    assert kept in written(tmp_path / "out", "answers/*").items()
    assert again.stdout == whole.stdout and files(tmp_path / "out") == files(tmp_path / "whole")
    for command, says in ((WORDS, "nothing is kept; with --out FOLDER"), (["bench", *WORDS[1:5]], "nothing is kept")):
        with passes(1):
            stopped = run(*command)
        assert stopped.exit_code == 130 and "interrupted: " in stopped.stderr and says in stopped.stderr


@pytest.mark.parametrize("who", ["driver", "group"])  # `kill -INT`, and a terminal, which tells all of its processes
def test_ctrl_c_in_a_book_ends_its_notebooks_and_keeps_the_finished(tmp_path, who):
    root = project(tmp_path / "p")
    notebook(root / "notebooks" / "b.ipynb", "b", ("import time\ntime.sleep(600)", {}))
    words = [sys.executable, *MAIN, "book", "--only", "b", "--only", "c"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job in the background is started deaf
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    main = subprocess.Popen(words, cwd=root, **pipes, preexec_fn=heard, start_new_session=True)
    until = time.time() + 90
    while not (root / "book" / "executed" / "c.ipynb").exists() and time.time() < until:
        time.sleep(0.1)
    (os.kill if who == "driver" else os.killpg)(main.pid, signal.SIGINT)
    said = main.communicate(timeout=60)[1]
    assert (
        main.returncode == 130
        and said == "interrupted: finished notebooks are kept; the same command runs the others\n"
    )
    assert gone(root)
    assert states(root) == ["current", "not run", "current"]


def test_the_same_command_prints_and_writes_the_same_bytes_in_another_process(tmp_path):
    """And with another number of threads the same answers, from another maker."""
    said = {"a": run(*WORDS, "--out", tmp_path / "a").stdout}
    for name, threads in (("b", "1"), ("c", "2")):
        words = [sys.executable, *MAIN, *WORDS, "--out", str(tmp_path / name)]
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        said[name] = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    assert said["a"] == said["b"] == said["c"]
    assert files(tmp_path / "a") == files(tmp_path / "b")
    threads = hb.diff(tmp_path / "a", tmp_path / "c")
    assert threads.same and threads.provenance == {"threads": ([1], [2])}
