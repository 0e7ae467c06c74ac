"""Which commit a folder's code is of."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any


@cache
def commit(folder: Path) -> dict[str, Any]:
    """The git commit of a folder, and whether its tracked files differ from it; None and False without git.

    Where the code was copied without its history, the environment variable ``HYBRET_COMMIT`` may name the commit.
    """

    def git(*words: str) -> str:
        try:
            found = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return ""
        return found.stdout.strip()

    if not git("ls-files", "--", "."):  # a package installed below somebody else's repository
        return {"commit": os.environ.get("HYBRET_COMMIT"), "dirty": False}
    return {
        "commit": git("rev-parse", "HEAD") or None,
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no", "--", ".")),
    }
