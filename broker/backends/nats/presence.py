"""Whether a consumer is still there, and where its group stands."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING, Final, Protocol

from broker.contracts.errors import ApiError, ConsumerNotFound, NoResponders

if TYPE_CHECKING:
    from broker.backends.nats.admin import Admin
    from broker.backends.nats.core import NatsCore

OPEN_GRACE: Final = 2.0
"""Seconds without anybody taking pulls after which there is nothing to bind to."""
ELECTION_GRACE: Final = 12.0
"""The same for a consumer that was there before, in a cluster: an election is silent for 4 to 9 s."""
_BETWEEN_PROBES: Final = 0.1
_PROBE_TIMEOUT: Final = 1.0
_PARTING: Final = 1.0
_MALFORMED: Final = b'{"batch":"?"}'
_BAD_REQUEST: Final = 400


class Presence(Protocol):
    """How a source learns about its consumer."""

    stream: str
    consumer: str
    polls: bool
    """Whether looking regularly tells something."""
    resume_sequence: int | None

    @abstractmethod
    async def look(self) -> None:
        """Return when the consumer is there.

        Raises:
            ConsumerNotFound, StreamNotFound: it is not.
        """

    @abstractmethod
    async def leave(self, pinned: str | None = None) -> None:
        """The source is done with it; ``pinned`` is the priority group in which it was the one."""


class Resume(int):
    """Where to go on in a stream, and when that stream was made: in another one of its name it means nothing."""

    made: str

    @classmethod
    def at(cls, sequence: int, made: str) -> Resume:
        """That sequence of the stream made then."""
        resume = cls(sequence)
        resume.made = made
        return resume


class Managed(Presence):
    """By asking for the consumer's description. ``ours`` alone to use, it is removed when the source leaves."""

    def __init__(
        self, admin: Admin, stream: str, consumer: str, *, polls: bool, floor: int, ours: bool, made: str = ""
    ) -> None:
        self._admin = admin
        self.stream = stream
        self.consumer = consumer
        self.polls = polls
        self.resume_sequence = Resume.at(floor + 1, made)
        self._made = made
        self._ours = ours

    async def look(self) -> None:
        """See ``Presence``."""
        answer = await self._admin.raw_consumer(self.stream, self.consumer)
        floor = answer["ack_floor"]["stream_seq"] + 1
        if self.polls:
            self.resume_sequence = Resume.at(max(floor, self.resume_sequence or 1), self._made)

    async def leave(self, pinned: str | None = None) -> None:
        """See ``Presence``."""
        if self._ours:
            await self._admin.delete_consumer(self.stream, self.consumer, timeout=_PARTING)
        elif pinned is not None:
            await self._admin.unpin_consumer(self.stream, self.consumer, pinned, timeout=_PARTING)


class Bound(Presence):
    """Without the management API.

    A pull the server cannot read is refused by a consumer that exists, and answered by nobody when there is none.
    """

    polls = False
    resume_sequence = None

    def __init__(self, core: NatsCore, stream: str, consumer: str) -> None:
        self._core = core
        self._found = False
        self.stream = stream
        self.consumer = consumer

    async def look(self) -> None:
        """See ``Presence``."""
        clock = asyncio.get_running_loop().time
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.consumer}"
        deadline = clock() + (ELECTION_GRACE if self._found and self._core.clustered else OPEN_GRACE)
        while True:
            try:
                answer = await self._core.call(subject, _MALFORMED, None, _PROBE_TIMEOUT)
            except NoResponders:
                if clock() >= deadline:
                    told = f"no consumer {self.consumer!r} on stream {self.stream!r} answers; ensure='bind' makes none"
                    raise ConsumerNotFound(told, stream=self.stream) from None
                await asyncio.sleep(_BETWEEN_PROBES)
                continue
            headers = answer.headers
            if headers is not None and headers.status != _BAD_REQUEST:
                raise ApiError(headers.status_text, code=headers.status, subject=subject, stream=self.stream)
            self._found = True
            return

    async def leave(self, pinned: str | None = None) -> None:
        """See ``Presence``. The pin is left to its time-out: taking it away is a management call."""
