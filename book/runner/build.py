"""The book: run every notebook that is not current, then build the pages and say how long each step took."""

from __future__ import annotations

import concurrent.futures as cf
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nbformat
from rich.console import Console
from rich.markup import escape

from book.runner.execute import execute
from book.runner.outputs import first_request
from book.runner.publish import publish as publish_runs
from book.runner.publish import published
from book.runner.runs import OVERRIDES, Project, Run
from hybret.errors import HybretError, printable

PATIENCE = 5.0  # seconds: nbclient answers a signal by asking its kernel to shut down, which can take its time


class BuildError(HybretError):
    """A notebook raised, or the pages could not be built without warnings."""

    status = 1


def build(
    model: str | None = None,
    only: Iterable[str] | None = None,
    force: bool = False,
    jobs: int = 2,
    *,
    parameters: Mapping[str, Any] | None = None,
    root: str | Path = ".",
    html: bool = True,
    publish: bool = False,
    console: Console | None = None,
) -> Path:
    """Run the notebooks that changed, build the HTML book and return the path of its index page.

    Parameters
    ----------
    model : run every notebook on this model instead of its default. Such runs, and those with other `parameters`, live
        in ``book/executed/<model>/`` and their pages in ``_build/<model>/``: they never replace the book's.
    only : names of notebooks; those that they need and that are not current run too. Default: all.
    force : run the named notebooks although nothing changed.
    jobs : notebooks at a time; the cores are shared out between them as torch threads.
    html : False stops after the runs and returns their folder.
    publish : copy the runs of `model` into ``book/published/<model>/``, return that folder and build no pages.

    A notebook that fails (kept as ``*.failed.ipynb``) and a warning of the pages raise BuildError.
    """
    console = console or Console(highlight=False)
    project = Project(Path(root).resolve(), {**({"model": model} if model else {}), **(parameters or {})})
    if publish and not project.variant:
        raise HybretError("only runs of another model are published; give one with --model")
    todo = select(project, only, force, jobs, console)
    check_folders(project, pages=html and not publish)
    began = time.perf_counter()
    run_all(project, todo, jobs, console)
    console.print(f"runs   {time.perf_counter() - began:.1f} s")
    if publish:
        folder = publish_runs(project)
        console.print(f"published in [bold]{folder}[/]: commit it, and `hybret book` shows it", soft_wrap=True)
        return folder
    if not html:
        return project.executed
    began = time.perf_counter()
    index = pages(project, console)
    console.print(f"pages  {time.perf_counter() - began:.1f} s")
    console.print(f"open [bold]{escape(printable(index))}[/]", soft_wrap=True)
    return index


def check_folders(project: Project, pages: bool) -> None:
    """Refuse a clone that cannot be written to, and for the pages one whose path Sphinx takes for a pattern."""
    if pages and (signs := "".join(sorted({*"[]*?"} & {*str(project.root)}))):
        raise HybretError(f"the path {project.root} holds {signs}, which Sphinx takes for a pattern; rename the folder")
    for folder in (project.executed, project.results, project.html if pages else project.results):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as problem:
            reason = f"cannot write in {problem.filename or folder} ({problem.strerror})"
            raise HybretError(f"{reason}; build the book in a clone of your own") from problem


def select(project: Project, only: Iterable[str] | None, force: bool, jobs: int, console: Console) -> list[Run]:
    """Return the runs to carry out, in the order of ``runs.yml``, without those that lack what is to be fetched."""
    if jobs < 1:
        raise HybretError(f"jobs must be at least 1, not {jobs}.")
    plan = project.plan
    named = list(plan) if only is None else list(only)
    if unknown := [name for name in named if name not in plan]:
        raise HybretError(f"there is no notebook {unknown[0]!r}; runs.yml has {', '.join(plan)}.")
    wanted = set(named)
    for name in reversed(plan):  # needs stand above in the file, so one pass collects them all
        if name in wanted:
            wanted |= set(plan[name].needs)
    forced = set(named) if force else set()
    todo = [
        run for name, run in plan.items()
        if name in wanted and (name in forced or project.status(name).state != "current")
    ]  # fmt: skip
    lacking = [run for run in todo if run.lacks]
    if lacking and (only is not None or all(run.lacks for run in plan.values())):
        raise HybretError(f"{lacking[0].name} cannot run: {lacking[0].unmet}")
    for run in lacking:
        console.print(f"  [yellow]left out[/] {run.name}: {run.unmet}")
    return [run for run in todo if not run.lacks]


