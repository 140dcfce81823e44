"""What is measured, as data: the rows of the tables, who runs in them and the bars to be met."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from loadtest.latency import HERTZ

BASELINE: Final = "natspy"
OURS: Final = "gamebroker"
RAW: Final = "rawsocket"
SMALL: Final = 128
LARGE: Final = 1024
_LATENCY_SECONDS: Final = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """One client doing one workload its own way.

    Attributes:
        peer: the file in ``loadtest.peers``.
        variant: the workload's name there.
        shown: how the table calls it.
        flavour: how the peer is set up, where it has a choice.
        bar: ratio to the baseline that must be met, at least, for a latency at most; ``None`` when it is only shown.
        share_bar: share of the raw socket that must be reached.
        portion: of the workload's messages; a slow client gets fewer, so that its run is not longer than the others'.
        large: runs with large bodies too.
    """

    peer: str
    variant: str
    shown: str
    flavour: str = ""
    bar: float | None = None
    share_bar: float | None = None
    portion: float = 1.0
    large: bool = False

    @property
    def identity(self) -> tuple[str, str, str]:
        """What tells it from the others of a workload."""
        return self.peer, self.variant, self.flavour


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Entrants that do the same work beside each other.

    Attributes:
        name: on the command line and in the table.
        count: messages per run.
        entrants: a row of the table each; the first is the baseline, a raw socket the physical limit.
        size: bytes of a body.
        depth: requests or appends in flight.
        rooms: of an open loop, where latency counts instead of throughput; 0 otherwise.
    """

    name: str
    count: int
    entrants: tuple[Entrant, ...]
    size: int = SMALL
    depth: int = 1
    rooms: int = 0

    @property
    def baseline(self) -> Entrant:
        """What the others are compared to."""
        return self.entrants[0]

    @property
    def raw(self) -> Entrant | None:
        """The physical limit, where it is measured."""
        return next((each for each in self.entrants if each.peer == RAW), None)

    @property
    def judged(self) -> tuple[Entrant, ...]:
        """Those whose figures decide whether a bar is met; none where there is no bar."""
        barred = [each for each in self.entrants if each.bar is not None or each.share_bar is not None]
        return tuple(each for each in self.entrants if barred and (each in barred or each.peer in {BASELINE, RAW}))

    @property
    def lower_is_better(self) -> bool:
        """Whether it is a latency."""
        return self.rooms > 0

    def with_large_bodies(self) -> Workload:
        """The same at 1 KiB: baseline, ours and the raw socket, without bars."""
        kept = [each for each in self.entrants if each.large or each.peer in {BASELINE, RAW}]
        plain = tuple(replace(each, bar=None, share_bar=None) for each in kept)
        return replace(self, name=f"{self.name}-1k", size=LARGE, entrants=plain)


@dataclass(frozen=True, slots=True)
class _Client:
    """A peer as rows are made of it."""

    peer: str

    def __call__(self, variant: str, shown: str, portion: float = 1.0) -> Entrant:
        """It doing one workload."""
        return Entrant(peer=self.peer, variant=variant, shown=shown, portion=portion)


_nats_py: Final = _Client(BASELINE)
_natsrpy: Final = _Client("natsrpy")
_faststream: Final = _Client("faststream")
_natsio: Final = _Client("natsio")
_node: Final = _Client("nodejs")
_raw: Final = _Client(RAW)


def _ours(
    variant: str, shown: str, bar: float | None = None, share_bar: float | None = None, *, large: bool = True
) -> Entrant:
    return Entrant(peer=OURS, variant=variant, shown=shown, flavour="wire", bar=bar, share_bar=share_bar, large=large)


def _through_nats_py(variant: str, shown: str) -> Entrant:
    return Entrant(peer=OURS, variant=variant, shown=f"{shown}, link nats-py", flavour="nats-py")


def _open_loop(rooms: int, bar: float | None = None) -> Workload:
    return Workload(
        name=f"latency{rooms}",
        count=round(rooms * HERTZ * _LATENCY_SECONDS),
        rooms=rooms,
        entrants=(
            _nats_py("latency", "publish"),
            _ours("latency", "publish_nowait", bar),
            _through_nats_py("latency", "publish_nowait"),
            _natsrpy("latency", "publish"),
            _faststream("latency", "publish"),
            _natsio("latency", "publish"),
            _node("latency", "publish"),
            _raw("latency", "write, read"),
        ),
    )


