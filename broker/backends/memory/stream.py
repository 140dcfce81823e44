"""A memory stream: stores, expires and removes messages, and tells its consumers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from broker.backends.memory.admission import (
    DuplicateWindow,
    check_last_id,
    check_position,
    check_room,
    check_size,
    check_update,
    surplus,
)
from broker.backends.memory.clock import Alarm, Clock
from broker.backends.memory.filing import Filing
from broker.backends.memory.log import Stored, StreamLog
from broker.backends.memory.wire import headers_size, stored_size
from broker.contracts.admin import StreamInfo, StreamState
from broker.contracts.envelopes import Receipt, Record, StoredMessage
from broker.contracts.errors import ApiError, ConsumerNotFound
from broker.contracts.lanes import place_of
from broker.contracts.subjects import matches

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.backends.memory.consumer import MemoryConsumer
    from broker.contracts.headers import Headers
    from broker.contracts.options import StreamOptions


class MemoryStream:
    """One stream.

    Args:
        options: as declared.
        clock: drives ages and the duplicate window.
    """

    def __init__(self, options: StreamOptions, clock: Clock) -> None:
        self.options = options
        self.clock = clock
        self.log = StreamLog()
        self.consumers: dict[str, MemoryConsumer] = {}
        self._window = DuplicateWindow()
        self._alarm = Alarm(clock, self.expire)
        self._created = datetime.fromtimestamp(clock.wall_ns() / 1e9, UTC)
        self._filing = Filing(options)

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
        )
        return StreamInfo(config=self.options, state=state, created=self._created, lane_counts=self._filing.counts)

    def update(self, options: StreamOptions) -> None:
        """Take new settings and apply their limits to what is stored.

        Raises:
            ApiError: a setting that cannot change.
        """
        check_update(self.options, options)
        self._filing = self._filing.changed(self.options, options)
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
        now, expect = self.clock.now(), record.expect
        subject = self._filing.stored(record.subject)
        if expect is not None:
            check_position(expect, self.log, self.name, subject)
        first = self._window.first_copy(record.message_id, now, self.options.duplicate_window)
        if first is not None:
            return Receipt(self.name, first, duplicate=True)
        if expect is not None:
            check_last_id(expect, self.log, self.name, subject)
        expires_at = now + record.ttl if record.ttl is not None else None
        sequence = self._store(subject, record.data, headers, record.message_id, expires_at)
        self._window.remember(record.message_id, now, sequence)
        return Receipt(self.name, sequence)

    def capture(self, subject: str, data: bytes, headers: Headers | None) -> Receipt:
        """Store what was published without asking for storage.

        Raises:
            StreamFull, PayloadTooLarge: not stored.
        """
        self.expire()
        return Receipt(self.name, self._store(self._filing.stored(subject), data, headers, "", None))

    def purge(self, subject: str | None, up_to: int | None, keep: int | None) -> int:
        """Remove what is covered by the pattern and below ``up_to``, or all but the newest ``keep``; how many.

        Raises:
            ApiError: ``up_to`` and ``keep`` together.
        """
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
        return sum(self.remove(sequence) for sequence in chosen)

    def read(self, sequence: int | None, last_of: str | None) -> StoredMessage | None:
        """The message with that sequence, or the newest of that pattern."""
        self.expire()
        if sequence is None:
            sequence = self.log.last_of(self._filing.pattern(last_of or ">"))
        found = self.log.get(sequence)
        if found is None:
            return None
        subject = place_of(found.subject).subject
        return StoredMessage(subject, found.data, found.headers, self.name, sequence, found.timestamp_ns)

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
        """Remove every message whose time is over."""
        for sequence in self.log.expired(self.clock.now(), self.options.max_age):
            self.remove(sequence)
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
            raise ConsumerNotFound(f"no consumer {name!r} on stream {self.name!r}", stream=self.name)
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
        for consumer in self.consumers.values():
            consumer.end(error)
        self.consumers.clear()

    def pause(self) -> None:
        """Nobody is connected: no timers."""
        self._alarm.cancel()
        for consumer in self.consumers.values():
            consumer.pause()

    def resume(self) -> None:
        """Set the timers that are needed."""
        self.expire()
        for consumer in self.consumers.values():
            consumer.resume()

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
        return sequence

    def _make_room(self, subject: str) -> None:
        while (leaving := surplus(self.options, self.log, subject)) is not None:
            self.remove(leaving)
