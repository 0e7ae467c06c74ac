"""Carry out one notebook run with papermill and write down where it came from."""

from __future__ import annotations

import ast
import os
import platform
import re
import subprocess
import tempfile
import threading
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat

from .commits import commit
from .runs import Project, Run, parameters

# This environment's kernel and not the user's; no progress bars among a page's results; and memory that glibc would
# give back to the system after every large tensor is kept (a third of the time of decoding many Jamba rows).
ENVIRONMENT = {
    "JUPYTER_PREFER_ENV_PATH": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "ignore:IProgress not found",
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
}
LIBRARIES = ("hybret", "torch", "transformers", "lm_eval")


def provenance(root: Path) -> dict[str, Any]:
    """Return commit, whether tracked files differ from it, the versions of Python and libraries, and device."""

    try:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        gpus = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        gpus = []
    return {
        **commit(root),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES if find_spec(name)},
        "device": ", ".join(gpus) or f"CPU ({platform.machine()})",
    }


class GpuMemory(threading.Thread):
    """The most that all processes take of each GPU in a ``with`` block: once a second, as ``nvidia-smi`` sees it.

    Attributes
    ----------
    gib : list of float
        GiB, by GPU; empty without GPUs.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.gib: list[float] = []
        self.ended = threading.Event()

    def run(self) -> None:
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not self.ended.wait(1):
            try:
                lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
            except (OSError, subprocess.CalledProcessError):
                return
            now = [round(int(line) / 1024, 2) for line in lines]
            self.gib = [max(pair) for pair in zip(now, self.gib or now, strict=True)]

    def __enter__(self) -> GpuMemory:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join()


def execute(project: Project, run: Run, threads: int) -> tuple[float, str]:
    """Carry one run out in a process of its own; return (seconds, error), the error empty when it went well.

    The finished copy replaces the old one in one step. After a failure the old copy stays, and what was done
    lies in ``<name>.failed.ipynb``. Only the exception that papermill raises counts: after a killed kernel or a
    timeout its metadata say that nothing went wrong.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from traitlets.config import Config

    done = project.executed / f"{run.name}.ipynb"
    part, bad, log = (done.with_suffix(s) for s in (".running.ipynb", ".failed.ipynb", ".log"))
    for folder in (project.executed, project.results):
        folder.mkdir(parents=True, exist_ok=True)
    began = time.time()
    # Kernels that share a folder of sockets hang, and ~/.ipython would make this machine's runs special.
    with tempfile.TemporaryDirectory(prefix="hb") as private, log.open("a") as output:
        os.environ |= ENVIRONMENT | {"OMP_NUM_THREADS": str(threads), "IPYTHONDIR": private}
        kernel = Config({"KernelManager": {"transport": "ipc", "ip": f"{private}/k"}})
        try:
            with GpuMemory() as memory:
                nb = papermill.execute_notebook(
                    str(project.notebooks / f"{run.notebook}.ipynb"),
                    str(part),
                    parameters=run.parameters,
                    cwd=str(project.notebooks),
                    kernel_name="python3",
                    progress_bar=False,
                    stdout_file=output,
                    stderr_file=output,
                    config=kernel,
                )
        except (papermill.PapermillExecutionError, DeadKernelError, CellTimeoutError, RuntimeError) as error:
            if part.exists():
                os.replace(part, bad)
            what = f"{getattr(error, 'ename', type(error).__name__)}: {getattr(error, 'evalue', error)}"
            return time.time() - began, " ".join(what.split())
    record(project, run, nb, began, memory.gib)
    nbformat.write(nb, part)
    os.replace(part, done)
    bad.unlink(missing_ok=True)
    return time.time() - began, ""


def record(project: Project, run: Run, nb: Any, began: float, memory: list[float]) -> None:
    """Write the run's provenance into the notebook, in place of papermill's own metadata."""
    times = nb.metadata.pop("papermill")
    for cell in nb.cells:
        cell.metadata.pop("papermill", None)
    code = "\n".join(c.source for c in nb.cells if c.cell_type == "code")
    named = set(re.findall(r"""["']([\w.-]+)["']""", code))
    written = [p for p in project.results.iterdir() if p.is_file() and p.stat().st_mtime >= began - 1]
    files = [p.name for p in written if {p.name, p.stem} & named] if run.name == run.notebook else []
    used = settings(project, run)
    nb.metadata["hybret"] = {
        "key": run.key,
        "source": run.source,
        "package": project.package_key,
        "parameters": run.parameters,
        "model": used.get("model"),
        "recipe": used.get("recipe"),
        **provenance(project.root),
        "started": times["start_time"],
        "seconds": round(times["duration"], 1),
        "memory_gib": memory,
        "files": sorted(files),
    }


def settings(project: Project, run: Run) -> dict[str, Any]:
    """Every parameter of a run with its value, injected or by default."""
    defaults = parameters(project.notebooks / f"{run.notebook}.ipynb")
    return {k: run.parameters.get(k, literal(v["default"])) for k, v in defaults.items()}


def literal(text: str) -> Any:
    """Return the value of a parameter's default, or its source text when it is not a literal."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