_AT_128_BYTES: Final = (
    Workload(
        name="publish",
        count=600_000,
        entrants=(
            _nats_py("publish", "await publish"),
            _ours("publish-nowait", "publish_nowait", 2.2, 0.7),
            _ours("publish", "await publish", 1.5),
            _through_nats_py("publish-nowait", "publish_nowait"),
            _natsrpy("publish", "await publish", 1 / 120),
            _faststream("publish", "await publish", 1 / 20),
            _natsio("publish", "await publish", 1 / 2),
            _node("publish", "publish", 1 / 2),
            _raw("publish", "64 KiB writes"),
        ),
    ),
    Workload(
        name="subscribe",
        count=300_000,
        entrants=(
            _nats_py("subscribe", "async callback"),
            _ours("subscribe", "plain handler", 2.0),
            _ours("subscribe-async", "async handler", 0.85, large=False),
            _through_nats_py("subscribe", "plain handler"),
            _natsrpy("subscribe", "async callback", 1 / 20),
            _faststream("subscribe", "subscriber", 1 / 20),
            _natsio("subscribe", "async callback", 1 / 2),
            _node("subscribe", "callback", 1 / 2),
            _raw("subscribe", "counts, parses nothing"),
        ),
    ),
    Workload(
        name="request1",
        count=2_500,
        depth=1,
        entrants=(
            _nats_py("request", "await request"),
            _ours("request", "await request"),
            _natsrpy("request", "await request"),
            _faststream("request", "await request"),
            _natsio("request", "await request"),
            _node("request", "await request"),
            _raw("request", "counts replies"),
        ),
    ),
    Workload(
        name="request64",
        count=50_000,
        depth=64,
        entrants=(
            _nats_py("request", "await request"),
            _ours("request", "await request", 1.6),
            _through_nats_py("request", "await request"),
            _natsrpy("request", "await request", 1 / 4),
            _faststream("request", "await request", 1 / 6),
            _natsio("request", "await request", 1 / 2),
            _node("request", "await request", 1 / 4),
            _raw("request", "counts replies"),
        ),
    ),
    Workload(
        name="append1",
        count=2_500,
        depth=1,
        entrants=(
            _nats_py("append-awaited", "await js.publish"),
            _ours("append-awaited", "await enqueue"),
            _natsrpy("append", "await js.publish"),
            _faststream("append", "await publish"),
            _natsio("append-awaited", "await js.publish"),
            _node("append", "await js.publish"),
            _raw("append", "counts acks"),
        ),
    ),
    Workload(
        name="append256",
        count=50_000,
        depth=256,
        entrants=(
            _nats_py("append", "publish_async"),
            _ours("append", "enqueue_many", 2.0),
            _ours("append-keyed", "enqueue_many, own keys", 1.4, large=False),
            _through_nats_py("append", "enqueue_many"),
            _natsrpy("append", "js.publish", 1 / 2),
            _faststream("append", "256 tasks", 1 / 8),
            _natsio("append", "publish_async", 1 / 2),
            _node("append", "js.publish", 1 / 4),
            _raw("append", "counts acks"),
        ),
    ),
    Workload(
        name="append1024",
        count=60_000,
        depth=1024,
        entrants=(
            _nats_py("append", "publish_async"),
            _ours("append", "enqueue_many", 2.6),
            _ours("append-keyed", "enqueue_many, own keys", large=False),
            _natsrpy("append", "js.publish", 1 / 2),
            _faststream("append", "1,024 tasks", 1 / 8),
            _natsio("append", "publish_async", 1 / 2),
            _node("append", "js.publish", 1 / 4),
            _raw("append", "counts acks"),
        ),
    ),
    Workload(
        name="consume+ack",
        count=60_000,
        entrants=(
            _nats_py("consume", "fetch(500), ack"),
            _ours("consume", "consume, plain handler", 3.5, 0.65),
            _ours("consume-async", "consume, async handler", 2.0, large=False),
            _through_nats_py("consume", "consume, plain handler"),
            _natsrpy("consume", "fetch(500), ack", 1 / 16),
            _faststream("consume", "pull subscriber, 500", 1 / 8),
            _natsio("consume", "consume(), ack", 1 / 2),
            _node("consume", "consume(), ack", 1 / 2),
            _raw("consume", "two pulls of 500"),
        ),
    ),
    _open_loop(50),
    _open_loop(200, 0.75),
)

WORKLOADS: Final = (*_AT_128_BYTES, *(workload.with_large_bodies() for workload in _AT_128_BYTES))
