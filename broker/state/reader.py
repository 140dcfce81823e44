"""``StateReader``: the newest state of one room or of many, whole, with gaps known."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from broker.contracts.errors import DecodeError, Unsupported
from broker.contracts.options import in_range
from broker.contracts.status import Status
from broker.contracts.subjects import subscribe_pattern
from broker.state.asking import Asking
from broker.state.following import Follower, StateStats, StateUpdate
from broker.state.frames import Frame, from_array
from broker.state.rooms import room_subject

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

    from broker.contracts.backend import CoreBackend
    from broker.contracts.codec import Codec
    from broker.messages import Message
    from broker.state.publisher import Listen, Listening

log = logging.getLogger("broker.state")

_COMPLAINTS: Final = 1024
"""Rooms whose malformed frames are logged, at most: once each."""


class StateView:
    """One room as it is known right now: changes as frames arrive."""

    __slots__ = ("_follower",)

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    @property
    def subject(self) -> str:
        """The room's state subject."""
        return self._follower.subject

    @property
    def state(self) -> Any:
        """The whole state, ``None`` before the first. Shared with the reader: copy it before you change it."""
        return self._follower.state

    @property
    def tick(self) -> int:
        """The room's own clock; 0 before the first state."""
        return self._follower.shown.tick if self._follower.shown else 0

    @property
    def epoch(self) -> int:
        """Of the owner whose state this is; 0 before the first state."""
        return self._follower.shown.epoch if self._follower.shown else 0

    @property
    def seq(self) -> int:
        """The frame's number, by its publisher; 0 before the first state."""
        return self._follower.shown.seq if self._follower.shown else 0

    @property
    def age(self) -> float:
        """Seconds since it was published, infinite before the first state.

        By two clocks, the publisher's and this machine's: between machines it is as exact as their clocks agree.
        """
        shown = self._follower.shown
        return max(0.0, time.time() - shown.published) if shown else float("inf")

    @property
    def silence(self) -> float:
        """Seconds since the room's owner was last heard, by this machine's clock; infinite before the first frame."""
        return time.monotonic() - self._follower.heard if self._follower.heard_of else float("inf")

    @property
    def complete(self) -> bool:
        """Whether this is the newest state that arrived; ``False`` while a key frame is missing and asked for."""
        return self._follower.complete

    @property
    def stats(self) -> StateStats:
        """What was counted of this room."""
        return self._follower.stats

    def __repr__(self) -> str:
        return f"StateView({self.subject!r}, tick={self.tick}, epoch={self.epoch}, seq={self.seq})"


