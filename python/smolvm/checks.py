"""Checks of single values; each returns the value as it is kept, or says what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smolvm import _native
from smolvm.exceptions import ValidationError

__all__ = [
    "env_vars",
    "flag",
    "number",
    "text",
    "text_map",
    "text_or_none",
    "texts",
    "whole",
    "whole_or_none",
]


def whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValidationError(f"{name}: {value!r} is not a whole number")
    return value


def whole_or_none(name: str, value: Any) -> int | None:
    return None if value is None else whole(name, value)


def number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValidationError(f"{name}: {value!r} is not a number")
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def text_map(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValidationError(f"{name}: {value!r} is not a mapping of strings")
    for key, content in value.items():
        if not isinstance(key, str):
            raise ValidationError(f"{name}: the name {key!r} is not a string")
        if content is None:
            raise ValidationError(f"{name}.{key}: the value is None; is the variable set?")
        if not isinstance(content, str):
            raise ValidationError(f"{name}.{key}: the value is not a string")
    return dict(value)


def env_vars(name: str, value: Any) -> dict[str, str]:
    variables = text_map(name, value)
    for key in variables:
        try:
            _native.check_env_key(key)
        except ValidationError as error:
            raise ValidationError(f"{name}.{key}: {error}") from None
    return variables


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValidationError(f"{name}: {value!r} is neither True nor False")
    return value


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValidationError(f"{name}: {value!r} is not a string")
    return str(value)


def text_or_none(name: str, value: Any) -> str | None:
    return None if value is None else text(name, value)


def texts(name: str, value: Any) -> list[str]:
    # A string is a sequence of strings, too, and never meant as one here.
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValidationError(f"{name}: {value!r} is not a list of strings")
    return [text(f"{name}.{index}", one) for index, one in enumerate(value)]
