"""The streams of one hub: which exist and which captures a subject."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.backends.memory.admission import check_declared
from broker.backends.memory.refusals import no_stream
from broker.backends.memory.stream import MemoryStream
from broker.backends.memory.wire import keyed_record
from broker.contracts.drift import FIXED_HINT, fixed_in_stream, stream_differences
from broker.contracts.errors import ApiError, ConfigDrift, InvalidOption, StreamNotFound
from broker.contracts.lanes import OURS
from broker.contracts.schedules import captured_by
from broker.contracts.stream_options import clash
from broker.contracts.subjects import overlap

if TYPE_CHECKING:
    from broker.backends.memory.clock import Clock
    from broker.backends.memory.stream import Publish
    from broker.contracts.envelopes import Record
    from broker.contracts.options import StreamOptions

_REMEMBERED: Final = 8192


class Streams:
    """Streams by name; no two capture the same subject."""

    def __init__(self, clock: Clock, publish: Publish) -> None:
        self._clock = clock
        self._publish = publish
        self._streams: dict[str, MemoryStream] = {}
        self._capturing: dict[str, MemoryStream | None] = {}

    def names(self, pattern: str | None = None) -> list[str]:
        """Every name (of those that capture something of the pattern), sorted."""
        if pattern is None:
            return sorted(self._streams)
        return [
            name
            for name in sorted(self._streams)
            if any(overlap(pattern, subject) for subject in captured_by(self._streams[name].options))
        ]

    def get(self, name: str) -> MemoryStream | None:
        """The stream of that name."""
        return self._streams.get(name)

    def find(self, name: str) -> MemoryStream:
        """Raises ``StreamNotFound`` when there is none."""
        stream = self._streams.get(name)
        if stream is None:
            raise no_stream(name)
        return stream

    def capturing(self, subject: str) -> MemoryStream | None:
        """The stream that stores what is published on the subject."""
        if not self._streams:
            return None
        try:
            return self._capturing[subject]
        except KeyError:
            if len(self._capturing) >= _REMEMBERED:
                self._capturing.clear()
            found = next((each for each in self._streams.values() if each.captures(subject)), None)
            self._capturing[subject] = found
            return found

    def taking(self, record: Record) -> tuple[MemoryStream | None, Record]:
        """The stream that stores a record, and the record as that stream takes it: with lanes, on a keyed subject."""
        stream = self.capturing(record.subject)
        if stream is not None or record.subject.startswith(OURS):
            return stream, record
        keyed = keyed_record(record)
        stream = self.capturing(keyed.subject)
        return stream, record if stream is None else keyed

    def overlapping(self, pattern: str) -> MemoryStream | None:
        """The stream that captures something the pattern covers.

        Raises:
            InvalidOption: several do.
        """
        found = [self._streams[name] for name in self.names(pattern)]
        if len(found) > 1:
            told = ", ".join(stream.name for stream in found)
            raise InvalidOption(f"{pattern!r} is captured by several streams ({told}): say stream=", option="stream")
        return found[0] if found else None

    def create(self, options: StreamOptions) -> MemoryStream:
        """A new stream, or the one that exists exactly so.

        Raises:
            ConfigDrift: it exists with other settings.
            ApiError: its subjects overlap with another stream's.
            Unsupported: it needs more than one process.
        """
        existing = self._streams.get(options.name)
        if existing is not None:
            differences = stream_differences(options, existing.options)
            if differences:
                raise ConfigDrift(options.name, differences, stream=options.name)
            return existing
        if options.sealed:
            told = f"sealed: stream {options.name!r} does not exist; make it open, and seal it by update"
            raise InvalidOption(told, option="sealed")
        check_declared(options)
        self._check_overlap(options)
        stream = self._streams[options.name] = MemoryStream(options, self._clock, self._publish)
        self._capturing.clear()
        return stream

    def update(self, options: StreamOptions) -> MemoryStream:
        """Change an existing stream.

        Raises:
            StreamNotFound: there is none.
            ConfigDrift: settings that never change.
            ApiError: its subjects overlap with another stream's.
            Unsupported: it needs more than one process.
        """
        stream = self.find(options.name)
        fixed = fixed_in_stream(stream_differences(options, stream.options))
        if fixed:
            raise ConfigDrift(options.name, fixed, stream=options.name, hint=FIXED_HINT)
        check_declared(options)
        self._check_overlap(options)
        stream.update(options)
        self._capturing.clear()
        return stream

    def delete(self, name: str) -> None:
        """Raises ``StreamNotFound`` when there is none."""
        stream = self.find(name)
        del self._streams[name]
        self._capturing.clear()
        stream.end(lambda: StreamNotFound(f"stream {name!r} was deleted", stream=name))

    def pause(self) -> None:
        """Nobody is connected: no timers."""
        for stream in self._streams.values():
            stream.pause()

    def resume(self) -> None:
        """Set the timers that are needed."""
        for stream in self._streams.values():
            stream.resume()

    def _check_overlap(self, options: StreamOptions) -> None:
        for other in self._streams.values():
            if other.name != options.name and any(
                overlap(left, right) for left in captured_by(options) for right in captured_by(other.options)
            ):
                words = clash(options, other.options) or f"subjects overlap with an existing stream: {other.name!r}"
                raise ApiError(words, code=400, err_code=10065, stream=options.name)
