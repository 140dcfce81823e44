"""Appends: one frame out, one acknowledgement in, one future in between. No task and no timer of its own."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from msgspec import MsgspecError, Struct
from msgspec.json import Decoder

from broker.backends.nats import errors, frames
from broker.backends.nats.replies import NO_RESPONDERS
from broker.contracts.envelopes import Counted, Receipt, inquiring
from broker.contracts.errors import (
    ApiError,
    BrokerError,
    ConnectionLost,
    NoResponders,
    PayloadTooLarge,
    RequestTimeout,
)
from broker.contracts.headers import MESSAGE_ID
from broker.contracts.lanes import OURS
from broker.contracts.subjects import publish_subject

if TYPE_CHECKING:
    from broker.backends.nats.lanes import Routes
    from broker.backends.nats.session import Session
    from broker.contracts.envelopes import Expect, Record
    from broker.contracts.schedules import Schedule

_KEPT_TARGETS: Final = 8192
_TTL: Final = "Nats-TTL"
_EXPECTED_STREAM: Final = "Nats-Expected-Stream"
_EXPECTED_SEQUENCE: Final = "Nats-Expected-Last-Sequence"
_EXPECTED_SUBJECT_SEQUENCE: Final = "Nats-Expected-Last-Subject-Sequence"
_EXPECTED_SUBJECT_FILTER: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
_SCHEDULE: Final = "Nats-Schedule"
_SCHEDULE_TARGET: Final = "Nats-Schedule-Target"
_SCHEDULE_ZONE: Final = "Nats-Schedule-Time-Zone"
_ROLLUP: Final = "Nats-Rollup"
_SUBJECT: Final = "sub"
_NEVER: Final = "never"
"""A roll-up that does not exist: the server refuses the message, on one node as on three, once it has looked for
repeats. An expectation that never holds would not do: one node looks at most of them first, and three stop answering
after a wrong last message id (2.15.1)."""
INCREMENT: Final = "Nats-Incr"
_EXPECTED_MESSAGE_ID: Final = "Nats-Expected-Last-Msg-Id"


class Appender:
    """Stores messages, one attempt each."""

    def __init__(self, session: Session, routes: Routes) -> None:
        loop = asyncio.get_running_loop()
        self._session = session
        self._link = session.link
        self._send = session.link.send_stream
        self._expect, self._abandon = session.replies.expect, session.replies.abandon
        self._future, self._clock = loop.create_future, loop.time
        self._targets: dict[str, bytes] = {}
        self._routes = routes
        self._laned = routes.laned

    def append(self, record: Record, *, timeout: float) -> asyncio.Future[Receipt]:
        """Send at once; the future always completes (see ``StreamBackend.append``)."""
        future: asyncio.Future[Receipt] = self._future()
        sent = subject = record.subject
        data = record.data
        if record.ordering_key is not None or subject in self._laned:
            sent = self._routes.form(record)
        try:
            block = block_of(record)
            head = len(block)
            size = head + len(data)
            if size > self._link.max_payload:
                raise PayloadTooLarge(size=size, limit=self._link.max_payload, subject=subject)
            target = self._targets.get(sent) or self._target(subject, sent)
            reply = self._expect(_Append(subject, self._clock() + timeout, timeout, future, size, sent, self._routes))
            if not self._send(b"%b%b %d %d\r\n%b%b\r\n" % (target, reply, head, size, block, data)):
                self._abandon(reply)
                raise self._session.ended() or ConnectionLost("not connected", subject=subject)
        except BrokerError as exc:
            future.set_exception(exc)
        return future

    async def look_up(self, record: Record, *, timeout: float) -> Receipt | None:
        """See ``StreamBackend.look_up``."""
        try:
            return await self.append(inquiring(record), timeout=timeout)
        except ApiError as exc:
            if exc.err_code == errors.ROLLUP_FAILED:
                return None
            raise

    def _target(self, subject: str, sent: str) -> bytes:
        if len(self._targets) >= _KEPT_TARGETS:
            self._targets.clear()
        if not subject.startswith(OURS):  # ours may be longer than callers' subjects
            publish_subject(subject)
        target = self._targets[sent] = b"HPUB %b " % sent.encode()
        return target


def block_of(record: Record) -> bytes:
    """The header part of a record: its id, what it expects, and the caller's own headers."""
    if _is_plain(record):
        if record.headers is None:
            return f"NATS/1.0\r\nNats-Msg-Id: {record.message_id}\r\n\r\n".encode()
        lines = "".join([f"{name}: {value}\r\n" for name, value in record.headers.pairs])
        return f"NATS/1.0\r\nNats-Msg-Id: {record.message_id}\r\n{lines}\r\n".encode()
    pairs = [(MESSAGE_ID, record.message_id)]
    if record.ttl is not None:
        pairs.append((_TTL, f"{record.ttl}s"))
    if record.expect is not None:
        pairs.extend(_expected(record.expect))
    if record.rollup or record.inquiry:
        pairs.append((_ROLLUP, _NEVER if record.inquiry else _SUBJECT))
    if record.schedule is not None:
        pairs.extend(_scheduled(record.schedule))
    if record.increment is not None:
        pairs.append((INCREMENT, f"{record.increment:+d}"))
    if record.headers is not None:
        pairs.extend(record.headers.pairs)
    return frames.header_block(pairs)


