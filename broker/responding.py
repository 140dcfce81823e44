"""Answering requests: a responder's return value is the reply, its exception an error reply."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

from broker.contracts.envelopes import Delivery, Envelope
from broker.contracts.errors import BrokerError, EncodeError, NoResponders, PayloadTooLarge, RemoteError
from broker.contracts.headers import ERROR, SERVICE_ERROR, SERVICE_ERROR_CODE, Headers, error_kind
from broker.handling import EXITS, STOPS, HandlerTask, call, one_line, refuse_coroutine, report, run, text_of
from broker.messages import encode_body
from broker.slots import ended, finish

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.contracts.backend import CoreBackend
    from broker.contracts.codec import Codec
    from broker.messages import Message
    from broker.subscriptions import Subscription

E = TypeVar("E", bound=Envelope | Delivery)

_NO_RESPONDERS: Final = 503
_FAILED: Final = "500"
"""The number other clients' services know for an exception."""
_LONGEST_TEXT: Final = 1024
"""Bytes of what an exception says."""


def checked_reply(envelope: E, subject: str) -> E:
    """The reply itself.

    Raises:
        NoResponders: it says that nobody listens.
        RemoteError: it says that the responder raised, or is the error reply of another client's service.
    """
    headers = envelope.headers
    if headers is not None:
        if headers.status == _NO_RESPONDERS and not envelope.data:
            raise NoResponders(f"nobody listens on {subject!r}", subject=subject)
        kind = error_kind(headers)
        if kind is not None:
            text = envelope.data.decode("utf-8", "replace")
            if ERROR not in headers:  # other clients' services keep their words in a header; their body is anything
                text = headers.get(SERVICE_ERROR, "")
            raise RemoteError(f"{kind}: {text}", kind=kind, subject=subject)
    return envelope


def _of_reply(error: EncodeError | PayloadTooLarge, subject: str) -> BrokerError:
    """The error about a reply: by the subject that was asked, for the inbox means nothing to either side.

    It keeps the one traceback that leads to the reply, without those of the codec's own making.
    """
    told: BrokerError
    if isinstance(error, PayloadTooLarge):
        told = PayloadTooLarge(size=error.size, limit=error.limit, subject=subject, hint="; it is the reply")
    else:
        told = EncodeError(f"the reply to {subject!r}: {error}", subject=subject)
    return told.with_traceback(error.__traceback__)


class Responder:
    """Runs a responder for each request, so many at once, and sends what came of it."""

    def __init__(
        self, responder: Callable[[Message], Any], *, concurrency: int, codec: Codec, backend: CoreBackend
    ) -> None:
        self._responder = responder
        self._slots = asyncio.Semaphore(concurrency)
        self._codec = codec
        self._backend = backend
        self._running: set[asyncio.Task[None]] = set()
        self._askers: set[asyncio.Task[Any] | None] = set()
        self.subscription: Subscription | None = None

    @property
    def idle(self) -> bool:
        """Whether it answers nothing and will get nothing to answer."""
        return not self._running and (self.subscription is None or self.subscription.ended)

    async def handle(self, message: Message) -> None:
        """Start on one request as soon as a slot is free: the subscription's backlog holds the others meanwhile."""
        await self._slots.acquire()
        task = HandlerTask(self._answer(message), loop=asyncio.get_running_loop(), name=f"responder {message.subject}")
        self._running.add(task)
        task.add_done_callback(self._done)

    def handle_inline(self, message: Message) -> None:
        """Answer at once, without a task: for plain functions."""
        try:
            result = call(self._responder, message, self._backend.around)
            refuse_coroutine(result)
        except EXITS:
            raise
        except BaseException as exc:  # noqa: BLE001 - the requester gets it as an error reply
            self._refuse(message, exc)
        else:
            self._reply(message, result)

    async def finish(self, caller: asyncio.Task[Any] | None) -> None:
        """Wait for the requests that are being answered, but by ``caller`` and whoever else waits for this."""
        self._askers.add(caller)
        await ended(self._running, None, self._askers)

    async def cancel(self, caller: asyncio.Task[Any] | None) -> None:
        """Abandon the requests that are being answered, but by those who wait for this, in bounded time."""
        self._askers.add(caller)
        await finish(self._running, 0, self._askers)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._slots.release()

    async def _answer(self, message: Message) -> None:
        try:
            result = await run(self._responder, message, self._backend.around)
        except STOPS:
            raise
        except BaseException as exc:  # noqa: BLE001 - the requester gets it as an error reply
            self._refuse(message, exc)
        else:
            self._reply(message, result)

    def _reply(self, message: Message, result: Any) -> None:
        if message.reply_to is None or message.answered:
            return
        try:
            self._backend.publish(message.reply_to, encode_body(self._codec, result), None)
        except (EncodeError, PayloadTooLarge) as exc:
            self._refuse(message, _of_reply(exc, message.subject))
        except BrokerError as exc:  # nothing can be sent, so no error reply either
            report(self._backend.stats, f"reply to {message.subject!r}", exc)

    def _refuse(self, message: Message, error: BaseException) -> None:
        report(self._backend.stats, f"request {message.subject!r}", error)
        if message.reply_to is None:
            return
        kind = type(error).__name__
        text = text_of(error).encode("utf-8", "replace")[:_LONGEST_TEXT]
        words = one_line(f"{kind}: {text.decode('utf-8', 'ignore')}")
        headers = Headers([(ERROR, kind), (SERVICE_ERROR, words), (SERVICE_ERROR_CODE, _FAILED)])
        try:
            self._backend.publish(message.reply_to, text, headers)
        except BrokerError as exc:
            report(self._backend.stats, f"error reply to {message.subject!r}", exc)
