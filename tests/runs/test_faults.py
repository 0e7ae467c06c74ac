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
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from tiny_book import notebook
from typer.testing import CliRunner

import hybret as hb
from book.runner import build as book
from book.runner.runs import Project
from hybret import HybretError, Keep, KeepHeads, Omit, store
from hybret.cli import app
from hybret.engine import decode
from hybret.engine.schedule import Budget
from hybret.files import read_table, write_table
from hybret.tasks import niah

CONDITIONS = {"keep": Keep(), "k=0": KeepHeads(0), "k=2": KeepHeads(2, during="generation"), "omit": Omit()}
OPTIONS = {"max_new_tokens": 3, "budget": Budget(2, 200), "progress": False}
MAIN = ["-c", "from hybret.cli import app; app()"]


def sweep(model, out, lengths=(76, 100, 128), depths=(0, 50, 100), **options):
    return hb.sweep(model, niah.grid(model, lengths, depths), CONDITIONS, out=out, **(OPTIONS | options))


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
    """Four tiny notebooks, the last of which needs the first."""
    (root / "notebooks").mkdir(parents=True)
    for name in "abcd":
        notebook(root / "notebooks" / f"{name}.ipynb", name, (TABLE.format(name), {}))
    (root / "notebooks" / "runs.yml").write_text("a: {}\nb: {}\nc: {}\nd: {needs: [a]}\n")
    return root


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
        plan = Project(root)
        assert [plan.status(name).state for name in plan.plan] == ["current"] * 4
        report(capsys, f"kill -9 of hybret book ({finished} books of 4 notebooks)", killed, 0)


