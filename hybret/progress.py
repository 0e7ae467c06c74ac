"""Progress bars that suit where they are shown: a notebook, a terminal, or a log that somebody reads later."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Any

from tqdm.std import tqdm

from hybret.errors import printable

SELDOM = 30
"""Seconds between the lines of a log: at tqdm's tenth of a second an hour would fill 36,000 of them."""


def bar(desc: str = "", **options: Any) -> tqdm:
    """A bar of tqdm: a widget where a notebook shows one, else text; none if there is nothing to do.

    Unless `options` disable it, the environment may (``TQDM_DISABLE``).
    """
    if not options.get("disable"):
        options.pop("disable", None)  # given, it would go before the environment
    if options.get("total") == 0:
        options["disable"] = True
    if attended() and find_spec("ipywidgets"):
        from tqdm.notebook import tqdm as widget

        return widget(desc=printable(desc), **options)
    if not attended() and not sys.stderr.isatty():
        options = {"mininterval": SELDOM, "maxinterval": SELDOM, **options}
    return tqdm(desc=printable(desc), **options)


def attended() -> bool:
    """Whether a front end shows this kernel's output; papermill and nbconvert keep it for later.

    Such runners tell their kernel that nobody can be asked for input; so does voila, which is a front end.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    kernel = getattr(shell, "kernel", None)
    voila = os.environ.get("SERVER_SOFTWARE", "").startswith("voila")
    return kernel is not None and (voila or bool(getattr(kernel, "_allow_stdin", False)))
