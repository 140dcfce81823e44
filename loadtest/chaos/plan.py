"""A run as data: everything that decides it, written to its directory before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, Self

import msgspec
from msgspec import Struct

from loadtest.chaos.mutations import Mutation  # noqa: TC001 - msgspec reads the annotation

if TYPE_CHECKING:
    from pathlib import Path

_FILE: Final = "plan.json"


class Fault(Struct, frozen=True):
    """One planned fault.

    Attributes:
        at: seconds into the run at which it begins; later when the one before it on its track is not over.
        target: which worker, from 1; 0 when it is about none.
        seconds: it lasts.
        detail: its variant.
    """

    number: int
    at: float
    kind: str
    target: int = 0
    seconds: float = 0.0
    detail: str = ""


class Limits(Struct, frozen=True):
    """What is still good; seconds, and MiB of growth.

    Attributes:
        recovery: from the end of an outage to the next stored message.
        election: the longest silence after a cluster has lost a leader, or all of its nodes.
        call: the longest ``publish_nowait``.
        stall: 999 of 1,000 turns of a 60 Hz loop are not later than this.
        growth: of the memory of one process.
        grace: from SIGTERM to the end.
        notice: from a fault to the status that tells of it.
        alive: between two signs of life of a process that nobody stopped, and until one is connected again.
        showing: within which a fault has to be seen to have happened; other faults may be in its way.
        settling: that what was produced may take to be settled at the end.
    """

    recovery: float = 2.0
    election: float = 8.0
    call: float = 0.005
    stall: float = 0.020
    growth: float = 64.0
    grace: float = 10.0
    notice: float = 3.0
    alive: float = 5.0
    showing: float = 120.0
    settling: float = 120.0

    def times(self, slack: float) -> Limits:
        """The same with so much more time, for machines with other things to do."""
        timed = {name: getattr(self, name) * slack for name in self.__struct_fields__ if name != "growth"}
        return msgspec.structs.replace(self, **timed)


class Plan(Struct, frozen=True, kw_only=True):
    """What will be done.

    Attributes:
        part: of the run: its slice's name.
        shortened: what the mode would have had, in words; empty when it has it.
        everything: whether the scenarios are all that can happen there.
        send: how producers do: ``"direct"`` to the server, or through an ``"outbox"`` of their own.
        keep: seconds the stream keeps a message; ``None``: for ever.
        scenarios: the faults were chosen from; none when none were.
        seconds: producers produce.
        rate: settlements per second, all producers together.
        durability: what the server does before it confirms: ``"fsync"`` syncs every write to disk, ``"os"`` leaves it
            to the operating system. A killed process loses nothing either way; a power cut is not among the faults.
        least: settlements that must have taken effect for the run to count.
        ack_wait: seconds until a dead worker's messages go to another.
        db: that holds the ledger.
        mutation: how the workers are broken; ``None`` when they are not.
    """

    seed: int
    mode: str
    seconds: float
    rate: float
    faults: tuple[Fault, ...]
    part: str = "one"
    shortened: str = ""
    everything: bool = True
    send: Literal["direct", "outbox"] = "direct"
    keep: float | None = None
    scenarios: tuple[str, ...] = ()
    limits: Limits = Limits()
    producers: int = 2
    workers: int = 2
    batch: int = 100
    ack_wait: float = 2.0
    least: int = 0
    backend: Literal["nats", "cluster"] = "nats"
    db: Literal["sqlite", "postgres"] = "sqlite"
    durability: Literal["fsync", "os"] = "os"
    mutation: Mutation | None = None

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The plan of a run."""
        return msgspec.json.decode((directory / _FILE).read_bytes(), type=cls)

    def save(self, directory: Path) -> None:
        """Write it down."""
        (directory / _FILE).write_bytes(msgspec.json.format(msgspec.json.encode(self)))