def test_a_killed_worker_of_the_book_takes_no_other_run_with_it(tmp_path):
    root = project(tmp_path / "p")
    path = root / "notebooks" / "b.ipynb"
    notebook(path, "b", ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", {}))
    with pytest.raises(book.BuildError, match="failed: b$"):
        book.build(root=root, html=False, jobs=2)
    plan = Project(root)
    assert [plan.status(name).state for name in plan.plan] == ["current", "not run", "current", "current"]


# ---------------------------------------------------------------- files

PLACES = ("first", "early", "middle", "late", "footer", "last")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", ["flipped", "truncated"])
def test_a_damaged_table_is_noticed_and_computed_again(griffin, undisturbed, tmp_path, place, what):
    sweep(griffin, tmp_path)
    path = sorted(tmp_path.glob("answers/*.parquet"))[1]
    data = bytearray(path.read_bytes())
    at = {"first": 0, "early": 40, "middle": len(data) // 2, "late": -600, "footer": -8, "last": -1}[place] % len(data)
    if what == "flipped":
        data[at] ^= 4
    path.write_bytes(data if what == "flipped" else data[:at])
    with pytest.raises(HybretError, match=f"{path.name} is damaged; remove it") as caught:
        sweep(griffin, tmp_path)
    assert "\n" not in str(caught.value)
    path.unlink()
    sweep(griffin, tmp_path)
    assert files(tmp_path) == undisturbed


def test_any_flipped_bit_is_noticed(tmp_path):
    write_table(tmp_path / "t", pd.DataFrame({"answer": ["eat a sandwich", ""], "score": [1.0, 0.0]}))
    (path,) = tmp_path.glob("t.*.parquet")
    data = path.read_bytes()
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
        with pytest.raises(HybretError, match="is damaged"):
            read_table(path)


def test_a_damaged_rows_file_is_noticed_by_those_who_read_it(griffin, tmp_path):
    sweep(griffin, tmp_path)
    (path,) = tmp_path.glob("rows-*.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(HybretError, match=f"{path.name} is damaged"):
        hb.diff(tmp_path, tmp_path)


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


@pytest.mark.parametrize("at", [0, 3, 5])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_fills_up_costs_nothing_that_was_finished(griffin, undisturbed, tmp_path, monkeypatch, at, code):
    original, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 2 + at:  # the two notes
            raise OSError(code, os.strerror(code))
        return original(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(HybretError) as caught:
            sweep(griffin, tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert len(written(tmp_path, "answers/*")) == at and not list(tmp_path.rglob(".*"))
    before = written(tmp_path, "answers/*")
    sweep(griffin, tmp_path)
    assert before.items() <= written(tmp_path, "answers/*").items()
    assert files(tmp_path) == undisturbed


def test_what_killed_writers_left_goes_after_an_hour(griffin, tmp_path):
    sweep(griffin, tmp_path)
    old, new = (tmp_path / "answers" / f".hybret-{age}" for age in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * store.ABANDONED,) * 2)
    sweep(griffin, tmp_path)
    assert not old.exists() and new.exists()


def test_results_can_be_read_by_others(griffin, tmp_path):
    sweep(griffin, tmp_path)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()} == {0o644}


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


def interrupt(monkeypatch, module, name, after):
    """Ctrl-C in the call after so many."""
    original, calls = getattr(module, name), []

    def interrupted(*args, **kwargs):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, interrupted)
    return calls


WORDS = ["sweep", "--lengths", "128,", "--depths", "0,100", "--k", "0", "--k", "10", "--rows-per-batch", "2", "--json"]


def test_ctrl_c_says_what_is_kept_and_the_same_command_goes_on(tmp_path, monkeypatch):
    run = CliRunner()
    whole = run.invoke(app, [*WORDS, "--out", str(tmp_path / "whole")])
    words = [*WORDS, "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        interrupt(patch, decode, "decode", 1)
        stopped = run.invoke(app, words)
        assert stopped.exit_code == 130 and stopped.stderr.count("\n") <= 2
        assert "interrupted: with --out, finished answers are kept; the same command" in stopped.stderr
    with monkeypatch.context() as patch:
        calls = interrupt(patch, decode, "decode", 1)
        again = run.invoke(app, words)
        assert again.exit_code == 0 and len(calls) == 1  # two batches in all, one of them kept
    assert again.stdout == whole.stdout and files(tmp_path / "out") == files(tmp_path / "whole")
    interrupt(monkeypatch, decode, "decode", 0)
    stopped = run.invoke(app, WORDS)
    assert stopped.exit_code == 130 and "with --out, finished answers are kept" in stopped.stderr
    stopped = run.invoke(app, ["bench", "--lengths", "128,", "--depths", "0,"])
    assert stopped.exit_code == 130 and "interrupted: nothing is kept" in stopped.stderr


@pytest.mark.parametrize("who", ["driver", "group"])  # `kill -INT`, and a terminal, which tells all of its processes
def test_ctrl_c_in_a_book_ends_its_notebooks_and_keeps_the_finished(tmp_path, who):
    root = project(tmp_path / "p")
    notebook(root / "notebooks" / "b.ipynb", "b", ("import time\ntime.sleep(600)", {}))
    words = [sys.executable, *MAIN, "book", "--only", "b", "--only", "d"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job in the background is started deaf
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    main = subprocess.Popen(words, cwd=root, **pipes, preexec_fn=heard, start_new_session=True)
    until = time.time() + 90
    while not (root / "book" / "executed" / "d.ipynb").exists() and time.time() < until:
        time.sleep(0.1)
    (os.kill if who == "driver" else os.killpg)(main.pid, signal.SIGINT)
    said = main.communicate(timeout=60)[1]
    assert (
        main.returncode == 130
        and said == "interrupted: finished notebooks are kept; the same command computes the rest\n"
    )
    assert gone(root)
    plan = Project(root)
    assert [plan.status(name).state for name in plan.plan] == ["current", "not run", "not run", "current"]


def test_a_harness_keeps_the_tasks_that_were_finished(griffin, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (pip install 'hybret[eval]')")
    from hybret import harness
    from hybret.harness import evaluate
    from hybret.harness import tasks as benchmarks

    names = [task.name for task in benchmarks.find("organism")[:2]]
    monkeypatch.setattr(sys.modules[evaluate.__module__], "ROWS_AT_ONCE", 1)  # one task at a time
    options = {"limit": 2, "progress": False}
    conditions = {"ablated": KeepHeads(0), "base": Keep()}
    whole = harness.evaluate(griffin, names, conditions, out=tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        interrupt(patch, pytest.importorskip("lm_eval"), "evaluate", 1)
        with pytest.raises(KeyboardInterrupt):
            harness.evaluate(griffin, names, conditions, out=tmp_path / "out", **options)
    kept = written(tmp_path / "out", "benchmarks/*.parquet")
    assert kept and len(kept) < len(files(tmp_path / "whole"))
    pd.testing.assert_frame_equal(harness.evaluate(griffin, names, conditions, out=tmp_path / "out", **options), whole)
    assert kept.items() <= written(tmp_path / "out", "benchmarks/*.parquet").items()
    assert files(tmp_path / "out") == files(tmp_path / "whole")


# ---------------------------------------------------------------- the same bytes


@pytest.mark.parametrize("out", ["a", "b"])
def test_the_same_sweep_again_writes_the_same_bytes(griffin, undisturbed, tmp_path, out):
    sweep(griffin, tmp_path / out)
    assert files(tmp_path / out) == undisturbed


def test_the_same_command_prints_and_writes_the_same_bytes_in_another_process(tmp_path):
    """And with another number of threads the same answers, from another maker."""
    found = {"a": CliRunner().invoke(app, [*WORDS, "--out", str(tmp_path / "a")]).stdout}
    for name, threads in (("b", "1"), ("c", "2")):
        words = [sys.executable, *MAIN, *WORDS, "--out", str(tmp_path / name)]
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        found[name] = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    assert found["a"] == found["b"] == found["c"]
    assert files(tmp_path / "a") == files(tmp_path / "b")
    threads = hb.diff(tmp_path / "a", tmp_path / "c")
    assert threads.same and threads.provenance == {"threads": ([1], [2])}
