"""What the server's own ``max_deliver`` ended.

Measured on 2.15.1:

- A last attempt whose ack wait passed counts as in hand until somebody pulls; only ``max_deliver=1`` is decided by the
  clock. A pull for at most one byte makes the server decide and gets nothing: what it cannot have is put back, its
  attempt not counted.
- Then one advisory is published, as a core message. Messages of a work queue, or of interest, stay stored.
- ``num_redelivered`` counts them until they are settled; with ``max_deliver=1`` it stays 0. The ack floor passes them.
- An ack or ``+TERM`` for one settles it as if it were in hand: it leaves the count, and the stream if nobody else
  needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from broker.backends.nats import errors
from broker.backends.nats.api import PREFIX
from broker.backends.nats.convert import nanoseconds, timestamp_ns
from broker.contracts.errors import ApiError, ConfigDrift, NoResponders, RequestTimeout, StreamNotFound
from broker.contracts.exhausted import Exhausted, Notice
from broker.contracts.options import StreamOptions
from broker.contracts.subjects import covers

if TYPE_CHECKING:
    from broker.backends.nats.admin import Admin
    from broker.backends.nats.core import NatsCore
    from broker.contracts.admin import ConsumerInfo
    from broker.contracts.envelopes import StoredMessage

NOTICES: Final = "GAMEBROKER_GIVEN_UP"
"""The stream that keeps the advisories; administrators may declare it themselves, also with another one as source."""
_ADVISORY: Final = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES."
_EVERY: Final = f"{_ADVISORY}>"
_MOST_NOTICES: Final = 1_000_000
_ONE_BYTE: Final = 1
"""No message is as small, with its subject."""
_TURNED_AWAY: Final = "Message Size Exceeds MaxBytes"
_PULL_WAIT: Final = 0.25
"""Seconds such a pull waits at most."""
_TIMEOUT: Final = 3.0
_MOST_PULLS: Final = 1024


class NatsExhausted(Exhausted):
    """Reads advisories and stored messages one by one: each is followed by several writes anyway."""

    def __init__(self, core: NatsCore, admin: Admin) -> None:
        self._core = core
        self._admin = admin

    async def keep_notices(self, replicas: int) -> None:
        """See ``Exhausted``."""
        try:
            found = (await self._admin.stream_info(NOTICES)).config
        except StreamNotFound:
            await self._make(replicas)
            return
        # An administrator's, with limits of their own: theirs are right, as long as notices get in.
        if not found.sources and not any(covers(each, _EVERY) for each in found.subjects):
            differences = {"subjects": ((_EVERY,), tuple(found.subjects))}
            raise ConfigDrift(NOTICES, differences, stream=NOTICES, hint=f"; it must take {_EVERY}, or have a source")

    async def _make(self, replicas: int) -> None:
        options = StreamOptions(
            NOTICES,
            [_EVERY],
            replicas=replicas,
            max_msgs=_MOST_NOTICES,
            discard="old",
            description="what the server gave up on, kept until a sweep has seen to it",
        )
        try:
            await self._admin.create_stream(options)
        except ApiError as exc:
            if exc.err_code != errors.STREAM_SUBJECT_OVERLAP:
                raise
            told = f"another stream takes {_EVERY}: declare {NOTICES} with that one as its source"
            raise ApiError(told, code=exc.code, err_code=exc.err_code, stream=NOTICES) from exc

    async def last_notice(self) -> int:
        """See ``Exhausted``."""
        try:
            return (await self._admin.stream_info(NOTICES)).state.last_sequence
        except StreamNotFound:
            return 0

    async def next_notice(self, stream: str, consumer: str | None, after: int) -> Notice | None:
        """See ``Exhausted``."""
        pattern = f"{_ADVISORY}{stream}.{consumer or '*'}"
        while True:
            after, kept = await self._admin.next_message(NOTICES, after + 1, pattern, pattern)
            if not after:
                return None
            notice = None if kept is None else _notice(kept)
            if notice is not None:
                return notice

    async def forget_notice(self, number: int) -> None:
        """See ``Exhausted``."""
        await self._admin.delete_message(NOTICES, number)

    async def decide(self, consumer: ConsumerInfo) -> None:
        """See ``Exhausted``. A push consumer is decided by the clock and by what it is pushing."""
        options = consumer.config
        if options.deliver_subject is not None:
            return
        pull: dict[str, Any] = {"batch": 1, "max_bytes": _ONE_BYTE, "no_wait": True}
        if consumer.ack_pending >= options.max_ack_pending:
            pull["expires"] = nanoseconds(_PULL_WAIT)  # at its limit the server lets it wait otherwise
        if options.priority_groups:
            pull["group"] = options.priority_groups[0]
        subject, request = f"{PREFIX}CONSUMER.MSG.NEXT.{consumer.stream}.{consumer.name}", orjson.dumps(pull)
        # Each pull decides up to the first message that is due for a worker, which goes to the end of those due.
        for _ in range(min(consumer.ack_pending, _MOST_PULLS)):
            try:
                reply = await self._core.call(subject, request, None, _TIMEOUT)
            except (NoResponders, RequestTimeout):
                return
            if reply.headers is None or _TURNED_AWAY not in reply.headers.status_text:
                return

    async def next_stored(self, stream: str, pattern: str, after: int) -> int:
        """See ``Exhausted``."""
        return (await self._admin.next_message(stream, after + 1, pattern, pattern))[0]

    async def settle(self, stream: str, consumer: str, sequence: int, *, attempts: int, reason: str) -> None:
        """See ``Exhausted``. Its reply subject is made anew; the server goes by the sequence."""
        subject = f"$JS.ACK.{stream}.{consumer}.{attempts}.{sequence}.1.1.0"
        try:
            await self._core.call(subject, b"+TERM " + reason.encode(), None, _TIMEOUT)
        except (NoResponders, RequestTimeout):
            # About what it has not handed out (any more: it was killed and has not saved that) it says nothing.
            found = await self._admin.consumer_info(stream, consumer)
            if found.delivered_sequence >= sequence:
                raise


def _notice(kept: StoredMessage) -> Notice | None:
    """What an advisory says; ``None`` when it is none."""
    try:
        told = orjson.loads(kept.data)
        at = timestamp_ns(told["timestamp"])
        return Notice(kept.sequence, str(told["consumer"]), int(told["stream_seq"]), int(told["deliveries"]), at)
    except (ValueError, TypeError, KeyError):
        return None
