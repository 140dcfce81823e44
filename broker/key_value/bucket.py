"""``KeyValue``: the keys of one bucket."""

from __future__ import annotations

import asyncio
import inspect
import math
import random
import time
from typing import TYPE_CHECKING, Any, Final, final

from broker.contracts.checks import check_kind
from broker.contracts.errors import (
    ApiError,
    ConnectionLost,
    InvalidOption,
    RequestTimeout,
    SequenceConflict,
    StreamNotFound,
)
from broker.contracts.key_errors import KeyExists
from broker.contracts.key_value import patterns_of, prefix_of, stream_of, subject_of
from broker.contracts.options import ConsumerOptions, Start, in_range
from broker.key_value.entries import KeyEntry
from broker.key_value.following import Following
from broker.key_value.watching import Watch
from broker.key_value.writing import Writer, bucket_gone, collected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from broker.contracts.backend import StreamBackend
    from broker.contracts.codec import Codec
    from broker.contracts.key_value import BucketInfo
    from broker.enqueueing import Enqueuer
    from broker.key_value.buckets import BucketAdmin
    from broker.roster import Roster

_TIMEOUT: Final = 5.0
_TRIES: Final = 8
"""Times ``create`` looks anew when the deletion it wants to follow on is replaced by another."""
_ASK_AGAIN: Final = 0.1
_PAUSE: Final = (0.005, 0.5)
"""Seconds ``modify`` waits after a conflict: up to, doubling, to; at random so that many callers spread."""