class StateReader:
    """Follows rooms, inside ``async with``: iterate for updates, or look at ``state`` and ``rooms`` at any time.

    A reader that was busy gets the newest state of each room next, whole, with every event since.
    """

    def __init__(
        self,
        subject: str,
        *,
        rooms_limit: int,
        backend: CoreBackend,
        codec: Codec,
        listen: Listen,
        register: Callable[[StateReader], None],
        forget: Callable[[StateReader], None],
    ) -> None:
        in_range("rooms_limit", rooms_limit, 1, whole=True)
        self.subject = subscribe_pattern(subject)
        self._single = not {"*", ">"}.intersection(subject.split("."))
        if self._single:
            room_subject(subject)
        self._limit = rooms_limit
        self._backend = backend
        self._codec = codec
        self._listen = listen
        self._register = register
        self._forget = forget
        self._listening: Listening | None = None
        self._followers: OrderedDict[str, Follower] = OrderedDict()
        self._views: dict[str, StateView] = {}
        self._unread: OrderedDict[str, Follower] = OrderedDict()
        self._asking = Asking(backend, codec, needed=self._incomplete, take=self._take_snapshot)
        self._gone = StateStats()
        self._complained: set[str] = set()
        self._rooms_dropped = 0
        self._arrived = asyncio.Event()
        self._ended = False
        self._unwatch: Callable[[], None] | None = None

    # -- what is known

    @property
    def rooms(self) -> Mapping[str, StateView]:
        """Subject to room, of every room heard; a live view."""
        return MappingProxyType(self._views)

    @property
    def room(self) -> StateView:
        """The one room that is read.

        Raises:
            Unsupported: it reads a pattern; use ``rooms``.
        """
        if not self._single:
            raise Unsupported(f"{self.subject!r} may be many rooms: look into reader.rooms", subject=self.subject)
        return self._views.get(self.subject) or StateView(Follower(self.subject))

    @property
    def state(self) -> Any:
        """The one room's state, ``None`` before the first. Shared with the reader: copy it before you change it.

        Raises:
            Unsupported: it reads a pattern; use ``rooms``.
        """
        return self.room.state

    @property
    def stats(self) -> StateStats:
        """What was counted, of all rooms together, those that are forgotten included."""
        total = StateStats()
        total.add(self._gone)
        for follower in self._followers.values():
            total.add(follower.stats)
        return total

    @property
    def rooms_dropped(self) -> int:
        """Rooms forgotten because there were more than ``rooms_limit``: each time the one silent for longest."""
        return self._rooms_dropped

    @property
    def snapshots_asked(self) -> int:
        """Snapshots asked for because a key frame was missing, repeats included."""
        return self._asking.asked

    def forget(self, subject: str) -> None:
        """Let go of a room, as when its battle is over. A later frame brings it back."""
        follower = self._followers.pop(subject, None)
        if follower is not None:
            self._gone.add(follower.stats)
            self._unread.pop(subject, None)
            del self._views[subject]
        self._asking.forget(subject)

    # -- a room's life

    async def __aenter__(self) -> Self:
        if self._ended or self._listening is not None:
            raise Unsupported("a state reader is entered once; make another with watch_state", subject=self.subject)
        self._register(self)
        self._unwatch = self._backend.board.watch(self._on_status)
        try:
            self._listening = await self._listen(self.subject, self._take)
        except BaseException:
            await self.aclose()
            raise
        if self._single:
            self._asking.want(self.subject, 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop following; iteration ends. Idempotent."""
        self._end()
        self._forget(self)
        listening, self._listening = self._listening, None
        try:
            await self._asking.stop()
        finally:
            if listening is not None:
                await listening.unsubscribe()

    async def drain(self, timeout: float, *, caller: asyncio.Task[object] | None = None) -> None:
        """As ``aclose``; what arrived can still be read."""
        del timeout, caller
        await self.aclose()

    # -- reading

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StateUpdate:
        """The room that waits longest, in its newest state. Cancelling loses nothing.

        Raises:
            Unsupported: it was never entered, so that nothing would ever come.
        """
        if self._listening is None and not self._ended:
            raise Unsupported(
                f"the reader of {self.subject!r} was not entered: async with broker.watch_state(...) as reader",
                subject=self.subject,
            )
        while not self._unread:
            if self._ended:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._unread.popitem(last=False)[1].read()

    # -- inside

    def _take(self, message: Message) -> None:
        envelope = message.envelope
        subject = envelope.subject
        if message.reply_to is not None:  # a question to a room, under a pattern that covers it; frames ask for nothing
            return
        try:
            frame = from_array(self._codec.loads(envelope.data))
        except DecodeError as exc:
            self._complain(subject, exc)
            return
        follower = self._following(subject)
        newer = follower.take(frame, time.monotonic())
        self._after(follower, newer=newer)

    def _take_snapshot(self, subject: str, frames: list[Frame]) -> None:
        if frames and not self._ended:
            follower = self._following(subject)
            newer = follower.take_snapshot(frames, time.monotonic())
            self._after(follower, newer=newer)

    def _after(self, follower: Follower, *, newer: bool) -> None:
        subject = follower.subject
        if newer:
            self._unread[subject] = follower
            self._arrived.set()
        if not follower.complete:
            self._asking.want(subject, follower.epoch)

    def _incomplete(self, subject: str) -> bool:
        follower = self._followers.get(subject)
        return follower is not None and not follower.complete and not self._asking.silent

    def _following(self, subject: str) -> Follower:
        follower = self._followers.get(subject)
        if follower is not None:
            self._followers.move_to_end(subject)
            return follower
        if len(self._followers) >= self._limit:
            if not self._rooms_dropped:
                log.warning(
                    "more than %d rooms on %s: forgetting the one silent for longest", self._limit, self.subject
                )
            self._rooms_dropped += 1
            self.forget(next(iter(self._followers)))
        follower = self._followers[subject] = Follower(subject)
        self._views[subject] = StateView(follower)
        return follower

    def _complain(self, subject: str, error: DecodeError) -> None:
        follower = self._followers.get(subject)
        stats = self._gone if follower is None else follower.stats
        stats.received += 1
        stats.malformed += 1
        if subject not in self._complained and len(self._complained) < _COMPLAINTS:
            self._complained.add(subject)
            log.warning("malformed frame on %s, and perhaps more to come: %s", subject, error)

    def _on_status(self, status: Status) -> None:
        if status in {Status.CLOSED, Status.UNAUTHORIZED}:
            self._end()

    def _end(self) -> None:
        self._ended = True
        if self._unwatch is not None:
            self._unwatch()
        self._arrived.set()

    def __repr__(self) -> str:
        return f"StateReader({self.subject!r}, rooms={len(self._followers)})"
