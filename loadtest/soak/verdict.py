"""What must hold after a soak. No I/O: numbers in, sentences out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from loadtest.soak.vitals import Growth

MIB: Final = 1 << 20
_SLACK: Final = 5
"""Tasks or file descriptors by which the medians may differ: a reconnect under way holds one or two."""
_DELIVERED: Final = 0.95
"""Of the rate asked for, what must have been sent for the run to count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a run came to.

    Attributes:
        seconds: the load lasted, as planned.
        rate: messages per second asked for; ``sent`` in all.
        growth: of the process, from after the warm-up to the end.
        left_tasks: there after both brokers were closed that were not there before; ``left_fds`` likewise.
        published: core messages; ``arrived`` of them, ``repeated`` twice.
        dropped_outbound: counted by the sender; ``dropped_inbound`` by the receiver.
        gaps: core messages missing when it was noticed; ``unexplained`` of them without a break or a counted drop.
        late: core messages that came behind a newer one, from a connection that had been given up.
        asked: what became of the requests, by outcome.
        stored: keys confirmed as stored; ``held`` messages in the stream at the end.
        handled: keys seen by a handler; ``missing`` stored and never seen; ``again`` times one was seen once more.
        unknown: times the outcome of an enqueue was unknown and the same key was sent again.
        reconnects: of both brokers.
        faults: carried out, by kind.
        errors: exceptions that should not have come, by kind.
    """

    seconds: float
    rate: float
    sent: int
    growth: Growth
    left_tasks: int
    left_fds: int
    published: int
    arrived: int
    repeated: int
    dropped_outbound: int
    dropped_inbound: int
    gaps: int
    unexplained: int
    late: int
    asked: dict[str, int]
    stored: int
    held: int
    handled: int
    missing: int
    again: int
    unknown: int
    reconnects: int
    faults: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """Core messages that no counter of a buffer speaks of: they were on a connection that broke."""
        return self.published - self.arrived - self.dropped_outbound - self.dropped_inbound


def objections(found: Findings, *, most_growth: float) -> list[str]:
    """Every promise that did not hold, in words; empty when the run passed. ``most_growth`` in MiB."""
    grown = found.growth
    checks = (
        (found.sent < found.rate * found.seconds * _DELIVERED, f"only {found.sent:,} messages were sent"),
        (not found.faults or not found.reconnects, "nothing was broken: the run proves nothing"),
        (grown.rss >= most_growth * MIB, f"memory grew by {grown.rss / MIB:.1f} MiB"),
        (grown.tasks > _SLACK, f"{grown.tasks} more tasks at the end than after the warm-up"),
        (grown.fds > _SLACK, f"{grown.fds} more file descriptors at the end than after the warm-up"),
        (found.left_tasks > 0, f"{found.left_tasks} tasks left after closing"),
        (found.left_fds > 0, f"{found.left_fds} file descriptors left after closing"),
        (found.repeated > 0, f"{found.repeated} core messages arrived more than once"),
        (found.unexplained > 0, f"{found.unexplained} core messages missing without a break or a counted drop"),
        (found.lost < 0, f"{-found.lost} core messages counted as dropped that arrived"),
        (found.missing > 0, f"{found.missing} stored messages were never handled"),
        (found.handled < found.stored, f"{found.stored - found.handled} stored messages were not handled"),
        (found.held != found.stored, f"{found.held:,} messages in the stream for {found.stored:,} keys"),
        (not found.asked.get("answered"), "no request was answered"),
        *((True, f"{count} times: {kind}") for kind, count in found.errors.items()),
    )
    return [words for failed, words in checks if failed]