def run_all(project: Project, todo: list[Run], jobs: int, console: Console) -> None:
    """Carry out runs, `jobs` at a time, each as soon as those it needs are done."""
    fresh = len(project.plan) - len(todo)
    console.print(f"notebooks: {len(todo)} to run, {fresh} unchanged or not asked for, {jobs} at a time")
    threads = max(1, (os.cpu_count() or 1) // jobs)
    waiting, unfinished, failed = list(todo), {run.name for run in todo}, list[str]()
    running: dict[cf.Future[tuple[float, str]], tuple[Run, cf.ProcessPoolExecutor]] = {}
    try:
        while waiting or running:
            for run in [run for run in waiting if not unfinished & set(run.needs)][: jobs - len(running)]:
                waiting.remove(run)
                console.print(f"  [cyan]running[/]  {run.name}")
                # A process that no other run shares: if that is killed, the others go on.
                pool = cf.ProcessPoolExecutor(1, initializer=_end_with, initargs=(os.getpid(),))
                running[pool.submit(execute, project, run, threads)] = run, pool
            if not running:
                break  # what is left needs a run that failed
            for future in cf.wait(running, return_when=cf.FIRST_COMPLETED).done:
                (run, pool), crash = running.pop(future), future.exception()
                pool.shutdown()
                seconds, error = (0.0, f"its process ended: {crash}") if crash else future.result()
                if error:
                    failed.append(run.name)
                    kept = project.executed / f"{run.name}.failed.ipynb"
                    where = f"{os.path.relpath(kept, project.root)}: " if kept.is_file() else ""
                    console.print(f"  [red]FAILED[/]   {run.name}  {seconds:.1f} s")
                    console.print(printable(f"    {where}{error}", squeeze=False), markup=False, soft_wrap=True)
                else:
                    unfinished.discard(run.name)
                    done = f"{len(todo) - len(unfinished)}/{len(todo)}"
                    console.print(f"  [green]done[/]     {run.name}  {seconds:.1f} s  ({done})")
    except BaseException:  # Ctrl-C: nobody waits for what still runs
        _end(multiprocessing.active_children())
        for _, pool in running.values():
            pool.shutdown()
        raise
    for run in waiting:
        console.print(f"  [yellow]skipped[/]  {run.name}  (needs {', '.join(unfinished & set(run.needs))})")
    if failed:
        raise BuildError(f"failed: {', '.join(failed)}")


def _end(processes: Iterable[Any]) -> None:
    """End processes and their kernels; one that is slow about it is killed, and its kernel ends with it."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        process.kill()


def _end_with(parent: int) -> None:
    """End this process soon after its parent, which may be killed: a second build must not meet runs of the first.

    Ctrl-C, which a terminal sends to both, is the parent's to answer.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)  # the kernel watches this process in the same way

    threading.Thread(target=watch, daemon=True).start()


def pages(project: Project, console: Console) -> Path:
    """Build the HTML with every warning an error; return the path of the index page."""
    shown = [*filter(None, map(project.find, project.plan)), *published(project)]
    for path in shown:
        cell, what = first_request(nbformat.read(path, as_version=4))
        if cell:
            raise BuildError(
                f"{os.path.relpath(path, project.root)}: the output of cell {printable(cell)} asks another host for "
                f"{printable(what)}, and pages ask for nothing; let it show text, a table or a picture, and run it "
                f"again (hybret book --only {printable(path.stem)} --force)"
            )
    index, log = project.html / "index.html", project.root / "_build" / "book.log"
    index.unlink(missing_ok=True)  # so that its presence afterwards proves that this build wrote it
    log.parent.mkdir(exist_ok=True)
    console.print("pages: building the HTML")
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(project.root)]
    command += ["-W", "--keep-going", "--path-output", str(project.html.parents[1])]
    environment = {**os.environ, OVERRIDES: json.dumps(dict(project.overrides))}
    with log.open("w") as output:
        code = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT).returncode
    if code or not index.is_file():
        plain = re.sub(r"\x1b\[[\d;]*m", "", log.read_text())  # Sphinx colours a log too
        faults = [line for line in plain.splitlines() if "WARNING" in line or "ERROR" in line]
        for line in faults[:20]:
            console.print(printable(line), markup=False, soft_wrap=True)
        raise BuildError(f"the pages were not built (jupyter-book ended with {code}); the whole log is {log}")
    return index
