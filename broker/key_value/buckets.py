"""Buckets, managed: ``sb.buckets``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from broker.contracts.drift import FIXED_HINT
from broker.contracts.errors import ConfigDrift, StreamNotFound
from broker.contracts.key_value import (
    LAYOUT,
    STREAM_FIELDS,
    BucketInfo,
    BucketOptions,
    check_bucket,
    stream_of,
    value_size,
)
from broker.contracts.options import Ensure, check_ensure
from broker.key_value.writing import bucket_gone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.administration import StreamAdmin
    from broker.contracts.admin import StreamInfo
    from broker.contracts.drift import Differences
    from broker.contracts.options import StreamOptions


class BucketAdmin:
    """What can be done to buckets."""

    def __init__(self, streams: StreamAdmin) -> None:
        self._streams = streams

    async def ensure(self, options: BucketOptions, ensure: Ensure = "verify") -> BucketInfo | None:
        """Create what is missing; a difference raises (``"verify"``) or is brought in line (``"update"``).

        ``"bind"`` asks nothing and returns ``None``.

        What a bucket has no option for (compression, placement ...) is neither compared nor changed.

        Raises:
            ConfigDrift: verify, and it exists with other settings; update, and some of them never change.
        """
        check_ensure(ensure)
        if ensure == "bind":
            return None
        wanted = options.stream()
        try:
            info = await self._streams.ensure(wanted)
        except ConfigDrift as exc:
            info = await self._streams.info(wanted.name)
            differences = {field: both for field, both in exc.differences.items() if field in LAYOUT}
            if differences and ensure == "verify":
                raise ConfigDrift(wanted.name, _named(differences), stream=wanted.name) from exc
            if differences:
                info = await self._bring_in_line(info.config, differences)
        return _bucket_info(info) if info is not None else None

    async def _bring_in_line(self, found: StreamOptions, differences: Differences) -> StreamInfo:
        asked: dict[str, Any] = {field: ours for field, (ours, _) in differences.items()}
        try:
            return await self._streams.update(replace(found, **asked))
        except ConfigDrift as exc:
            raise ConfigDrift(found.name, _named(exc.differences), stream=found.name, hint=FIXED_HINT) from exc

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


def _named(differences: Differences) -> Differences:
    """The same in the bucket's words."""
    named = {STREAM_FIELDS.get(field, field): both for field, both in differences.items()}
    if "max_msg_size" in differences:
        ours, theirs = differences["max_msg_size"]
        named["max_value_size"] = value_size(cast("int | None", ours)), value_size(cast("int | None", theirs))
    return named


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
