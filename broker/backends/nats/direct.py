"""Stored messages by direct get: one round trip to whichever copy answers first, past the JSON API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from broker.backends.nats import convert
from broker.backends.nats.api import PREFIX, TIMEOUT
from broker.contracts.envelopes import StoredMessage
from broker.contracts.errors import ApiError

if TYPE_CHECKING:
    from broker.backends.nats.core import NatsCore
    from broker.backends.nats.session import Session

_NOT_FOUND: Final = 404
_SUBJECT: Final = "Nats-Subject"
_SEQUENCE: Final = "Nats-Sequence"
_TIME: Final = "Nats-Time-Stamp"


class DirectGet:
    """Asks whoever keeps a copy of the stream."""

    def __init__(self, session: Session, core: NatsCore) -> None:
        self._session = session
        self._core = core

    async def get_message(self, stream: str, *, sequence: int | None, last_of: str | None) -> StoredMessage | None:
        """One stored message.

        Raises:
            NoResponders: the stream does not allow it, or there is none.
            ApiError: the server's refusal.
        """
        subject, body = f"{PREFIX}DIRECT.GET.{stream}", b""
        if sequence is not None:
            body = orjson.dumps({"seq": sequence})
        elif last_of is not None and "*" not in last_of and ">" not in last_of:
            subject = f"{subject}.{last_of}"
        else:
            body = orjson.dumps({"last_by_subj": last_of})
        left = await self._session.connected_within(TIMEOUT)
        answer = await self._core.call(subject, body, None, left)
        headers = answer.headers
        if headers is None or headers.status:
            status, words = (headers.status, headers.status_text) if headers is not None else (0, "no headers")
            if status == _NOT_FOUND:
                return None
            raise ApiError(words, code=status, subject=subject, stream=stream)
        return StoredMessage(
            subject=headers[_SUBJECT],
            data=answer.data,
            headers=headers,
            stream=stream,
            sequence=int(headers[_SEQUENCE]),
            timestamp_ns=convert.timestamp_ns(headers[_TIME]),
        )
