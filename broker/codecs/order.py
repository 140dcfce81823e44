"""A set has no order that two processes agree on; encoded, it gets one, so that equal bodies are equal bytes."""

from __future__ import annotations

import copy
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import force_setattr

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def sets_in_order(value: Any, encode: Callable[[Any], bytes]) -> Any:
    """The value with every set in it as a list, sorted by what its members are encoded to; dicts stay as they are."""
    if isinstance(value, set | frozenset):
        return sorted((sets_in_order(each, encode) for each in value), key=encode)
    if isinstance(value, dict):
        return {key: sets_in_order(each, encode) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [sets_in_order(each, encode) for each in value]
    names = _fields_of(value)
    return value if names is None else _copied(value, names, encode)


def _fields_of(value: Any) -> Sequence[str] | None:
    if isinstance(value, Struct):
        return value.__struct_fields__
    if is_dataclass(value) and not isinstance(value, type):
        return [each.name for each in fields(value)]
    return None


def _copied(value: Any, names: Sequence[str], encode: Callable[[Any], bytes]) -> Any:
    assign = force_setattr if isinstance(value, Struct) else object.__setattr__
    ordered = copy.copy(value)
    for name in names:
        assign(ordered, name, sets_in_order(getattr(value, name), encode))
    return ordered