@final
class KeyValue:
    """Keys with values and revisions; get it from ``StreamBroker.key_value``.

    A revision is a number that only grows over all keys of the bucket. Writes that name the revision they follow on
    are exact: of any number of writers one gets through. ``get`` may be answered by any copy of a replicated bucket,
    so right after a write elsewhere it may be a moment behind; compare-and-set never is.

    Attributes:
        bucket: its name.
    """

    def __init__(
        self,
        bucket: str,
        *,
        least_ttl: float,
        most_bytes: int | None,
        backend: StreamBackend,
        codec: Codec,
        enqueuer: Enqueuer,
        buckets: BucketAdmin,
        roster: Roster,
    ) -> None:
        self.bucket = bucket
        self._prefix = prefix_of(bucket)
        self._stream = stream_of(bucket)
        self._backend = backend
        self._codec = codec
        self._writer = Writer(bucket, least_ttl, most_bytes, enqueuer)
        self._buckets = buckets
        self._roster = roster

    async def get(self, key: str, *, revision: int | None = None) -> KeyEntry | None:
        """The key's value; ``None`` when it has none (never had, deleted, expired). One round trip.

        Args:
            key: which.
            revision: that one instead of the newest; ``None`` is returned when it is not kept (any more).

        Raises:
            InvalidKey, InvalidOption: at once.
            BucketNotFound: there is none.
            ConnectionLost, RequestTimeout, PermissionDenied, ApiError, BrokerClosed, Unauthorized.
        """
        entry = await self._read(key, revision)
        return None if entry is None or entry.deleted else entry

    async def put(self, key: str, value: Any, *, ttl: float | None = None, timeout: float = _TIMEOUT) -> int:
        """Write the value, whatever there was; the new revision.

        Args:
            key: which.
            value: bytes, or anything the codec encodes.
            ttl: whole seconds after which the key expires. The key's earlier revisions are dropped then at once, or
                one of them would be its value again.
            timeout: seconds, all attempts together.

        Raises:
            WriteUnknown: no word in time; it may be written.
            InvalidKey, InvalidOption, EncodeError: at once; nothing was sent.
            BucketNotFound, StreamFull, PayloadTooLarge, PermissionDenied, ApiError: not written.
        """
        return await self._writer.write(key, value, ttl=ttl, timeout=timeout)

    async def create(self, key: str, value: Any, *, ttl: float | None = None, timeout: float = _TIMEOUT) -> int:
        """Write the value if the key has none; the new revision.

        Raises:
            KeyExists: it has one.
            WriteUnknown: no word in time; read the key before trying again.
            InvalidKey, InvalidOption, EncodeError: at once; nothing was sent. The rest of what ``put`` raises.
        """
        in_range("timeout", timeout, 0)
        deadline = asyncio.get_running_loop().time() + timeout
        revision = 0
        for _ in range(_TRIES):
            try:
                return await self._writer.write(key, value, revision=revision, ttl=ttl, timeout=timeout)
            except SequenceConflict as exc:
                entry = await self._read_by(deadline, key, fresh=True)
                if entry is not None and not entry.deleted:
                    told = f"key {key!r} of bucket {self.bucket!r} exists with revision {entry.revision}"
                    raise KeyExists(told, key=key, subject=exc.subject) from exc
                revision = entry.revision if entry is not None else 0
                timeout = max(0.0, deadline - asyncio.get_running_loop().time())
        raise SequenceConflict(f"key {key!r} of bucket {self.bucket!r} is written and deleted all the time")

    async def update(
        self, key: str, value: Any, *, revision: int, ttl: float | None = None, timeout: float = _TIMEOUT
    ) -> int:
        """Write the value if ``revision`` is the key's last one (0: it never had any); the new revision.

        Raises:
            SequenceConflict: it is not; nothing was written.
            WriteUnknown: no word in time; read the key before trying again.
            InvalidKey, InvalidOption, EncodeError: at once; nothing was sent. The rest of what ``put`` raises.
        """
        in_range("revision", revision, 0, whole=True)
        return await self._writer.write(key, value, revision=revision, ttl=ttl, timeout=timeout)

    async def modify(
        self,
        key: str,
        change: Callable[[KeyEntry | None], Any],
        *,
        ttl: float | None = None,
        timeout: float = 10.0,
    ) -> int:
        """Write what ``change`` makes of the value, trying again while others get in between; the new revision.

        Args:
            key: which.
            change: takes the entry (``None``: no value) and returns the new value; may be ``async def``. It is
                called once per attempt, and what it raises ends the attempts.
            ttl: see ``put``.
            timeout: seconds, all attempts together.

        Raises:
            SequenceConflict: others got in between until the deadline; nothing was written.
            RequestTimeout: it could not be read until the deadline; nothing was written.
            WriteUnknown: no word in time. It is not tried again: the change may be in.
            The rest of what ``get`` and ``put`` raise.
        """
        if not callable(change):
            raise InvalidOption(f"change={change!r}: must be callable", option="change")
        in_range("timeout", timeout, 0)
        clock = asyncio.get_running_loop().time
        deadline, pause, fresh = clock() + timeout, _PAUSE[0], False
        while True:
            entry = await self._read_by(deadline, key, fresh=fresh)
            known = None if entry is None or entry.deleted else entry
            value = change(known)
            if inspect.isawaitable(value):
                value = await value
            try:
                left = max(0.0, deadline - clock())
                revision = entry.revision if entry is not None else 0
                return await self._writer.write(key, value, revision=revision, ttl=ttl, timeout=left)
            except SequenceConflict:
                wait = random.uniform(0, pause)
                if clock() + wait >= deadline:
                    raise
                await asyncio.sleep(wait)
            pause, fresh = min(pause * 2, _PAUSE[1]), True

    async def delete(self, key: str, *, revision: int | None = None, timeout: float = _TIMEOUT) -> int:
        """Delete the value; earlier revisions stay in the history. The deletion's revision.

        Args:
            key: which; one that has no value is fine.
            revision: only if this is its last one.
            timeout: seconds, all attempts together.

        Raises:
            SequenceConflict: ``revision`` is not the last one.
            InvalidKey, InvalidOption: at once; nothing was sent. The rest of what ``put`` raises.
        """
        return await self._writer.write(key, b"", operation="DEL", revision=revision, timeout=timeout)

    async def purge(
        self, key: str, *, revision: int | None = None, ttl: float | None = None, timeout: float = _TIMEOUT
    ) -> int:
        """Delete the value and all earlier revisions. The purge's revision.

        Args:
            key: see ``delete``.
            revision: see ``delete``.
            ttl: whole seconds after which the word that it was purged goes, too; ``None`` keeps it.
            timeout: see ``delete``.

        Raises:
            As ``delete``.
        """
        return await self._writer.write(
            key, b"", operation="PURGE", revision=revision, ttl=ttl, timeout=timeout, rollup=True
        )

    async def history(self, key: str) -> list[KeyEntry]:
        """Every revision kept of the key, deletions included, oldest first; empty when there is none.

        Raises:
            InvalidKey: at once.
            BucketNotFound, ConnectionLost, RequestTimeout, PermissionDenied, ApiError, BrokerClosed, Unauthorized.
        """
        options = self._options((subject_of(self._prefix, key),), "first")
        return [self._entry(each, each.subject) for each in await collected(Following(options, self._backend))]

    async def keys(self, *filters: str) -> AsyncIterator[str]:
        """The keys that have a value now; all of them, or those a filter covers (``room.*``, ``room.>``).

        Raises:
            InvalidKey, InvalidOption: on the first step; nothing was sent. The rest of what ``history`` raises.
        """
        async for entry in self._newest(filters):
            if not entry.deleted:
                yield entry.key

    async def purge_deletes(self, *, older_than: float = 1800.0) -> int:
        """Forget keys that were deleted: their last word goes, and what was left of their history; how many keys.

        A key that gets a value meanwhile keeps it. To be repeated after an error.

        Args:
            older_than: seconds; younger words stay, for whoever reads or watches with a delay. 0 takes all of them.

        Raises:
            InvalidOption: at once; nothing was sent. The rest of what ``history`` raises.
        """
        in_range("older_than", older_than, 0)
        until = time.time() - older_than if older_than else math.inf
        old = [each async for each in self._newest(()) if each.deleted and each.created.timestamp() <= until]
        count = 0
        for entry in old:
            subject = self._prefix + entry.key
            gone = await self._backend.purge_stream(self._stream, subject=subject, up_to=entry.revision + 1, keep=None)
            count += gone > 0
        return count

    def watch(self, *filters: str, history: bool = False, updates_only: bool = False, deletes: bool = True) -> Watch:
        """The keys' values now, in the order of their revisions, then every revision to come. See ``Watch``.

        Args:
            filters: keys, with ``*`` for a token and ``>``, last, for one or more; none means every key.
            history: begin with every revision kept instead of the last one of each key.
            updates_only: begin with what is to come.
            deletes: hand out deletions and expiries, too; those that are there at the beginning included.

        Raises:
            InvalidKey, InvalidOption: at once. On entering, what ``history`` raises.
        """
        for option, flag in (("history", history), ("updates_only", updates_only), ("deletes", deletes)):
            check_kind(option, flag, bool, "True or False", shown=True)
        if history and updates_only:
            raise InvalidOption("history= and updates_only= contradict: give one of them", option="history")
        start: Start = "new" if updates_only else "first" if history else "last_per_subject"
        return Watch(
            self._options(patterns_of(self._prefix, filters), start),
            bucket=self.bucket,
            skip=len(self._prefix),
            deletes=deletes,
            backend=self._backend,
            codec=self._codec,
            register=self._roster.drainables.add,
            forget=self._roster.drainables.discard,
        )

    async def info(self) -> BucketInfo:
        """The bucket as it is now.

        Raises:
            BucketNotFound: there is none.
        """
        return await self._buckets.info(self.bucket)

    async def _newest(self, filters: Sequence[str]) -> AsyncIterator[KeyEntry]:
        """The newest revision of each key, without its value."""
        options = self._options(patterns_of(self._prefix, filters), "last_per_subject", headers_only=True)
        following = Following(options, self._backend)
        await following.open()
        try:
            while not following.ready.is_set():
                delivery = await following.next()
                if delivery is not None:
                    yield self._entry(delivery, delivery.subject)
        finally:
            await following.close()

    async def _read(self, key: str, revision: int | None = None, *, fresh: bool = False) -> KeyEntry | None:
        subject = subject_of(self._prefix, key)
        if revision is not None:
            in_range("revision", revision, 1, whole=True)
        try:
            stored = await self._backend.get_message(
                self._stream, sequence=revision, last_of=subject if revision is None else None, fresh=fresh
            )
        except StreamNotFound as exc:
            raise bucket_gone(self.bucket, exc) from exc
        if stored is None or stored.subject != subject:
            return None
        return self._entry(stored, subject)

    async def _read_by(self, deadline: float, key: str, *, fresh: bool) -> KeyEntry | None:
        """Read again until somebody answers: asking twice does no harm.

        Raises:
            RequestTimeout: nobody did before the deadline.
        """
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    try:
                        return await self._read(key, fresh=fresh)
                    except (ConnectionLost, RequestTimeout):
                        pass
                    except ApiError as exc:
                        if not exc.transient:
                            raise
                    await asyncio.sleep(_ASK_AGAIN)
        except TimeoutError as exc:
            told = f"key {key!r} of bucket {self.bucket!r} could not be read in time; nothing was written"
            raise RequestTimeout(told, subject=self._prefix + key) from exc

    def _entry(self, message: Any, subject: str) -> KeyEntry:
        return KeyEntry(message, self.bucket, subject[len(self._prefix) :], self._codec)

    def _options(self, filters: Sequence[str], start: Start, *, headers_only: bool = False) -> ConsumerOptions:
        return ConsumerOptions(filters=filters, stream=self._stream, acks=False, start=start, headers_only=headers_only)
