"""The one error that hybret raises for bad input, how foreign text is shown, and values that check their fields."""

from __future__ import annotations

import math
import types
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, dataclass_transform, get_args, get_origin
from typing import get_type_hints as _type_hints

T = TypeVar("T")

LONGEST = 1500
"""Characters of an error: more than any sentence of hybret, and less than a foreign text may bring."""


def printable(text: object) -> str:
    """A foreign text (a model's answer, a name, a path) on one line: control, bidi and colour codes become visible."""
    line = " ".join(str(text).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line)


class HybretError(ValueError):
    """Bad input, said in one sentence: what is wrong, what is allowed, what to do.

    Raised before any model runs, so nothing that was computed is lost. The command line prints the sentence
    without a traceback and exits with status 2. It is one line whatever it quotes; of a long one the middle is left
    out, as the remedy stands at the end.
    """

    def __init__(self, sentence: object = "") -> None:
        line = printable(sentence)
        if len(line) > LONGEST:
            line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
        super().__init__(line)


class AtLeast(NamedTuple):
    """The lower bound of a number, in an annotation: ``Annotated[int, AtLeast(1)]``."""

    least: float


@dataclass_transform(frozen_default=True)
def checked(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose fields take only the values that their annotations allow.

    Numbers are finite and never True or False, texts are not blank, a list becomes a tuple, and an integer a float
    where one is meant. A `__post_init__` of the class runs afterwards.
    """
    more = getattr(cls, "__post_init__", None)

    def __post_init__(self: Any) -> None:  # noqa: N807
        for field in fields(self):
            kind: Any = type(self)
            value, hint = getattr(self, field.name), _hints(kind)[field.name]
            try:
                object.__setattr__(self, field.name, _fitting(value, hint))
            except TypeError:
                problem = f"{field.name} is {value!r}; {type(self).__name__} takes {_allowed(hint)}"
                raise HybretError(problem) from None
        if more is not None:
            more(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return dataclass(frozen=True)(cls)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return _type_hints(cls, include_extras=True)


def _fitting(value: Any, hint: Any) -> Any:
    """`value` as `hint` wants it; a TypeError if it does not fit."""
    kind, args = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        for option in args:
            try:
                return _fitting(value, option)
            except TypeError:
                continue
    elif kind is Annotated:
        if (number := _fitting(value, args[0])) >= args[1].least:
            return number
    elif kind is Literal:
        if isinstance(value, str | bool | int) and value in args:
            return value
    elif kind is tuple:
        if isinstance(value, tuple | list) and (args[1:] == (...,) or len(value) == len(args)):
            return tuple(map(_fitting, value, args[:1] * len(value) if args[1:] == (...,) else args))
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    elif isinstance(value, hint) and isinstance(value, bool) == (hint is bool) and (hint is not str or value.strip()):
        return value
    raise TypeError


def _allowed(hint: Any) -> str:
    """The values that `hint` allows, in words."""
    kind, args = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        return " or ".join(map(_allowed, args))
    if kind is Annotated:
        return f"{_allowed(args[0])} of at least {args[1].least}"
    if kind is Literal:
        return f"one of {', '.join(map(str, args))}"
    if kind is tuple:
        return f"a tuple, each entry {_allowed(args[0])}"
    names = {int: "a whole number", float: "a finite number", str: "a text that is not empty", bool: "True or False"}
    return names.get(hint) or ("None" if hint is type(None) else f"a {hint.__name__}")
