"""What a state differs in from an earlier one, and putting the two together again. Pure functions.

A delta is *cumulative*: every field that differs from one base, with its absolute value. So any delta may be lost, and
the newest alone, on its base, is the state.

Values are compared as the codec would write them: what is mutable is kept encoded, so a change in place is seen, and
``True`` replacing ``1`` is a change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    Encode = Callable[[Any], bytes]

_PLAIN: Final = frozenset({int, float, str, bool, bytes, type(None)})
"""Types whose values cannot change in place, so keeping the value is keeping what it was."""


class _Sealed:
    """A value that its owner may change in place, as it was encoded at the time."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class _Missing:
    """Stands for no value; its type is no value's type."""


_MISSING: Final = _Missing()


class Base(NamedTuple):
    """A state as it was, kept apart from its owner's objects.

    Attributes:
        entities: entity to its fields, or to its value when it has none.
        sealed: the entities with a field that is kept encoded.
    """

    entities: dict[Any, Any]
    sealed: set[Any]


def fields_of(value: Any) -> dict[Any, Any] | None:
    """A mapping as ``dict``; ``None`` for anything else."""
    if isinstance(value, dict):
        return value
    return dict(value) if isinstance(value, Mapping) else None


def as_dicts(state: dict[Any, Any]) -> dict[Any, Any]:
    """The state as every codec takes it: an entity that is another mapping becomes a ``dict``."""
    others = {
        entity: dict(value)
        for entity, value in state.items()
        if type(value) is not dict and isinstance(value, Mapping) and not isinstance(value, dict)
    }
    return {**state, **others} if others else state


def keep(state: dict[Any, Any], encode: Encode) -> Base:
    """The state as it is now, safe from later changes in place.

    Raises:
        EncodeError: a value has no encoding.
    """
    entities: dict[Any, Any] = {}
    sealed: set[Any] = set()
    for entity, value in state.items():
        fields = fields_of(value)
        if fields is None:
            entities[entity] = _kept(value, encode)
            continue
        held = entities[entity] = dict(fields)
        for name, each in fields.items():
            if type(each) not in _PLAIN:
                held[name] = _Sealed(encode(each))
                sealed.add(entity)
    return Base(entities, sealed)


def differences(base: Base, state: dict[Any, Any], encode: Encode) -> list[Any]:
    """``[whole, changed, gone, cut]``: new or replaced entities, changed fields, removed entities, removed fields.

    Holds the state's own values, so encode it before its owner goes on.

    Raises:
        EncodeError: a value has no encoding.
    """
    whole: dict[Any, Any] = {}
    changed: dict[Any, Any] = {}
    cut: dict[Any, Any] = {}
    known = 0
    for entity, value in state.items():
        held = base.entities.get(entity, _MISSING)
        known += held is not _MISSING
        fields = value if type(value) is dict else fields_of(value)
        if fields is None or type(held) is not dict:
            new = value if fields is None else fields
            if _unlike(held, new, encode):
                whole[entity] = new
            continue
        altered, added = {}, 0
        # A loop rather than a comprehension: this is most of a tick's cost, and here the loop is the faster one.
        for name, new in fields.items():
            old = held.get(name, _MISSING)
            if old is not new and (
                type(old) is not type(new) or old != new or (not new and repr(old) != repr(new))  # 0.0 and -0.0
            ):
                altered[name] = new
                added += old is _MISSING
        if len(fields) - added != len(held):
            cut[entity] = [name for name in held if name not in fields]
        if altered and entity in base.sealed:
            altered = {name: new for name, new in altered.items() if _unlike(held.get(name, _MISSING), new, encode)}
        if altered:
            changed[entity] = altered
    gone = [] if known == len(base.entities) else [entity for entity in base.entities if entity not in state]
    return [whole, changed, gone, cut]


def merge(state: dict[Any, Any], delta: list[Any]) -> dict[Any, Any]:
    """The state that the delta was taken from, given the one it was taken against. Neither is changed."""
    whole, changed, gone, cut = delta
    merged = {**state, **whole}
    for entity, fields in changed.items():
        held = merged.get(entity)
        merged[entity] = {**held, **fields} if type(held) is dict else fields
    for entity, names in cut.items():
        held = merged.get(entity)
        if type(held) is dict:
            merged[entity] = {name: value for name, value in held.items() if name not in names}
    for entity in gone:
        merged.pop(entity, None)
    return merged


def _kept(value: Any, encode: Encode) -> Any:
    return value if type(value) in _PLAIN else _Sealed(encode(value))


def _unlike(held: Any, value: Any, encode: Encode) -> bool:
    if type(held) is _Sealed:
        return type(value) in _PLAIN or held.data != encode(value)
    return type(held) is not type(value) or bool(held != value) or (not value and repr(held) != repr(value))
