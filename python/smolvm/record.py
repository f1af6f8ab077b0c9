"""Immutable values with named fields: dataclasses, without the time that ``dataclasses`` takes.

Importing that module takes longer than all modules of this package together, so it is imported
only when something needs it of these values, which count as dataclasses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

if TYPE_CHECKING:
    from dataclasses import Field

    from typing_extensions import dataclass_transform
else:
    # Part of ``typing`` since Python 3.11; only type checkers need it.
    def dataclass_transform(**_options):
        return lambda cls: cls


__all__ = ["Record"]

_Self = TypeVar("_Self", bound="Record")


class _DataclassFields:
    """Makes ``__dataclass_fields__`` of a class, by which it is a dataclass, when asked for it."""

    def __get__(self, _record: Record | None, cls: type[Record]) -> dict[str, Field[Any]]:
        from dataclasses import MISSING, field, make_dataclass

        def described(name: str) -> Any:
            default = cls._defaults.get(name, MISSING)
            if isinstance(default, (list, dict)):
                return field(default_factory=default.copy)
            return field(default=default)

        entries = [(name, kind, described(name)) for name, kind in cls._fields.items()]
        same: type[Record] = make_dataclass(cls.__name__, entries)
        cls.__dataclass_fields__ = same.__dataclass_fields__
        return cls.__dataclass_fields__


@dataclass_transform(frozen_default=True)
class Record:
    """Base of immutable values. A subclass lists its fields as a dataclass does.

    Lists and dictionaries are copied, so they can be defaults.
    """

    #: The fields and their types, in order.
    _fields = dict[str, Any]()
    _defaults = dict[str, Any]()
    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __init_subclass__(cls) -> None:
        own = cls.__annotations__
        defaults = {name: value for name, value in vars(cls).items() if name in own}
        cls._fields = {**cls._fields, **own}
        cls._defaults = {**cls._defaults, **defaults}
        setattr(cls, "__dataclass_fields__", _DataclassFields())
        setattr(cls, "__match_args__", tuple(cls._fields))
        if own and "__init__" not in vars(cls):
            setattr(cls, "__init__", _constructor(cls))

    def _fill(self, **values: Any) -> None:
        for name, value in values.items():
            self.__dict__[name] = value.copy() if isinstance(value, (list, dict)) else value

    def model_dump(self) -> dict[str, Any]:
        """Returns the fields as a dictionary."""
        from dataclasses import asdict

        return asdict(self)

    def __replace__(self: _Self, **changes: Any) -> _Self:
        from dataclasses import replace

        return replace(self, **changes)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__qualname__}({fields})"

    def __setattr__(self, name: str, _value: NoReturn) -> None:
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot delete field {name!r}")


def _constructor(cls: type[Record]) -> Callable[..., None]:
    """Returns the constructor as it would be written by hand, so that Python checks arguments."""
    parameters = ", ".join(
        f"{name}=_defaults[{name!r}]" if name in cls._defaults else name for name in cls._fields
    )
    values = ", ".join(f"{name}={name}" for name in cls._fields)
    namespace: dict[str, Any] = {"_defaults": cls._defaults}
    exec(f"def __init__(self, {parameters}): self._fill({values})", namespace)
    constructor: Callable[..., None] = namespace["__init__"]
    constructor.__qualname__ = f"{cls.__qualname__}.__init__"
    constructor.__annotations__ = {**cls._fields, "return": None}
    return constructor
