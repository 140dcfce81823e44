"""Opening consumers: where a new one starts, what must match for an existing one, what the server refuses."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from broker.backends.memory.consumer import FilteredShelf, MemoryConsumer
from broker.backends.memory.lending import Start
from broker.backends.memory.refusals import no_consumer
from broker.contracts.consumer_options import fitting
from broker.contracts.drift import FIXED_HINT, consumer_differences, fixed_in_consumer
from broker.contracts.errors import (
    ApiError,
    ConfigDrift,
    InvalidOption,
    LimitsExceeded,
    NoStream,
    Unsupported,
)
from broker.contracts.lanes import Lane, lane_consumer, other_way, stored_patterns
from broker.contracts.subjects import overlap

if TYPE_CHECKING:
    from broker.backends.memory.log import StreamLog
    from broker.backends.memory.stream import MemoryStream
    from broker.contracts.options import ConsumerOptions

_NANOSECONDS: Final = 1_000_000_000


def open_consumer(stream: MemoryStream, options: ConsumerOptions) -> MemoryConsumer:
    """The consumer as ``options.ensure`` says, for a source on it.

    Raises:
        ConsumerNotFound: bind only, and it does not exist.
        ConfigDrift: it exists with other settings, and may not (verify) or cannot (acks) be changed.
        InvalidOption: it pushes to somebody else already.
        NoStream: the stream has nothing that a filter covers: it would wait for ever.
        ApiError: the server would refuse it.
    """
    if options.claim is not None:
        raise Unsupported("priority groups need a real server")
    consumer = _ensured(stream, options)
    if options.deliver_subject is not None and options.deliver_group is None and consumer.attended:
        told = f"another worker listens to consumer {consumer.name!r}; workers who share it need queue="
        raise InvalidOption(told, option="queue")
    return consumer


def create_consumer(stream: MemoryStream, options: ConsumerOptions) -> MemoryConsumer:
    """A new one, or the one that exists exactly so; raises as ``open_consumer``."""
    consumer = _ensured(stream, replace(options, ensure="verify"))
    consumer.resume()
    return consumer


def _ensured(stream: MemoryStream, options: ConsumerOptions) -> MemoryConsumer:
    stream.expire()
    options, name = fitting(options, stream.options.consumer_limits), _name(options)
    if options.ensure == "bind":
        return stream.find_consumer(name or "")
    existing = stream.consumers.get(name) if name is not None else None
    if name is not None and options.lane is None and lane_consumer(name, Lane(0, 0)) in stream.consumers:
        raise other_way(name, stream.name)
    if existing is None:
        return _create(stream, name or f"unnamed-{secrets.token_hex(6)}", options)
    differences = consumer_differences(options, existing.options)
    if differences and options.ensure == "verify":
        raise ConfigDrift(existing.name, differences, stream=stream.name)
    return change_consumer(stream, options) if differences else existing


def change_consumer(stream: MemoryStream, options: ConsumerOptions) -> MemoryConsumer:
    """Change what may be changed.

    Raises:
        ConsumerNotFound: there is none.
        ConfigDrift: settings that never change.
        ApiError: the server would refuse them.
    """
    existing = stream.consumers.get(_name(options) or "")
    if existing is None:
        raise no_consumer(_name(options), stream.name)
    differences = consumer_differences(options, existing.options)
    fixed = fixed_in_consumer(differences)
    if fixed:
        raise ConfigDrift(existing.name, fixed, stream=stream.name, hint=FIXED_HINT)
    _check(stream, options, existing.name)
    changes: dict[str, Any] = {field: ours for field, (ours, _) in differences.items()}
    changed = replace(existing.options, **changes)
    existing.update(changed, filed_filters(stream, changed))
    return existing


def _name(options: ConsumerOptions) -> str | None:
    """The name a position is stored under; ``None`` for an unnamed consumer."""
    return options.durable or options.queue


def _create(stream: MemoryStream, name: str, options: ConsumerOptions) -> MemoryConsumer:
    _check(stream, options, name)
    most = stream.options.max_consumers
    if most is not None and len(stream.consumers) >= most:
        raise LimitsExceeded("maximum consumers limit reached", stream=stream.name)
    if stream.options.retention == "workqueue" and options.start != "first":
        raise _refusal(stream, 10101, "consumer must be deliver all on workqueue stream")
    filters = filed_filters(stream, options)
    consumer = MemoryConsumer(
        stream.name,
        name,
        replace(options, stream=stream.name, ensure="verify"),
        log=stream.log,
        filters=filters,
        start=starting_at(stream.log, options, filters),
        clock=stream.clock,
        settled=stream.settled,
        abandoned=lambda: stream.delete_consumer(name),
    )
    stream.consumers[name] = consumer
    return consumer


def starting_at(log: StreamLog, options: ConsumerOptions, filters: tuple[str, ...]) -> Start:
    """Where a new consumer begins in the log as it is now."""
    shelf = FilteredShelf(log, filters)
    after_all = log.last_sequence + 1
    if options.start == "last_per_subject":
        picked = log.last_per_subject(shelf.wants)
        return Start(after_all, picked, len(picked))
    if options.start == "first":
        sequence = log.first_sequence
    elif options.start == "new":
        sequence = after_all
    elif options.start == "last":
        sequence = max(log.last_per_subject(shelf.wants), default=after_all)
    elif isinstance(options.start, datetime):
        sequence = _stored_since(log, options.start)
    else:
        sequence = max(options.start, log.first_sequence)
    return Start(sequence, (), shelf.ahead(sequence))


def filed_filters(stream: MemoryStream, options: ConsumerOptions) -> tuple[str, ...]:
    """What it delivers, as the stream files it."""
    if not stream.laned:
        return tuple(options.filters)
    return stored_patterns(options.filters, stream=stream.name, queue=options.queue, lane=options.lane)


def _stored_since(log: StreamLog, time: datetime) -> int:
    wanted = round(time.timestamp() * 1e6) * (_NANOSECONDS // 1_000_000)
    found = (message.sequence for message in log.since() if message.timestamp_ns >= wanted)
    return next(found, log.last_sequence + 1)


def _check(stream: MemoryStream, options: ConsumerOptions, name: str) -> None:
    filters = options.filters
    if options.priority_policy is not None:
        raise Unsupported("priority_policy needs a real server")
    _check_limits(stream, options)
    for each in filters if stream.options.subject_transform is None else ():
        if not any(overlap(each, subject) for subject in stream.options.subjects):
            raise NoStream(f"stream {stream.name!r} does not capture {each!r}", subject=each, stream=stream.name)
    for index, left in enumerate(filters):
        if any(overlap(left, right) for right in filters[index + 1 :]):
            raise _refusal(stream, 10138, "consumer subject filters cannot overlap")
    if stream.options.retention == "workqueue":
        _check_workqueue(stream, options, name)


def _check_limits(stream: MemoryStream, options: ConsumerOptions) -> None:
    if (options.replicas or 1) > stream.options.replicas:
        words = "replicas > 1 not supported in non-clustered mode"
        raise ApiError(words, code=500, err_code=10074, stream=stream.name)
    limits = stream.options.consumer_limits
    if limits is None:
        return
    if options.acks and limits.max_ack_pending is not None and options.max_ack_pending > limits.max_ack_pending:
        told = f"consumer max ack pending exceeds system limit of {limits.max_ack_pending}"
        raise LimitsExceeded(told, stream=stream.name)
    if limits.inactive_threshold is not None and (options.threshold or 0) > limits.inactive_threshold:
        told = f"consumer inactive threshold exceeds system limit of {limits.inactive_threshold:g} s"
        raise LimitsExceeded(told, stream=stream.name)


def _check_workqueue(stream: MemoryStream, options: ConsumerOptions, name: str) -> None:
    if not options.acks:
        raise _refusal(stream, 10084, "consumer in pull mode requires explicit ack policy on workqueue stream")
    others = [each for each in stream.consumers.values() if each.name != name]
    if others and not options.filters:
        raise _refusal(stream, 10099, "multiple non-filtered consumers not allowed on workqueue stream")
    for other in others:
        theirs = filed_filters(stream, other.options) or (">",)
        if any(overlap(left, right) for left in filed_filters(stream, options) for right in theirs):
            raise _refusal(stream, 10100, "filtered consumer not unique on workqueue stream")


def _refusal(stream: MemoryStream, err_code: int, words: str) -> ApiError:
    return ApiError(words, code=400, err_code=err_code, stream=stream.name)
