"""Storing messages: one id for every attempt, retried until the server has said what became of it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections import deque
from typing import TYPE_CHECKING, Final

from broker.contracts.envelopes import Entry, Expect, Receipt, Record
from broker.contracts.errors import BrokerError, EnqueueManyError, InvalidKey, InvalidOption
from broker.contracts.headers import KEY, ORDERING_KEY, Headers
from broker.contracts.options import in_range
from broker.contracts.subjects import publish_subject
from broker.messages import encode_body
from broker.storing import ATTEMPT, Storing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.contracts.backend import StreamBackend
    from broker.contracts.codec import Codec

_MAX_KEY_BYTES: Final = 255
_BAD_KEY: Final = re.compile(r"[\x00-\x1f\x7f]")
_TURN: Final = 1024
_ID_BYTES: Final = 16
_GENERATED: Final = "gamebroker~"
_GENERATED_KEY: Final = re.compile(rf"{_GENERATED}[0-9a-f]{{16}}-\d+\Z")


def wire_id(subject: str, key: str) -> str:
    """The id the server deduplicates by: of the subject and the key, so that two message types never collide.

    The server's window is per stream, not per subject; the digest keeps it short whatever the key. A generated key
    needs none, and comes back to the same id when the caller uses what ``EnqueueUnknown`` carries.
    """
    if key.startswith(_GENERATED) and _GENERATED_KEY.match(key):
        return f"{key}@{subject}"
    return hashlib.blake2b(f"{subject}\0{key}".encode(), digest_size=_ID_BYTES).hexdigest()


def check_key(key: object, option: str = "idempotency_key") -> str:
    """The key itself when it is one.

    Raises:
        InvalidKey: not text, empty, over 255 bytes, blank at an end, or with control characters.
    """
    if isinstance(key, str) and 0 < len(key) <= _MAX_KEY_BYTES and key.isascii() and key.isprintable():
        if key[0] != " " != key[-1]:
            return key
    elif not isinstance(key, str):
        raise InvalidKey(f"{option} must be text, not {type(key).__name__}")
    try:
        size = len(key.encode())
    except UnicodeEncodeError as exc:
        raise InvalidKey(f"{option} {key!r} is not encodable as UTF-8") from exc
    if not 1 <= size <= _MAX_KEY_BYTES:
        raise InvalidKey(f"{option} has {size} bytes: must be 1 to {_MAX_KEY_BYTES}")
    if key != key.strip() or _BAD_KEY.search(key):
        raise InvalidKey(f"{option} {key!r} has blanks at an end or control characters")
    return key


class Enqueuer:
    """Turns entries into records and sees each through to a receipt or a typed error."""

    def __init__(self, backend: StreamBackend, codec: Codec) -> None:
        self._backend = backend
        self._codec = codec
        self._prefix = f"{_GENERATED}{os.urandom(8).hex()}-"
        self._counter = 0

    def record(self, entry: Entry) -> tuple[Record, str]:
        """The entry as the backend takes it, and the key that names it.

        Raises:
            InvalidSubject, InvalidKey, InvalidHeader, InvalidOption, EncodeError: at once; nothing was sent.
        """
        subject = publish_subject(entry.subject)
        headers = Headers.checked(entry.headers)
        key = entry.idempotency_key
        if key is None:
            self._counter += 1
            key = f"{self._prefix}{self._counter}"
        else:
            pair = (KEY, check_key(key))
            headers = headers.adding(pair) if headers else Headers((pair,))
        if entry.expect is not None and not isinstance(entry.expect, Expect):
            raise InvalidOption(f"expect={entry.expect!r}: must be an Expect", option="expect")
        if entry.ordering_key is not None:
            pair = (ORDERING_KEY, check_key(entry.ordering_key, "ordering_key"))
            headers = headers.adding(pair) if headers else Headers((pair,))
        data = encode_body(self._codec, entry.body)
        return Record(subject, data, headers, wire_id(subject, key), _whole_ttl(entry.ttl), entry.expect), key

    async def enqueue(self, entry: Entry, timeout: float) -> Receipt:
        """Store one message."""
        in_range("timeout", timeout, 0)
        record, key = self.record(entry)
        return await self.store(record, key, deadline=asyncio.get_running_loop().time() + timeout)

    async def store(self, record: Record, key: str, *, deadline: float) -> Receipt:
        """See one record through (see ``Storing``)."""
        return await Storing(self._backend, record, key, deadline).receipt()

    async def enqueue_many(self, entries: Iterable[Entry], *, window: int, timeout: float) -> list[Receipt]:
        """Store many, at most ``window`` in flight; receipts in the order given."""
        in_range("window", window, 1, whole=True)
        in_range("timeout", timeout, 0)
        many = _Many(self, self._backend, asyncio.get_running_loop().time() + timeout)
        try:
            for entry in entries:
                if many.in_flight >= window:
                    await many.settle_oldest()
                elif many.started % _TURN == 0:
                    await asyncio.sleep(0)  # bad entries wait for nobody: the event loop gets its turn all the same
                while self._backend.congested:
                    await self._backend.writable()
                many.start(entry)
            while many.in_flight:
                await many.settle_oldest()
        finally:
            many.abandon()
        if many.errors:
            raise EnqueueManyError(many.receipts, many.errors)
        return [many.receipts[index] for index in range(len(many.receipts))]


class _Many:
    """The state of one ``enqueue_many``: what is in flight, oldest first, and what came of the rest."""

    def __init__(self, enqueuer: Enqueuer, backend: StreamBackend, deadline: float) -> None:
        self.receipts: dict[int, Receipt] = {}
        self.errors: dict[int, BrokerError] = {}
        self._enqueuer = enqueuer
        self._backend = backend
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self._flying: deque[tuple[int, Record, str, asyncio.Future[Receipt]]] = deque()

    @property
    def started(self) -> int:
        return self._count

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    def start(self, entry: Entry) -> None:
        """Send one entry; a bad one is an error of its own index and nobody else's."""
        index, self._count = self._count, self._count + 1
        try:
            if not isinstance(entry, Entry):
                raise InvalidOption(f"entry {index} is {entry!r}, not an Entry", option="entries")
            record, key = self._enqueuer.record(entry)
            self._backend.board.check_open()
            left = max(0.001, min(ATTEMPT, self._deadline - self._loop.time()))
            self._flying.append((index, record, key, self._backend.append(record, timeout=left)))
        except BrokerError as exc:
            self.errors[index] = exc

    async def settle_oldest(self) -> None:
        """Wait for the oldest in flight, then take every answer that is there."""
        flying = self._flying
        if not flying[0][3].done():
            await asyncio.wait([flying[0][3]])
        stats = self._backend.stats
        while flying and flying[0][3].done():
            index, record, key, answer = flying.popleft()
            error = answer.exception()
            if error is None:
                receipt = self.receipts[index] = answer.result()
                stats.enqueued += 1
                stats.duplicates += receipt.duplicate
            else:
                await self._again(index, record, key, answer)

    async def _again(self, index: int, record: Record, key: str, answer: asyncio.Future[Receipt]) -> None:
        """Whatever went wrong, the patient way decides: it retries the same id or finds the right error."""
        try:
            self.receipts[index] = await Storing(self._backend, record, key, self._deadline).receipt(answer)
        except BrokerError as exc:
            self.errors[index] = exc

    def abandon(self) -> None:
        """Forget what is in flight (the caller was cancelled or gave up)."""
        for _, _, _, answer in self._flying:
            answer.cancel()
        self._flying.clear()


def _whole_ttl(ttl: float | None) -> int | None:
    if ttl is None:
        return None
    in_range("ttl", ttl, 1)
    if ttl != int(ttl):
        raise InvalidOption(f"ttl={ttl!r}: the server counts whole seconds", option="ttl")
    return int(ttl)
