"""Which frame comes next: key frame or delta, and the events that ride along. No I/O, no clock of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from broker.contracts.errors import EncodeError, InvalidOption
from broker.contracts.options import in_range
from broker.state.delta import Base, as_dicts, differences, fields_of, keep
from broker.state.frames import DELTA, KEY, Frame, as_array

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from broker.contracts.codec import Codec

EVENT_FRAMES: Final = 90
"""Frames that an event rides in (3 s at 30 Hz), unless newer ones push it out before."""
KEY_PAUSE: Final = 0.5
"""Seconds between key frames that readers asked for, at least: a crowd that joins gets two a second, not one each."""


class Ride(NamedTuple):
    """An event on its way.

    Attributes:
        until: the last ``seq`` it rides in.
        event: ``[tick, body]``, as it goes out.
    """

    until: int
    event: list[Any]


class Draft(NamedTuple):
    """The next frame, ready to be sent; it counts only once it was."""

    data: bytes
    frame: Frame
    base: Base | None
    rides: list[Ride]


class Composer:
    """Makes a publisher's frames: ``draft`` one, send it, and say ``sent``.

    Attributes:
        nothing: an empty snapshot: wait for the next key frame.
    """

    def __init__(self, codec: Codec, *, keyframe_every: int, keep_events: int, epoch: int, boot: int) -> None:
        in_range("keyframe_every", keyframe_every, 1, whole=True)
        in_range("keep_events", keep_events, 0, 1000, whole=True)
        in_range("epoch", epoch, 0, whole=True)
        self.epoch = epoch
        self.boot = boot
        self.seq = 0
        self.tick = 0
        self._codec = codec
        self._keyframe_every = keyframe_every
        self._keep_events = keep_events
        self._base: Base | None = None
        self._base_seq = 0
        self._last_event = 0
        self._rides: list[Ride] = []
        self._key: bytes | None = None
        self._delta: bytes | None = None
        self._snapshot: bytes | None = None
        self.nothing = codec.encode([])
        self._asked = False
        self._key_time = 0.0

    def renew(self, epoch: int) -> None:
        """Go on as the room's owner of a later epoch; the next frame is a key frame.

        Raises:
            InvalidOption: an earlier epoch.
        """
        in_range("epoch", epoch, self.epoch, whole=True)
        if epoch != self.epoch:
            self.epoch, self._base = epoch, None

    def ask(self) -> None:
        """A reader lacks a key frame: send one soon."""
        self._asked = True

    def draft(self, state: Any, events: Iterable[Any], *, tick: int | None, sent: int, now: float) -> Draft:
        """The next frame.

        Args:
            state: the room's state.
            events: what happened in this tick.
            tick: the room's own number for it; ``None`` counts on.
            sent: the wall clock, microseconds.
            now: seconds that only grow.

        Raises:
            EncodeError: the state or an event has no encoding.
            InvalidOption: events that are text or a mapping, or a negative tick.
        """
        if tick is None:
            tick = self.tick + 1
        else:
            in_range("number", tick, 0, whole=True)
        seq = self.seq + 1
        rides, last_event = self._riding(events, tick, seq)
        entities = state if type(state) is dict else fields_of(state)
        base = self._base
        if entities is None or base is None or self._key_is_due(seq, now):
            entities = None if entities is None else as_dicts(entities)
            base = None if entities is None else keep(entities, self._codec.encode)
            kind, on, body = KEY, seq, state if entities is None else entities
        else:
            kind, on, body = DELTA, self._base_seq, differences(base, entities, self._codec.encode)
        carried = [ride.event for ride in rides]
        frame = Frame(kind, self.epoch, self.boot, seq, tick, on, sent, last_event, carried, body)
        return Draft(self._codec.encode(as_array(frame)), frame, base, rides)

    def shorter(self, draft: Draft, state: Any) -> Iterator[Draft]:
        """The same tick when it is too long: as a key frame, then without events that rode before."""
        frame, entities = draft.frame, fields_of(state)
        if frame.kind == DELTA and entities is not None:
            entities = as_dicts(entities)
            frame = frame._replace(kind=KEY, base=frame.seq, body=entities)
            draft = Draft(self._codec.encode(as_array(frame)), frame, keep(entities, self._codec.encode), draft.rides)
            yield draft
        fresh = draft.rides[max(0, len(draft.rides) - (frame.last_event - self._last_event)) :]
        if len(fresh) < len(draft.rides):
            frame = frame._replace(events=[ride.event for ride in fresh])
            yield Draft(self._codec.encode(as_array(frame)), frame, draft.base, fresh)

    def sent(self, draft: Draft, now: float) -> None:
        """The draft is on its way: the next one follows it."""
        frame = draft.frame
        self.seq, self.tick = frame.seq, frame.tick
        self._base, self._rides, self._last_event = draft.base, draft.rides, frame.last_event
        self._snapshot = None
        if frame.kind == KEY:
            self._base_seq, self._key_time, self._asked = frame.seq, now, False
            self._key, self._delta = draft.data, None
        else:
            self._delta = draft.data

    def snapshot(self) -> bytes:
        """The last key frame and the newest delta, as they were sent; empty before the first frame."""
        if self._snapshot is None:
            frames = [self._codec.loads(data) for data in (self._key, self._delta) if data is not None]
            self._snapshot = self._codec.encode(frames)
        return self._snapshot

    def _key_is_due(self, seq: int, now: float) -> bool:
        return seq - self._base_seq >= self._keyframe_every or (self._asked and now - self._key_time >= KEY_PAUSE)

    def _riding(self, events: Iterable[Any], tick: int, seq: int) -> tuple[list[Ride], int]:
        rides = self._rides
        if rides and rides[0].until < seq:
            rides = [ride for ride in rides if ride.until >= seq]
        if isinstance(events, str | bytes | Mapping):
            raise InvalidOption(f"events={events!r}: must be a sequence of events, not one event", option="events")
        try:
            given = iter(events)
        except TypeError:
            raise InvalidOption(f"events={events!r}: must be a sequence of events", option="events") from None
        fresh = [Ride(seq + EVENT_FRAMES - 1, [tick, self._own(number, each)]) for number, each in enumerate(given)]
        if fresh:
            rides = [*rides, *fresh]
            rides = rides[max(0, len(rides) - self._keep_events) :]
        return rides, self._last_event + len(fresh)

    def _own(self, number: int, event: Any) -> Any:
        """Encoded and decoded: what rides on for seconds must not change with the caller's own object."""
        try:
            return self._codec.loads(self._codec.encode(event))
        except EncodeError as exc:
            raise EncodeError(f"events[{number}]: {exc}") from exc
