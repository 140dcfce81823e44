"""Atomic batches: every entry is looked at before the first one is stored."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from broker.backends.memory.admission import check_features, check_open, check_position, check_size
from broker.backends.memory.refusals import full
from broker.backends.memory.wire import headers_size, stored_size
from broker.contracts.envelopes import expecting
from broker.contracts.errors import BatchRejected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.backends.memory.stream import MemoryStream
    from broker.contracts.envelopes import Receipt, Record
    from broker.contracts.headers import Headers


def store_batch(
    stream: MemoryStream, records: Sequence[Record], headers: Sequence[Headers], *, elsewhere: bool
) -> Sequence[Receipt]:
    """Store all of them, or none.

    Args:
        stream: captures the last one.
        records: what.
        headers: the records' wire headers.
        elsewhere: whether another stream, or none, captures one of them.

    Raises:
        BatchRejected, SequenceConflict, StreamFull, PayloadTooLarge: nothing was stored.
    """
    options = stream.options
    check_open(options)
    if not options.atomic:
        raise BatchRejected("atomic publish is disabled", reason="disabled", stream=stream.name)
    if elsewhere:
        raise BatchRejected("atomic publish batch is incomplete", reason="incomplete", stream=stream.name)
    stream.expire()
    total, subjects = 0, Counter[str]()
    for record, each in zip(records, headers, strict=True):
        block, subject = headers_size(each), stream.stored_under(record.subject)
        check_features(options, record)
        check_size(options, subject, len(record.data) + block)
        total += stored_size(options.storage, subject, len(record.data), block)
        subjects[subject] += 1
        if stream.first_copy(record.message_id) is not None:
            words = "atomic publish batch contains duplicate message id"
            raise BatchRejected(words, reason="duplicate", subject=record.subject, stream=stream.name)
        if record.expect is not None:
            check_position(record.expect, stream.log, stream.name, subject)
    _check_room(stream, subjects, total)
    return [stream.append(record, each) for record, each in zip(_unconditional(records), headers, strict=True)]


def _unconditional(records: Sequence[Record]) -> list[Record]:
    """What they expect was checked, of the stream as it was before the first of them."""
    return [expecting(record, None) if record.expect is not None else record for record in records]


def _check_room(stream: MemoryStream, subjects: Counter[str], size: int) -> None:
    options, log = stream.options, stream.log
    if options.discard != "new":
        return
    limit = options.max_msgs_per_subject
    if options.discard_new_per_subject and limit is not None:
        for subject, entries in subjects.items():
            if log.count_of(subject) + entries > limit:
                raise full("messages per subject", stream.name, subject)
    if options.max_msgs is not None and len(log) + subjects.total() > options.max_msgs:
        raise full("messages", stream.name)
    if options.max_bytes is not None and log.bytes + size > options.max_bytes:
        raise full("bytes", stream.name)
