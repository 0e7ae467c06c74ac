"""How the small models were trained and evaluated, and how their model cards are written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps

from hybret.errors import HybretError


def command(main: Callable[[list[str] | None], None]) -> Callable[..., int]:
    """A command line: `main` with the exit status as its result, 0, or 2 after one sentence on bad input."""

    @wraps(main)
    def run(arguments: list[str] | None = None) -> int:
        try:
            main(arguments)
        except HybretError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0

    return run
