"""Where a memory stream files its messages: as they come, or by lane, as a server's subject transform does. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.contracts.errors import ConfigDrift
from broker.contracts.lanes import AGAIN, KEYED, OURS, Lane, lane_of_token, stored_patterns, stored_subject

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
        self.captured = tuple(options.subjects)
        if counts:
            self.captured = (*(f"{KEYED}*.{each}" for each in options.subjects), f"{AGAIN}{options.name}.>")

    def changed(self, old: StreamOptions, new: StreamOptions) -> Filing:
        """How the stream files from now on.

        Raises:
            ConfigDrift: lanes would be given to a stream without, or taken from one with lanes.
        """
        if (old.lanes is None) != (new.lanes is None):
            hint = "; only the number of lanes can be changed: what is stored is filed by lane, or is not"
            raise ConfigDrift(new.name, {"lanes": (new.lanes, old.lanes)}, stream=new.name, hint=hint)
        if new.lanes is None or new.lanes == old.lanes:
            return Filing(new, self.counts)
        return Filing(new, (*self.counts, new.lanes))

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
