"""The one error that hybret raises for bad input, and the checks of arguments that public functions share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

LONGEST = 1500
"""Characters of an error message: more than any sentence of hybret, less than a foreign text may bring."""
SEEDS = 2**32 - 1
Count = Annotated[int, 0]
Positive = Annotated[int, 1]
T = TypeVar("T")


def printable(text: object, squeeze: bool = True) -> str:
    """A foreign text (a model's answer, a name, a path) on one line: control, bidi and colour codes become visible.

    Blanks become single, unless `squeeze` is False.
    """
    line = " ".join(str(text).split()) if squeeze else str(text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line)


class HybretError(ValueError):
    """Bad input, in one line: what is wrong, and what to do. The command line prints it and exits with its `status`.

    Foreign text in it is made printable. A long message loses its middle, because the remedy is at the end.
    """

    status = 2

    def __init__(self, sentence: object = "") -> None:
        line = printable(sentence)
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}")


def integer(name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """A whole number in a range, ends included; True and 2.0 are refused."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        bound = f"at least {least}" + ("" if most is None else f", at most {most}")
        raise HybretError(f"{name} is {value!r}; {name} must be {bound}, and a whole number")
    return int(value)


def number(name: str, value: Any) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise HybretError(f"{name} is {value!r}; give a finite number")
    return float(value)


def one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    """One of a few words."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        raise HybretError(f"unknown {name} {value!r}; choose one of {', '.join(choices)}")
    return value


def text(name: str, value: Any) -> str:
    """A text that is not empty, and UTF-8: bytes of another encoding come as halves of characters."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise HybretError(f"{name} is {value!r}; give a text that is not empty")
    if not value.isascii() and value != value.encode(errors="replace").decode():
        raise HybretError(f"{name} is {value!r}, which is not UTF-8; set a UTF-8 locale, or rename the file")
    return value


def check_conditions(value: Any) -> Mapping[str, Any]:
    """A mapping of labels to interventions with at least one entry."""
    if not isinstance(value, Mapping) or not value:
        raise HybretError(f"conditions are {value!r}; give a mapping of labels to interventions")
    return {text("the label of a condition", label): condition for label, condition in value.items()}


def conform(name: str, value: Any, hint: Any) -> Any:
    """`value` if it is what the annotation `hint` says: a class, Count, Literal, tuple[x, ...] or a union of these."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        if value is None and NoneType in inner:
            return None
        *others, last = (alternative for alternative in inner if alternative is not NoneType)
        for alternative in others:
            with suppress(HybretError):
                return conform(name, value, alternative)
        return conform(name, value, last)
    if kind is Annotated:
        return integer(name, value, inner[1])
    if kind is Literal:
        return one_of(name, value, inner)
    if kind in (float, str):
        return number(name, value) if kind is float else text(name, value)
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise HybretError(f"{name} is {value!r}; it must be of type {kind.__name__}")
    return tuple(conform(f"an entry of {name}", entry, inner[0]) for entry in value) if kind is tuple else value


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


@dataclass_transform(frozen_default=True)
def checked(kind: type[T]) -> type[T]:
    """A frozen dataclass that refuses values of another type than their annotation, before its ``__post_init__``."""
    after = getattr(kind, "__post_init__", lambda self: None)

    def check(self: Any) -> None:
        for name, hint in _hints(type(self)).items():  # type: ignore[arg-type]
            object.__setattr__(self, name, conform(name, getattr(self, name), hint))
        after(self)

    kind.__post_init__ = check  # type: ignore[attr-defined]
    return dataclass(frozen=True)(kind)
