"""Buckets, managed: ``sb.buckets``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.contracts.errors import ConfigDrift, StreamNotFound
from broker.contracts.key_value import STREAM_FIELDS, BucketInfo, BucketOptions, check_bucket, stream_of
from broker.contracts.options import Ensure, check_ensure
from broker.key_value.writing import bucket_gone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.administration import StreamAdmin
    from broker.contracts.admin import StreamInfo


class BucketAdmin:
    """What can be done to buckets."""

    def __init__(self, streams: StreamAdmin) -> None:
        self._streams = streams

    async def ensure(self, options: BucketOptions, ensure: Ensure = "verify") -> BucketInfo | None:
        """Create what is missing; a difference raises (``"verify"``) or is brought in line (``"update"``).

        ``"bind"`` asks nothing and returns ``None``.

        Raises:
            ConfigDrift: verify, and it exists with other settings.
        """
        check_ensure(ensure)
        try:
            info = await self._streams.ensure(options.stream(), ensure)
        except ConfigDrift as exc:
            told = {STREAM_FIELDS.get(field, field): both for field, both in exc.differences.items()}
            raise ConfigDrift(exc.name, told, stream=exc.stream) from exc
        return None if info is None else _bucket_info(info)

    async def info(self, bucket: str) -> BucketInfo:
        """The bucket as it is now.

        Raises:
            BucketNotFound: there is none.
        """
        try:
            info = _bucket_info(await self._streams.info(stream_of(check_bucket(bucket))))
        except StreamNotFound as exc:
            raise bucket_gone(bucket, exc) from exc
        if info is None:
            name = stream_of(bucket)
            raise bucket_gone(bucket, StreamNotFound(f"stream {name!r} is no bucket", stream=name))
        return info

    async def list(self) -> AsyncIterator[BucketInfo]:
        """Every bucket, by name, fetched page by page."""
        async for stream in self._streams.list():
            info = _bucket_info(stream)
            if info is not None:
                yield info

    async def names(self) -> AsyncIterator[str]:
        """The name of every bucket."""
        async for info in self.list():
            yield info.bucket

    async def delete(self, bucket: str) -> None:
        """Remove the bucket with everything in it; whoever watches it gets ``BucketNotFound``.

        Raises:
            BucketNotFound: there is none.
        """
        try:
            await self._streams.delete(stream_of(check_bucket(bucket)))
        except StreamNotFound as exc:
            raise bucket_gone(bucket, exc) from exc


def _bucket_info(stream: StreamInfo) -> BucketInfo | None:
    config = BucketOptions.of(stream.config)
    if config is None:
        return None
    return BucketInfo(
        config=config,
        entries=stream.state.messages,
        bytes=stream.state.bytes,
        last_revision=stream.state.last_sequence,
        created=stream.created,
    )
