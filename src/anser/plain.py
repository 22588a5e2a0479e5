"""Values of dataclasses ↔ plain ones that JSON has, by their type hints.

Fields that have their default are left out. Knows no music.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def to_plain(value: Any) -> Any:  # noqa: ANN401  # a field of a dataclass, whatever it is
    """Return a value as JSON has it: sets sorted, tuples as lists, dataclasses as objects."""
    if is_dataclass(value) and not isinstance(value, type):
        given = {f.name: getattr(value, f.name) for f in fields(value)}
        unset = {f.name: _default(f) for f in fields(value)}
        return {name: to_plain(v) for name, v in given.items() if v != unset[name]}
    if isinstance(value, frozenset):
        return [to_plain(item) for item in sorted(value)]
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value


def from_plain(kind: Any, value: Any) -> Any:  # noqa: ANN401  # of the type that `kind` names
    """Return a plain value as one of a type; raises ValueError where it is not one.

    `kind` is a dataclass, or a hint as its fields have them. What the value itself then refuses
    (a control out of range) is a ValueError too.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in parts:
            return None
        return from_plain(next(part for part in parts if part is not NoneType), value)
    if origin is Literal and value in parts:
        return value
    if is_dataclass(kind) and isinstance(kind, type) and isinstance(value, Mapping):
        hints = get_type_hints(kind)
        known = {f.name for f in fields(kind)}
        unknown = sorted(set(value) - known)
        if unknown:
            raise ValueError(f"{kind.__name__}: expected no {', '.join(unknown)}")
        return kind(**{name: from_plain(hints[name], item) for name, item in value.items()})
    if origin in (frozenset, tuple) and isinstance(value, list):
        if origin is tuple and parts[-1] is not Ellipsis:
            pairs = zip(parts, value, strict=True)  # ValueError where one is short
            return tuple(from_plain(part, item) for part, item in pairs)
        return origin(from_plain(parts[0], item) for item in value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and is_number:
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    raise ValueError(f"expected {getattr(kind, '__name__', kind)}, found {value!r}")


def _default(declared: Field[Any]) -> Any:  # noqa: ANN401  # a field's
    if declared.default_factory is not MISSING:
        return declared.default_factory()
    return declared.default
