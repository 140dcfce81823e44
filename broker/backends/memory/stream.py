"""A memory stream: stores, expires and removes messages, and tells its consumers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

from broker.backends.memory.admission import (
    DuplicateWindow,
    check_features,
    check_last_id,
    check_open,
    check_position,
    check_room,
    check_size,
    surplus,
)
from broker.backends.memory.clock import Alarm, Clock
from broker.backends.memory.counters import counter_body, counter_of
from broker.backends.memory.filing import Filing
from broker.backends.memory.log import Stored, StreamLog
from broker.backends.memory.refusals import no_consumer
from broker.backends.memory.schedules import Schedules
from broker.backends.memory.transforming import transform
from broker.backends.memory.wire import headers_size, is_tombstone, marker_headers, stored_size
from broker.contracts.admin import StreamInfo, StreamState
from broker.contracts.envelopes import Counted, Receipt, Record, StoredMessage
from broker.contracts.errors import ApiError, ConsumerNotFound, PayloadTooLarge, StreamFull
from broker.contracts.headers import Headers
from broker.contracts.lanes import AGAIN, place_of
from broker.contracts.subjects import matches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from broker.backends.memory.consumer import MemoryConsumer
    from broker.contracts.options import StreamOptions


Publish = Callable[[str, bytes, Headers], object]
"""Takes a core message: subject, body, headers."""


class MemoryStream:
    """One stream.

    Args:
        options: as declared.
        clock: drives ages and the duplicate window.
        publish: takes what is republished once it is stored.
    """

    def __init__(self, options: StreamOptions, clock: Clock, publish: Publish) -> None:
        self.options = options
        self.clock = clock
        self._publish = publish
        self.log = StreamLog()
        if options.first_seq is not None:
            self.log.last_sequence = options.first_seq - 1
        self.consumers: dict[str, MemoryConsumer] = {}
        self._window = DuplicateWindow()
        self._alarm = Alarm(clock, self.expire)
        self._schedules = Schedules(clock, self.log, self.capture, self.remove)
        self._created = datetime.fromtimestamp(clock.wall_ns() / 1e9, UTC)
        self._filing = Filing(options)
        self.stored_under = _rewriting(options, self._filing)
        self._republished = _republishing(options)

    @property
    def name(self) -> str:
        """The stream's name."""
        return self.options.name

    @property
    def laned(self) -> bool:
        """Whether it files messages by lane."""
        return bool(self._filing.counts)

    def captures(self, subject: str) -> bool:
        """Whether it stores what is published on the subject."""
        return any(matches(pattern, subject) for pattern in self._filing.captured)

    def info(self) -> StreamInfo:
        """What the server would say about it."""
        self.expire()
        state = StreamState(
            messages=len(self.log),
            bytes=self.log.bytes,
            first_sequence=self.log.first_sequence,
            last_sequence=self.log.last_sequence,
            consumers=len(self.consumers),
            subjects=self.log.subjects,
            deleted=max(self.log.last_sequence - self.log.first_sequence + 1 - len(self.log), 0),
        )
        return StreamInfo(config=self.options, state=state, created=self._created, lane_counts=self._filing.counts)

    def update(self, options: StreamOptions) -> None:
        """Take new settings and apply their limits to what is stored.

        Raises:
            ApiError, Unsupported: subjects cannot be rewritten so.
        """
        filing, republished = self._filing.changed(options), _republishing(options)
        stored_under = _rewriting(options, filing)
        self._filing, self.stored_under, self._republished = filing, stored_under, republished
        self.options = options
        subjects = {message.subject for message in self.log.since()} if options.max_msgs_per_subject else set()
        for subject in (*subjects, ""):
            self._make_room(subject)
        self._alarm.cancel()
        self.expire()

    def append(self, record: Record, headers: Headers) -> Receipt:
        """Store a message under its wire headers, unless it is a repeat.

        Raises:
            SequenceConflict, StreamFull, PayloadTooLarge: not stored.
        """
        self.expire()
        check_open(self.options)
        now, expect, subject = self.clock.now(), record.expect, self.stored_under(record.subject)
        if expect is not None:
            check_position(expect, self.log, self.name, subject)
        check_features(self.options, record)
        if record.schedule is not None and not self.captures(record.schedule.target):
            words = "message schedules target is invalid"
            raise ApiError(words, code=400, err_code=10190, subject=record.schedule.target, stream=self.name)
        first = self._window.first_copy(record.message_id, now, self.options.duplicate_window)
        if first is not None:
            return Receipt(self.name, first, duplicate=True)
        if expect is not None:
            check_last_id(expect, self.log, self.name, subject)
        lifetime = max(record.ttl, self.options.delete_marker_ttl or 0) if record.ttl is not None else None
        expires_at = now + lifetime if lifetime is not None else None
        value = None if record.increment is None else self.counter(subject) + record.increment
        data = record.data if value is None else counter_body(value)
        sequence = self._store(subject, data, headers, record.message_id, expires_at)
        if record.rollup or record.schedule is not None:
            for earlier in self.log.sequences_of(subject):
                if earlier != sequence:
                    self.remove(earlier)
        self._window.remember(record.message_id, now, sequence)
        if record.schedule is not None:
            self._schedules.keep(sequence, record.schedule)
        return Receipt(self.name, sequence) if value is None else Counted.of(self.name, sequence, value)

    def counter(self, subject: str) -> int:
        """The value of the subject's counter."""
        self.expire()
        last = self.log.get(self.log.last_of(subject))
        return 0 if last is None else counter_of(last.data)

    def counted(self, sequence: int) -> int | None:
        """The value of a counter right after an addition; ``None`` when that is not kept any more."""
        stored = self.log.get(sequence)
        return None if stored is None else counter_of(stored.data)

    def first_copy(self, message_id: str) -> int | None:
        """The sequence the id was stored with within the duplicate window."""
        return self._window.first_copy(message_id, self.clock.now(), self.options.duplicate_window)

    def capture(self, subject: str, data: bytes, headers: Headers | None) -> Receipt:
        """Store what was published without asking for storage.

        Raises:
            StreamFull, PayloadTooLarge, ApiError: not stored.
        """
        self.expire()
        check_open(self.options)
        return Receipt(self.name, self._store(self.stored_under(subject), data, headers, "", None))

    def purge(self, subject: str | None, up_to: int | None, keep: int | None) -> int:
        """Remove what is covered by the pattern and below ``up_to``, or all but the newest ``keep``; how many.

        Raises:
            ApiError: ``up_to`` and ``keep`` together, or the stream denies it.
        """
        check_open(self.options)
        if self.options.deny_purge:
            raise ApiError("stream purge not permitted", code=500, err_code=10110, stream=self.name)
        if up_to and keep:
            raise ApiError("bad request", code=400, err_code=10003, stream=self.name)
        self.expire()
        pattern = None if subject is None else self._filing.pattern(subject)
        chosen = [
            message.sequence
            for message in self.log.since()
            if (up_to is None or message.sequence < up_to) and (pattern is None or matches(pattern, message.subject))
        ]
        if keep:
            chosen = chosen[:-keep]
        count = sum(self.remove(sequence) for sequence in chosen)
        if up_to is not None and subject is None:
            self.log.last_sequence = max(self.log.last_sequence, up_to - 1)
        return count

    def read(self, sequence: int | None, last_of: str | None) -> StoredMessage | None:
        """The message with that sequence, or the newest of that pattern."""
        self.expire()
        if sequence is None:
            sequence = self.log.last_of(self._filing.pattern(last_of or ">"))
        found = self.log.get(sequence)
        if found is None or (last_of is None and found.subject.startswith(AGAIN)):
            return None
        return self._as_stored(found)

    def run(self, start: int, subject: str | None, limit: int) -> list[StoredMessage]:
        """At most so many messages (of the pattern) from a sequence on."""
        self.expire()
        pattern = self._filing.pattern(subject or ">")
        found = (message for message in self.log.since(start) if matches(pattern, message.subject))
        return [self._as_stored(message) for message in islice(found, limit)]

    def last_of_each(self, patterns: Sequence[str], up_to: int | datetime | None) -> Iterator[StoredMessage]:
        """The newest message of each subject that the patterns cover, as of then; with lanes, of each key."""
        self.expire()
        filed = [self._filing.pattern(each) for each in patterns]
        last: dict[str, Stored] = {}
        for message in self.log.since():
            if isinstance(up_to, datetime):
                late = message.timestamp_ns >= round(up_to.timestamp() * 1e6) * 1000
            else:
                late = up_to is not None and message.sequence > up_to
            if late:
                break
            if any(matches(pattern, message.subject) for pattern in filed):
                last[message.subject] = message
        for each in sorted(last.values(), key=lambda message: message.sequence):
            yield self._as_stored(each)

    def delete(self, sequence: int) -> bool:
        """Remove one message by hand; whether there was one.

        Raises:
            ApiError: the stream denies it.
        """
        check_open(self.options)
        self.expire()
        if self.options.deny_delete and sequence in self.log:
            raise ApiError("message delete not permitted", code=500, err_code=10057, stream=self.name)
        return self.remove(sequence)

    def remove(self, sequence: int) -> bool:
        """Remove one message; whether there was one."""
        message = self.log.remove(sequence)
        if message is None:
            return False
        for consumer in tuple(self.consumers.values()):
            consumer.withdrawn(sequence, message.subject)
        if not len(self.log):
            self._alarm.cancel()
        return True

    def expire(self) -> None:
        """Remove every message whose time is over; the last one of a subject may leave a marker."""
        for sequence in self.log.expired(self.clock.now(), self.options.max_age):
            message = self.log.get(sequence)
            self.remove(sequence)
            if message is not None:
                self._mark(message)
        self._alarm.set(self.log.next_expiry(self.options.max_age))

    def settled(self, sequence: int) -> None:
        """A consumer has settled a message: retention may let it go."""
        if self.options.retention == "limits":
            return
        message = self.log.get(sequence)
        if message is not None and not self._needed(message):
            self.remove(sequence)

    def find_consumer(self, name: str) -> MemoryConsumer:
        """Raises ``ConsumerNotFound`` when there is none."""
        consumer = self.consumers.get(name)
        if consumer is None:
            raise no_consumer(name, self.name)
        return consumer

    def delete_consumer(self, name: str) -> None:
        """Raises ``ConsumerNotFound`` when there is none."""
        self.find_consumer(name)
        consumer = self.consumers.pop(name)
        consumer.end(lambda: ConsumerNotFound(f"consumer {name!r} was deleted", stream=self.name))
        if self.options.retention == "interest":
            for message in list(self.log.since()):
                if consumer.wants(message.subject) and not self._needed(message):
                    self.remove(message.sequence)

    def end(self, error: Callable[[], Exception]) -> None:
        """It is deleted: whoever waits on its consumers is told at once."""
        self._alarm.cancel()
        self._schedules.pause()
        for consumer in self.consumers.values():
            consumer.end(error)
        self.consumers.clear()

    def pause(self) -> None:
        """Nobody is connected: no timers."""
        self._alarm.cancel()
        self._schedules.pause()
        for consumer in self.consumers.values():
            consumer.pause()

    def resume(self) -> None:
        """Set the timers that are needed."""
        self.expire()
        self._schedules.resume()
        for consumer in self.consumers.values():
            consumer.resume()

    def _mark(self, gone: Stored) -> None:
        lifetime = self.options.delete_marker_ttl
        if lifetime is None or self.log.count_of(gone.subject) or is_tombstone(gone.headers):
            return
        with suppress(StreamFull, PayloadTooLarge):
            self._store(gone.subject, b"", marker_headers(lifetime), "", self.clock.now() + lifetime)

    def _as_stored(self, found: Stored) -> StoredMessage:
        """With the subject it was sent to."""
        subject = place_of(found.subject).subject
        return StoredMessage(subject, found.data, found.headers, self.name, found.sequence, found.timestamp_ns)

    def _needed(self, message: Stored) -> bool:
        return any(each.needs(message.sequence, message.subject) for each in self.consumers.values())

    def _store(
        self, subject: str, data: bytes, headers: Headers | None, message_id: str, expires_at: float | None
    ) -> int:
        block = headers_size(headers)
        check_size(self.options, subject, len(data) + block)
        size = stored_size(self.options.storage, subject, len(data), block)
        check_room(self.options, self.log, subject, size)
        sequence = self.log.last_sequence + 1
        now, wall = self.clock.now(), self.clock.wall_ns()
        self.log.add(Stored(sequence, subject, data, headers, message_id, size, now, wall, expires_at))
        for consumer in self.consumers.values():
            consumer.stored(subject)
        self._make_room(subject)
        if self.options.retention == "interest" and not any(each.wants(subject) for each in self.consumers.values()):
            self.remove(sequence)
        if expires_at is not None or self.options.max_age is not None:
            self._alarm.set(self.log.next_expiry(self.options.max_age))
        self._republish(sequence)
        return sequence

    def _republish(self, sequence: int) -> None:
        """What was just stored, as a core message that tells where it is stored."""
        rule, message = self.options.republish, self.log.get(sequence)
        if rule is None or message is None or self._republished is None:
            return
        target = self._republished(message.subject)
        if target is None:
            return
        own = [("Nats-Stream", self.name), ("Nats-Subject", message.subject), ("Nats-Sequence", str(sequence))]
        if rule.headers_only:
            own.append(("Nats-Msg-Size", str(len(message.data))))
        headers = Headers((*(message.headers.pairs if message.headers is not None else ()), *own))
        self._publish(target, b"" if rule.headers_only else message.data, headers)

    def _make_room(self, subject: str) -> None:
        while (leaving := surplus(self.options, self.log, subject)) is not None:
            self.remove(leaving)


def _rewriting(options: StreamOptions, filing: Filing) -> Callable[[str], str]:
    """Subject -> the subject it is stored under."""
    if filing.counts:
        return filing.stored
    rule = options.subject_transform
    if rule is None:
        return lambda subject: subject
    change = transform(rule.source, rule.destination, err_code=10156)
    return lambda subject: change(subject) or subject


def _republishing(options: StreamOptions) -> Callable[[str], str | None] | None:
    """Stored subject -> where it is also published; ``None`` when nothing is."""
    rule = options.republish
    return None if rule is None else transform(rule.source, rule.destination, err_code=10052)
