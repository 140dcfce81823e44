"""The watchdog: notices a server that died, is silent or is running out of room, and brings a dead one back."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

from broker.contracts.options import in_range
from broker.server.errors import CrashLoop, ServerError
from broker.server.ready import jetstream_room

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from broker.server.config import Settings

log = logging.getLogger("broker.server")

_TICK: Final = 0.05
_START: Final = 15.0
"""Seconds in which a server that is brought back has to be ready."""
_BACKOFF: Final = (0.25, 5.0)
"""Seconds before the second restart in a row and the longest; the first one is at once, then doubling."""
_LOOK_FOR_ROOM: Final = 5.0
_MISSES: Final = 2
"""Unanswered questions until a server counts as silent: one may be the fault of whoever asks."""
_ROOM_AGAIN: Final = 0.9
"""Of what counted as nearly full; a store on the brink is not told of again and again."""


class ServerEventKind(StrEnum):
    """What happened to a server that is watched."""

    DIED = "died"
    """It ended by itself, or somebody killed it."""
    RESTARTED = "restarted"
    """It is back, on the same port and the same store."""
    GAVE_UP = "gave_up"
    """It died too often and is not brought back any more: that is the end."""
    SILENT = "silent"
    """Its process is there and does not answer. It is left alone: it may be busy, and what it holds is not lost."""
    ANSWERS = "answers"
    """It answers again."""
    NEARLY_FULL = "nearly_full"
    """There is little room left in its store; soon it refuses what is to be stored."""
    ROOM_AGAIN = "room_again"
    """There is room again."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One happening.

    Attributes:
        kind: what it was; compares with its name as text.
        detail: more in words, for people.
        restarts: how often the server has been brought back so far.
    """

    kind: ServerEventKind
    detail: str
    restarts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchdog:
    """How a server is watched: ``NatsServer(watchdog=Watchdog())``. What happens is logged under ``broker.server``.

    Attributes:
        patience: seconds without an answer, from 0.5, until a server counts as silent.
        restarts: how often, within ``window``, a server that died is brought back; 0 only tells of it.
        window: seconds, from 1.
        full_at: share of what JetStream may store, from 0.01 to 1, at which a store is nearly full; known only of a
            server with ``monitoring=True``.
        min_free: bytes left on the store's disk, from 0, below which it is nearly full, too.
        tell: called with every event; returns at once.

    Raises:
        InvalidOption: out of range.
    """

    patience: float = 5.0
    restarts: int = 5
    window: float = 60.0
    full_at: float = 0.9
    min_free: int = 256 << 20
    tell: Callable[[ServerEvent], None] | None = None

    def __post_init__(self) -> None:
        in_range("patience", self.patience, 0.5)
        in_range("restarts", self.restarts, 0, 1000, whole=True)
        in_range("window", self.window, 1)
        in_range("full_at", self.full_at, 0.01, 1)
        in_range("min_free", self.min_free, 0, whole=True)


class Watched(Protocol):
    """What the watchdog needs of a server."""

    settings: Settings

    @property
    def running(self) -> bool:
        """Whether its process exists."""

    @property
    def store_dir(self) -> Path:
        """Where it stores."""

    @property
    def obituary(self) -> str:
        """How its process ended, with its last words."""

    async def answers(self) -> str:
        """What keeps it from answering, "" when it does; takes seconds at most."""

    async def revive(self, timeout: float) -> None:
        """Start it again, on the same port and the same store; failed, everything is as before."""


class Guard:
    """The watchdog of one server, from ``start()`` to whatever its owner does to it next.

    Attributes:
        failure: why it gave up; ``None`` while it has not.
        reviving: whether the server is being brought back right now.
        restarts: how often it was.
    """

    def __init__(self, server: Watched, watchdog: Watchdog, *, restarts: int = 0) -> None:
        self.failure: ServerError | None = None
        self.reviving = False
        self.restarts = restarts
        self._server = server
        self._watchdog = watchdog
        self._deaths: deque[float] = deque()
        self._missed: list[float] = []
        self._silent = False
        self._full = False
        self._task = asyncio.create_task(self._watch(), name="watch nats-server")
        self._task.add_done_callback(_retrieve)

    @property
    def on_duty(self) -> bool:
        """Whether it watches."""
        return not self._task.done() and not self._task.get_loop().is_closed()

    def dismiss(self) -> None:
        """Have it end; from any thread and any event loop. Idempotent."""
        if self._task.done():
            return
        with suppress(RuntimeError):  # its loop has ended, and it with the loop
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    async def end(self) -> None:
        """Have it end; returns when it has. Idempotent."""
        self.dismiss()
        # Under another loop than its own there is nothing to wait for: that one does not run now.
        if not self._task.done() and self._task.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([self._task])

    async def _watch(self) -> None:
        clock = time.monotonic
        asked = looked = clock() - _LOOK_FOR_ROOM
        pause = min(1.0, self._watchdog.patience / 4)
        while True:
            if not self._server.running:
                await self._bring_back()
                self._missed.clear()
            elif clock() - asked >= pause:
                await self._ask()
                asked = clock()
            elif clock() - looked >= _LOOK_FOR_ROOM:
                await self._look_for_room()
                looked = clock()
            else:
                await asyncio.sleep(_TICK)

    # -- dead

    async def _bring_back(self) -> None:
        how = self._server.obituary
        self._tell(ServerEventKind.DIED, how)
        self._silent, died = False, time.monotonic()
        self.reviving = True
        try:
            while how := await self._tried(how):
                pass
        finally:
            self.reviving = False
        self.restarts += 1
        self._tell(ServerEventKind.RESTARTED, f"back after {time.monotonic() - died:.1f} s")

    async def _tried(self, how: str) -> str:
        """Why it could not be brought back after it ended so; "" when it is.

        Raises:
            CrashLoop: that was tried too often.
        """
        now = time.monotonic()
        self._deaths.append(now)
        while self._deaths[0] < now - self._watchdog.window:
            self._deaths.popleft()
        if len(self._deaths) > self._watchdog.restarts:
            self._give_up(how)
        await asyncio.sleep(_pause(len(self._deaths)))
        try:
            await self._server.revive(_START)
        except (ServerError, OSError) as failed:
            log.warning("nats-server could not be brought back: %s", failed)
            return str(failed)
        return ""

    def _give_up(self, how: str) -> NoReturn:
        times = f"{len(self._deaths)} times in {self._watchdog.window:g} s" if self._watchdog.restarts else "once"
        self.failure = CrashLoop(
            f"nats-server ended {times} and is not started again. Its store {self._server.store_dir} is kept; look "
            f"below for the reason (room, memory, rights, another process on port {self._server.settings.port}), mend "
            f"it, and start() again. {how}"
        )
        self._tell(ServerEventKind.GAVE_UP, f"ended {times} and is not started again", logging.ERROR)
        raise self.failure

    # -- silent

    async def _ask(self) -> None:
        begun = time.monotonic()
        try:
            missing = await self._server.answers()
        except (ServerError, ValueError):
            missing = ""  # it does answer, if only that it takes no more connections
        if not missing or not self._server.running:
            self._missed.clear()
            if self._silent and self._server.running:
                self._silent = False
                self._tell(ServerEventKind.ANSWERS, "it answers again", logging.INFO)
            return
        self._missed.append(begun)
        silent = time.monotonic() - self._missed[0]
        if not self._silent and len(self._missed) >= _MISSES and silent >= self._watchdog.patience:
            self._silent = True
            self._tell(ServerEventKind.SILENT, f"no answer for {silent:.1f} s: {missing}")

    # -- nearly full

    async def _look_for_room(self) -> None:
        try:
            free = (await asyncio.to_thread(shutil.disk_usage, self._server.store_dir)).free
        except OSError:  # the store is away; the server will have more to say about it
            return
        used, room = await jetstream_room(self._server.settings)
        slack = 1.0 if not self._full else _ROOM_AGAIN
        low = free * slack < self._watchdog.min_free
        full = room > 0 and used > room * self._watchdog.full_at * slack
        if (low or full) is self._full:
            return
        self._full = low or full
        disk = f"{free >> 20} MiB free on the disk of {self._server.store_dir}"
        stored = f", {used} of {room} bytes stored" if room else ""
        if self._full:
            self._tell(ServerEventKind.NEARLY_FULL, disk + stored)
        else:
            self._tell(ServerEventKind.ROOM_AGAIN, disk + stored, logging.INFO)

    def _tell(self, kind: ServerEventKind, detail: str, level: int = logging.WARNING) -> None:
        log.log(level, "nats-server %s: %s", kind.replace("_", " "), detail.partition("\n")[0])
        if self._watchdog.tell is not None:
            try:
                self._watchdog.tell(ServerEvent(kind, detail, self.restarts))
            except Exception:
                log.exception("tell= of the watchdog failed on %s", kind)


def _pause(deaths: int) -> float:
    """Seconds before the restart after so many deaths in a row."""
    return 0.0 if deaths <= 1 else min(_BACKOFF[0] * 2.0 ** (deaths - 2), _BACKOFF[1])


def _retrieve(task: asyncio.Task[None]) -> None:
    """``wait()`` raises why it gave up; anything else is a mistake of ours and is told."""
    if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, CrashLoop):
        log.error("the watchdog ended: %s", error, exc_info=error)
