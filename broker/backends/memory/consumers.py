"""Opening consumers: where a new one starts, what must match for an existing one, what the server refuses."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from broker.backends.memory.consumer import FilteredShelf, MemoryConsumer
from broker.backends.memory.drift import consumer_differences, consumer_name
from broker.backends.memory.lending import Start
from broker.contracts.errors import ApiError, ConfigDrift, NoStream
from broker.contracts.lanes import stored_patterns
from broker.contracts.subjects import overlap

if TYPE_CHECKING:
    from broker.backends.memory.log import StreamLog
    from broker.backends.memory.stream import MemoryStream
    from broker.contracts.options import ConsumerOptions

_NANOSECONDS: Final = 1_000_000_000


def open_consumer(stream: MemoryStream, options: ConsumerOptions) -> MemoryConsumer:
    """The consumer as ``options.ensure`` says.

    Raises:
        ConsumerNotFound: bind only, and it does not exist.
        ConfigDrift: it exists with other settings, and may not (verify) or cannot (acks) be changed.
        NoStream: the stream has nothing that a filter covers: it would wait for ever.
        ApiError: the server would refuse it.
    """
    stream.expire()
    name = consumer_name(options)
    if options.ensure == "bind":
        return stream.find_consumer(name or "")
    existing = stream.consumers.get(name) if name is not None else None
    if existing is None:
        return _create(stream, name or f"unnamed-{secrets.token_hex(6)}", options)
    differences = consumer_differences(options, existing.options)
    fixed = {field: both for field, both in differences.items() if field == "acks"}
    if fixed or (differences and options.ensure == "verify"):
        raise ConfigDrift(existing.name, fixed or differences, stream=stream.name)
    if differences:
        _check(stream, options, existing.name)
        kept = replace(options, stream=stream.name, start=existing.options.start, ensure="verify")
        existing.update(kept, filed_filters(stream, kept))
    return existing


def _create(stream: MemoryStream, name: str, options: ConsumerOptions) -> MemoryConsumer:
    _check(stream, options, name)
    if stream.options.retention == "workqueue" and options.start != "first":
        raise _refusal(stream, 10101, "consumer must be deliver all on workqueue stream")
    consumer = MemoryConsumer(
        stream.name,
        name,
        replace(options, stream=stream.name, ensure="verify"),
        log=stream.log,
        filters=filed_filters(stream, options),
        start=starting_at(stream.log, options, filed_filters(stream, options)),
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
    for each in filters:
        if not any(overlap(each, subject) for subject in stream.options.subjects):
            raise NoStream(f"stream {stream.name!r} does not capture {each!r}", subject=each, stream=stream.name)
    for index, left in enumerate(filters):
        if any(overlap(left, right) for right in filters[index + 1 :]):
            raise _refusal(stream, 10138, "consumer subject filters cannot overlap")
    if stream.options.retention == "workqueue":
        _check_workqueue(stream, options, name)


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
