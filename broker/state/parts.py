"""A state taken apart, for errors that name what is wrong with it: the first part that has no encoding, the longest."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from broker.contracts.errors import EncodeError
from broker.state.delta import fields_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Encode = Callable[[Any], bytes]

_SHOWN: Final = 80
"""Characters of a name in an error; some are as long as a state."""


def blamed(error: EncodeError, state: Any, encode: Encode) -> str:
    """Which entity and field the error is about, in words; just its own when no part fails alone."""
    for name, part in _parts(state):
        try:
            encode(part)
        except EncodeError as exc:
            return f"{name}: {exc}"
    return str(error)


def longest(state: Any, events: Sequence[Any], encode: Encode) -> str:
    """The part that makes it as long as it is, in words; everything has an encoding."""
    entities = fields_of(state)
    riding = len(encode(list(events)))
    if entities is None:
        size, told = len(encode(state)), "the state"
    else:
        sizes = [(len(encode(_plain(value))), entity) for entity, value in entities.items()]
        size, entity = max(sizes, key=itemgetter(0), default=(0, None))
        told = f"entity {_shown(entity)}"
        fields = fields_of(entities.get(entity))
        if fields:
            told += f" (most of it field {_shown(max(fields.items(), key=lambda field: len(encode(field[1])))[0])})"
    return f"the events, {riding} bytes" if riding > size else f"{told}, {size} bytes"


def _parts(state: Any) -> Iterator[tuple[str, Any]]:
    """What can fail by itself, with its name: an id or a field's name before what it stands for."""
    for entity, value in (fields_of(state) or {}).items():
        yield f"the id of entity {_shown(entity)}", {entity: None}
        fields = fields_of(value)
        if fields is None:
            yield f"entity {_shown(entity)}", value
            continue
        for name, each in fields.items():
            yield f"entity {_shown(entity)}, the name of field {_shown(name)}", {name: None}
            yield f"entity {_shown(entity)}, field {_shown(name)}", each


def _plain(value: Any) -> Any:
    fields = fields_of(value)
    return value if fields is None else fields


def _shown(name: Any) -> str:
    text = repr(name)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
