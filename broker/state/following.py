"""What a frame means to a reader of one room: shown, kept for later, or ignored. No I/O, no clock of its own.

Frames are placed as they arrive, so nothing waits in a line and a key frame is never pushed out by the delta that
needs it. Held at most: one key frame, the newest delta on it, and the newest delta on a key frame that is missing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from broker.state.delta import merge
from broker.state.frames import KEY, Frame

TAKEOVER: Final = 2.0
"""Seconds of silence after which an earlier publisher of the same epoch is believed: its clock may merely be behind."""
_UNREAD_EVENTS: Final = 256
"""Events kept per room for a reader who does not read."""
_LEFT: Final = 4
"""Publishers left whose last event is remembered per room, so that one that comes back repeats none."""


class StateEvent(NamedTuple):
    """Something that happened in a room, handed out once.

    Attributes:
        id: its number, counted by the room's publisher from 1 without a gap.
        tick: when it happened.
        body: as the publisher gave it, after the codec.
    """

    id: int
    tick: int
    body: Any


class StateUpdate(NamedTuple):
    """A room's newest state, and what happened since the last update that was read.

    Attributes:
        subject: the room's state subject.
        state: the whole state. It is shared with the reader: copy it before you change it.
        tick: the room's own clock.
        epoch: of the room's owner.
        seq: the frame's number, by its publisher.
        published: when it was published, seconds since 1970, by the publisher's clock.
        events: what happened, in order, each once.
        lost: frames that never arrived, or too late. The state is whole nevertheless.
        superseded: frames that arrived and were replaced by a newer one before they were read.
        events_lost: events that nobody here will see.
    """

    subject: str
    state: Any
    tick: int
    epoch: int
    seq: int
    published: float
    events: tuple[StateEvent, ...] = ()
    lost: int = 0
    superseded: int = 0
    events_lost: int = 0


@dataclass(slots=True)
class StateStats:
    """What a reader has counted; of one room, or of all of them.

    Attributes:
        received: frames that arrived.
        superseded: of those, replaced by a newer one before they were read. Not a loss.
        stale: of those, ignored: repeated, late, of a lower epoch or of a publisher that was replaced.
        malformed: of those, not frames, or of a version not known here.
        lost: frames missing between those that arrived.
        events_lost: events missing between those that arrived, or not read in time.
    """

    received: int = 0
    superseded: int = 0
    stale: int = 0
    malformed: int = 0
    lost: int = 0
    events_lost: int = 0

    def add(self, other: StateStats) -> None:
        """Count the other's as well."""
        self.received += other.received
        self.superseded += other.superseded
        self.stale += other.stale
        self.malformed += other.malformed
        self.lost += other.lost
        self.events_lost += other.events_lost


