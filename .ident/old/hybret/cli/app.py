"""What every command shares: the application, how bad input ends, how counts are written."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import typer

from ..errors import HybretError, printable

app = typer.Typer(
    help="In hybrid language models, which part does the retrieving? Run the experiments and build the book.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def one_sentence(command: Callable[..., None]) -> Callable[..., None]:
    """Bad input ends with its one sentence on stderr and status 2; a run that was interrupted with status 130.

    A warning is one line on stderr, without the place in the code that Python adds.
    """

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
                command(*args, **kwargs)
        except HybretError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print(f"interrupted: {_kept(command.__name__, kwargs.get('out'))}", file=sys.stderr)
            raise typer.Exit(130) from None

    return run


def _kept(command: str, out: Path | None) -> str:
    """What of an interrupted command is there for the next one."""
    if command == "book":
        return "finished notebooks are kept; the same command runs the others"
    if command == "fetch":
        return "finished files are kept; the same command fetches the others"
    if command != "sweep":
        return "nothing is kept"
    if out is None:
        return "nothing is kept; with --out FOLDER a second run goes on where the first stopped"
    return f"finished answers are kept in {out}; the same command computes the others"


def shown(text: object) -> str:
    """Text that a model or a file wrote, safe on a terminal: control codes come as ``\\x1b``, in one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def say(line: str) -> None:
    """Progress, on stderr."""
    print(printable(line), file=sys.stderr, flush=True)


def numbers(name: str, text: str) -> int | list[int]:
    """A count of lengths or depths, or a list of them separated by commas."""
    try:
        values = [int(part) for part in text.removesuffix(",").split(",")]
    except ValueError:
        example = "labels such as 128,256" if name == "lengths" else "per cents such as 0,50,100"
        raise HybretError(f"{name} is {text!r}; give a count such as 10, or {example}") from None
    return values if "," in text else values[0]
