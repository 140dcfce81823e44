"""Streams, stored messages and consumers, asked for and changed through the API."""

from __future__ import annotations

import base64
import logging
from typing import TYPE_CHECKING, Any, Final

from broker.backends.nats import convert, errors, stream_config
from broker.backends.nats.api import TIMEOUT
from broker.backends.nats.frames import WireHeaders
from broker.backends.nats.lanes import counts_of, keyed_pattern, may_be_filed, shows
from broker.contracts.drift import FIXED_HINT, fixed_in_stream
from broker.contracts.envelopes import StoredMessage
from broker.contracts.errors import (
    ApiError,
    BrokerError,
    ConfigDrift,
    ConsumerNotFound,
    InvalidOption,
    PermissionDenied,
    StreamNotFound,
)
from broker.contracts.lanes import KEYED, place_of, stored_patterns
from broker.contracts.stream_options import clash

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime

    from broker.backends.nats.api import Api
    from broker.backends.nats.lanes import Routes
    from broker.contracts.admin import ConsumerInfo, StreamInfo
    from broker.contracts.options import StreamOptions

_log: Final = logging.getLogger("broker.nats")


class Admin:
    """What ``StreamBackend`` promises about streams and consumers, on the JSON API."""

    def __init__(self, api: Api, routes: Routes) -> None:
        self._api = api
        self._routes = routes

    async def find_stream(self, subject: str) -> str | None:
        """The stream whose subjects overlap with the subject or pattern, in keyed form where it has lanes."""
        laned = False
        names = await self._names(subject)
        if not names and may_be_filed(subject):
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
        answer = await (self._found_sealed(name) if options.sealed else self._created(options))
        differences = stream_config.stream_drift(options, answer["config"])
        if differences:
            raise ConfigDrift(name, differences, stream=name)
        return stream_config.stream_info(answer)

    async def _created(self, options: StreamOptions) -> dict[str, Any]:
        """As the server has it, made now or before."""
        name = options.name
        await self._refuse_both_forms(options)
        try:
            return await self._api.call(f"STREAM.CREATE.{name}", stream_config.stream_config(options), stream=name)
        except ApiError as exc:
            if exc.err_code == errors.STREAM_SUBJECT_OVERLAP:
                raise await self._naming_the_other(options, exc) from exc
            if exc.err_code != errors.STREAM_NAME_EXISTS:
                raise
            return await self.raw_stream(name)

    async def _naming_the_other(self, options: StreamOptions, refusal: ApiError) -> ApiError:
        """The refusal with the stream and the subjects it is about, which the server does not tell."""
        try:
            for subject in options.subjects:
                async for other in self.list_streams(subject):
                    if other.name != options.name and (words := clash(options, other.config)):
                        named = ApiError(words, code=refusal.code, err_code=refusal.err_code, stream=options.name)
                        named.advice = refusal.advice
                        named.add_note(refusal.advice)
                        return named
        except BrokerError as exc:
            _log.debug("whose subjects overlap with those of %s is not told: %s", options.name, exc)
        return refusal

    async def _found_sealed(self, name: str) -> dict[str, Any]:
        try:
            return await self.raw_stream(name)
        except StreamNotFound:
            told = f"sealed: stream {name!r} does not exist; make it open, and seal it by update"
            raise InvalidOption(told, option="sealed") from None

    async def _refuse_both_forms(self, options: StreamOptions) -> None:
        """The server sees no overlap between one stream with lanes and one without: messages would go to either.

        Asked each time a stream may be made, for another process may have declared the other one a moment ago; but as
        long as no stream at all has lanes, one question is enough.
        """
        subjects = [each for each in options.subjects if may_be_filed(each)]
        try:
            if subjects and options.lanes is None and not await self._names(f"{KEYED}>"):
                return
            for subject in subjects:
                other_form = subject if options.lanes is not None else keyed_pattern(subject)
                taken = [name for name in await self._names(other_form) if name != options.name]
                if taken:
                    words = f"subjects overlap with an existing stream ({taken[0]}), of which one has lanes"
                    raise ApiError(words, code=400, err_code=errors.STREAM_SUBJECT_OVERLAP, stream=options.name)
        except PermissionDenied:
            return

    async def update_stream(self, options: StreamOptions) -> StreamInfo:
        """Change it; what ``StreamOptions`` does not speak of stays as it is."""
        name = options.name
        found = await self.raw_stream(name)
        fixed = fixed_in_stream(stream_config.stream_drift(options, found["config"]))
        if fixed:
            raise ConfigDrift(name, fixed, stream=name, hint=FIXED_HINT)
        config = stream_config.merged_stream(options, found["config"])
        try:
            return stream_config.stream_info(await self._api.call(f"STREAM.UPDATE.{name}", config, stream=name))
        except ApiError as exc:
            if exc.err_code != errors.STREAM_SUBJECT_OVERLAP:
                raise
            raise await self._naming_the_other(options, exc) from exc

    async def raw_stream(self, name: str) -> dict[str, Any]:
        """The server's own description of a stream."""
        return await self._api.call(f"STREAM.INFO.{name}", stream=name)

    async def stream_info(self, name: str) -> StreamInfo:
        """The stream as it is now."""
        return stream_config.stream_info(await self.raw_stream(name))

    async def list_streams(self, subject: str | None) -> AsyncIterator[StreamInfo]:
        """Every stream that captures the pattern, or every one."""
        async for item in self._listed("STREAM.LIST", subject, lambda item: str(item["config"]["name"])):
            yield stream_config.stream_info(item)

    async def list_stream_names(self, subject: str | None) -> AsyncIterator[str]:
        """Their names alone."""
        async for name in self._listed("STREAM.NAMES", subject, str):
            yield str(name)

    async def _listed(self, verb: str, subject: str | None, name_of: Callable[[Any], str]) -> AsyncIterator[Any]:
        """Each once, in whichever form it captures the pattern."""
        requests: list[dict[str, Any] | None] = [{"subject": subject} if subject is not None else None]
        if subject is not None and may_be_filed(subject):
            requests.append({"subject": keyed_pattern(subject)})
        seen: set[str] = set()
        for request in requests:
            async for item in self._api.pages(verb, "streams", request):
                if name_of(item) not in seen:
                    seen.add(name_of(item))
                    yield item

    async def stored_subjects(self, stream: str, pattern: str) -> AsyncIterator[str]:
        """Every subject of the pattern that has a message now."""
        offset = 0
        while True:
            request = {"subjects_filter": pattern, "offset": offset}
            answer = await self._api.call(f"STREAM.INFO.{stream}", request, stream=stream)
            subjects = answer["state"].get("subjects") or {}
            for subject in subjects:
                yield subject
            offset += len(subjects)
            if not subjects or offset >= int(answer.get("total") or 0):
                return

    async def delete_stream(self, name: str) -> None:
        """Delete it with everything in it."""
        await self._api.call(f"STREAM.DELETE.{name}", stream=name)

    async def purge_stream(self, name: str, *, subject: str | None, up_to: int | None, keep: int | None) -> int:
        """Remove messages; how many were removed."""
        wanted = {"filter": subject, "seq": up_to, "keep": keep}
        request = {key: value for key, value in wanted.items() if value is not None}
        if subject is not None and subject.startswith("*") and counts_of((await self.raw_stream(name))["config"]):
            request["filter"] = stored_patterns((subject,))[0]  # stars would take what it is filed under for subjects
        answer = await self._api.call(f"STREAM.PURGE.{name}", request, stream=name)
        if not answer.get("purged") and subject is not None and may_be_filed(subject):
            request["filter"] = stored_patterns((subject,))[0]
            answer = await self._api.call(f"STREAM.PURGE.{name}", request, stream=name)
        return int(answer.get("purged") or 0)

    async def get_message(self, stream: str, *, sequence: int | None, last_of: str | None) -> StoredMessage | None:
        """One stored message, from the leader."""
        asked = () if last_of is None else (last_of,)
        message = await self._raw_message(
            stream, {"seq": sequence} if sequence is not None else {"last_by_subj": last_of}
        )
        if message is not None and shows(asked, message["subject"]):
            return _stored(message, stream)
        if last_of is None or not may_be_filed(last_of):
            return None
        return await self.get_message(stream, sequence=None, last_of=stored_patterns((last_of,))[0])

    async def next_message(self, stream: str, start: int, pattern: str, asked: str) -> tuple[int, StoredMessage | None]:
        """The first message of the pattern from a sequence on, from the leader: its sequence, 0 when there is none.

        The message itself is left out when somebody who asked for ``asked`` is not shown it.
        """
        message = await self._raw_message(stream, {"seq": start, "next_by_subj": pattern})
        if message is None:
            return 0, None
        return message["seq"], _stored(message, stream) if shows((asked,), message["subject"]) else None

    async def _raw_message(self, stream: str, request: dict[str, Any]) -> dict[str, Any] | None:
        """The leader's own description of a message; ``None`` when it has no such message."""
        try:
            answer = await self._api.call(f"STREAM.MSG.GET.{stream}", request, stream=stream)
        except ApiError as exc:
            if exc.err_code != errors.NO_MESSAGE_FOUND:
                raise
            return None
        message: dict[str, Any] = answer["message"]
        return message

    async def delete_message(self, stream: str, sequence: int, *, erase: bool = False) -> bool:
        """Whether there was one."""
        request = {"seq": sequence, "no_erase": not erase}
        try:
            await self._api.call(f"STREAM.MSG.DELETE.{stream}", request, stream=stream)
        except ApiError as exc:
            if exc.err_code == errors.STREAM_MESSAGE_DELETE_FAILED:
                # The number stands for every failure, and the words for "no such message" differ by storage.
                if await self._raw_message(stream, {"seq": sequence}) is None:
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
        async for item in self._api.pages(f"CONSUMER.LIST.{stream}", "consumers", stream=stream):
            yield convert.consumer_info(item)

    async def list_consumer_names(self, stream: str) -> AsyncIterator[str]:
        """Their names alone."""
        async for name in self._api.pages(f"CONSUMER.NAMES.{stream}", "consumers", stream=stream):
            yield str(name)

    async def pause_consumer(self, stream: str, name: str, until: datetime | None) -> bool:
        """Hand out nothing until then, ``None``: go on; whether it is paused now."""
        request = {"pause_until": convert.moment(until)} if until is not None else {}
        answer = await self._api.call(f"CONSUMER.PAUSE.{stream}.{name}", request, stream=stream)
        return bool(answer.get("paused"))

    async def reset_consumer(self, stream: str, name: str, sequence: int | None) -> int:
        """Go back, or ahead, to a sequence; ``None``: to the first that is not settled. Where it is now."""
        await self.raw_consumer(stream, name)  # a reset of one that does not exist is answered by nobody
        request = {"seq": sequence} if sequence is not None else {}
        answer = await self._api.call(f"CONSUMER.RESET.{stream}.{name}", request, stream=stream)
        return int(answer["reset_seq"])

    async def unpin_consumer(self, stream: str, name: str, group: str, *, timeout: float = TIMEOUT) -> None:
        """The worker that has the group alone has it no more."""
        await self._api.call(f"CONSUMER.UNPIN.{stream}.{name}", {"group": group}, stream=stream, timeout=timeout)

    async def delete_consumer(self, stream: str, name: str, *, timeout: float = TIMEOUT) -> None:
        """Delete it and its position."""
        answer = await self._api.call(f"CONSUMER.DELETE.{stream}.{name}", stream=stream, timeout=timeout)
        if not answer.get("success"):
            raise ConsumerNotFound(f"no consumer {name!r} on {stream!r}", stream=stream)


def _stored(message: dict[str, Any], stream: str) -> StoredMessage:
    headers = message.get("hdrs")
    return StoredMessage(
        subject=place_of(message["subject"]).subject,
        data=base64.b64decode(message.get("data") or b""),
        headers=WireHeaders(base64.b64decode(headers)) if headers else None,
        stream=stream,
        sequence=message["seq"],
        timestamp_ns=convert.timestamp_ns(message["time"]),
    )
