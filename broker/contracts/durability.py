"""What a server does with a message before it says that it is stored."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

Durability = Literal["fsync", "os"]
"""fsync: it is on the disk. os: the operating system has it, and it outlives the server's process, not the power."""

ORDER: Final = ("none", "os", "fsync")
"""From nothing to most; ``"none"`` is gone with the process."""


class Kept(NamedTuple):
    """What is known of a server.

    Attributes:
        level: one of ``ORDER`` that is certain.
        told: whether that is all there is; ``False``: it may do more, and nobody said.
        why: where that is from, or why nothing more is known.
    """

    level: Literal["none", "os", "fsync"]
    told: bool
    why: str


@runtime_checkable
class TellsDurability(Protocol):
    """What a stream backend has that knows something of this."""

    @abstractmethod
    async def durability(self, monitoring: Sequence[str]) -> Kept:
        """What the server does. ``monitoring`` has URLs of pages on which servers tell; all of them have to."""
