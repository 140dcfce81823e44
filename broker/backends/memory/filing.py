"""Where a memory stream files its messages: as they come, or by lane, as a server's subject transform does. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.contracts.lanes import AGAIN, KEYED, OURS, Lane, lane_of_token, stored_patterns, stored_subject
from broker.contracts.schedules import captured_by

if TYPE_CHECKING:
    from broker.contracts.options import StreamOptions


class Filing:
    """The lanes of a stream, generation by generation; none for one that keeps messages as they come.

    Attributes:
        counts: how many lanes each generation had, the newest last.
        captured: the patterns it stores.
    """

    def __init__(self, options: StreamOptions, counts: tuple[int, ...] | None = None) -> None:
        if counts is None:
            counts = () if options.lanes is None else (options.lanes,)
        self.counts = counts
        self.captured = tuple(captured_by(options))
        if counts:
            self.captured = (*(f"{KEYED}*.{each}" for each in options.subjects), f"{AGAIN}{options.name}.>")

    def changed(self, options: StreamOptions) -> Filing:
        """How the stream files from now on: another number of lanes begins the next generation."""
        if options.lanes is None or options.lanes == self.counts[-1]:
            return Filing(options, self.counts)
        return Filing(options, (*self.counts, options.lanes))

    def stored(self, subject: str) -> str:
        """What a message on a captured subject is filed under."""
        if not self.counts or not subject.startswith(KEYED):
            return subject
        key, _, rest = subject[len(KEYED) :].partition(".")
        lane = Lane(len(self.counts) - 1, lane_of_token(key, self.counts[-1]))
        return stored_subject(lane, key, rest)

    def pattern(self, pattern: str) -> str:
        """A pattern of subjects, as they are filed."""
        return pattern if not self.counts or pattern.startswith(OURS) else stored_patterns((pattern,))[0]
