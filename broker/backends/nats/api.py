"""JetStream's JSON API: one request, one typed answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import orjson

from broker.backends.nats import errors
from broker.contracts.errors import (
    ApiError,
    BrokerError,
    ConnectionLost,
    JetStreamNotEnabled,
    NoResponders,
    RequestTimeout,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.backends.nats.core import NatsCore
    from broker.backends.nats.session import Session

PREFIX: Final = "$JS.API."
TIMEOUT: Final = 5.0
LIST_TIMEOUT: Final = 12.0
"""Of lists with descriptions: for what is on a node that is away a server waits 4 s, then answers without it."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5
_PATIENCE: Final = 0.5
"""Share of the time-out after which silence is taken for a request that fell into an election."""
_NONE: Final = 1.0
"""Seconds without anybody who answers after which a server that says it has no JetStream is believed."""
_HOW: Final = (
    "this server has no JetStream: start nats-server with -js, put a jetstream block into its configuration, or take "
    "`gamebroker server`"
)
_REPEATABLE: Final = (
    "STREAM.INFO.",
    "STREAM.NAMES",
    "STREAM.LIST",
    "STREAM.CREATE.",
    "STREAM.MSG.GET.",
    "CONSUMER.INFO.",
    "CONSUMER.NAMES.",
    "CONSUMER.LIST.",
    "CONSUMER.CREATE.",
)
"""What asks, or says how things shall be: sent twice, it does no more than sent once."""


class Api:
    """Asks the server; retries while JetStream has nobody who can answer (start, election).

    A leader that is voted out takes what it was asked with it, without a word: what may be sent twice is sent once
    more when half of the time is over, or at once after a broken line.
    """

    def __init__(self, session: Session, core: NatsCore) -> None:
        self._session = session
        self._core = core
        self._heard = False
        self._loop = asyncio.get_running_loop()

    async def call(
        self, verb: str, request: dict[str, Any] | None = None, *, stream: str | None = None, timeout: float = TIMEOUT
    ) -> dict[str, Any]:
        """The server's answer to ``$JS.API.<verb>``.

        Raises:
            StreamNotFound, ConsumerNotFound, StreamFull, ApiError: what the server said.
            RequestTimeout: no answer, or nobody to answer, in time.
            JetStreamNotEnabled: there was never anybody to answer, and the server says that it has no JetStream.
            PermissionDenied, ConnectionLost, BrokerClosed, Unauthorized.
        """
        subject = PREFIX + verb
        body = orjson.dumps(request) if request is not None else b""
        repeatable = verb.startswith(_REPEATABLE)
        patience = timeout * _PATIENCE if repeatable else timeout
        began = self._loop.time()
        deadline = began + timeout
        pause = _FIRST_PAUSE
        self._session.board.check_open()
        while True:
            left = await self._session.connected_within(max(deadline - self._loop.time(), 0.001))
            try:
                envelope = await self._core.call(subject, body, None, min(left, patience))
                self._heard = True
                return _result(envelope.data, subject, stream)
            except NoResponders as exc:
                if not self._heard and not self._core.jetstream and self._loop.time() > began + _NONE:
                    raise JetStreamNotEnabled(_HOW, subject=subject) from exc
                failure: BrokerError = RequestTimeout(
                    f"no JetStream answered in {timeout:g} s: is it enabled?", subject=subject
                )
            except ApiError as refusal:
                if refusal.err_code != errors.CLUSTER_NOT_AVAILABLE:
                    raise
                failure = refusal
            except (RequestTimeout, ConnectionLost):
                if not repeatable:
                    raise
                failure = RequestTimeout(f"no reply from {subject!r} in {timeout:g} s", subject=subject)
                patience = timeout
            if self._loop.time() + pause >= deadline:
                raise failure
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def pages(
        self, verb: str, key: str, request: dict[str, Any] | None = None, *, stream: str | None = None
    ) -> AsyncIterator[Any]:
        """Every item of a paged list; without those that nobody answers for, since their nodes are away."""
        offset = 0
        timeout = LIST_TIMEOUT if ".LIST" in verb else TIMEOUT
        while True:
            answer = await self.call(verb, {**(request or {}), "offset": offset}, stream=stream, timeout=timeout)
            items = answer.get(key) or []
            for item in items:
                yield item
            listed = len(items) + len(answer.get("missing") or ())
            offset += listed
            if not listed or offset >= int(answer.get("total") or 0):
                return


def _result(data: bytes, subject: str, stream: str | None) -> dict[str, Any]:
    """What the server answered; raises what it refused."""
    try:
        answer = orjson.loads(data)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise ApiError("the answer is not a JSON object", subject=subject)
    refusal = answer.get("error")
    if refusal is not None:
        raise errors.from_api(refusal, subject=subject, stream=stream)
    return answer
