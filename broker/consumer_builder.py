"""One builder for every way to consume: what a verb was called with becomes the options of a consumer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict

from broker.contracts.checks import check_kind
from broker.contracts.errors import InvalidOption
from broker.contracts.options import ConsumeOptions, ConsumerOptions, check_ensure, in_range
from broker.contracts.subjects import overlap, subscribe_pattern

if TYPE_CHECKING:
    from broker.contracts.failure import OnErrors
    from broker.contracts.options import Ensure

PUSHED = "gamebroker.push"
"""What named push consumers send to begins so: ``gamebroker.push.<stream>.<consumer>``."""
_LONGEST_GROUP = 240
"""Bytes: with a generation and a lane behind it, it is still a consumer's name."""
Subjects = str | Sequence[str]
"""One subject or pattern, or several that do not overlap."""


class Working(TypedDict, total=False):
    """The options of ``consume`` that every way to work through messages has; see there."""

    concurrency: int
    max_deliver: int
    backoff: Sequence[float]
    dead_letter: bool
    auto_extend: bool
    on_error: OnErrors | None
    pause_for: float
    batch_size: int | None
    batch_timeout: float
    rate: float | None
    byte_rate: float | None
    max_bytes: int | None
    reschedule_after: float | None


def how_to_work(max_ack_pending: int, *, on_error: OnErrors | None = None, **options: Any) -> ConsumeOptions:
    """The library's own policy, checked.

    Raises:
        InvalidOption.
    """
    checked = ConsumeOptions(on_error={} if on_error is None else on_error, **options)
    if checked.batch_size is not None and checked.batch_size > max_ack_pending:
        told = f"batch_size={checked.batch_size} is more than max_ack_pending={max_ack_pending}: it is never full"
        raise InvalidOption(told, option="batch_size")
    return checked


def how_to_push(max_ack_pending: int, **options: Any) -> ConsumeOptions:
    """The same for what the server sends unasked.

    Raises:
        InvalidOption: also for an option that says how much to ask for.
    """
    if options.get("max_bytes") is not None:
        told = "max_bytes is for consume, which asks: what is pushed comes as max_ack_pending lets it"
        raise InvalidOption(told, option="max_bytes")
    return how_to_work(max_ack_pending, **options)


def in_order(name: str | None, **options: Any) -> ConsumeOptions:
    """The policy where nothing is settled: one at a time, one attempt, no dead letters.

    Raises:
        InvalidOption: a name, or an option that says how to settle.
    """
    if name is not None:
        told = f"{name!r}: ordered=True has no position that is shared or kept; leave queue= and durable= out"
        raise InvalidOption(told, option="ordered")
    for option in options:
        if option not in {"rate", "byte_rate", "batch_size", "batch_timeout"}:
            raise InvalidOption(f"{option} contradicts ordered=True: nothing is settled", option=option)
    return ConsumeOptions(concurrency=1, max_deliver=1, dead_letter=False, auto_extend=False, **options)


def check_group_name(name: str | None) -> None:
    """Refuse a name that leaves no room for a lane's behind it.

    Raises:
        InvalidOption.
    """
    size = len((name or "").encode())
    if size > _LONGEST_GROUP:
        told = f"queue= is {size} bytes: must be 1 to {_LONGEST_GROUP} with ordered=True, lanes are named after it"
        raise InvalidOption(told, option="queue")


def push_consumer(
    subject: Subjects, inbox: str, *, queue: str | None, flow_control: bool, idle_heartbeat: float, **settings: Any
) -> ConsumerOptions:
    """A consumer that sends to an inbox, or once its stream is known and it has a name, to a subject of its own.

    A group's signs of life and questions would reach one member only, so that it has neither.

    Raises:
        InvalidSubject, InvalidOption.
    """
    in_range("idle_heartbeat", idle_heartbeat, 0.1)
    check_kind("flow_control", flow_control, bool, "True or False", shown=True)
    if not flow_control and not settings["acks"]:
        told = "flow_control=False contradicts ordered=True: nothing else bounds how much is sent ahead"
        raise InvalidOption(told, option="flow_control")
    if settings["ensure"] == "bind":
        told = "ensure='bind' is not for push consumers: where one sends is found out by asking"
        raise InvalidOption(told, option="ensure")
    return worker(
        subject,
        queue=queue,
        deliver_subject=inbox,
        deliver_group=queue,
        flow_control=flow_control and queue is None,
        idle_heartbeat=idle_heartbeat if queue is None else None,
        **settings,
    )


def sending_from(stream: str, consumer: ConsumerOptions) -> ConsumerOptions:
    """The same, now that the stream is known."""
    own = consumer.deliver_subject if consumer.durable is None else f"{PUSHED}.{stream}.{consumer.durable}"
    return replace(consumer, stream=stream, deliver_subject=own)


def patterns(subject: Subjects) -> tuple[str, ...]:
    """The patterns asked for, checked.

    Raises:
        InvalidSubject: one is no pattern.
        InvalidOption: none, or two overlap: a message would belong to both.
    """
    if isinstance(subject, str | bytes | bytearray) or not isinstance(subject, Sequence):
        return (subscribe_pattern(subject),)
    if not subject:
        raise InvalidOption("subject=[]: must be a pattern or a list of patterns", option="subject")
    asked = tuple(subscribe_pattern(each) for each in subject)
    for index, left in enumerate(asked):
        for right in asked[index + 1 :]:
            if overlap(left, right):
                raise InvalidOption(f"subject: {left!r} and {right!r} overlap", option="subject")
    return asked


def worker(
    subject: Subjects,
    *,
    queue: str | None,
    durable: str | None,
    stream: str | None,
    ensure: Ensure,
    metadata: Mapping[str, str] | None,
    **settings: Any,
) -> ConsumerOptions:
    """A consumer that workers share: ``queue`` and ``durable`` default to each other.

    Raises:
        InvalidSubject, InvalidOption.
    """
    check_ensure(ensure)
    if ensure == "bind" and durable is None and queue is None:
        raise InvalidOption("ensure='bind' needs durable= or queue=: there is nothing to bind to", option="durable")
    return ConsumerOptions(
        durable=durable or queue,
        queue=queue or durable,
        filters=patterns(subject),
        stream=stream,
        ensure=ensure,
        metadata={} if metadata is None else metadata,
        **settings,
    )
