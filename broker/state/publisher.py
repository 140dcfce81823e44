"""``StatePublisher``: a room's state, once a tick, without ever waiting."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from broker.contracts.errors import (
    BrokerClosed,
    BrokerError,
    DecodeError,
    EncodeError,
    InvalidOption,
    PayloadTooLarge,
    PermissionDenied,
    Unauthorized,
)
from broker.state.composing import Composer
from broker.state.parts import blamed, longest
from broker.state.rooms import room_subject, snapshot_subject

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from types import TracebackType
    from typing import Self

    from broker.contracts.backend import CoreBackend
    from broker.contracts.codec import Codec
    from broker.messages import Message
    from broker.state.composing import Draft

log = logging.getLogger("broker.state")

_PAUSE: Final = 1.0
"""Seconds between attempts to listen for readers while there is no connection."""
_LAST_WORDS: Final = 1.0
_NS_PER_MICROSECOND: Final = 1000


class Listening(Protocol):
    """A live subscription."""

    async def unsubscribe(self) -> None:
        """Stop it."""


class Listen(Protocol):
    """How to subscribe: the broker's own way, so that the broker's end is the subscription's."""

    def __call__(self, subject: str, handler: Callable[[Message], None]) -> Awaitable[Listening]:
        """Subscribe; the handler is called inline."""


class Boots:
    """Numbers for publishers, by the clock, so that a later one has a higher one, also after a restart."""

    last = 0

    @classmethod
    def next(cls) -> int:
        """Microseconds since 1970, but never the same twice in this process."""
        cls.last = max(cls.last + 1, time.time_ns() // _NS_PER_MICROSECOND)
        return cls.last


class StatePublisher:
    """Sends one room's state, newest wins. Made by ``Broker.state``; close it with ``async with`` or ``aclose``.

    Attributes:
        subject: where the frames go.
        snapshot_subject: where readers ask for the state now; only publishers of the room answer.
    """

    def __init__(
        self,
        subject: str,
        *,
        keyframe_every: int,
        epoch: int,
        keep_events: int,
        backend: CoreBackend,
        codec: Codec,
        listen: Listen,
        forget: Callable[[StatePublisher], None],
    ) -> None:
        self.subject = room_subject(subject)
        self.snapshot_subject = snapshot_subject(subject)
        self._composer = Composer(
            codec, keyframe_every=keyframe_every, keep_events=keep_events, epoch=epoch, boot=Boots.next()
        )
        self._backend = backend
        self._codec = codec
        self._listen = listen
        self._forget = forget
        self._listening: Listening | None = None
        self._closed = False
        # In the background: the game loop does not wait for a server, and frames need nobody to have asked.
        self._opening = asyncio.get_running_loop().create_task(self._open(), name=f"state {subject}")

    @property
    def epoch(self) -> int:
        """Of the room's owner; readers ignore lower ones for ever. Raising it makes the next frame a key frame."""
        return self._composer.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._composer.renew(epoch)

    @property
    def seq(self) -> int:
        """Frames sent."""
        return self._composer.seq

    def tick(self, state: Any, events: Iterable[Any] = (), *, number: int | None = None) -> None:
        """Send the room's state as it is now, in microseconds, whatever the server does.

        Readers get it as the codec brings it back (with JSON a tuple becomes a list). You may change your objects in
        place between ticks.

        Args:
            state: entity to fields, both mappings: then only fields that changed are sent between key frames. An
                entity that is no mapping is one value. Any other state is sent whole, each time.
            events: what happened in this tick (hits, kills): each rides along in many frames and is read once.
            number: of the tick, by the room's own count; one more than the last when ``None``.

        Raises:
            EncodeError, PayloadTooLarge, InvalidOption: at once, naming the room and the entity, field or event;
                nothing was sent, and the next tick makes up for it, but for these events.
            BrokerClosed, Unauthorized: it will never be sent.
        """
        if self._closed:
            raise BrokerClosed(f"the state publisher of {self.subject!r} is closed", subject=self.subject)
        now = time.monotonic()
        wall = time.time_ns() // _NS_PER_MICROSECOND
        try:
            draft = self._composer.draft(state, events, tick=number, sent=wall, now=now)
        except InvalidOption as exc:
            raise InvalidOption(f"state {self.subject!r}: {exc}", option=exc.option) from None
        except EncodeError as exc:
            told = blamed(exc, state, self._codec.encode)
            raise EncodeError(f"state {self.subject!r}: {told}", subject=self.subject) from exc
        try:
            self._backend.publish(self.subject, draft.data, None)
        except PayloadTooLarge as exc:
            draft = self._send_shorter(draft, state, exc)
        self._composer.sent(draft, now)

    def _send_shorter(self, draft: Draft, state: Any, error: PayloadTooLarge) -> Draft:
        """Send the same tick in a shorter way; what was sent.

        Raises:
            PayloadTooLarge: no way is short enough; it says what makes it so long.
        """
        for shorter in self._composer.shorter(draft, state):
            draft = shorter
            try:
                self._backend.publish(self.subject, draft.data, None)
            except PayloadTooLarge as exc:
                error = exc
            else:
                return draft
        part = longest(state, draft.frame.events, self._codec.encode)
        hint = f"; the longest part is {part}"
        raise PayloadTooLarge(size=error.size, limit=error.limit, subject=self.subject, hint=hint) from None

    async def aclose(self) -> None:
        """Stop answering readers. Idempotent. Frames that were sent stay sent."""
        self._closed = True
        self._forget(self)
        try:
            if not self._opening.done():
                self._opening.cancel()
                await asyncio.wait([self._opening], timeout=_LAST_WORDS)
        finally:
            listening, self._listening = self._listening, None
            if listening is not None:
                await listening.unsubscribe()

    async def drain(self, timeout: float, *, caller: asyncio.Task[object] | None = None) -> None:
        """As ``aclose``: nothing is half-done between two ticks."""
        del timeout, caller
        await self.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _open(self) -> None:
        """Listen for readers, as soon as there is a connection."""
        while True:
            try:
                self._listening = await self._listen(self.snapshot_subject, self._answer)
            except PermissionDenied as exc:
                log.warning("readers of %s get no snapshots, only key frames: %s", self.subject, exc)
                return
            except (BrokerClosed, Unauthorized) as exc:  # for good: ticks say so themselves
                log.debug("state %s does not listen: %s", self.subject, exc)
                return
            except BrokerError as exc:  # no connection, or a server too slow to confirm: as long as the room lives
                log.debug("state %s does not listen yet: %s", self.subject, exc)
                await asyncio.sleep(_PAUSE)
            else:
                return

    def _answer(self, message: Message) -> None:
        """Tell a reader the state now, unless it knows of a later owner than this one."""
        reply_to = message.reply_to
        if reply_to is None or self._asked_epoch(message.data) > self._composer.epoch:
            return
        self._composer.ask()
        with suppress(BrokerClosed):
            try:
                self._backend.publish(reply_to, self._composer.snapshot(), None)
            except PayloadTooLarge:  # two frames in one message; the key frame alone will pass
                self._backend.publish(reply_to, self._composer.nothing, None)

    def _asked_epoch(self, data: bytes) -> int:
        """The epoch that a reader knows of; 0 for one that knows of none, or that asks by hand."""
        try:
            asked = self._codec.loads(data)
        except DecodeError:
            return 0
        return asked[1] if type(asked) is list and len(asked) > 1 and type(asked[1]) is int else 0

    def __repr__(self) -> str:
        return f"StatePublisher({self.subject!r}, epoch={self.epoch}, seq={self.seq})"
