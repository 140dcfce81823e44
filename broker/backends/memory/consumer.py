"""A consumer of a memory stream: the lending rules, the pulls that wait for it, and its alarm."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from broker.backends.memory.clock import Alarm, Clock, after
from broker.backends.memory.lending import Lending, Lent, Shelf, Start
from broker.backends.memory.pull import Pull
from broker.backends.memory.replay import Replay
from broker.contracts.admin import ConsumerInfo
from broker.contracts.envelopes import Delivery
from broker.contracts.errors import ApiError
from broker.contracts.headers import LEFT_OUT, Headers
from broker.contracts.lanes import place_of
from broker.contracts.subjects import matches

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.backends.memory.log import Stored, StreamLog
    from broker.contracts.options import ConsumerOptions

_REMEMBERED: Final = 4096


class FilteredShelf(Shelf):
    """The part of a log that some patterns cover; no patterns mean all of it."""

    def __init__(self, log: StreamLog, filters: tuple[str, ...]) -> None:
        self._log = log
        self.wants: Callable[[str], bool] = _everything
        if filters:
            self.wants = lru_cache(_REMEMBERED)(lambda subject: any(matches(each, subject) for each in filters))

    def next_from(self, sequence: int) -> int | None:
        """The first wanted sequence that is not below ``sequence``."""
        found = self._log.next_match(sequence, self.wants)
        return found.sequence if found is not None else None

    def __contains__(self, sequence: object) -> bool:
        return sequence in self._log

    def ahead(self, sequence: int) -> int:
        """How many wanted messages there are from ``sequence`` on."""
        return sum(self.wants(message.subject) for message in self._log.since(sequence))


class MemoryConsumer:
    """Lends the messages of one stream to the sources that pull.

    Args:
        stream: the stream's name.
        name: its own.
        options: as declared.
        filters: what it delivers, as the stream files it.
        log: what the stream stores.
        start: where it begins.
        clock: drives ack waits, pulls and the inactive threshold.
        settled: told each sequence that was settled here.
        abandoned: told when an unnamed consumer has had no source for too long.
    """

    def __init__(
        self,
        stream: str,
        name: str,
        options: ConsumerOptions,
        *,
        filters: tuple[str, ...],
        log: StreamLog,
        start: Start,
        clock: Clock,
        settled: Callable[[int], None],
        abandoned: Callable[[], None],
    ) -> None:
        self.stream = stream
        self.name = name
        self.options = options
        self._log = log
        self._clock = clock
        self._settled = settled
        self._shelf = FilteredShelf(log, filters)
        self._lending = Lending(
            self._shelf,
            start,
            max_ack_pending=options.max_ack_pending,
            ack_wait=options.ack_wait,
            acks=options.acks,
        )
        self._pulls: deque[Pull] = deque()
        self._serving = False
        self._alarm = Alarm(clock, self._ring)
        self._idle = Alarm(clock, abandoned)
        self._held_until: datetime | None = None
        self._release = Alarm(clock, self.wake)
        self._replay = Replay(clock, self.wake) if options.replay == "original" else None
        self._sources = 0
        self._ended = False
        self._created = datetime.fromtimestamp(clock.wall_ns() / 1e9, UTC)

    @property
    def unnamed(self) -> bool:
        """Whether only the source that made it knows it."""
        return self.options.unnamed

    @property
    def attended(self) -> bool:
        """Whether a source is open on it."""
        return self._sources > 0

    @property
    def ack_floor(self) -> int:
        """Every stream sequence up to here is settled."""
        return self._lending.ack_floor

    def reads(self, log: StreamLog) -> bool:
        """Whether that is the log it lends from; a stream made anew under the same name has another."""
        return self._log is log

    def update(self, options: ConsumerOptions, filters: tuple[str, ...]) -> None:
        """Take new settings; the position stays."""
        self.options = options
        self._lending.max_ack_pending = options.max_ack_pending
        self._lending.ack_wait = options.ack_wait
        shelf = FilteredShelf(self._log, filters)
        self._shelf = shelf
        self._lending.reshelve(shelf, shelf.ahead(self._lending.cursor))
        self.wake()

    def info(self) -> ConsumerInfo:
        """What the server would say about it."""
        lending = self._lending
        if lending.expire(self._clock.now()):
            self.wake()
        return ConsumerInfo(
            stream=self.stream,
            name=self.name,
            config=self.options,
            pending=lending.pending,
            ack_pending=lending.ack_pending,
            redelivered=lending.redelivered,
            waiting=sum(not pull.answer.done() for pull in self._pulls),
            delivered_sequence=lending.delivered,
            ack_floor=lending.ack_floor,
            created=self._created,
            paused_until=self._held_until if self._held else None,
        )

    def hold(self, until: datetime | None) -> bool:
        """Hand out nothing until then; whether it is held now."""
        self._held_until = until
        if until is not None:
            self._release.set(self._clock.now() + until.timestamp() - self._clock.wall_ns() / 1e9)
        self.wake()
        return self._held

    @property
    def _held(self) -> bool:
        return self._held_until is not None and self._held_until.timestamp() > self._clock.wall_ns() / 1e9

    def reset(self, sequence: int | None) -> int:
        """Go back, or ahead; where it is now.

        Raises:
            ApiError: not before where it starts, nor at all where it starts at a message that was the last then.
        """
        start = self.options.start
        if sequence is None:
            sequence = self.ack_floor + 1
        elif isinstance(start, str) and start != "first":
            raise ApiError("invalid reset: not allowed", code=400, err_code=10204, stream=self.stream)
        elif isinstance(start, int) and sequence < start:
            raise ApiError("invalid reset: below start seq", code=400, err_code=10204, stream=self.stream)
        self._lending.restart(sequence, self._shelf.ahead(sequence))
        self._alarm.cancel()
        self.wake()
        return sequence

    # The stream tells what happens to its messages.

    def wants(self, subject: str) -> bool:
        """Whether its filters cover the subject."""
        return self._shelf.wants(subject)

    def needs(self, sequence: int, subject: str) -> bool:
        """Whether it has still to hand out or see settled that message."""
        return self._shelf.wants(subject) and self._lending.needs(sequence)

    def stored(self, subject: str) -> None:
        """A message was stored."""
        if self._shelf.wants(subject):
            self._lending.offered()
            self.wake()

    def withdrawn(self, sequence: int, subject: str) -> None:
        """A message is not stored any more."""
        if self._shelf.wants(subject):
            places = self._lending.ack_pending
            self._lending.withdrawn(sequence)
            if self._lending.ack_pending < places:
                self._freed()

    # Sources pull and settle.

    def attach(self) -> None:
        """A source more."""
        self._sources += 1
        self._idle.cancel()

    def detach(self) -> None:
        """A source less; an unnamed consumer without any does not live long."""
        self._sources -= 1
        self.resume()

    def pull(self, limit: int, timeout: float, max_bytes: int | None = None) -> Pull:
        """Wait in line for up to ``limit`` deliveries."""
        self._pulls = deque(each for each in self._pulls if not each.answer.done())
        pull = Pull(limit, max_bytes)
        self._pulls.append(pull)
        self.wake()
        pull.timer = after(self._clock, timeout, pull.end)
        return pull

    def ack(self, sequence: int) -> None:
        """Settled: done, or never to be tried again."""
        if self._lending.settle(sequence):
            self._settled(sequence)
            self._freed()

    def nak(self, sequence: int, delay: float) -> None:
        """Hand it out again after the delay."""
        if self._lending.give_back(sequence, self._clock.now(), delay):
            self._alarm.set(self._lending.next_due)
            self.wake()

    def take_back(self, sequence: int) -> None:
        """It was handed out but never reached a caller."""
        if self._lending.acks:
            self.nak(sequence, 0)
        else:
            self._lending.take_back(sequence)
            self.wake()

    def extend(self, sequence: int) -> None:
        """Its ack wait starts anew."""
        if self._lending.extend(sequence, self._clock.now()):
            self._alarm.set(self._lending.next_due)

    def wake(self) -> None:
        """Serve the waiting pulls on the loop's next turn, however often it is called in this one."""
        while self._pulls and self._pulls[0].answer.done():
            self._pulls.popleft()
        if self._pulls and not self._serving:
            self._serving = True
            self._pulls[0].answer.get_loop().call_soon(self._serve)

    # Its life.

    def pause(self) -> None:
        """Nobody is connected: no timers."""
        self._alarm.cancel()
        self._idle.cancel()
        self._release.cancel()
        if self._replay is not None:
            self._replay.pause()

    def resume(self) -> None:
        """Set the timers that are needed; none once it has ended."""
        if self._ended:
            return
        self._alarm.set(self._lending.next_due)
        if self._held_until is not None and self._held:
            self.hold(self._held_until)
        if not self._sources and self.options.threshold is not None:
            self._idle.set(self._clock.now() + self.options.threshold)

    def end(self, error: Callable[[], Exception]) -> None:
        """It is deleted: whoever waits is told at once."""
        self._ended = True
        self.pause()
        for pull in self._pulls:
            pull.fail(error())
        self._pulls.clear()

    def _freed(self) -> None:
        if not self._lending.ack_pending:
            self._alarm.cancel()
        self.wake()

    def _ring(self) -> None:
        if self._lending.expire(self._clock.now()):
            self.wake()
        self._alarm.set(self._lending.next_due)

    def _serve(self) -> None:
        """Deal out what there is, one message to each pull in line at a time; answer those that got something."""
        self._serving = False
        if self._held:
            return
        now = self._clock.now()
        self._lending.expire(now)
        served: list[Pull] = []
        while self._pulls:
            if self._pulls[0].answer.done():
                self._pulls.popleft()
                continue
            if self._filled(self._pulls[0]):
                self._pulls.popleft()
                continue
            if self._replay is not None and self._too_early(self._replay, now):
                break
            lent = self._lending.lend(now)
            if lent is None:
                break
            self._hand_out(lent, served)
        for pull in served:
            pull.end()
        self._alarm.set(self._lending.next_due)

    def _too_early(self, replay: Replay, now: float) -> bool:
        """Whether the next new message is not due yet at the pace at which messages were stored."""
        sequence, again = self._lending.upcoming
        message = self._log.get(sequence) if sequence is not None and not again else None
        return message is not None and not replay.due(message.timestamp_ns, now)

    def _filled(self, pull: Pull) -> bool:
        """Whether the next message does not fit into the bytes it has left; alone it always does."""
        if pull.bytes_left is None or not pull.gathered:
            return False
        sequence, _ = self._lending.upcoming
        message = self._log.get(sequence) if sequence is not None else None
        return message is not None and len(self._content(message)[0]) > pull.bytes_left

    def _content(self, message: Stored) -> tuple[bytes, Headers | None]:
        """Body and headers as they are delivered."""
        if not self.options.headers_only:
            return message.data, message.headers
        size = (LEFT_OUT, str(len(message.data)))
        return b"", Headers((*(message.headers.pairs if message.headers is not None else ()), size))

    def _hand_out(self, lent: Lent, served: list[Pull]) -> None:
        message = self._log.get(lent.sequence)
        assert message is not None, "what is lent is stored"
        pull, place = self._pulls.popleft(), place_of(message.subject)
        room = pull.add(
            Delivery(
                place.subject,
                *self._content(message),
                self.stream,
                self.name,
                lent.sequence,
                lent.attempt,
                message.timestamp_ns,
                lent.pending,
                lent.sequence,
                lent.number,
                place.key,
                place.again,
            )
        )
        if len(pull.gathered) == 1:
            served.append(pull)
        if room:
            self._pulls.append(pull)
        if not self._lending.acks:
            self._settled(lent.sequence)


def _everything(_subject: str) -> bool:
    return True
