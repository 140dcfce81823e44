"""Making sure of a consumer as ``ensure`` says, and opening a source on it."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from broker.backends.nats import convert, errors, lanes
from broker.backends.nats.api import TIMEOUT
from broker.backends.nats.presence import Bound, Managed, Presence, Resume
from broker.backends.nats.source import NatsSource
from broker.contracts.errors import ApiError, ConfigDrift, NoStream
from broker.contracts.lanes import stored_patterns
from broker.contracts.subjects import overlap

if TYPE_CHECKING:
    from broker.backends.nats.admin import Admin
    from broker.backends.nats.api import Api
    from broker.backends.nats.core import NatsCore
    from broker.backends.nats.session import Session
    from broker.contracts.options import ConsumerOptions

_EXISTS: Final = frozenset({errors.CONSUMER_ALREADY_EXISTS, errors.CONSUMER_NAME_EXISTS})
_ELSEWHERE: Final = ("mirror", "sources", "subject_transform")
"""With one of these a stream holds subjects it does not name."""


class Consumers:
    """Opens sources."""

    def __init__(self, session: Session, core: NatsCore, api: Api, admin: Admin) -> None:
        self._session = session
        self._core = core
        self._api = api
        self._admin = admin

    async def open(self, options: ConsumerOptions) -> NatsSource:
        """A source on the consumer (see ``StreamBackend.open_consumer``)."""
        self._session.board.check_open()
        presence = await (self._bound(options) if options.ensure == "bind" else self._managed(options))
        pinned = options.priority_groups[0] if options.priority_groups else None
        ack_wait = options.ack_wait if options.acks else None
        return NatsSource(self._session, presence, ack_wait=ack_wait, group=pinned)

    async def _bound(self, options: ConsumerOptions) -> Presence:
        stream = options.stream or await self._captured_by(options.filters[0])
        presence = Bound(self._core, stream, options.durable or options.queue or "")
        await self._session.connected_within(TIMEOUT)
        await presence.look()
        return presence

    async def _managed(self, options: ConsumerOptions) -> Presence:
        stream = options.stream
        if stream is None:
            stream = await self._captured_by(options.filters[0])
        made, filters = await self._check_filters(stream, options)
        if isinstance(options.start, Resume) and options.start.made != made:
            options = replace(options, start="first")  # the stream was deleted and made again: it counts anew
        options = replace(options, stream=stream)
        name = options.durable or options.queue or f"g{secrets.token_hex(8)}"
        answer = await self._ensured(options, stream, name, filters)
        floor = int(answer["ack_floor"]["stream_seq"])
        unnamed = options.durable is None and options.queue is None
        return Managed(self._admin, stream, name, polls=options.acks, floor=floor, ours=unnamed, made=made)

    async def _captured_by(self, subject: str) -> str:
        stream = await self._admin.find_stream(subject)
        if stream is None:
            raise NoStream(f"no stream captures {subject!r}", subject=subject)
        return stream

    async def _check_filters(self, stream: str, options: ConsumerOptions) -> tuple[str, tuple[str, ...]]:
        """When the stream was made, and the filters as it stores things.

        The server accepts a filter that never matches: it would wait for ever.
        """
        answer = await self._admin.raw_stream(stream)
        config, made = answer["config"], str(answer.get("created") or "")
        laned = bool(lanes.counts_of(config))
        if any(config.get(each) for each in _ELSEWHERE) and not laned:
            return made, tuple(options.filters)
        subjects = lanes.plain_subjects(config)
        for pattern in options.filters:
            if not any(overlap(pattern, subject) for subject in subjects):
                raise NoStream(f"stream {stream!r} does not capture {pattern!r}", subject=pattern, stream=stream)
        if not laned:
            return made, tuple(options.filters)
        return made, stored_patterns(options.filters, stream=stream, queue=options.queue, lane=options.lane)

    async def _ensured(
        self, options: ConsumerOptions, stream: str, name: str, filters: tuple[str, ...]
    ) -> dict[str, Any]:
        try:
            answer = await self._create(stream, convert.consumer_config(options, name, filters), "create")
        except ApiError as exc:
            if exc.err_code not in _EXISTS:
                raise
            answer = await self._admin.raw_consumer(stream, name)
        differences = convert.consumer_drift(options, answer["config"])
        if not differences:
            return answer
        fixed = {field: both for field, both in differences.items() if field in convert.UNCHANGEABLE}
        if options.ensure == "verify" or fixed:
            raise ConfigDrift(name, fixed or differences, stream=stream)
        return await self._create(stream, convert.merged_consumer(options, answer["config"], filters), "update")

    async def _create(self, stream: str, config: dict[str, Any], action: str) -> dict[str, Any]:
        request = {"stream_name": stream, "config": config, "action": action}
        verb = f"CONSUMER.CREATE.{stream}.{config['name']}"
        if config.get("filter_subject"):
            verb = f"{verb}.{config['filter_subject']}"
        return await self._api.call(verb, request, stream=stream)
