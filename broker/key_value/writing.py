"""Writes to one key: one append each, and what became of it when nobody answered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from broker.contracts.envelopes import Entry, Expect
from broker.contracts.errors import (
    BrokerError,
    EnqueueUnknown,
    InvalidOption,
    NoStream,
    SequenceConflict,
    StreamNotFound,
)
from broker.contracts.headers import MESSAGE_ID
from broker.contracts.key_errors import BucketNotFound, WriteUnknown
from broker.contracts.key_value import OPERATION, prefix_of, stream_of, subject_of
from broker.contracts.options import ConsumerOptions, in_range
from broker.key_value.following import Following

if TYPE_CHECKING:
    from broker.contracts.backend import StreamBackend
    from broker.contracts.envelopes import Delivery, Record, StoredMessage
    from broker.enqueueing import Enqueuer


class Writer:
    """Stores revisions of one bucket.

    Args:
        bucket: its name.
        least_ttl: seconds below which the server does not let a value expire.
        backend: where to.
        enqueuer: makes records and sees them through.
    """

    def __init__(self, bucket: str, least_ttl: float, backend: StreamBackend, enqueuer: Enqueuer) -> None:
        self._bucket = bucket
        self._prefix = prefix_of(bucket)
        self._stream = stream_of(bucket)
        self._least_ttl = least_ttl
        self._backend = backend
        self._enqueuer = enqueuer

    async def write(
        self,
        key: str,
        body: Any,
        *,
        timeout: float,
        operation: str | None = None,
        revision: int | None = None,
        ttl: float | None = None,
        rollup: bool = False,
    ) -> int:
        """The revision it was stored under.

        Args:
            key: which.
            body: bytes, or anything the codec encodes.
            timeout: seconds, all attempts together.
            operation: what it is when it is no value.
            revision: the key's last one, as the caller knows it (0: none); ``None`` writes over whatever there is.
            ttl: whole seconds until it expires.
            rollup: earlier revisions go.

        Raises:
            SequenceConflict: the key's last revision is another one; nothing was stored.
            WriteUnknown: no word in time, or the broker was closed meanwhile.
            BucketNotFound: there is none.
            InvalidKey, InvalidOption, EncodeError: at once; nothing was sent.
            StreamFull, PayloadTooLarge, PermissionDenied, ApiError: not stored.
        """
        subject = subject_of(self._prefix, key)
        if revision is not None:
            in_range("revision", revision, 0, whole=True)
        self._check_ttl(ttl)
        in_range("timeout", timeout, 0)
        expect = Expect(last_subject_sequence=revision) if revision is not None else None
        headers = {OPERATION: operation} if operation is not None else None
        record = self._enqueuer.record(Entry(subject, body, None, None, headers, ttl, expect))
        # A value that expires leaves nothing behind it that would come to light then.
        record.rollup = rollup or ttl is not None
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            return (await self._enqueuer.store(record, deadline=deadline)).sequence
        except NoStream as exc:
            raise BucketNotFound(f"there is no bucket {self._bucket!r}", bucket=self._bucket) from exc
        except EnqueueUnknown as exc:
            unknown = WriteUnknown(
                f"no word from the server on key {key!r} of bucket {self._bucket!r}: it may be written; "
                "read the key before writing again",
                key=key,
                revision=revision,
                subject=subject,
            )
            if revision is None or not isinstance(exc.__cause__, SequenceConflict):
                raise unknown from exc
            found = await self._found(record, revision, deadline)
            if found is None:
                raise unknown from exc
            return found

    def _check_ttl(self, ttl: float | None) -> None:
        if ttl is None:
            return
        in_range("ttl", ttl, 1)
        if ttl < self._least_ttl:
            least = f"{self._least_ttl:g}"
            raise InvalidOption(f"ttl={ttl!r}: must be at least {least}, the bucket's marker_ttl", option="ttl")

    async def _found(self, record: Record, revision: int, deadline: float) -> int | None:
        """The revision an earlier attempt was stored under after all; ``None`` when that cannot be known.

        An earlier attempt got no answer and this one was refused: because of the earlier one, or because of somebody
        else's write. A compare-and-set that went through is the very next revision of the key.

        Raises:
            SequenceConflict: it was somebody else's.
        """
        try:
            async with asyncio.timeout_at(deadline):
                last = await self._backend.get_message(self._stream, sequence=None, last_of=record.subject, fresh=True)
                if last is not None and _is_ours(last, record):
                    return last.sequence
                history = await self._history(record.subject)
        except (TimeoutError, BrokerError):
            return None
        after = next((each for each in history if each.sequence > revision), None)
        if after is not None and _is_ours(after, record):
            return after.sequence
        if any(each.sequence == revision for each in history):
            words = f"wrong last revision: {last.sequence if last is not None else 0}, not {revision}"
            raise SequenceConflict(words, subject=record.subject, stream=self._stream)
        return None

    async def _history(self, subject: str) -> list[Delivery]:
        options = ConsumerOptions(filters=(subject,), stream=self._stream, acks=False, headers_only=True)
        return await collected(Following(options, self._backend))


async def collected(following: Following) -> list[Delivery]:
    """Everything that is stored now.

    Raises:
        BucketNotFound: there is none.
    """
    await following.open()
    found: list[Delivery] = []
    try:
        while not following.ready.is_set():
            delivery = await following.next()
            if delivery is not None:
                found.append(delivery)
    finally:
        await following.close()
    return found


def _is_ours(message: Delivery | StoredMessage, record: Record) -> bool:
    return message.headers is not None and message.headers.get(MESSAGE_ID) == record.message_id


def bucket_gone(bucket: str, error: StreamNotFound) -> BucketNotFound:
    """The same in the words of buckets."""
    return BucketNotFound(f"there is no bucket {bucket!r}", bucket=bucket, stream=error.stream)
