"""Asking rooms for snapshots: one question per room at a time, not too often, and not too many at once."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from broker.contracts.errors import (
    BrokerClosed,
    BrokerError,
    ConnectionLost,
    DecodeError,
    NoResponders,
    PermissionDenied,
    RequestTimeout,
)
from broker.responding import checked_reply
from broker.state.frames import VERSION, Frame, from_snapshot
from broker.state.rooms import snapshot_subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.contracts.backend import CoreBackend
    from broker.contracts.codec import Codec

log = logging.getLogger("broker.state")

PAUSE: Final = 0.5
"""Seconds between two questions to one room."""
_TIMEOUT: Final = 1.0
_ATTEMPTS: Final = 5
"""Questions in a row; after that only another frame that shows the need starts it again."""
_AT_ONCE: Final = 64
"""Questions on their way; a room that finds no place asks with its next frame."""
_LAST_WORDS: Final = 1.0


class Asking:
    """Asks for snapshots, in the background, and hands over what came.

    Attributes:
        asked: questions sent.
        unanswered: of those, without an answer or with one that is none.
        silent: no more questions: the reader ends.
    """

    def __init__(
        self,
        backend: CoreBackend,
        codec: Codec,
        *,
        needed: Callable[[str], bool],
        take: Callable[[str, list[Frame]], None],
    ) -> None:
        self.asked = 0
        self.unanswered = 0
        self._backend = backend
        self._codec = codec
        self._needed = needed
        self._take = take
        self._running: dict[str, asyncio.Task[None]] = {}
        self._next: dict[str, float] = {}
        self._epochs: dict[str, int] = {}
        self._denied: set[str] = set()
        self.silent = False
        self._encode(0)  # a codec that cannot is found at once

    def want(self, subject: str, epoch: int) -> None:
        """Ask the room's owner, at once or after a pause when it was just asked; ``epoch`` is the highest known."""
        self._epochs[subject] = epoch
        if subject in self._running or len(self._running) >= _AT_ONCE or self.silent or subject in self._denied:
            return
        task = asyncio.get_running_loop().create_task(self._ask(subject), name=f"snapshot of {subject}")
        self._running[subject] = task
        task.add_done_callback(lambda task: self._over(subject, task))

    def forget(self, subject: str) -> None:
        """The room is not followed any more."""
        self._next.pop(subject, None)
        self._epochs.pop(subject, None)
        self._denied.discard(subject)
        if subject in self._running:
            self._running[subject].cancel()

    async def stop(self) -> None:
        """Abandon every question, in bounded time."""
        self.silent = True
        running = tuple(self._running.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=_LAST_WORDS)

    async def _ask(self, subject: str) -> None:
        """Ask until the room is whole, or it is clear that asking does not help now."""
        try:
            for _ in range(_ATTEMPTS):
                await asyncio.sleep(max(0.0, self._next.get(subject, 0.0) - time.monotonic()))
                self._next[subject] = time.monotonic() + PAUSE
                unknown = await self._asked(subject)
                if subject in self._denied or not (unknown or self._needed(subject)):
                    return
        finally:
            # In the same step as the decision to stop: a frame that comes right after it must be able to ask again.
            self._over(subject, asyncio.current_task())

    def _over(self, subject: str, task: asyncio.Task[None] | None) -> None:
        if self._running.get(subject) is task:
            self._running.pop(subject, None)

    async def _asked(self, subject: str) -> bool:
        """Ask once; whether it is unknown if the room is there."""
        self.asked += 1
        question = self._encode(self._epochs.get(subject, 0))
        try:
            reply = await self._backend.request(snapshot_subject(subject), question, None, timeout=_TIMEOUT)
            frames = from_snapshot(self._codec.loads(checked_reply(reply, subject).data))
        except (RequestTimeout, ConnectionLost):
            self.unanswered += 1
            return True
        except BrokerError as exc:
            self.unanswered += 1
            self._note(subject, exc)
        else:
            self._take(subject, frames)
        return False

    def _encode(self, epoch: int) -> bytes:
        return self._codec.encode([VERSION, epoch])

    def _note(self, subject: str, error: BrokerError) -> None:
        """What it means: never, a stranger, nobody there (its first frame will tell) or the end."""
        if isinstance(error, PermissionDenied):
            self._denied.add(subject)
            log.warning("no snapshots of %s for this reader, only key frames: %s", subject, error)
        elif isinstance(error, DecodeError):
            log.warning("the answer to a snapshot of %s is none: %s", subject, error)
        elif not isinstance(error, NoResponders | BrokerClosed):
            log.debug("no snapshot of %s: %s", subject, error)
