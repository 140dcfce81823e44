"""Storing messages: one id for every attempt, retried until the server has said what became of it."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from broker.atomic import AtomicStoring, batch_of
from broker.contracts.envelopes import Expect, Record, renamed
from broker.contracts.errors import InvalidOption, PermissionDenied
from broker.contracts.headers import KEY, ORDERING_KEY, Headers
from broker.contracts.options import in_range
from broker.contracts.subjects import publish_subject
from broker.flight import Flight
from broker.keys import GENERATED, check_key, generated_id, wire_id
from broker.messages import encode_body
from broker.storing import Storing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from broker.contracts.backend import StreamBackend
    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Entry, Receipt


class Enqueuer:
    """Turns entries into records and sees each through to a receipt or a typed error.

    Args:
        backend: where to.
        codec: for bodies.
        secret: what ids are made with; empty for ids that whoever knows a key can tell.
    """

    def __init__(self, backend: StreamBackend, codec: Codec, secret: bytes = b"") -> None:
        self._backend = backend
        self._codec = codec
        self._secret = secret
        self._prefix = f"{GENERATED}{os.urandom(8).hex()}-"
        self._counter = 0

    def fresh_id(self, subject: str) -> str:
        """A wire id that no message has."""
        self._counter += 1
        if self._secret:  # whoever has seen one must not know the next
            self._prefix = f"{GENERATED}{os.urandom(8).hex()}-"
        return generated_id(subject, f"{self._prefix}{self._counter}")

    def record(self, entry: Entry) -> Record:
        """The entry as the backend takes it.

        Raises:
            InvalidSubject, InvalidKey, InvalidHeader, InvalidOption, EncodeError: at once; nothing was sent.
        """
        subject, body, key, ordering_key, given, ttl, expect = entry
        publish_subject(subject)
        data = body if type(body) is bytes else encode_body(self._codec, body)
        headers = None if given is None else Headers.checked(given)
        if key is None:
            message_id = self.fresh_id(subject)
        else:
            pair = (KEY, check_key(key))
            headers = headers.adding(pair) if headers else Headers((pair,))
            message_id = wire_id(subject, key, self._secret)
        if ordering_key is not None:
            pair = (ORDERING_KEY, check_key(ordering_key, "ordering_key"))
            headers = headers.adding(pair) if headers else Headers((pair,))
        if ttl is None and expect is None:
            return Record(subject, data, headers, message_id, None, None, ordering_key)
        if expect is not None and not isinstance(expect, Expect):
            raise InvalidOption(f"expect={expect!r}: must be an Expect", option="expect")
        return Record(subject, data, headers, message_id, _whole_ttl(ttl), expect, ordering_key)

    async def enqueue(self, entry: Entry, timeout: float) -> Receipt:
        """Store one message."""
        in_range("timeout", timeout, 0)
        return await self.store(self.record(entry), deadline=asyncio.get_running_loop().time() + timeout)

    async def store(self, record: Record, *, deadline: float) -> Receipt:
        """See one record through (see ``Storing``)."""
        return await Storing(self._backend, record, deadline).receipt()

    async def keep(self, record: Record, *, deadline: float) -> Receipt:
        """The same, so that it is there afterwards, also when its id was stored before and that message removed since.

        The next id follows from the one that is gone: whoever does this again finds what was stored by this one.
        """
        identity = record.message_id
        while True:
            receipt = await self.store(record, deadline=deadline)
            if not receipt.duplicate or await self._is_kept(receipt):
                return receipt
            record = renamed(record, f"{identity}:after:{receipt.sequence}")

    async def _is_kept(self, receipt: Receipt) -> bool:
        stream, sequence = receipt.stream, receipt.sequence
        try:
            return await self._backend.get_message(stream, sequence=sequence, last_of=None, fresh=True) is not None
        except PermissionDenied:
            return False  # kept twice rather than not at all

    async def enqueue_atomic(self, entries: Sequence[Entry], timeout: float) -> list[Receipt]:
        """Store all or nothing."""
        in_range("timeout", timeout, 0)
        records = batch_of(entries, self.record)
        return await AtomicStoring(self._backend, records, asyncio.get_running_loop().time() + timeout).receipts()

    async def enqueue_many(self, entries: Iterable[Entry], *, window: int, timeout: float) -> list[Receipt]:
        """Store many, at most ``window`` in flight; receipts in the order given."""
        in_range("window", window, 1, whole=True)
        in_range("timeout", timeout, 0)
        flight = Flight(self.record, self._backend, window, timeout)
        try:
            await flight.take(entries)
        finally:
            await flight.abandon()
        return flight.receipts()


def _whole_ttl(ttl: float | None) -> int | None:
    if ttl is None:
        return None
    in_range("ttl", ttl, 1)
    if ttl != int(ttl):
        raise InvalidOption(f"ttl={ttl!r}: the server counts whole seconds", option="ttl")
    return int(ttl)
