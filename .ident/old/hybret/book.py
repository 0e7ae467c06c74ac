"""The book: run every notebook that is not current, then build the pages and say how long each step took."""

from __future__ import annotations

import concurrent.futures as cf
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import publishing
from .errors import HybretError, printable
from .execution import execute
from .runs import OVERRIDES, Project, Run

PATIENCE = 5.0  # seconds: nbclient answers a signal by asking its kernel to shut down, which can take its time


class BuildError(RuntimeError):
    """A notebook raised, or the pages could not be built without warnings."""


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
    model : str, optional
        Run every notebook on this model instead of its default. Such runs, and those with `parameters`, live
        in ``book/executed/<model>/`` and their pages in ``_build/<model>/``: they never replace the book's.
    only : iterable of str, optional
        Names of notebooks; those that they need and that are not current run too. Default: all.
    force : bool
        Run the named notebooks although nothing changed.
    jobs : int
        Notebooks at a time. The processor's cores are shared out between them as torch threads.
    parameters : mapping, optional
        Further notebook parameters, injected wherever a notebook has them.
    root : path
        The project's folder, with ``notebooks/runs.yml`` and ``_config.yml``.
    publish : bool
        Copy the runs of `model` into ``book/published/<model>/`` and stop there; the return value is that folder, and
        the next build without a model shows its runs beside the book's own.
    html : bool
        False stops after the runs; the return value is then their folder.
    console : rich.console.Console, optional
        Where progress goes.

    Raises
    ------
    HybretError
        Before anything runs: no project here, an unknown notebook, an unknown or wrongly typed parameter, nothing to
        publish. After the runs: a notebook too large to be published.
    BuildError
        A notebook failed (its partial copy is kept as ``*.failed.ipynb``), or the pages gave a warning.
    """
    console = console or Console(highlight=False)
    given = {**({"model": model} if model else {}), **(parameters or {})}
    project = Project(Path(root).resolve(), given)
    if publish and not project.variant:
        raise HybretError("only runs of another model are published; give one with --model")
    todo = select(project, only, force, jobs)
    times = [("runs", *timed(run_all, project, todo, jobs, console))]
    if publish:
        folder = publishing.publish(project)
        console.print(f"published in [bold]{folder}[/]: commit it, and `hybret book` shows it", soft_wrap=True)
        return folder
    if not html:
        return project.executed
    times.append(("pages", *timed(pages, project, console)))
    table = Table("step", "seconds", box=None, header_style="dim")
    for step, seconds, _ in times:
        table.add_row(step, f"{seconds:.1f}")
    console.print(table)
    index: Path = times[-1][-1]
    console.print(f"open [bold]{escape(printable(index))}[/]", soft_wrap=True)
    return index


def timed(function: Any, *arguments: Any) -> tuple[float, Any]:
    """Call a function; return (seconds, its result)."""
    began = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - began, result


def select(project: Project, only: Iterable[str] | None, force: bool, jobs: int) -> list[Run]:
    """Return the runs to carry out, in the order of ``runs.yml``."""
    if jobs < 1:
        raise HybretError(f"jobs must be at least 1, not {jobs}.")
    plan = project.plan
    named = list(plan) if only is None else list(only)
    if unknown := [n for n in named if n not in plan]:
        raise HybretError(f"there is no notebook {unknown[0]!r}; runs.yml has {', '.join(plan)}.")
    wanted = set(named)
    for name in reversed(plan):  # needs stand above in the file, so one pass collects them all
        if name in wanted:
            wanted |= set(plan[name].needs)
    return [
        run
        for name, run in plan.items()
        if name in wanted and (force and name in named or project.status(name).state != "current")
    ]


def run_all(project: Project, todo: list[Run], jobs: int, console: Console) -> None:
    """Carry out runs, `jobs` at a time, each as soon as those it needs are done."""
    fresh = len(project.plan) - len(todo)
    console.print(f"notebooks: {len(todo)} to run, {fresh} unchanged or not asked for, {jobs} at a time")
    threads = max(1, (os.cpu_count() or 1) // jobs)
    waiting, open_names, failed = list(todo), {r.name for r in todo}, list[str]()
    running: dict[cf.Future[tuple[float, str]], Run] = {}
    try:
        while waiting or running:
            for run in [r for r in waiting if not open_names & set(r.needs)]:
                if len(running) < jobs:
                    waiting.remove(run)
                    console.print(f"  [cyan]running[/]  {run.name}")
                    running[_start(project, run, threads)] = run
            if not running:
                break  # what is left needs a run that failed
            for future in cf.wait(running, return_when=cf.FIRST_COMPLETED).done:
                run = running.pop(future)
                crash = future.exception()
                seconds, error = (0.0, f"its process ended: {crash}") if crash else future.result()
                if error:
                    failed.append(run.name)
                    kept = os.path.relpath(project.executed / f"{run.name}.failed.ipynb", project.root)
                    console.print(f"  [red]FAILED[/]   {run.name}  {seconds:.1f} s\n    {escape(kept)}: ", end="")
                    console.print(printable(error), markup=False, soft_wrap=True)
                else:
                    open_names.discard(run.name)
                    left = f"{len(todo) - len(waiting) - len(running) - len(failed)}/{len(todo)}"
                    console.print(f"  [green]done[/]     {run.name}  {seconds:.1f} s  ({left})")
    except BaseException:  # Ctrl-C: nobody waits for what still runs
        _end(multiprocessing.active_children())
        raise
    for run in waiting:
        console.print(f"  [yellow]skipped[/]  {run.name}  (needs {', '.join(open_names & set(run.needs))})")
    if failed:
        raise BuildError(f"failed: {', '.join(failed)}")


def _start(project: Project, run: Run, threads: int) -> cf.Future[tuple[float, str]]:
    """Carry a run out in a process that no other run shares: if that is killed, the others go on."""
    pool = cf.ProcessPoolExecutor(1, initializer=_end_with, initargs=(os.getpid(),))
    future = pool.submit(_carry_out, project, run, threads)
    pool.shutdown(wait=False)
    return future


def _carry_out(project: Project, run: Run, threads: int) -> tuple[float, str]:
    """Carry a run out in this process; what kernel and libraries say goes to the run's log, not among the progress."""
    log = project.executed / f"{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        for standard in (1, 2):
            os.dup2(output.fileno(), standard)
    return execute(project, run, threads)


def _end(processes: list[BaseProcess]) -> None:
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
    publishing.published(project)  # a name that pages may not show is said here, not in a log
    out = project.root / "_build" / project.variant if project.variant else project.root
    index = out / "_build" / "html" / "index.html"
    index.unlink(missing_ok=True)  # so that its presence afterwards proves that this build wrote it
    log = project.root / "_build" / "book.log"
    log.parent.mkdir(exist_ok=True)
    console.print("pages: building the HTML")
    command = [
        sys.executable,
        "-c",
        "from jupyter_book.cli.main import main; main()",
        "build",
        str(project.root),
    ]
    command += ["-W", "--keep-going", "--path-output", str(out)]
    environment = {**os.environ, OVERRIDES: json.dumps(dict(project.overrides))}
    with log.open("w") as output:
        code = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT).returncode
    if code or not index.is_file():
        said = [line for line in log.read_text().splitlines() if "WARNING" in line or "ERROR" in line]
        for line in said[:20]:
            console.print(printable(line), markup=False, soft_wrap=True)
        raise BuildError(f"the pages were not built (jupyter-book ended with {code}); the whole log is {log}")
    return index
