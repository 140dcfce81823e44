"""What a server gives up on by itself: its consumers may have a limit of their own on how often they hand out.

Ours have none. A message that used up such a limit is handed out no more and shows nowhere: it is neither waiting nor
in hand. The server tells of it once, in a notice that nobody keeps unless asked to.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from broker.contracts.admin import ConsumerInfo


@dataclass(frozen=True, slots=True)
class Notice:
    """The server's word that one of its consumers gave up on a message.

    Attributes:
        number: among the notices that are kept.
        consumer: of the stream that was asked about.
        sequence: of the message in the stream.
        attempts: how often it was handed out.
        timestamp_ns: when it gave up, nanoseconds since the epoch.
    """

    number: int
    consumer: str
    sequence: int
    attempts: int
    timestamp_ns: int


class Exhausted(Protocol):
    """The server's side of it. Every call may be repeated: a second time it finds done what it did before.

    Every call may raise what every call of ``StreamBackend`` may.
    """

    @abstractmethod
    async def keep_notices(self, replicas: int) -> None:
        """From now on notices of every stream are kept; fine when they are already.

        Raises:
            ConfigDrift: what is there under the name of the kept notices takes none.
            ApiError: another stream takes them.
        """

    @abstractmethod
    async def last_notice(self) -> int:
        """The number of the newest notice ever kept; 0 when none was, or none are kept."""

    @abstractmethod
    async def next_notice(self, stream: str, consumer: str | None, after: int) -> Notice | None:
        """The oldest kept notice above that number about the stream (and consumer); ``None`` when there is none."""

    @abstractmethod
    async def forget_notice(self, number: int) -> None:
        """Keep it no longer; fine when it is not kept."""

    @abstractmethod
    async def decide(self, consumer: ConsumerInfo) -> None:
        """Have the server give up now on what has used up its attempts, without taking anything from anybody."""

    @abstractmethod
    async def next_stored(self, stream: str, pattern: str, after: int) -> int:
        """The first stored sequence above that one that the pattern covers, as the leader knows it; 0: none."""

    @abstractmethod
    async def settle(self, stream: str, consumer: str, sequence: int, *, attempts: int, reason: str) -> None:
        """Tell the consumer that this message is seen to. Where acks remove messages, it is gone then.

        Fine when the consumer has not handed it out, or does not know of it any more.

        Raises:
            ConsumerNotFound: there is none.
        """
