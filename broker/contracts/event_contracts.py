"""What an event type is worth, declared on the type: ``@contract``. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

from broker.contracts.errors import InvalidKey, InvalidOption
from broker.contracts.event_errors import Problem, QoSViolation
from broker.contracts.qos import QoS
from broker.contracts.subjects import publish_subject

if TYPE_CHECKING:
    from collections.abc import Callable

E = TypeVar("E", bound=type)

_MARK: Final = "__gamebroker_contract__"
_GRADES: Final = ", ".join(f"QoS.{each.name}" for each in QoS)


@dataclass(frozen=True, slots=True)
class Contract:
    """What was declared of an event type.

    Attributes:
        event: the type.
        subject: where its events go.
        qos: how much they are worth.
        key: the field that names an effect; ``None``: each event is one of its own.
        ordering_key: the field whose equal values keep their order.
    """

    event: type
    subject: str
    qos: QoS
    key: str | None = None
    ordering_key: str | None = None

    @property
    def name(self) -> str:
        """The type's name and grade, for messages to people."""
        return f"{self.event.__qualname__} (QoS {self.qos.value}, {self.subject!r})"

    def key_of(self, event: object) -> str | None:
        """The event's idempotency key.

        Raises:
            InvalidKey: the field holds neither text nor a whole number nor a UUID.
        """
        return None if self.key is None else _text_of(event, self.key)

    def ordering_key_of(self, event: object) -> str | None:
        """The event's ordering key; see ``key_of``."""
        return None if self.ordering_key is None else _text_of(event, self.ordering_key)

    def violation(self, *problems: Problem, stream: str | None = None) -> QoSViolation:
        """The error for promises that would not hold."""
        return QoSViolation(self.name, problems=problems, subject=self.subject, stream=stream)


def contract(*, subject: str, qos: QoS, key: str | None = None, ordering_key: str | None = None) -> Callable[[E], E]:
    """Declare what the events of a type are worth; ``send`` and ``on`` keep to it.

    Stands above ``@dataclass``, or on a msgspec ``Struct``. A subclass needs a contract of its own.

    Args:
        subject: where its events go; no wildcards.
        qos: ``AT_MOST_ONCE``, ``AT_LEAST_ONCE`` or ``EXACTLY_ONCE``.
        key: the field that names the effect of an event: text, a whole number or a UUID. ``EXACTLY_ONCE`` needs one.
        ordering_key: the field by which events are handled one after the other, in the order stored; the stream needs
            lanes.

    Raises:
        QoSViolation: ``EXACTLY_ONCE`` without a key; a key or an order at ``AT_MOST_ONCE``, which remembers nothing.
        InvalidOption: the class has no such field, or is neither of the two kinds.
        InvalidSubject: it cannot be published to.
    """
    grade = _grade(qos)
    publish_subject(subject)
    if "{" in subject or "}" in subject:
        told = f"subject={subject!r}: is taken as it is; a contract fills in no fields"
        raise InvalidOption(told, option="subject")

    def declare(event: E) -> E:
        names = _fields_of(event)
        for option, field in (("key", key), ("ordering_key", ordering_key)):
            if field is not None and field not in names:
                told = (
                    f"{option}={field!r}: {event.__qualname__} has no such field; it has {', '.join(names) or 'none'}"
                )
                raise InvalidOption(told, option=option)
        declared = Contract(event, subject, grade, key, ordering_key)
        _check_grade(declared)
        setattr(event, _MARK, declared)
        return event

    return declare


def contract_of(event_type: object) -> Contract:
    """What was declared of a type.

    Raises:
        InvalidOption: nothing was.
    """
    declared = vars(event_type).get(_MARK) if isinstance(event_type, type) else None
    if not isinstance(declared, Contract):
        named = event_type.__qualname__ if isinstance(event_type, type) else repr(event_type)
        told = f"{named} has no contract of its own: declare one with @contract(subject=..., qos=...)"
        raise InvalidOption(told, option="event")
    return declared


def _grade(qos: object) -> QoS:
    if isinstance(qos, bool) or not isinstance(qos, int) or qos not in set(QoS):
        raise InvalidOption(f"qos={qos!r}: must be one of {_GRADES}", option="qos")
    return QoS(qos)


def _fields_of(event: object) -> tuple[str, ...]:
    if isinstance(event, type):
        if is_dataclass(event) and "__dataclass_fields__" in vars(event):
            return tuple(field.name for field in fields(event))
        if hasattr(event, "__struct_fields__"):  # msgspec's, which codecs know
            return tuple(event.__struct_fields__)
    named = event.__qualname__ if isinstance(event, type) else repr(event)
    told = f"{named} is no dataclass and no msgspec Struct; @contract stands above @dataclass"
    raise InvalidOption(told, option="event")


def _check_grade(declared: Contract) -> None:
    if declared.qos is QoS.EXACTLY_ONCE and declared.key is None:
        told = "without a key nobody can tell a repeat from a second event"
        raise declared.violation(Problem(told, "name the field that identifies the effect: key='battle_id'"))
    if declared.qos is QoS.AT_MOST_ONCE:
        for option in ("key", "ordering_key"):
            if getattr(declared, option) is not None:
                told = f"{option}= means nothing at QoS 0, which keeps neither keys nor order between workers"
                raise declared.violation(Problem(told, f"leave {option}= out, or declare QoS.AT_LEAST_ONCE"))


def _text_of(event: object, field: str) -> str:
    value: Any = getattr(event, field)
    if isinstance(value, str):
        return str.__str__(value)  # an enum's own would be the member's name
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(int(value))
    told = f"{type(event).__qualname__}.{field}={value!r}: a key is text, a whole number or a UUID"
    raise InvalidKey(told)
