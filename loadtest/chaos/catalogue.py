"""What can be made to go wrong, as data: a name per scenario, where it strikes, for how long, how often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Need = Literal["outbox", "mount", "netns"]
"""What a fault cannot do without: producers that can send again what a server has lost; the right to mount file
systems; the right to make network namespaces."""

Track = Literal["server", "worker", "data"]
"""Faults of one track come one after the other, tracks side by side; each worker is a track of its own."""

BACKENDS: Final = ("nats", "cluster")
"""One server, or three that replicate."""

DATABASES: Final = ("sqlite", "postgres")
"""That hold the ledger."""

POINTS: Final = ("before_commit", "after_commit", "before_ack", "after_ack", "mid_batch", "mid_handler")
"""Where a worker can be made to die: the library's own, and the middle of its handler's work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of fault.

    Attributes:
        seconds: it lasts, from and to.
        details: its variants; each is planned for.
        weight: how often, beside the others.
        earliest: seconds into the run before which it cannot work.
        outage: how fast everybody recovers is judged: from when the one ``"server"`` is there again, or from when a
            cluster has lost its ``"leader"``.
        backends: that it can happen to.
        databases: likewise.
        alone: nothing else is done to servers and messages meanwhile.
        needs: what it cannot be done without.
        symptom: the connection status that processes must have noticed soon.
    """

    name: str
    track: Track
    told: str
    seconds: tuple[float, float] = (0.0, 0.0)
    details: tuple[str, ...] = ("",)
    weight: int = 1
    earliest: float = 0.0
    outage: Literal["", "server", "leader"] = ""
    backends: tuple[str, ...] = BACKENDS
    databases: tuple[str, ...] = DATABASES
    alone: bool = False
    needs: tuple[Need, ...] = ()
    symptom: str = ""


DUPLICATE_WINDOW: Final = 2.0
"""Seconds in which the server itself drops repeats: short, so that a short run gets beyond it."""

KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind(
            name="kill-server",
            track="server",
            told="SIGKILL, started again on the same store",
            seconds=(0.1, 0.6),
            weight=4,
            outage="server",
            backends=("nats",),
            symptom="reconnecting",
        ),
        Kind(
            name="restart-server",
            track="server",
            told="SIGTERM, started again",
            weight=2,
            outage="server",
            backends=("nats",),
            symptom="reconnecting",
        ),
        Kind(
            name="freeze-server",
            track="server",
            told="SIGSTOP for a while",
            seconds=(0.3, 1.5),
            weight=2,
            outage="server",
            backends=("nats",),
        ),
        Kind(
            name="kill-leader",
            track="server",
            told="SIGKILL to whoever leads the stream, started again",
            seconds=(2.0, 4.0),
            weight=2,
            outage="leader",
            backends=("cluster",),
        ),
        Kind(
            name="freeze-leader",
            track="server",
            told="SIGSTOP to whoever leads the stream",
            seconds=(8.0, 10.0),
            outage="leader",
            backends=("cluster",),
        ),
        Kind(
            name="partition",
            track="server",
            told="whoever leads the stream is cut off from everybody",
            seconds=(9.0, 11.0),
            outage="leader",
            backends=("cluster",),
            needs=("netns",),
        ),
        Kind(
            name="minority-client",
            track="server",
            told="the leader is cut off from the other nodes, its clients stay with it",
            seconds=(7.0, 9.0),
            backends=("cluster",),
            alone=True,
            needs=("netns",),
        ),
        Kind(
            name="lame-duck",
            track="server",
            told="the leader is told to send its clients away",
            backends=("cluster",),
        ),
        Kind(name="rolling", track="server", told="one node after the other is restarted", backends=("cluster",)),
        Kind(
            name="kill-all",
            track="server",
            told="SIGKILL to all nodes, started again",
            seconds=(0.2, 1.0),
            outage="leader",
            backends=("cluster",),
        ),
        Kind(name="worker-kill", track="worker", told="SIGKILL at a named point", details=POINTS, weight=2),
        Kind(
            name="worker-hang",
            track="worker",
            told="SIGSTOP, shorter or longer than its messages wait",
            seconds=(0.5, 3.5),
            weight=2,
        ),
        Kind(name="shutdown", track="worker", told="SIGTERM; finishes, ends, another begins", weight=2),
        Kind(name="poison", track="data", told="no handler survives it", earliest=0.5),
        Kind(name="malformed", track="data", told="not a settlement"),
        Kind(name="oversized", track="data", told="more than the server takes"),
        Kind(name="dup-inside", track="data", told="the same again, within the duplicate window", weight=2),
        Kind(
            name="dup-outside",
            track="data",
            told="the same again, after the duplicate window",
            earliest=DUPLICATE_WINDOW + 1.5,
            weight=2,
        ),
        Kind(
            name="key-conflict",
            track="data",
            told="another payload under a key that has taken effect",
            earliest=DUPLICATE_WINDOW + 1.5,
        ),
        Kind(name="consumer-deleted", track="data", told="the workers' position is deleted", earliest=1.0),
        Kind(
            name="stream-deleted",
            track="data",
            told="the stream is deleted and made anew: what was not settled is lost to the server",
            earliest=2.0,
            alone=True,
            needs=("outbox",),
        ),
        Kind(
            name="bit-flip",
            track="server",
            told="SIGKILL, a bit of a stored message is flipped, started again: what came after it is lost",
            earliest=2.0,
            outage="server",
            backends=("nats",),
            alone=True,
            needs=("outbox",),
            symptom="reconnecting",
        ),
        Kind(
            name="storage-full",
            track="server",
            told="started again with little room, and once more with enough",
            earliest=2.0,
            backends=("nats",),
            alone=True,
        ),
        Kind(
            name="disk-full",
            track="server",
            told="the file system of the store is full; freed, and the server started again",
            earliest=2.0,
            backends=("nats",),
            alone=True,
            needs=("outbox", "mount"),
        ),
        Kind(name="stream-full", track="data", told="the stream refuses until its limit is raised", earliest=1.0),
        Kind(name="db-locked", track="data", told="somebody else holds the ledger", seconds=(1.2, 2.5), earliest=0.5),
        Kind(
            name="db-restarted",
            track="data",
            told="the database is gone and comes back",
            seconds=(0.2, 1.5),
            details=("stop", "kill"),
            earliest=0.5,
            databases=("postgres",),
        ),
        Kind(name="slow-consumer", track="data", told="a subscriber that does not keep up with the game loop"),
        Kind(
            name="permission-denied",
            track="data",
            told="a guest sends a settlement",
            backends=("nats",),
        ),
        Kind(
            name="auth-revoked",
            track="data",
            told="a guest's credentials are taken away",
            backends=("nats",),
        ),
        Kind(name="reconnect-storm", track="data", told="100 clients lose their connections at once"),
    )
}
"""Name -> kind."""


def kinds_for(backend: str, database: str = "sqlite") -> list[str]:
    """Names of all that can happen to them."""
    return [kind.name for kind in KINDS.values() if backend in kind.backends and database in kind.databases]