class Follower:
    """One room as a reader knows it."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.stats = StateStats()
        self.unread = False
        self.shown: Frame | None = None
        self.heard = 0.0
        self._source: tuple[int, int] | None = None
        self._base: Frame | None = None
        self._waiting: Frame | None = None
        self._placed = 0
        self._seen = 0
        self._last_event: int | None = None
        self._left: dict[int, int | None] = {}
        self._events: deque[StateEvent] = deque()
        self._shown_on: Frame | None = None
        self._state: Any = None
        self._merged = False
        self._read = StateStats()

    @property
    def epoch(self) -> int:
        """The highest one heard; 0 before the first frame."""
        return self._source[0] if self._source else 0

    @property
    def heard_of(self) -> bool:
        """Whether any frame came."""
        return self._source is not None

    @property
    def complete(self) -> bool:
        """Whether the newest frame that arrived is the one shown."""
        return self._base is not None and self._waiting is None

    @property
    def state(self) -> Any:
        """The state of the frame shown; ``None`` before the first."""
        if not self._merged and self.shown is not None:
            base, shown = self._shown_on, self.shown
            self._state = shown.body if shown.kind == KEY or base is None else merge(base.body, shown.body)
            self._merged = True
        return self._state

    def take(self, frame: Frame, now: float) -> bool:
        """A frame that was published arrived at ``now``; whether there is a newer state to read."""
        self.stats.received += 1
        if not self._of_source(frame, now):
            self.stats.stale += 1
            return False
        if frame.seq > self._seen:
            if self._seen:
                self.stats.lost += frame.seq - self._seen - 1
            self._seen = frame.seq
        return self._place(frame, now)

    def take_snapshot(self, frames: list[Frame], now: float) -> bool:
        """Frames that were asked for: as ``take``, but they tell nothing of what was lost on the way."""
        newer = False
        for frame in frames:
            if self._of_source(frame, now):
                stale = self.stats.stale
                newer = self._place(frame, now) or newer
                self.stats.stale = stale  # they repeat what was published; that is their purpose
        return newer

    def read(self) -> StateUpdate:
        """The newest state, and everything since the last ``read``; only when something is shown."""
        shown, stats, before = self.shown, self.stats, self._read
        assert shown is not None
        update = StateUpdate(
            subject=self.subject,
            state=self.state,
            tick=shown.tick,
            epoch=shown.epoch,
            seq=shown.seq,
            published=shown.published,
            events=tuple(self._events),
            lost=stats.lost - before.lost,
            superseded=stats.superseded - before.superseded,
            events_lost=stats.events_lost - before.events_lost,
        )
        self._events.clear()
        self.unread = False
        before.lost, before.superseded, before.events_lost = stats.lost, stats.superseded, stats.events_lost
        return update

    def _of_source(self, frame: Frame, now: float) -> bool:
        """Whether it is of the room's owner: the one followed, or one that replaces it."""
        came, followed = (frame.epoch, frame.boot), self._source
        if came == followed:
            return True
        if followed is not None:
            silent = now - self.heard >= TAKEOVER
            if frame.epoch < followed[0] or (came < followed and not silent):
                return False
        if followed is None or frame.boot != followed[1]:
            if followed is not None:
                self._left[followed[1]] = self._last_event
                while len(self._left) > _LEFT:
                    del self._left[next(iter(self._left))]
            self._seen, self._last_event = 0, self._left.pop(frame.boot, None)
        self._source = came
        self._base, self._placed = None, 0
        if self._waiting is not None:
            self._waiting = None
            self.stats.superseded += 1
        return True

    def _place(self, frame: Frame, now: float) -> bool:
        self.heard = now
        self._take_events(frame)
        if frame.seq <= self._placed:
            self.stats.stale += 1
            return False
        if frame.kind == KEY:
            self._place_key(frame)
            return True
        base = self._base
        if base is not None and frame.base == base.seq:
            if type(base.body) is not dict:
                self.stats.malformed += 1
                return False
            self._drop_waiting(frame.seq)
            self._show(frame)
            return True
        if base is not None and frame.base < base.seq:
            self.stats.stale += 1
        else:
            self._wait_for_base(frame)
        return False

    def _place_key(self, frame: Frame) -> None:
        self._base = frame
        self._show(frame)
        self._drop_waiting(frame.seq)
        waiting = self._waiting
        if waiting is not None and waiting.base == frame.seq and type(frame.body) is dict:
            self._waiting = None
            self._show(waiting)

    def _wait_for_base(self, frame: Frame) -> None:
        """Its key frame is missing: keep showing what is shown; only the newest such delta is of any use."""
        if self._waiting is not None:
            if frame.seq <= self._waiting.seq:
                self.stats.stale += 1
                return
            self.stats.superseded += 1
        self._waiting = frame

    def _drop_waiting(self, seq: int) -> None:
        if self._waiting is not None and self._waiting.seq <= seq:
            self._waiting = None
            self.stats.superseded += 1

    def _show(self, frame: Frame) -> None:
        if self.unread:
            self.stats.superseded += 1
        self.unread = True
        self.shown, self._shown_on = frame, self._base
        self._placed = frame.seq
        self._merged, self._state = False, None

    def _take_events(self, frame: Frame) -> None:
        before, carried = self._last_event, frame.events
        if before is None:  # what happened before joining and is not carried any more is no loss
            new = len(carried)
        elif frame.last_event > before:
            new = min(frame.last_event - before, len(carried))
            self.stats.events_lost += frame.last_event - before - new
        else:
            return
        self._last_event = frame.last_event
        events = self._events
        for number, (tick, body) in enumerate(carried[len(carried) - new :], frame.last_event - new + 1):
            events.append(StateEvent(number, tick, body))
        while len(events) > _UNREAD_EVENTS:
            events.popleft()
            self.stats.events_lost += 1
