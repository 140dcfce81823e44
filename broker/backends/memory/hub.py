"""The hub: what a server is to its connections. It carries core messages and keeps the streams."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from broker.backends.memory.batches import store_batch
from broker.backends.memory.clock import Clock, LoopClock, after
from broker.backends.memory.outbox import Batch
from broker.backends.memory.routing import Subscription, SubscriptionTable
from broker.backends.memory.streams import Streams
from broker.backends.memory.wire import NO_RESPONDERS
from broker.contracts.envelopes import Envelope
from broker.contracts.errors import ApiError, BrokerError, NoResponders, PayloadTooLarge, RequestTimeout, StreamFull

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.backends.memory.outbox import Outbox, Parcel, Posting
    from broker.backends.memory.stream import MemoryStream
    from broker.contracts.headers import Headers

_T = TypeVar("_T")
MAX_PAYLOAD: Final = 1 << 20
"""Bytes of body and headers that one message may have, as on a NATS server."""


class MemoryHub:
    """A message server in this process, for connections of one event loop.

    Nothing is delivered inside the sender's call: what was sent in one turn of the loop is carried in the next one,
    in order for each connection. Streams stay as long as the hub does; timers run only while somebody is connected.

    Args:
        clock: drives every delay; the running loop's time by default.
        max_payload: bytes of body and headers that one message may have.
    """

    def __init__(self, *, clock: Clock | None = None, max_payload: int = MAX_PAYLOAD) -> None:
        self.clock: Clock = clock if clock is not None else LoopClock()
        self.max_payload = max_payload
        self.streams = Streams(self.clock, self._republish)
        self._table = SubscriptionTable()
        self._connections: set[object] = set()
        self._waiting: list[Outbox] = []
        self._scheduled: asyncio.AbstractEventLoop | None = None

    @property
    def connected(self) -> bool:
        """Whether anybody is."""
        return bool(self._connections)

    def attach(self, connection: object) -> None:
        """Somebody connects."""
        self._connections.add(connection)
        if len(self._connections) == 1:
            self.streams.resume()

    def detach(self, connection: object) -> None:
        """Somebody disconnects; when it was the last, the hub holds no timer any more. Idempotent."""
        self._connections.discard(connection)
        if not self._connections:
            self.streams.pause()

    def add(self, subscription: Subscription) -> None:
        """From now on it is delivered to."""
        self._table.add(subscription)

    def remove(self, subscription: Subscription) -> None:
        """From now on it is not. Idempotent."""
        self._table.remove(subscription)

    def collect(self, outbox: Outbox) -> None:
        """Carry what is in the outbox on the loop's next turn."""
        if outbox not in self._waiting:
            self._waiting.append(outbox)
        loop = asyncio.get_running_loop()
        if self._scheduled is not loop:
            self._scheduled = loop
            loop.call_soon(self._carry_all)

    def _carry_all(self) -> None:
        self._scheduled = None
        waiting, self._waiting = self._waiting, []
        for outbox in waiting:
            parcels, postings = outbox.take()
            for parcel in parcels:
                self._carry(parcel, outbox)
            for posting in postings:
                self._store(posting, outbox)
            outbox.announce_empty()

    def _carry(self, parcel: Parcel, sender: Outbox) -> None:
        subject, data, headers, reply_to, _ = parcel
        heard = self._deliver(subject, data, headers, reply_to, sender)
        stream = self.streams.capturing(subject)
        if stream is not None:
            heard = True
            self._capture(stream, parcel)
        if not heard and reply_to is not None:
            self._deliver(reply_to, b"", NO_RESPONDERS, None)

    def _deliver(
        self,
        subject: str,
        data: bytes,
        headers: Headers | None,
        reply_to: str | None,
        sender: Outbox | None = None,
    ) -> bool:
        heard = False
        for receiver in self._table.route(subject).receivers(sender):
            heard = True
            try:
                receiver.deliver(Envelope(subject, data, headers, reply_to))
            except Exception as exc:  # noqa: BLE001 - the seam forbids it; one broken receiver must not mute the rest
                context = {"message": f"a subscription on {receiver.pattern!r} raised", "exception": exc}
                asyncio.get_running_loop().call_exception_handler(context)
        return heard

    def _capture(self, stream: MemoryStream, parcel: Parcel) -> None:
        """Store a plain publish; whoever asked for a reply gets what the server would say."""
        try:
            receipt = stream.capture(parcel.subject, parcel.data, parcel.headers)
            answer: dict[str, object] = {"stream": receipt.stream, "seq": receipt.sequence}
        except ApiError as exc:
            error = {"code": exc.code, "err_code": exc.err_code, "description": exc.description}
            answer = {"error": error, "stream": stream.name, "seq": 0}
        except (StreamFull, PayloadTooLarge) as exc:
            full = isinstance(exc, StreamFull)
            code, err_code = (503, 10077) if full else (400, 10054)
            error = {"code": code, "err_code": err_code, "description": str(exc)}
            answer = {"error": error, "stream": stream.name, "seq": 0}
        if parcel.reply_to is not None:
            self._deliver(parcel.reply_to, json.dumps(answer).encode(), None, None)

    def _store(self, posting: Posting | Batch, sender: Outbox) -> None:
        """An append is a publish as well: subscribers of the subject see it."""
        if isinstance(posting, Batch):
            self._store_batch(posting, sender)
            return
        record, headers, receipt, timeout = posting
        stream, record = self.streams.taking(record)
        heard = self._deliver(record.subject, record.data, headers, None, sender)
        if stream is not None:
            _complete(receipt, lambda: stream.append(record, headers))
        elif not receipt.done():
            self._unanswered(record.subject, receipt, heard=heard, timeout=timeout)

    def _store_batch(self, batch: Batch, sender: Outbox) -> None:
        """The last entry commits, so its stream is the one that answers."""
        records, headers, receipts, timeout = batch
        heard = [
            self._deliver(record.subject, record.data, each, None, sender)
            for record, each in zip(records, headers, strict=True)
        ]
        home = self.streams.capturing(records[-1].subject)
        if home is not None:
            elsewhere = any(self.streams.capturing(record.subject) is not home for record in records)
            _complete(receipts, lambda: store_batch(home, records, headers, elsewhere=elsewhere))
        elif not receipts.done():
            self._unanswered(records[-1].subject, receipts, heard=heard[-1], timeout=timeout)

    def _republish(self, subject: str, data: bytes, headers: Headers) -> None:
        self._deliver(subject, data, headers, None)

    def _unanswered(self, subject: str, receipt: asyncio.Future[Any], *, heard: bool, timeout: float) -> None:
        """No stream: subscribers that hear it hide that from the sender, as on a real server."""
        if not heard:
            receipt.set_exception(NoResponders(f"no stream captures {subject!r}", subject=subject))
            return

        def expire() -> None:
            if not receipt.done():
                receipt.set_exception(RequestTimeout(f"no receipt within {timeout:g} s", subject=subject))

        timer = after(self.clock, timeout, expire)
        receipt.add_done_callback(lambda _: timer.cancel())


def _complete(future: asyncio.Future[_T], work: Callable[[], _T]) -> None:
    try:
        result = work()
    except BrokerError as exc:
        if not future.done():
            future.set_exception(exc)
    else:
        if not future.done():
            future.set_result(result)


_SHARED: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[str, MemoryHub]] = WeakKeyDictionary()


def shared_hub(name: str) -> MemoryHub:
    """The hub of that name in this event loop; a new one when nobody is connected to it."""
    hubs = _SHARED.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
    hub = hubs.get(name)
    if hub is None or not hub.connected:
        hub = hubs[name] = MemoryHub()
    return hub
