"""How large a run is, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A stretch of a run on servers of its own.

    Attributes:
        name: of it, and of its directory.
        backend: see ``catalogue.BACKENDS``.
        seconds: producers produce.
        faults: planned in all.
        rate: settlements per second.
        least: settlements that must have taken effect for the run to count.
        send: see ``Plan``.
        keep: seconds the stream keeps a message; ``None``: for ever.
    """

    name: str
    backend: str = "nats"
    seconds: float
    faults: int
    rate: float
    least: int
    send: str = "direct"
    keep: float | None = None


@dataclass(frozen=True, slots=True)
class Mode:
    """One size: its slices, one after the other."""

    slices: tuple[Slice, ...]

    @property
    def seconds(self) -> float:
        """Of all of them."""
        return sum(each.seconds for each in self.slices)

    @property
    def faults(self) -> int:
        """Of all of them."""
        return sum(each.faults for each in self.slices)

    def on(self, backend: str | None, send: str | None) -> Mode:
        """All of it on that backend, or sent in that way; as it is when neither is said."""
        if backend is None and send is None:
            return self
        fits = [each for each in self.slices if backend in {None, each.backend} and send in {None, each.send}]
        like = (fits or self.slices)[0]
        least = sum(each.least for each in self.slices)
        whole = replace(like, seconds=self.seconds, faults=self.faults, least=least)
        return Mode((replace(whole, backend=backend or like.backend, send=send or like.send),))

    def sized(self, seconds: float | None, faults: int | None, rate: float | None) -> Mode:
        """The same in proportion; with less time or another rate there is no least that has to be reached."""
        share = 1.0 if seconds is None else seconds / self.seconds
        bar = share >= 1 and rate is None
        planned, slices = round(self.faults * share) if faults is None else faults, []
        done = before = 0
        for each in self.slices:
            before += each.faults
            upto = round(planned * before / self.faults)
            slices.append(
                replace(
                    each,
                    seconds=each.seconds * share,
                    faults=upto - done,
                    rate=each.rate if rate is None else rate,
                    least=each.least if bar else 0,
                )
            )
            done = upto
        return Mode(tuple(slices))


_KEEP: Final = 180.0
"""Longer than anything may wait to be settled; and what a server has to look through after a crash does not grow."""

MODES: Final = {
    "quick": Mode((Slice(name="one", seconds=60.0, faults=45, rate=1900.0, least=100_000),)),
    "full": Mode(
        (
            Slice(name="one", seconds=600.0, faults=240, rate=1700.0, least=860_000, keep=_KEEP),
            Slice(name="losses", seconds=120.0, faults=50, rate=400.0, least=30_000, keep=_KEEP, send="outbox"),
            Slice(name="cluster", backend="cluster", seconds=180.0, faults=45, rate=900.0, least=110_000, keep=_KEEP),
        )
    ),
}
