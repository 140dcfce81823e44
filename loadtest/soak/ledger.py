"""What was sent and what came of it, in space that is taken before the first message: counting must not grow."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from broker import Status

if TYPE_CHECKING:
    from broker import StreamBroker

_HEAD: Final = struct.Struct("<QQ")
_MOST: Final = 255


class Marks:
    """How often each number was seen, up to 255 times."""

    def __init__(self, size: int) -> None:
        self._marks = bytearray(b"\0") * size  # written to, so that all of it is there from the beginning

    def __len__(self) -> int:
        return len(self._marks)

    def mark(self, number: int) -> None:
        """Once more."""
        if self._marks[number] < _MOST:
            self._marks[number] += 1

    def __getitem__(self, number: int) -> int:
        return self._marks[number]

    @property
    def seen(self) -> int:
        """Numbers seen at least once."""
        return len(self._marks) - self._marks.count(0)

    @property
    def repeats(self) -> int:
        """Times a number was seen again."""
        return sum(self._marks) - self.seen


class Frames:
    """Core messages: numbered, sent to one of ``subjects`` subjects in turn, checked for gaps as they arrive.

    Core messages may be lost where a connection breaks or where a buffer was full and counted it, and nowhere else. A
    frame carries how often either had happened to its sender; a gap after it is explained when it has happened again
    since, or to the receiver. What arrives twice, or is missing without that, is a fault of ours.

    Attributes:
        late: arrived behind a newer one, from a connection that had been given up.
        gaps: frames missing in all gaps together, when they were noticed.
        unexplained: of those, without a reason.
    """

    def __init__(self, size: int, subjects: int, body: int, sender: StreamBroker, receiver: StreamBroker) -> None:
        self.arrived = Marks(size)
        self.sent = self.late = self.gaps = self.unexplained = 0
        self._subjects = subjects
        self._padding = b"x" * max(0, body - _HEAD.size)
        self._sender, self._receiver = sender, receiver
        self._last: list[tuple[int, int, int]] = [(-1, 0, 0)] * subjects

    def next(self) -> tuple[int, bytes]:
        """The subject's number and the body of the next one."""
        number = self.sent
        self.sent += 1
        return number % self._subjects, _HEAD.pack(number, self._broken_out()) + self._padding

    def note(self, body: bytes) -> None:
        """One arrived."""
        number, epoch = _HEAD.unpack_from(body)
        self.arrived.mark(number)
        place, subject = divmod(number, self._subjects)
        last, last_out, last_in = self._last[subject]
        if place <= last:
            self.late += 1
            return
        missing = place - last - 1
        if missing:
            self.gaps += missing
            if self._broken_out() == last_out and self._broken_in() == last_in:
                self.unexplained += missing
        self._last[subject] = place, epoch, self._broken_in()

    def _broken_out(self) -> int:
        return _breaks(self._sender) + self._sender.stats.dropped_outbound

    def _broken_in(self) -> int:
        return _breaks(self._receiver) + self._receiver.stats.dropped_inbound


def _breaks(sb: StreamBroker) -> int:
    """How often its connection was lost, the one that is not back yet included: messages come before it is told."""
    return sb.stats.reconnects + (sb.status is not Status.CONNECTED)


class Settlements:
    """Stored messages, by the number in their key.

    Attributes:
        begun: keys that somebody set out to store.
        stored: keys the server confirmed.
        handled: keys a handler has seen.
        unknown: times the outcome was unknown and the same key was sent again.
    """

    def __init__(self, size: int) -> None:
        self.begun = self.unknown = 0
        self.stored = Marks(size)
        self.handled = Marks(size)

    @property
    def missing(self) -> int:
        """Confirmed, and seen by no handler."""
        return sum(1 for number in range(self.begun) if self.stored[number] and not self.handled[number])
