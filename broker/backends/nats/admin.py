"""Streams, stored messages and consumers, asked for and changed through the API."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from broker.backends.nats import convert, errors
from broker.backends.nats.api import TIMEOUT
from broker.backends.nats.frames import WireHeaders
from broker.backends.nats.lanes import counts_of, keyed_pattern
from broker.contracts.envelopes import StoredMessage
from broker.contracts.errors import ApiError, ConfigDrift, ConsumerNotFound, InvalidOption, PermissionDenied
from broker.contracts.lanes import OURS, place_of, stored_patterns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.backends.nats.api import Api
    from broker.backends.nats.lanes import Routes
    from broker.contracts.admin import ConsumerInfo, StreamInfo
    from broker.contracts.options import StreamOptions


class Admin:
    """What ``StreamBackend`` promises about streams and consumers, on the JSON API."""

    def __init__(self, api: Api, routes: Routes) -> None:
        self._api = api
        self._routes = routes

    async def find_stream(self, subject: str) -> str | None:
        """The stream whose subjects overlap with the subject or pattern, in keyed form where it has lanes."""
        laned = False
        names = await self._names(subject)
        if not names and not subject.startswith(OURS):
            laned = bool(names := await self._names(keyed_pattern(subject)))
        self._routes.learn(subject, laned=laned if names else None)
        if len(names) > 1:
            told = ", ".join(names)
            raise InvalidOption(f"{subject!r} is captured by several streams ({told}): say stream=", option="stream")
        return str(names[0]) if names else None

    async def _names(self, subject: str) -> list[str]:
        return (await self._api.call("STREAM.NAMES", {"subject": subject})).get("streams") or []

    async def create_stream(self, options: StreamOptions) -> StreamInfo:
        """Create it; fine when it exists exactly so."""
        name = options.name
        await self._refuse_both_forms(options)
        try:
            answer = await self._api.call(f"STREAM.CREATE.{name}", convert.stream_config(options), stream=name)
        except ApiError as exc:
            if exc.err_code != errors.STREAM_NAME_EXISTS:
                raise
            answer = await self._api.call(f"STREAM.INFO.{name}", stream=name)
        differences = convert.stream_drift(options, answer["config"])
        if differences:
            raise ConfigDrift(name, differences, stream=name)
        return convert.stream_info(answer)

    async def _refuse_both_forms(self, options: StreamOptions) -> None:
        """The server sees no overlap between one stream with lanes and one without: messages would go to either."""
        for subject in options.subjects:
            if subject.startswith(OURS):
                continue
            other_form = subject if options.lanes is not None else keyed_pattern(subject)
            try:
                taken = [name for name in await self._names(other_form) if name != options.name]
            except PermissionDenied:
                return
            if taken:
                words = f"subjects overlap with an existing stream ({taken[0]}), of which one has lanes"
                raise ApiError(words, code=400, err_code=errors.STREAM_SUBJECT_OVERLAP, stream=options.name)

    async def update_stream(self, options: StreamOptions) -> StreamInfo:
        """Change it; what ``StreamOptions`` does not speak of stays as it is."""
        name = options.name
        found = await self._api.call(f"STREAM.INFO.{name}", stream=name)
        config = convert.merged_stream(options, found["config"])
        return convert.stream_info(await self._api.call(f"STREAM.UPDATE.{name}", config, stream=name))

    async def raw_stream(self, name: str) -> dict[str, Any]:
        """The server's own description of a stream."""
        return await self._api.call(f"STREAM.INFO.{name}", stream=name)

    async def stream_info(self, name: str) -> StreamInfo:
        """The stream as it is now."""
        return convert.stream_info(await self.raw_stream(name))

    async def list_streams(self) -> AsyncIterator[StreamInfo]:
        """Every stream, by name."""
        async for item in self._api.pages("STREAM.LIST", "streams"):
            yield convert.stream_info(item)

    async def delete_stream(self, name: str) -> None:
        """Delete it with everything in it."""
        await self._api.call(f"STREAM.DELETE.{name}", stream=name)

    async def purge_stream(self, name: str, *, subject: str | None, up_to: int | None, keep: int | None) -> int:
        """Remove messages; how many were removed."""
        wanted = {"filter": subject, "seq": up_to, "keep": keep}
        request = {key: value for key, value in wanted.items() if value is not None}
        if subject is not None and counts_of((await self.raw_stream(name))["config"]):
            request["filter"] = stored_patterns((subject,))[0]
        answer = await self._api.call(f"STREAM.PURGE.{name}", request, stream=name)
        return int(answer.get("purged") or 0)

    async def get_message(self, stream: str, *, sequence: int | None, last_of: str | None) -> StoredMessage | None:
        """One stored message."""
        request = {"seq": sequence} if sequence is not None else {"last_by_subj": last_of}
        try:
            answer = await self._api.call(f"STREAM.MSG.GET.{stream}", request, stream=stream)
        except ApiError as exc:
            if exc.err_code != errors.NO_MESSAGE_FOUND:
                raise
            if last_of is None or last_of.startswith(OURS):
                return None
            return await self.get_message(stream, sequence=None, last_of=stored_patterns((last_of,))[0])
        message = answer["message"]
        headers = message.get("hdrs")
        return StoredMessage(
            subject=place_of(message["subject"]).subject,
            data=base64.b64decode(message.get("data") or b""),
            headers=WireHeaders(base64.b64decode(headers)) if headers else None,
            stream=stream,
            sequence=message["seq"],
            timestamp_ns=convert.timestamp_ns(message["time"]),
        )

    async def delete_message(self, stream: str, sequence: int) -> bool:
        """Whether there was one."""
        try:
            await self._api.call(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True}, stream=stream)
        except ApiError as exc:
            if exc.err_code == errors.STREAM_MESSAGE_DELETE_FAILED:
                # The number stands for every failure, and the words for "no such message" differ by storage.
                if await self.get_message(stream, sequence=sequence, last_of=None) is None:
                    return False
            elif exc.err_code in {errors.NO_MESSAGE_FOUND, errors.SEQUENCE_NOT_FOUND}:
                return False
            raise
        return True

    async def consumer_info(self, stream: str, name: str) -> ConsumerInfo:
        """The consumer as it is now."""
        return convert.consumer_info(await self.raw_consumer(stream, name))

    async def raw_consumer(self, stream: str, name: str) -> dict[str, Any]:
        """The server's own description of a consumer."""
        return await self._api.call(f"CONSUMER.INFO.{stream}.{name}", stream=stream)

    async def list_consumers(self, stream: str) -> AsyncIterator[ConsumerInfo]:
        """Every consumer of the stream."""
        async for item in self._api.pages(f"CONSUMER.LIST.{stream}", "consumers"):
            yield convert.consumer_info(item)

    async def unpin(self, stream: str, consumer: str, group: str, *, timeout: float) -> None:
        """Whoever is pinned in the group is no more: the next pull is."""
        await self._api.call(f"CONSUMER.UNPIN.{stream}.{consumer}", {"group": group}, stream=stream, timeout=timeout)

    async def delete_consumer(self, stream: str, name: str, *, timeout: float = TIMEOUT) -> None:
        """Delete it and its position."""
        answer = await self._api.call(f"CONSUMER.DELETE.{stream}.{name}", stream=stream, timeout=timeout)
        if not answer.get("success"):
            raise ConsumerNotFound(f"no consumer {name!r} on {stream!r}", stream=stream)
