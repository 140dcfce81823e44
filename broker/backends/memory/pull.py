"""A request for messages that waits in line at a memory consumer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.backends.memory.clock import Cancellable
    from broker.contracts.envelopes import Delivery


class Pull:
    """A fetch that waits: answered once, with at least one delivery or, when its time is over, none."""

    __slots__ = ("answer", "bytes_left", "gathered", "limit", "timer")

    def __init__(self, limit: int, max_bytes: int | None) -> None:
        self.limit = limit
        self.bytes_left = max_bytes
        self.gathered: list[Delivery] = []
        self.answer: asyncio.Future[list[Delivery]] = asyncio.get_running_loop().create_future()
        self.timer: Cancellable | None = None

    def add(self, delivery: Delivery) -> bool:
        """Gather it. Whether there is room for more: in bytes as long as any are left."""
        self.gathered.append(delivery)
        if self.bytes_left is not None:
            self.bytes_left -= len(delivery.data)
            if self.bytes_left <= 0:
                return False
        return len(self.gathered) < self.limit

    def end(self) -> None:
        """Answer with what was gathered."""
        if not self.answer.done():
            self.answer.set_result(self.gathered)
        self.stop_timer()

    def fail(self, error: Exception) -> None:
        """Answer with an error."""
        if not self.answer.done():
            self.answer.set_exception(error)
        self.stop_timer()

    def stop_timer(self) -> None:
        """It is answered or nobody waits for it any more."""
        if self.timer is not None:
            self.timer.cancel()