def _is_plain(record: Record) -> bool:
    return (
        record.ttl is None
        and record.expect is None
        and record.schedule is None
        and record.increment is None
        and not record.rollup
        and not record.inquiry
    )


def _expected(expect: Expect) -> list[tuple[str, str]]:
    given: tuple[tuple[str, object], ...] = (
        (_EXPECTED_STREAM, expect.stream),
        (_EXPECTED_SEQUENCE, expect.last_sequence),
        (_EXPECTED_SUBJECT_SEQUENCE, expect.last_subject_sequence),
        (_EXPECTED_SUBJECT_FILTER, expect.subject_filter),
        (_EXPECTED_MESSAGE_ID, expect.last_msg_id),
    )
    return [(name, str(value)) for name, value in given if value is not None]


def _scheduled(schedule: Schedule) -> list[tuple[str, str]]:
    pairs = [(_SCHEDULE_TARGET, schedule.target)]
    if schedule.zone is not None:
        pairs.append((_SCHEDULE_ZONE, schedule.zone))
    if schedule.every is not None:
        return [(_SCHEDULE, f"@every {round(schedule.every * 1000)}ms"), *pairs]
    if schedule.cron is not None:
        return [(_SCHEDULE, schedule.cron), *pairs]
    at_ns = schedule.at_ns if schedule.at_ns is not None else time.time_ns() + round((schedule.delay or 0) * 1e9)
    whole, rest = divmod(at_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return [(_SCHEDULE, f"@at {moment}.{rest:09d}Z"), *pairs]


class _Ack(Struct, gc=False):
    """What the server answers, as it writes it."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    val: str | None = None
    error: dict[str, Any] | None = None


_decode: Final = Decoder(_Ack).decode
_tuple: Final = tuple.__new__
"""Makes a named tuple in half the time its own constructor takes."""


class _Append(Struct, gc=False):
    """One append in flight; a ``Call``."""

    subject: str
    deadline: float
    timeout: float
    future: asyncio.Future[Receipt]
    size: int
    sent: str
    routes: Routes

    def answer(self, _inbox: bytes, data: bytes, block: bytes | None) -> None:
        future = self.future
        if future.done():
            return
        if block is not None and not data:
            error = _unanswered(frames.parse_status(block)[0], self.subject)
            if isinstance(error, NoResponders):
                self.routes.unanswered(self.subject, self.sent)
            future.set_exception(error)
            return
        try:
            ack = _decode(data)
        except MsgspecError:
            future.set_exception(ApiError("not a publish acknowledgement", subject=self.subject))
            return
        # A refusal carries "seq": 0 as well.
        if ack.seq and ack.error is None:
            if ack.val is None:
                future.set_result(_tuple(Receipt, (ack.stream, ack.seq, ack.duplicate)))
            else:
                future.set_result(Counted.of(ack.stream, ack.seq, int(ack.val)))
        elif ack.error is not None:
            future.set_exception(
                errors.from_api(ack.error, subject=self.subject, stream=ack.stream or None, size=self.size)
            )
        else:
            future.set_exception(ApiError("not a publish acknowledgement", subject=self.subject))

    def fail(self, error: BrokerError) -> None:
        if not self.future.done():
            error.subject = error.subject or self.subject
            self.future.set_exception(error)

    def expire(self) -> None:
        if not self.future.done():
            self.future.set_exception(
                RequestTimeout(
                    f"no acknowledgement for {self.subject!r} in {self.timeout:g} s: stored or not is unknown",
                    subject=self.subject,
                )
            )


def _unanswered(status: int, subject: str) -> BrokerError:
    if status == NO_RESPONDERS:
        return NoResponders(f"no stream answers on {subject!r}", subject=subject)
    return ApiError("an unexpected status instead of an acknowledgement", code=status, subject=subject)
