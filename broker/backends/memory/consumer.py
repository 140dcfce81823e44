"""A consumer of a memory stream: the lending rules, the pulls that wait for it, and its alarm."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from broker.backends.memory.clock import Alarm, Cancellable, Clock, after
from broker.backends.memory.lending import Lending, Lent, Shelf, Start
from broker.contracts.admin import ConsumerInfo
from broker.contracts.envelopes import Delivery
from broker.contracts.lanes import place_of
from broker.contracts.subjects import matches

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.backends.memory.log import StreamLog
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


class Pull:
    """A fetch that waits: answered once, with at least one delivery or, when its time is over, none."""

    __slots__ = ("answer", "gathered", "limit", "timer")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.gathered: list[Delivery] = []
        self.answer: asyncio.Future[list[Delivery]] = asyncio.get_running_loop().create_future()
        self.timer: Cancellable | None = None

    def end(self) -> None:
        """Answer with what was gathered."""
        if not self.answer.done():
            self.answer.set_result(self.gathered)
        self.stop_timer()

    def fail(self, error: Exception) -> None:
        """Answer with an error."""
        if not self.answer.done():
            self.answer.set_exception(error)
        self.stop_timer()

    def stop_timer(self) -> None:
        """It is answered or nobody waits for it any more."""
        if self.timer is not None:
            self.timer.cancel()


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
        self._sources = 0
        self._ended = False
        self._created = datetime.fromtimestamp(clock.wall_ns() / 1e9, UTC)

    @property
    def unnamed(self) -> bool:
        """Whether only the source that made it knows it."""
        return self.options.durable is None and self.options.queue is None

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
        )

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

    def pull(self, limit: int, timeout: float) -> Pull:
        """Wait in line for up to ``limit`` deliveries."""
        self._pulls = deque(each for each in self._pulls if not each.answer.done())
        pull = Pull(limit)
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

    def resume(self) -> None:
        """Set the timers that are needed; none once it has ended."""
        if self._ended:
            return
        self._alarm.set(self._lending.next_due)
        if not self._sources and self.unnamed:
            self._idle.set(self._clock.now() + self.options.inactive_threshold)

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
        now = self._clock.now()
        self._lending.expire(now)
        served: list[Pull] = []
        while self._pulls:
            if self._pulls[0].answer.done():
                self._pulls.popleft()
                continue
            lent = self._lending.lend(now)
            if lent is None:
                break
            self._hand_out(lent, served)
        for pull in served:
            pull.end()
        self._alarm.set(self._lending.next_due)

    def _hand_out(self, lent: Lent, served: list[Pull]) -> None:
        message = self._log.get(lent.sequence)
        assert message is not None, "what is lent is stored"
        pull, place = self._pulls.popleft(), place_of(message.subject)
        pull.gathered.append(
            Delivery(
                place.subject,
                message.data,
                message.headers,
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
        if len(pull.gathered) < pull.limit:
            self._pulls.append(pull)
        if not self._lending.acks:
            self._settled(lent.sequence)


def _everything(_subject: str) -> bool:
    return True
