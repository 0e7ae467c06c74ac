"""Which code this is: digests of its files, and its git commit. It brings no torch: the book starts with it."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from hybret.files import digest

RUN_FILE = "run.json"
HERE = Path(__file__).parent
# Modules that decide, beside those of hybret/engine and hybret/interventions, what a model answers.
DECIDING = ("checkpoints", "devices", "families", "hybrid", "models", "recipe", "resolving")
# Read once, with the code: a module edited while a run goes on does not change the run's name.
_PACKAGE = sorted([*HERE.rglob("*.py"), *HERE.glob("organisms/*.txt")])  # the corpus is made from the texts
_DECIDING = {*(HERE / f"{name}.py" for name in DECIDING), *HERE.glob("engine/*.py"), *HERE.glob("interventions/*.py")}
PACKAGE_DIGEST = digest(*_PACKAGE)
ENGINE_DIGEST = digest(*sorted(_DECIDING))


@cache
def commit(folder: Path) -> dict[str, Any]:
    """The git commit of a folder, and whether its tracked files differ from it; None where git does not say.

    The environment variable ``HYBRET_COMMIT`` may name the commit of code that was copied without its history.
    """
    # git gives its hooks GIT_DIR and more, which name the repository of the hook.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        with suppress(OSError):
            ran = subprocess.run(["git", *words], cwd=folder, env=environment, capture_output=True, text=True)
            return "" if ran.returncode else ran.stdout.strip()
        return ""

    if not git("ls-files", "--", "."):  # a package installed below somebody else's repository
        return {"commit": os.environ.get("HYBRET_COMMIT"), "dirty": None}
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ".")
    return {"commit": git("rev-parse", "HEAD") or None, "dirty": bool(changes)}
