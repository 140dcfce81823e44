"""What each process wrote down of what it did, one JSON object per line, appended and never changed.

Two files per process that ever lived, named after it: its messages, many, and its pulse (signs of life, troubles,
its end), few enough to be looked at while it lives. A line is out of the process when ``write`` returns, so that
SIGKILL takes none of it; at most the last line of a file is torn.
"""

from __future__ import annotations

import hashlib
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Self

from msgspec import Struct, field
from msgspec.json import Decoder, Encoder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_SUFFIX: Final = ".jsonl"
_PULSE: Final = ".pulse"
DIGEST: Final = 16
"""Characters of a payload's digest."""


class Op(StrEnum):
    """What happened."""

    START = "start"
    """About to enqueue this key with this payload; ``told``: the fate it is meant for."""
    OK = "ok"
    """The server has it."""
    WRITTEN = "written"
    """It is committed in its sender's outbox, and so promised."""
    FAIL = "fail"
    """This attempt certainly stored nothing; ``told`` why."""
    UNKNOWN = "unknown"
    """This attempt came to no answer."""
    ABSORBED = "absorbed"
    """The server dropped it as a repeat of its key, whatever the payload."""
    DELIVER = "deliver"
    COMMIT = "commit"
    """It took effect."""
    REPEAT = "repeat"
    """It had taken effect before."""
    GIVEN_BACK = "nak"
    TERMINATED = "term"
    LETTER = "dlq"
    """Found among the dead letters at the end."""
    LEFT = "left"
    """Messages that nobody had settled at the end, in ``counts``."""
    TROUBLE = "trouble"
    """A planned fault could not be made to happen; ``told`` why."""
    DIE = "die"
    """Ends itself by SIGKILL, now, at the point ``told``."""
    STATUS = "status"
    """Its connection is ``told`` from now on."""
    BEAT = "beat"
    """Alive, with ``counts`` so far."""
    FAULT = "fault"
    """Begins to inject the planned fault ``number``, of the kind ``told``."""
    FIRED = "fired"
    """It really happened; ``told`` what shows it."""
    HEALED = "healed"
    """Nothing of it is left but what others have to recover from."""
    ELECTED = "elected"
    """After the fault ``number`` the server ``told`` says that it leads the stream."""
    BEGUN = "begun"
    """The process named ``key`` was started."""
    ENDED = "ended"
    """The process named ``key`` ended; ``told`` why it did, ``counts`` its exit ``code`` and ``seconds``."""


class Fate(StrEnum):
    """What an enqueued message is meant to come to."""

    EFFECT = "effect"
    """Once."""
    LETTER = "letter"
    """A dead letter, and no effect."""


class Event(Struct, omit_defaults=True):
    """One line.

    Attributes:
        t: monotonic seconds, the same clock in every process of a machine.
        digest: of the payload; see ``digest_of``.
        seq: its number in the stream.
        number: of the planned fault.
    """

    t: float
    op: Op
    key: str = ""
    digest: str = ""
    seq: int = 0
    attempt: int = 0
    told: str = ""
    number: int = 0
    counts: dict[str, float] = field(default_factory=dict)


_encoder: Final = Encoder()
_decoder: Final = Decoder(Event)


def digest_of(body: bytes) -> str:
    """Equal for equal payloads."""
    return hashlib.sha256(body).hexdigest()[:DIGEST]


def now() -> float:
    """The time of an event."""
    return round(time.monotonic(), 6)


class History:
    """Appends to the history of one process, or to its pulse. Threads may share it."""

    def __init__(self, directory: Path, process: str, *, pulse: bool = False) -> None:
        # One unbuffered write per call: appended as a whole, whoever else writes.
        path = pulse_file(directory, process) if pulse else directory / f"{process}{_SUFFIX}"
        self._file = path.open("ab", buffering=0)

    def write(
        self,
        op: Op,
        *,
        key: str = "",
        told: str = "",
        number: int = 0,
        digest: str = "",
        counts: dict[str, float] | None = None,
    ) -> None:
        """One event, now."""
        self.write_many([Event(now(), op, key=key, told=told, number=number, digest=digest, counts=counts or {})])

    def write_many(self, events: Iterable[Event]) -> None:
        """Several in one go."""
        if lines := _encoder.encode_lines(list(events)):
            self._file.write(lines)

    def close(self) -> None:
        """Idempotent."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def histories(directory: Path) -> Iterator[tuple[str, Path]]:
    """Process and file of every history in a run's directory."""
    for path in sorted(directory.glob(f"*{_SUFFIX}")):
        yield path.name.removesuffix(_SUFFIX).removesuffix(_PULSE), path


def pulse_file(directory: Path, process: str) -> Path:
    """Where a process's pulse is."""
    return directory / f"{process}{_PULSE}{_SUFFIX}"


def events(path: Path) -> Iterator[Event]:
    """The lines of a history; the one a killed process did not finish is left out.

    Raises:
        msgspec.DecodeError: a finished line is not an event: the history was tampered with.
    """
    with path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield _decoder.decode(line)


def last_events(path: Path, *, tail: int = 4096) -> list[Event]:
    """The finished events at its end, at least the last one if ``tail`` bytes hold it; cheap however long it is."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - tail))
            block = file.read()
    except FileNotFoundError:
        return []
    lines = block.splitlines(keepends=True)
    if size > tail:
        lines = lines[1:]
    return [_decoder.decode(line) for line in lines if line.endswith(b"\n")]


def last_of(path: Path, op: Op, *, tail: int = 4096) -> Event | None:
    """The last finished event of that kind, however far back it is; cheap when it is not."""
    while True:
        found = [event for event in last_events(path, tail=tail) if event.op is op]
        if found:
            return found[-1]
        if not path.exists() or path.stat().st_size <= tail:
            return None
        tail *= 8
