"""Carry out one notebook run with papermill and write down where it came from."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from traitlets.config import Config

import hybret
from book.runner.outputs import without_bars
from book.runner.runs import Project, Run
from hybret.files import digest
from hybret.provenance import commit

# No progress bars among a page's results (`without_bars` catches those of other libraries); and memory that glibc would
# give back to the system after every large tensor is kept (a third of the time of decoding many Jamba rows).
ENVIRONMENT = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "ignore:IProgress not found",
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
}
LONGEST_FOLDER = 70  # characters of the folder of a kernel's sockets
# What a run says of itself holds for this Python and the clone's hybret: a kernel with another one does not start.
KERNEL = """import sys
sys.path[:] = filter(None, sys.path)
import hybret
if hybret.__file__ != (wanted := sys.argv.pop(1)):
    sys.exit(f"it imports hybret from {hybret.__file__}, and not from {wanted}; see PYTHONPATH and sitecustomize")
from ipykernel.kernelapp import launch_new_instance
launch_new_instance()"""
LIBRARIES = ("hybret", "torch", "transformers", "lm_eval")


def nvidia_smi(field: str) -> list[str]:
    """Return a field of every GPU; nothing where there is none."""
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []


@contextmanager
def gpu_memory() -> Iterator[list[float]]:
    """Yield a list that comes to hold the most GiB that all processes take of each GPU, looked at once a second."""
    most: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1) and (used := nvidia_smi("memory.used")):
            gib = [round(int(mib) / 1024, 2) for mib in used]
            most[:] = [max(pair) for pair in zip(gib, most or gib, strict=True)]

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def execute(project: Project, run: Run, threads: int) -> tuple[float, str]:
    """Carry one run out in a process of its own; return (seconds, error), the error empty when it went well.

    The finished copy replaces the old one in one step. After a failure the old copy stays, and what was done
    lies in ``<name>.failed.ipynb``. Only the exception that papermill raises counts: after a killed kernel or a
    timeout its metadata say that nothing went wrong.
    """
    done = project.executed / f"{run.name}.ipynb"
    part, bad, log = (done.with_suffix(s) for s in (".running.ipynb", ".failed.ipynb", ".log"))
    for folder in (project.executed, project.results):
        folder.mkdir(parents=True, exist_ok=True)
    bad.unlink(missing_ok=True)
    began = time.time()
    # Kernels that share a folder of sockets hang, and ~/.ipython would make this machine's runs special.
    # A socket's name has room for about 100 characters, which the scratch folder of a job can fill.
    scratch = tempfile.gettempdir() if len(tempfile.gettempdir()) < LONGEST_FOLDER else "/tmp"
    with tempfile.TemporaryDirectory(prefix="hb", dir=scratch) as private, log.open("w") as output:
        for standard in (1, 2):  # what kernel and libraries say is for the log, and not for the progress
            os.dup2(output.fileno(), standard)
        files = Path(private, "files")  # where `hybret.figures.save` writes down what it saved
        clone = project.root / "hybret" / "__init__.py"
        wanted = str(clone if clone.is_file() else hybret.__file__)
        argv = [sys.executable, "-c", KERNEL, wanted, "-f", "{connection_file}"]
        kernel = Path(private, "kernels", "python3", "kernel.json")
        kernel.parent.mkdir(parents=True)
        kernel.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
        os.environ |= ENVIRONMENT | {
            "OMP_NUM_THREADS": str(threads),
            "IPYTHONDIR": private,
            "JUPYTER_PATH": private,  # before every other kernel called python3
            "HYBRET_RUN_FILES": str(files),
            "PYTHONPATH": os.pathsep.join([str(project.root), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        try:
            with gpu_memory() as memory:
                nb = papermill.execute_notebook(
                    str(project.notebooks / f"{run.notebook}.ipynb"),
                    str(part),
                    parameters=run.parameters,
                    cwd=str(project.notebooks),
                    kernel_name="python3",
                    progress_bar=False,
                    stdout_file=output,
                    stderr_file=output,
                    config=Config({"KernelManager": {"transport": "ipc", "ip": f"{private}/k"}}),
                )
        except (papermill.PapermillExecutionError, DeadKernelError, CellTimeoutError, RuntimeError) as error:
            if part.exists():
                os.replace(part, bad)
            what = f"{getattr(error, 'ename', type(error).__name__)}: {getattr(error, 'evalue', error)}"
            if not hasattr(error, "ename"):  # the kernel died, and said why to the log at most
                last = "".join(log.read_text().strip().splitlines()[-1:]) or "nothing"
                what += f" (the kernel's Python is {sys.executable}; the last line of {log} is: {last})"
            return time.time() - began, " ".join(what.split())
        saved = files.read_text().splitlines() if files.is_file() else []
    without_bars(nb)
    times = nb.metadata.pop("papermill")
    for cell in nb.cells:
        cell.metadata.pop("papermill", None)
    nb.metadata["hybret"] = {
        "key": run.key,
        "source": run.source,
        "package": project.package_key,
        "parameters": run.parameters,
        "model": run.settings.get("model"),
        "recipe": run.settings.get("recipe"),
        **commit(project.root),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES if find_spec(name)},
        "device": ", ".join(nvidia_smi("name")) or f"CPU ({platform.machine()})",
        "started": times["start_time"],
        "seconds": round(times["duration"], 1),
        "memory_gib": memory,
        "files": {os.path.relpath(path, project.results.resolve()): digest(Path(path)) for path in sorted({*saved})},
    }
    nbformat.write(nb, part)
    os.replace(part, done)
    return time.time() - began, ""
