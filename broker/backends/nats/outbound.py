"""Bytes on their way out: frames gathered per event-loop turn, core messages bounded, stream frames never dropped."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from broker.contracts.errors import ConnectionLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.contracts.status import Stats

_CHUNK: Final = 64 << 10
"""Bytes gathered before they are handed over within a turn."""
_IN_SOCKET: Final = 512 << 10
"""Bytes left to the transport at most: what lies there can no longer be dropped, counted or kept for a reconnect."""
_RETRY: Final = 0.001
_SLOW_RETRY: Final = 0.02
_HIGH_WATER: Final = 256 << 10
"""Congestion begins at so many bytes, or at half of a smaller limit, and ends at half of that: what has to wait here
is handled frame by frame, so a sender that waits early is faster than one that fills the buffer first."""


class Pipe(Protocol):
    """Where whole frames go while there is a connection. Callables rather than methods: each is called per chunk.

    Attributes:
        write: hands bytes to the transport; returns at once.
        buffered: bytes the transport holds because the socket does not take them.
    """

    write: Callable[[bytes], object]
    buffered: Callable[[], int]


class Outbound:
    """One connection's frames: *core* ones may be dropped, oldest first, *stream* ones only with their connection.

    While the pipe is missing or full, core frames wait here up to ``limit`` bytes. Without a pipe stream frames are
    refused, and those waiting are forgotten when it breaks: their callers are told at that moment.
    """

    def __init__(self, limit: int, stats: Stats) -> None:
        self._limit = limit
        self._high = min(limit >> 1, _HIGH_WATER)
        self._most = max(1, min(_CHUNK, limit // 4))
        self._chunk = 1
        self._stats = stats
        self._call_soon = asyncio.get_running_loop().call_soon
        self._pipe: Pipe | None = None
        self._turn: list[bytes] = []
        self._turn_size = 0
        self._stream_at: list[int] = []
        self._handed = 0
        self._scheduled = False
        self._core: deque[bytes] = deque()
        self._core_size = 0
        self._gone = 0
        self._stream: deque[bytes] = deque()
        self._stream_gone = 0
        self._retry: asyncio.Handle | None = None
        self._delay = 0.0
        self._writable: set[asyncio.Future[None]] = set()
        self._passed: dict[asyncio.Future[None], tuple[int, int]] = {}

    @property
    def held(self) -> int:
        """Bytes of core messages waiting."""
        return self._core_size + self._turn_size

    @property
    def congested(self) -> bool:
        """Whether the transport is full, or the high-water mark is passed while there is none."""
        return self._retry is not None or self._core_size > self._high

    def put(self, frame: bytes) -> None:
        """Take a core frame."""
        self._turn.append(frame)
        size = self._turn_size = self._turn_size + len(frame)
        # The first of a turn goes at once: most are alone, and a turn later is a turn late.
        if size >= self._chunk or not self._scheduled:
            self.push()

    def put_stream(self, frame: bytes) -> bool:
        """Take a stream frame; ``False`` when there is no connection to send it on."""
        if self._pipe is None:
            return False
        turn = self._turn
        self._stream_at.append(len(turn))
        turn.append(frame)
        size = self._turn_size = self._turn_size + len(frame)
        if size >= self._chunk or not self._scheduled:
            self.push()
        return True

    def attach(self, pipe: Pipe) -> None:
        """A connection is there: send what waited."""
        self._pipe = pipe
        self._handed = 0
        self._drain()

    def detach(self) -> None:
        """The connection broke: stream frames are forgotten, core frames wait."""
        self._hold()
        self._pipe = None
        self._stream.clear()
        self._stop_retry()
        for future in self._passed:
            if not future.done():
                future.set_exception(ConnectionLost("the connection broke before everything was sent"))
        self._passed.clear()
        self._wake()

    def close(self) -> None:
        """Nothing will be sent any more: what waits is dropped and counted."""
        self.detach()
        self._stats.dropped_outbound += len(self._core)
        self._gone += len(self._core)
        self._core.clear()
        self._core_size = 0
        self._wake()

    async def writable(self) -> None:
        """Wait until congestion is over; returns at once when there is none."""
        if self.congested:
            future = asyncio.get_running_loop().create_future()
            self._writable.add(future)
            try:
                await future
            finally:
                self._writable.discard(future)

    async def passed(self) -> None:
        """Wait until every frame taken so far was handed to the transport or dropped.

        Raises:
            ConnectionLost: the connection broke meanwhile.
        """
        self.push()
        if self._core or self._stream:
            future = asyncio.get_running_loop().create_future()
            self._passed[future] = self._gone + len(self._core), self._stream_gone + len(self._stream)
            try:
                await future
            finally:
                self._passed.pop(future, None)

    def _turn_over(self) -> None:
        self._scheduled = False
        self._handed = 0
        self.push()

    def push(self) -> None:
        """Hand over now what the transport takes, without waiting for the turn to end."""
        pipe = self._pipe
        if pipe is None or self._retry is not None:
            self._hold()
        elif self._core or self._stream:
            self._hold()
            self._drain()
        elif self._turn:
            # What this turn already handed over counts too: some transports write only when the turn ends.
            if pipe.buffered() + self._handed >= _IN_SOCKET:
                self._hold()
                self._later()
                return
            data = self._turn[0] if len(self._turn) == 1 else b"".join(self._turn)
            self._clear_turn()
            self._hand(pipe, data)
            if self._writable:
                self._wake()

    def _hand(self, pipe: Pipe, data: bytes) -> None:
        self._handed += len(data)
        pipe.write(data)
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._turn_over)

    def _clear_turn(self) -> None:
        self._turn = []
        self._turn_size = 0
        if self._stream_at:
            self._stream_at = []

    def _hold(self) -> None:
        """Sort this turn's frames into the two queues and drop what is over the limit; frame by frame from now on."""
        self._chunk = 1
        if not self._turn:
            return
        stream = set(self._stream_at)
        for index, frame in enumerate(self._turn):
            if index in stream:
                self._stream.append(frame)
            else:
                self._core.append(frame)
                self._core_size += len(frame)
        self._clear_turn()
        while self._core_size > self._limit:
            self._core_size -= len(self._core.popleft())
            self._gone += 1
            self._stats.dropped_outbound += 1

    def _drain(self) -> None:
        """Hand held frames over as far as the transport takes them."""
        pipe = self._pipe
        if pipe is None:
            return
        while self._stream or self._core:
            if pipe.buffered() + self._handed >= _IN_SOCKET:
                self._later()
                break
            self._hand(pipe, b"".join(self._some()))
        else:
            self._chunk = self._most
            self._stop_retry()
        self._wake()

    def _some(self) -> list[bytes]:
        frames: list[bytes] = []
        size = 0
        # Half for each, the rest for who has more: a flood of one kind does not hold up the other.
        while self._stream and size < (_CHUNK >> 1 if self._core else _CHUNK):
            frames.append(self._stream.popleft())
            self._stream_gone += 1
            size += len(frames[-1])
        while self._core and size < _CHUNK:
            frames.append(self._core.popleft())
            size += len(frames[-1])
            self._core_size -= len(frames[-1])
            self._gone += 1
        return frames

    def _later(self) -> None:
        if self._retry is None:
            # At first with the next turn: some transports write only when a turn ends, and then there is room.
            loop = asyncio.get_running_loop()
            again = self._try_again
            self._retry = loop.call_later(self._delay, again) if self._delay else loop.call_soon(again)

    def _try_again(self) -> None:
        self._retry = None
        self._handed = 0
        before = self._gone + self._stream_gone
        self._hold()
        self._drain()
        moved = self._gone + self._stream_gone != before
        self._delay = 0.0 if moved else min(max(self._delay * 2, _RETRY), _SLOW_RETRY)

    def _stop_retry(self) -> None:
        self._delay = 0.0
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _wake(self) -> None:
        if self._writable and self._retry is None and self._core_size <= self._high >> 1:
            for future in self._writable:
                if not future.done():
                    future.set_result(None)
            self._writable.clear()
        for future, (core, stream) in self._passed.items():
            if self._gone >= core and self._stream_gone >= stream and not future.done():
                future.set_result(None)
