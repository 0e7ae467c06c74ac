"""Progress bars that suit where they are shown: a notebook, a terminal, or a log that somebody reads later."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from tqdm.std import tqdm

from .errors import printable

SELDOM = 30
"""Seconds between the lines of a log: an hour of tenths of a second would be 36,000 of them in an executed notebook."""


def bar(**options: Any) -> tqdm:
    """A bar of tqdm: a widget in a notebook that has ipywidgets, else text; a line now and then where nobody looks.

    Parameters
    ----------
    **options
        Of `tqdm.tqdm`. Unless they disable the bar, the environment may (``TQDM_DISABLE``). No bar has nothing to do.
    """
    options["desc"] = printable(options.get("desc", ""))  # it names models
    if options.get("total") == 0:
        options["disable"] = True
    elif not options.get("disable"):
        options.pop("disable", None)  # said aloud, it would go before the environment
    if attended():
        if find_spec("ipywidgets"):
            from tqdm.notebook import tqdm as widget

            return widget(**options)
    elif _kernel() is not None or not sys.stderr.isatty():
        options = {"mininterval": SELDOM, "maxinterval": SELDOM, **options}
    return tqdm(**options)


def _kernel() -> Any:
    """The Jupyter kernel that runs this, if one does."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None)


def attended() -> bool:
    """Whether a reader's front end runs this kernel.

    papermill, nbconvert and other runners keep an output for later, when the kernel is gone. They tell their kernel
    that nobody can be asked for input; so does voila, which is a front end.
    """
    kernel = _kernel()
    voila = os.environ.get("SERVER_SOFTWARE", "").startswith("voila")
    return kernel is not None and (voila or bool(getattr(kernel, "_allow_stdin", False)))


@contextmanager
def hidden(hide: bool) -> Iterator[None]:
    """Hide transformers' own bars inside the block: for weights that are there in milliseconds."""
    from transformers.utils import logging

    shown = hide and logging.is_progress_bar_enabled()
    if shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
