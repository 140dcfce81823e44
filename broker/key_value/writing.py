"""Writes to one key: one append each, and what became of it when nobody answered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from broker.contracts.envelopes import Entry, Expect
from broker.contracts.errors import (
    EnqueueUnknown,
    InvalidOption,
    NoStream,
    PayloadTooLarge,
    StreamNotFound,
)
from broker.contracts.key_errors import BucketNotFound, WriteUnknown
from broker.contracts.key_value import OPERATION, prefix_of, subject_of
from broker.contracts.options import in_range

if TYPE_CHECKING:
    from broker.contracts.envelopes import Delivery
    from broker.enqueueing import Enqueuer
    from broker.key_value.following import Following


class Writer:
    """Stores revisions of one bucket.

    Args:
        bucket: its name.
        least_ttl: seconds below which the server does not let a value expire.
        most_bytes: of one value; ``None``: what the server takes.
        enqueuer: makes records and sees them through.
    """

    def __init__(self, bucket: str, least_ttl: float, most_bytes: int | None, enqueuer: Enqueuer) -> None:
        self._bucket = bucket
        self._prefix = prefix_of(bucket)
        self._least_ttl = least_ttl
        self._most_bytes = most_bytes
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
        if self._most_bytes is not None and len(record.data) > self._most_bytes:
            raise PayloadTooLarge(
                size=len(record.data),
                limit=self._most_bytes,
                subject=subject,
                hint="; it is the bucket's max_value_size",
            )
        # A value that expires leaves nothing behind it that would come to light then.
        record.rollup = rollup or ttl is not None
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            return (await self._enqueuer.store(record, deadline=deadline)).sequence
        except NoStream as exc:
            raise BucketNotFound(f"there is no bucket {self._bucket!r}", bucket=self._bucket) from exc
        except EnqueueUnknown as exc:
            raise WriteUnknown(
                f"no word from the server on key {key!r} of bucket {self._bucket!r}: it may be written; "
                "read the key before writing again",
                key=key,
                revision=revision,
                subject=subject,
            ) from exc

    def _check_ttl(self, ttl: float | None) -> None:
        if ttl is None:
            return
        in_range("ttl", ttl, 1)
        if ttl < self._least_ttl:
            least = f"{self._least_ttl:g}"
            raise InvalidOption(f"ttl={ttl!r}: must be at least {least}, the bucket's marker_ttl", option="ttl")


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


def bucket_gone(bucket: str, error: StreamNotFound) -> BucketNotFound:
    """The same in the words of buckets."""
    return BucketNotFound(f"there is no bucket {bucket!r}", bucket=bucket, stream=error.stream)
