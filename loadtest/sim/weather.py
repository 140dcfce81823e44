"""Which faults a seed has, how often, and what becomes of one call: swarm testing, so each seed has only some."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from random import Random


@dataclass(slots=True)
class Weather:
    """How likely each fault is, from 0 to 1.

    Attributes:
        lost_request: a call never reaches the server.
        lost_answer: it was carried out, and the answer never came.
        broken: the connection breaks with a call on its way.
        refused: the server cannot do it right now.
        slow: a call or its answer takes its time.
        lost_delivery: what the server handed out never arrives.
        twice: a delivery is handed out once more at once, as when its ack wait was over.
        repeated: a delivery arrives twice.
        shuffled: what arrives together arrives in another order.
        lost_ack: a settlement never reaches the server.
        late_ack: one arrives late, perhaps after others that were sent later.
        lost_core: a core message is dropped.
        failing: the store does not answer: half of the time it has committed all the same.
        hanging: a handler takes longer than the ack wait.
        crash: a worker is gone at one of the hooks of its handler, or with a call on its way.
        longest: seconds that something slow takes at most.
    """

    lost_request: float = 0.0
    lost_answer: float = 0.0
    broken: float = 0.0
    refused: float = 0.0
    slow: float = 0.0
    lost_delivery: float = 0.0
    twice: float = 0.0
    repeated: float = 0.0
    shuffled: float = 0.0
    lost_ack: float = 0.0
    late_ack: float = 0.0
    lost_core: float = 0.0
    failing: float = 0.0
    hanging: float = 0.0
    crash: float = 0.0
    longest: float = 0.0

    @classmethod
    def drawn(cls, dice: Random) -> Self:
        """Each fault in about half of the seeds, from rare to every fifth time."""
        chances = {each.name: dice.choice((0.0, dice.uniform(0.01, 0.2))) for each in fields(cls)}
        chances["crash"] = dice.choice((0.0, dice.uniform(0.005, 0.06)))
        chances["broken"] /= 4
        chances["longest"] = dice.choice((0.01, 0.3, 3.0))
        return cls(**chances)

    def clear_up(self) -> None:
        """From now on nothing goes wrong."""
        for each in fields(self):
            setattr(self, each.name, 0.0)
