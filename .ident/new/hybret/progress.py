"""Progress on stderr."""

from __future__ import annotations

import sys
from typing import Any

from tqdm.auto import tqdm

from hybret.errors import printable


def progress_bar(shown: bool, desc: str, **options: Any) -> Any:
    """A bar of tqdm, as text or as a notebook's widget; a log gets a line every 30 seconds."""
    if not shown:
        options["disable"] = True  # False would override TQDM_DISABLE
    if not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        options |= {"mininterval": 30, "maxinterval": 30}
    return tqdm(desc=printable(desc), **options)
