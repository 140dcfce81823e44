"""Atomic batches: every entry is staged by the server in its turn, and the last one commits all of them or none."""

from __future__ import annotations

import asyncio
import os
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from msgspec import MsgspecError, Struct
from msgspec.json import Decoder

from broker.backends.nats import errors, frames
from broker.backends.nats.appending import block_of
from broker.backends.nats.replies import NO_RESPONDERS
from broker.contracts.envelopes import Receipt
from broker.contracts.errors import (
    ApiError,
    BatchRejected,
    BrokerError,
    ConnectionLost,
    NoResponders,
    PayloadTooLarge,
    RequestTimeout,
)
from broker.contracts.subjects import publish_subject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.backends.nats.session import Session
    from broker.contracts.envelopes import Record

_ID: Final = "Nats-Batch-Id"
_SEQUENCE: Final = "Nats-Batch-Sequence"
_COMMIT: Final = "Nats-Batch-Commit"
_END: Final = len(b"\r\n")


class BatchAppender:
    """Stores batches, one attempt each. Every attempt is a batch of its own to the server.

    An attempt that breaks half-way never commits: the server forgets what it has staged after ten seconds.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._prefix = os.urandom(8).hex()
        self._numbers = count(1)

    def append(self, records: Sequence[Record], *, timeout: float) -> asyncio.Future[Sequence[Receipt]]:
        """Send all at once; the future always completes (see ``StreamBackend.append_atomic``)."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Sequence[Receipt]] = loop.create_future()
        link, replies = self._session.link, self._session.replies
        expected: list[bytes] = []
        try:
            blocks = self._blocks(records, link.max_payload)
            batch = _Batch(future, len(records))
            deadline = loop.time() + timeout
            for index, (record, block) in enumerate(zip(records, blocks, strict=True)):
                subject = publish_subject(record.subject).encode()
                entry = _Entry(record.subject, deadline, timeout, batch, index, len(block) + len(record.data))
                reply = replies.expect(entry)
                expected.append(reply)
                if not link.send_stream(frames.hpub(subject, reply, block, record.data)):
                    raise self._session.ended() or ConnectionLost("not connected", subject=record.subject)
        except BrokerError as exc:
            future.set_exception(exc)

        def forget(_: object) -> None:
            for reply in expected:
                replies.abandon(reply)

        future.add_done_callback(forget)
        return future

    def _blocks(self, records: Sequence[Record], limit: int) -> list[bytes]:
        """The header part of every entry.

        Raises:
            PayloadTooLarge: one of them is; none was sent.
        """
        batch_id = f"{self._prefix}-{next(self._numbers)}"
        blocks = []
        for number, record in enumerate(records, start=1):
            own = f"{_ID}: {batch_id}\r\n{_SEQUENCE}: {number}\r\n"
            if number == len(records):
                own += f"{_COMMIT}: 1\r\n"
            block = block_of(record)[:-_END] + own.encode() + frames.CRLF
            size = len(block) + len(record.data)
            if size > limit:
                raise _about(PayloadTooLarge(size=size, limit=limit, subject=record.subject), number - 1)
            blocks.append(block)
        return blocks


class _Ack(Struct, gc=False):
    """What the server answers, as it writes it; an entry that was staged gets an empty answer instead."""

    stream: str = ""
    seq: int = 0
    count: int = 0
    error: dict[str, Any] | None = None


_decode: Final = Decoder(_Ack).decode


class _Batch:
    """One batch in flight: what is known of its entries until the last one is answered."""

    def __init__(self, future: asyncio.Future[Sequence[Receipt]], size: int) -> None:
        self.future = future
        self.size = size
        self._first: BrokerError | None = None

    def committed(self, stream: str, last: int) -> None:
        """Stored, all of them, next to each other."""
        if not self.future.done():
            before = last - self.size + 1
            self.future.set_result([Receipt(stream, before + index) for index in range(self.size)])

    def refused(self, error: BrokerError, index: int) -> None:
        """An entry was refused. The answer to the last one decides; why it failed is what the first one says."""
        if index == self.size - 1:
            self.fail(self._first if self._first is not None and _is_consequence(error) else error)
        elif self._first is None and not isinstance(error, NoResponders):  # which the stream's own word covers
            self._first = _about(error, index)

    def fail(self, error: BrokerError) -> None:
        """Over."""
        if not self.future.done():
            self.future.set_exception(error)


class _Entry(Struct, gc=False):
    """One entry of a batch; a ``Call``."""

    subject: str
    deadline: float
    timeout: float
    batch: _Batch
    index: int
    size: int

    def answer(self, _inbox: bytes, data: bytes, block: bytes | None) -> None:
        """The server's word on this entry."""
        if not data:
            status = frames.parse_status(block)[0] if block is not None else 0
            if status == NO_RESPONDERS:
                self.batch.refused(
                    NoResponders(f"no stream answers on {self.subject!r}", subject=self.subject), self.index
                )
            return
        try:
            ack = _decode(data)
        except MsgspecError:
            ack = _Ack()
        if ack.error is not None:
            error = errors.from_api(ack.error, subject=self.subject, stream=ack.stream or None, size=self.size)
            self.batch.refused(error, self.index)
        elif ack.seq and ack.count == self.batch.size:
            self.batch.committed(ack.stream, ack.seq)
        else:
            self.batch.fail(ApiError("not an acknowledgement of an atomic batch", subject=self.subject))

    def fail(self, error: BrokerError) -> None:
        """There will be no word."""
        error.subject = error.subject or self.subject
        self.batch.fail(error)

    def expire(self) -> None:
        """The time is over; an entry before the last one may well go unanswered."""
        self.batch.fail(
            RequestTimeout(
                f"no acknowledgement for a batch of {self.batch.size} in {self.timeout:g} s: stored or not is unknown",
                subject=self.subject,
            )
        )


def _about(error: BrokerError, index: int) -> BrokerError:
    error.add_note(f"entry {index} of the batch")
    return error


def _is_consequence(error: BrokerError) -> bool:
    """Whether the batch failed because an entry before was not staged."""
    return isinstance(error, BatchRejected) and error.reason == "incomplete"
