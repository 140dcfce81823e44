"""Making sure of a consumer as ``ensure`` says, and opening a source on it."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from broker.backends.nats import convert, errors, lanes, stream_config
from broker.backends.nats.api import TIMEOUT
from broker.backends.nats.claiming_intake import ClaimingIntake
from broker.backends.nats.intake import Rhythm
from broker.backends.nats.presence import Bound, Managed, Presence, Resume
from broker.backends.nats.push_intake import PushIntake
from broker.backends.nats.source import NatsSource
from broker.contracts.consumer_options import fitting
from broker.contracts.drift import FIXED_HINT, fixed_in_consumer
from broker.contracts.errors import ApiError, ConfigDrift, ConsumerNotFound, InvalidOption, NoStream, PermissionDenied
from broker.contracts.lanes import Lane, lane_consumer, other_way, stored_patterns
from broker.contracts.subjects import overlap

if TYPE_CHECKING:
    from broker.backends.nats.admin import Admin
    from broker.backends.nats.api import Api
    from broker.backends.nats.core import NatsCore
    from broker.backends.nats.session import Session
    from broker.contracts.admin import ConsumerInfo
    from broker.contracts.options import ConsumerOptions

_EXISTS: Final = frozenset({errors.CONSUMER_ALREADY_EXISTS, errors.CONSUMER_NAME_EXISTS})
_LOOK: Final = 2.5
"""Seconds; twice that without a message, and a push consumer that gives no sign of life is looked at."""
_CLAIMING: Final = Rhythm(expires=1.0)
"""Only a new pull renews a pin: an open one does not, however long it waits."""
_TICK: Final = 1.0
_TICKS_PER_WAIT: Final = 4
_MOMENTS: Final = 20
_MOMENT: Final = 0.1
_ELSEWHERE: Final = ("mirror", "sources", "subject_transform")
"""With one of these a stream holds subjects it does not name."""


class _Place(NamedTuple):
    """Where a consumer is to be.

    Attributes:
        options: with their stream.
        stream: its name.
        made: when it was made.
        filters: what is delivered, as the stream stores it.
    """

    options: ConsumerOptions
    stream: str
    made: str
    filters: tuple[str, ...]


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
        if options.deliver_subject is not None and options.durable is None:
            # Another subject each time: what the one before still sends is not taken for this one's.
            own = f"{options.deliver_subject}.{secrets.token_hex(4)}"
            options = replace(options, deliver_subject=own)
        if options.ensure == "bind":
            presence: Presence = await self._bound(options)
        else:
            presence, options = await self._managed(options)
        ack_wait = options.ack_wait if options.acks else None
        if options.claim is not None:
            asking = partial(ClaimingIntake, claim=options.claim)
            return NatsSource(self._session, presence, ack_wait=ack_wait, rhythm=_CLAIMING, intake=asking)
        if options.deliver_subject is None:
            return NatsSource(self._session, presence, ack_wait=ack_wait, threshold=options.threshold)
        return await self._pushed(presence, options.deliver_subject, options, ack_wait)

    async def _pushed(
        self, presence: Presence, subject: str, options: ConsumerOptions, ack_wait: float | None
    ) -> NatsSource:
        """A source that is sent to. Without a group there may be one of them only: both would get every message."""
        if options.durable is not None and options.deliver_group is None:
            await self._unbound(presence)
        heartbeat = options.idle_heartbeat or _LOOK
        rhythm = Rhythm(heartbeat=heartbeat, tick=min(heartbeat, _TICK, options.ack_wait / _TICKS_PER_WAIT))
        intake = partial(PushIntake, subject=subject, group=options.deliver_group)
        source = NatsSource(self._session, presence, ack_wait=ack_wait, rhythm=rhythm, intake=intake)
        source.listen()
        return source

    async def _unbound(self, presence: Presence) -> None:
        """Wait until nobody listens any more: who just left is seen to have left a moment later."""
        for _ in range(_MOMENTS):
            answer = await self._admin.raw_consumer(presence.stream, presence.consumer)
            if not answer.get("push_bound"):
                return
            await asyncio.sleep(_MOMENT)
        told = f"another worker listens to consumer {presence.consumer!r}; workers who share it need queue="
        raise InvalidOption(told, option="queue")

    async def create(self, options: ConsumerOptions) -> ConsumerInfo:
        """See ``StreamBackend.create_consumer``."""
        place = await self._placed(replace(options, ensure="verify"))
        return convert.consumer_info(await self._ensured(place, _name_for(options)))

    async def update(self, options: ConsumerOptions) -> ConsumerInfo:
        """See ``StreamBackend.update_consumer``."""
        place, name = await self._placed(options), _name_for(options)
        found = await self._admin.raw_consumer(place.stream, name)
        return convert.consumer_info(await self._updated(place, name, found))

    async def _bound(self, options: ConsumerOptions) -> Presence:
        stream = options.stream or await self._captured_by(options.filters[0])
        presence = Bound(self._core, stream, options.durable or options.queue or "")
        await self._session.connected_within(TIMEOUT)
        await presence.look()
        return presence

    async def _managed(self, options: ConsumerOptions) -> tuple[Presence, ConsumerOptions]:
        """Its presence, and the options with what they left open."""
        place = await self._placed(options)
        options, stream = place.options, place.stream
        if isinstance(options.start, Resume) and options.start.made != place.made:
            options = replace(options, start="first")  # the stream was deleted and made again: it counts anew
        name = _name_for(options)
        answer = await self._ensured(place._replace(options=options), name)
        floor = int(answer["ack_floor"]["stream_seq"])
        presence = Managed(
            self._admin, stream, name, polls=options.acks, floor=floor, ours=options.unnamed, made=place.made
        )
        return presence, options

    async def _placed(self, options: ConsumerOptions) -> _Place:
        stream = options.stream
        if stream is None:
            stream = await self._captured_by(options.filters[0])
        answer = await self._admin.raw_stream(stream)
        if options.lane is None and lanes.counts_of(answer["config"]):
            await self._refuse_beside_lanes(stream, options)
        options = fitting(replace(options, stream=stream), stream_config.consumer_limits(answer["config"]))
        return _Place(options, stream, str(answer.get("created") or ""), _filed(stream, answer["config"], options))

    async def _refuse_beside_lanes(self, stream: str, options: ConsumerOptions) -> None:
        group = options.durable or options.queue
        if group is None:
            return
        with suppress(ConsumerNotFound, PermissionDenied):  # a role that may not ask is trusted to know
            await self._admin.raw_consumer(stream, lane_consumer(group, Lane(0, 0)))
            raise other_way(group, stream)

    async def _captured_by(self, subject: str) -> str:
        stream = await self._admin.find_stream(subject)
        if stream is None:
            raise NoStream(f"no stream captures {subject!r}; declare one whose subjects match it", subject=subject)
        return stream

    async def _ensured(self, place: _Place, name: str) -> dict[str, Any]:
        options, stream = place.options, place.stream
        try:
            answer = await self._create(stream, convert.consumer_config(options, name, place.filters), "create")
        except ApiError as exc:
            if exc.err_code not in _EXISTS:
                raise
            answer = await self._admin.raw_consumer(stream, name)
        differences = convert.consumer_drift(options, answer["config"])
        if not differences:
            return answer
        if options.ensure == "verify":
            raise ConfigDrift(name, differences, stream=place.stream)
        return await self._updated(place, name, answer)

    async def _updated(self, place: _Place, name: str, found: dict[str, Any]) -> dict[str, Any]:
        """What may be changed is; what may not is named."""
        fixed = fixed_in_consumer(convert.consumer_drift(place.options, found["config"]))
        if fixed:
            raise ConfigDrift(name, fixed, stream=place.stream, hint=FIXED_HINT)
        config = convert.merged_consumer(place.options, found["config"], place.filters)
        return await self._create(place.stream, config, "update")

    async def _create(self, stream: str, config: dict[str, Any], action: str) -> dict[str, Any]:
        request = {"stream_name": stream, "config": config, "action": action}
        verb = f"CONSUMER.CREATE.{stream}.{config['name']}"
        if config.get("filter_subject"):
            verb = f"{verb}.{config['filter_subject']}"
        return await self._api.call(verb, request, stream=stream)


def _name_for(options: ConsumerOptions) -> str:
    return options.durable or options.queue or f"g{secrets.token_hex(8)}"


def _filed(stream: str, config: dict[str, Any], options: ConsumerOptions) -> tuple[str, ...]:
    """The filters as the stream stores things.

    Raises:
        NoStream: one never matches: the server accepts it, and it would wait for ever.
    """
    laned = bool(lanes.counts_of(config))
    if any(config.get(each) for each in _ELSEWHERE) and not laned:
        return tuple(options.filters)
    subjects = lanes.plain_subjects(config)
    for pattern in options.filters:
        if not any(overlap(pattern, subject) for subject in subjects):
            raise NoStream(f"stream {stream!r} does not capture {pattern!r}", subject=pattern, stream=stream)
    if not laned:
        return tuple(options.filters)
    return stored_patterns(options.filters, stream=stream, queue=options.queue, lane=options.lane)
