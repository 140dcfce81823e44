"""Who works in a group: every worker says so twice a second on the group's subject, and hears the others.

Nothing but the balance depends on it. Two workers who each believe a lane is theirs do not both get its messages: the
server lends one at a time, to the one that is pinned.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from broker.contracts.errors import BrokerError, ConsumerNotFound, PermissionDenied
from broker.contracts.lanes import other_way
from broker.contracts.status import Status
from broker.lanes.records import group_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.contracts.backend import Interest, StreamBackend
    from broker.contracts.envelopes import Envelope

log = logging.getLogger("broker.lanes")

SUBJECT: Final = "gamebroker.lanes"
BEAT: Final = 0.5
"""Seconds between two signs of life."""
SILENCE: Final = 2.0
"""Seconds without one after which a worker is taken as gone."""
_ANSWERS: Final = 0.25
"""Seconds a new worker listens before it takes lanes."""
_MOST: Final = 1024
_LATE: Final = 2 * BEAT
_HERE, _WHO, _GONE = b"+", b"?", b"-"
_ID_BYTES: Final = 32


async def refuse_the_other_way(backend: StreamBackend, stream: str, name: str) -> None:
    """One name works through a stream by lanes or without them; a role that may not ask is trusted to know.

    Raises:
        InvalidOption: there is a consumer of that name for all lanes together.
    """
    with suppress(ConsumerNotFound, PermissionDenied):
        await backend.consumer_info(stream, name)
        raise other_way(name, stream)


class Membership:
    """One worker's view of its group.

    Args:
        backend: to speak and hear through.
        stream: with ``queue`` the group's name.
        changed: called when somebody came or went.
    """

    def __init__(self, backend: StreamBackend, stream: str, queue: str, changed: Callable[[], None]) -> None:
        self.me = uuid4().hex
        self._backend = backend
        self._subject = f"{SUBJECT}.{group_name(stream, queue)}"
        self._changed = changed
        self._clock = asyncio.get_running_loop().time
        self._seen: dict[str, float] = {}
        self._interest: Interest | None = None
        self._beating: asyncio.Task[None] | None = None
        self._stay = 0

    @property
    def workers(self) -> frozenset[str]:
        """Everybody at work, this one included."""
        return frozenset((*self._seen, self.me))

    async def join(self) -> None:
        """Say hello and listen for a moment who answers. A role that may not is alone, as far as it knows.

        Nothing comes of it when ``leave`` is called meanwhile.
        """
        self._stay += 1
        stay, interest = self._stay, None
        self._seen.clear()
        try:
            interest = await self._backend.subscribe(self._subject, self._hear, queue=None)
        except PermissionDenied as exc:
            log.warning("working without knowing of others in %s: %s", self._subject, exc)
        if stay != self._stay:
            if interest is not None:
                await interest.stop()
            return
        self._interest = interest
        self._say(_WHO)
        self._beating = asyncio.get_running_loop().create_task(self._beat(), name=f"member {self._subject}")
        if interest is not None:
            await asyncio.sleep(_ANSWERS)

    async def leave(self) -> None:
        """Say goodbye: the others need not wait for the silence. Idempotent."""
        self._stay += 1
        beating, self._beating = self._beating, None
        interest, self._interest = self._interest, None
        if beating is not None:
            beating.cancel()
            self._say(_GONE)
            await asyncio.wait([beating])
        if interest is not None:
            await interest.stop()

    def _say(self, word: bytes) -> None:
        with suppress(BrokerError):
            self._backend.publish(self._subject, word + self.me.encode(), None)

    def _hear(self, envelope: Envelope) -> None:
        word, worker = envelope.data[:1], envelope.data[1:].decode("ascii", "replace")
        if self._beating is None or worker == self.me or len(worker) != _ID_BYTES:
            return
        if word == _GONE:
            if self._seen.pop(worker, None) is not None:
                self._changed()
            return
        if word not in {_HERE, _WHO} or (worker not in self._seen and len(self._seen) >= _MOST):
            return
        new = worker not in self._seen
        self._seen[worker] = self._clock()
        if word == _WHO:
            self._say(_HERE)
        if new:
            self._changed()

    async def _beat(self) -> None:
        last = self._clock()
        while True:
            await asyncio.sleep(BEAT)
            now = self._clock()
            if now - last > _LATE or self._backend.board.status is not Status.CONNECTED:
                # We were stalled or cut off: that we heard nobody says nothing about the others.
                self._seen = dict.fromkeys(self._seen, now)
            last = now
            self._say(_HERE)
            gone = [worker for worker, seen in self._seen.items() if now - seen > SILENCE]
            for worker in gone:
                del self._seen[worker]
            if gone:
                self._changed()
