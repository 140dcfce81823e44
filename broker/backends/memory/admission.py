"""What a stream lets in, and what must leave to make room: expectations, duplicates, limits. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from broker.backends.memory.refusals import full
from broker.contracts.errors import (
    ApiError,
    FeatureDisabled,
    PayloadTooLarge,
    SequenceConflict,
    Unsupported,
)

if TYPE_CHECKING:
    from broker.backends.memory.log import StreamLog
    from broker.contracts.envelopes import Expect, Record
    from broker.contracts.options import StreamOptions


class DuplicateWindow:
    """Which message ids were stored lately. A repeat does not renew its time; a purge does not clear it."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def first_copy(self, message_id: str, now: float, window: float) -> int | None:
        """The sequence the id was stored with within the window."""
        while self._seen:
            oldest = next(iter(self._seen))
            if self._seen[oldest][0] + window > now:
                break
            del self._seen[oldest]
        seen = self._seen.get(message_id)
        return seen[1] if seen is not None else None

    def remember(self, message_id: str, now: float, sequence: int) -> None:
        """The id was stored."""
        self._seen[message_id] = (now, sequence)


def check_position(expect: Expect, log: StreamLog, stream: str, subject: str) -> None:
    """What a single server checks before it looks for duplicates.

    Raises:
        SequenceConflict: the stream, its last sequence or the subject's is another.
    """
    if expect.stream is not None and expect.stream != stream:
        raise SequenceConflict(f"expected stream {expect.stream!r}, not {stream!r}", subject=subject, stream=stream)
    if expect.last_sequence is not None and expect.last_sequence != log.last_sequence:
        raise SequenceConflict(f"wrong last sequence: {log.last_sequence}", subject=subject, stream=stream)
    if expect.last_subject_sequence is not None:
        last = log.last_of(expect.subject_filter or subject)
        if expect.last_subject_sequence != last:
            raise SequenceConflict(f"wrong last sequence: {last}", subject=subject, stream=stream)


def check_last_id(expect: Expect, log: StreamLog, stream: str, subject: str) -> None:
    """What it checks after it has looked for duplicates.

    Raises:
        SequenceConflict: the last message bears another id.
    """
    if expect.last_msg_id is not None and expect.last_msg_id != log.last_message_id:
        raise SequenceConflict(f"wrong last msg ID: {log.last_message_id}", subject=subject, stream=stream)


def check_features(options: StreamOptions, record: Record) -> None:
    """Refuse what the stream was not declared for.

    Raises:
        ApiError: a roll-up.
        FeatureDisabled: a time to live, a schedule or a counter, or none on a stream that keeps counters.
    """
    for option, lacks in (
        ("allow_msg_ttl", record.ttl is not None and not options.allow_msg_ttl),
        ("schedules", record.schedule is not None and not options.schedules),
        ("counters", (record.increment is not None) is not options.counters),
    ):
        if lacks:
            raise FeatureDisabled(
                f"stream {options.name!r} is declared with {option}={getattr(options, option)}: not for this message",
                option=option,
                subject=record.subject,
                stream=options.name,
            )
    if record.rollup and not options.allow_rollup:
        raise ApiError("rollup not permitted", code=400, err_code=10111, subject=record.subject, stream=options.name)


def check_size(options: StreamOptions, subject: str, payload: int) -> None:
    """Refuse a message over the stream's ``max_msg_size``.

    Raises:
        PayloadTooLarge: body and headers are over it.
    """
    if options.max_msg_size is not None and payload > options.max_msg_size:
        raise PayloadTooLarge(size=payload, limit=options.max_msg_size, subject=subject)


def check_room(options: StreamOptions, log: StreamLog, subject: str, size: int) -> None:
    """Refuse what a full stream with ``discard="new"`` refuses.

    A subject at its own limit makes room for itself: its oldest message leaves for the new one, unless it refuses too.

    Raises:
        StreamFull: it has ``max_msgs`` messages or ``max_bytes`` bytes, or the subject all it may have.
    """
    if options.discard != "new":
        return
    limit = options.max_msgs_per_subject
    if options.discard_new_per_subject and limit is not None and log.count_of(subject) >= limit:
        raise full("messages per subject", options.name, subject)
    replaced = _replaced(options, log, subject)
    if options.max_msgs is not None and len(log) >= options.max_msgs and replaced is None:
        raise full("messages", options.name, subject)
    if options.max_bytes is not None and log.bytes + size - (replaced or 0) > options.max_bytes:
        raise full("bytes", options.name, subject)


def _replaced(options: StreamOptions, log: StreamLog, subject: str) -> int | None:
    limit = options.max_msgs_per_subject
    if limit is None or log.count_of(subject) < limit:
        return None
    oldest = log.get(log.first_of(subject) or 0)
    return oldest.size if oldest is not None else None


def surplus(options: StreamOptions, log: StreamLog, subject: str) -> int | None:
    """The sequence that must leave next so that the limits hold after a message of ``subject``; ``None``: they do."""
    limit = options.max_msgs_per_subject
    if limit is not None and log.count_of(subject) > limit:
        return log.first_of(subject)
    if options.discard == "new":  # what is there stays, also when the limits were lowered
        return None
    if options.max_msgs is not None and len(log) > options.max_msgs:
        return log.first_sequence
    if options.max_bytes is not None and log.bytes > options.max_bytes:
        return log.first_sequence
    return None


def check_declared(options: StreamOptions) -> None:
    """Refuse what one process cannot be, and what a single server refuses.

    Raises:
        Unsupported: mirrors, sources, placement.
        ApiError: several replicas.
    """
    for option in ("mirror", "sources", "placement"):
        if getattr(options, option):
            raise Unsupported(f"{option} needs a real server: a memory broker is one process without others")
    if options.replicas > 1:
        words = "replicas > 1 not supported in non-clustered mode"
        raise ApiError(words, code=500, err_code=10074, stream=options.name)


def check_open(options: StreamOptions) -> None:
    """Refuse a sealed stream's new messages.

    Raises:
        ApiError: it is sealed.
    """
    if options.sealed:
        raise ApiError("invalid operation on sealed stream", code=400, err_code=10109, stream=options.name)
