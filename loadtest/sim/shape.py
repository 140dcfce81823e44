"""What a seed looks like: who works how, what is sent, and what is done to them when."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from loadtest.sim.bank import Settlement
from loadtest.sim.weather import Weather

if TYPE_CHECKING:
    from collections.abc import Sequence

Mode = Literal["tasks", "inline", "batches", "ordered"]
Deed = Literal["crash", "break", "leave", "clock", "stall", "forget"]
Plant = Literal["ack-before-commit", "unscoped-key", "stale-lane-owner"]

PLANTS: Final[tuple[Plant, ...]] = ("ack-before-commit", "unscoped-key", "stale-lane-owner")
DEEDS: Final[tuple[Deed, ...]] = ("crash", "break", "leave", "clock", "stall", "forget")
KINDS: Final = ("settle", "reward")
_POISON: Final = 1_000


@dataclass(frozen=True, slots=True)
class Event:
    """Something that is done on purpose.

    Attributes:
        at: seconds after the beginning.
        deed: ``crash`` a process, ``break`` its connection, have a worker ``leave`` and come back, set the ``clock``,
            ``stall`` everybody, or have the server ``forget`` a consumer.
        strength: from 0 to 1: how long, how much, or who.
    """

    at: float
    deed: Deed
    strength: float


@dataclass(frozen=True, slots=True)
class Shape:
    """One seed's world, all of it drawn before anything runs.

    Attributes:
        mode: what kind of handler the workers have.
        shuffled: whether tasks that could go on at the same moment do so in any order.
        lasts: seconds of faults.
        journals: what each producer has to send.
        working: options of every ``consume``.
        stream: options of the stream.
        sending: how producers send: one by one, pipelined, or in atomic batches.
    """

    mode: Mode
    shuffled: bool
    workers: int
    lasts: float
    journals: Sequence[Sequence[Settlement]]
    working: dict[str, Any]
    stream: dict[str, Any]
    sending: Literal["one", "many", "atomic"]
    events: Sequence[Event]
    weather: Weather

    @classmethod
    def drawn(cls, seed: int, plant: Plant | None = None) -> Self:
        """Of that seed. What is planted has to be a kind of handler that can have the bug."""
        dice = Random(f"shape {seed}")
        modes: dict[Plant | None, tuple[Mode, ...]] = {
            None: ("tasks", "tasks", "inline", "batches", "ordered"),
            "unscoped-key": ("tasks", "inline", "batches", "ordered"),
            "ack-before-commit": ("tasks", "ordered"),
            "stale-lane-owner": ("ordered",),
        }
        mode = dice.choice(modes[plant])
        lasts = dice.uniform(3.0, 8.0)
        deeds = dice.sample(DEEDS, dice.randint(0, 4))
        count = dice.randint(0, 6) if deeds else 0
        return cls(
            mode=mode,
            shuffled=dice.random() < 0.5,
            workers=dice.randint(2 if mode == "ordered" else 1, 3),
            lasts=lasts,
            journals=_journals(dice),
            working=_working(dice, mode),
            stream=_stream(dice, mode),
            sending=dice.choice(("one", "many") if mode == "ordered" else ("one", "many", "atomic")),
            events=sorted(
                (Event(dice.uniform(0, lasts), dice.choice(deeds), dice.random()) for _ in range(count)),
                key=lambda event: event.at,
            ),
            weather=Weather.drawn(dice),
        )


def _journals(dice: Random) -> list[list[Settlement]]:
    """One battle's settlements share a key; a room's are sent by one producer, so their order means something."""
    rooms = [f"room-{number}" for number in range(dice.randint(1, 3))]
    journals: list[list[Settlement]] = [[] for _ in range(dice.randint(1, 2))]
    poisoned, failing = dice.choice((0.0, 0.15)), dice.choice((0.0, 0.3))
    for battle in range(dice.randint(3, 8)):
        place = dice.randrange(len(rooms))
        for kind in KINDS:
            giver, taker = dice.sample(range(5), 2)
            fails = dice.randint(1, 3) if dice.random() < failing else 0
            fails = _POISON if dice.random() < poisoned else fails
            one = Settlement(
                kind, rooms[place], f"battle-{battle}", f"p{giver}", f"p{taker}", dice.randint(1, 90), fails
            )
            journals[place % len(journals)].append(one)
    return journals


def _working(dice: Random, mode: Mode) -> dict[str, Any]:
    working: dict[str, Any] = {
        "queue": "workers",
        "ack_wait": dice.choice((0.5, 2.0)),
        "max_deliver": dice.randint(2, 5),
        "backoff": dice.choice(((), (0.1, 1.0))),
        "auto_extend": dice.random() < 0.8,
        "concurrency": dice.randint(1, 4),
        "max_ack_pending": dice.choice((1, 4, 256)),
    }
    if mode == "batches":
        working |= {"batch_size": dice.randint(1, 4), "batch_timeout": 0.05}
        working["max_ack_pending"] = max(4, working["max_ack_pending"])
    if mode == "ordered":
        working["ordered"] = True
    elif dice.random() < 0.2:
        working["reschedule_after"] = 0.5
    return working


def _stream(dice: Random, mode: Mode) -> dict[str, Any]:
    stream: dict[str, Any] = {
        "duplicate_window": dice.choice((1.0, 120.0)),
        "storage": "memory",
        "atomic": True,
        "retention": dice.choice(("limits", "limits", "workqueue", "interest")),
    }
    if mode == "ordered":
        stream["lanes"] = dice.randint(1, 3)
        stream |= {"retention": "limits", "atomic": False}
    elif stream["retention"] == "interest":
        stream["retention"] = "limits"  # without its first worker nothing would be kept: that is no fault to find
    return stream
