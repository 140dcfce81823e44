"""How large a run is, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Mode:
    """One size.

    Attributes:
        seconds: producers produce.
        faults: planned in all.
        rate: settlements per second.
        least: settlements that must have taken effect for the run to count.
    """

    seconds: float
    faults: int
    rate: float
    least: int


MODES: Final = {"quick": Mode(60.0, 45, 1900.0, 100_000), "full": Mode(900.0, 330, 1300.0, 1_000_000)}
