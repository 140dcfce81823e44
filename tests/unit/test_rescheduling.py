"""Two consumers as one source, and what a copy is named and says."""

import asyncio
from contextlib import suppress

import pytest

from broker.contracts.backend import DeliverySource
from broker.contracts.envelopes import Delivery
from broker.contracts.errors import BrokerClosed, ConnectionLost, ConsumerNotFound, RequestTimeout, StreamNotFound
from broker.contracts.headers import Headers
from broker.rescheduling.copies import as_first_stored, consumer_name, due_pattern, waiting_record
from broker.rescheduling.source import ReturningSource
from broker.testing.waiting import eventually, never


def a_delivery(sequence=1, subject="mail.ann", **fields):
    given = {"attempt": 1, "timestamp_ns": 7, "pending": 0, "token": sequence, **fields}
    return Delivery(
        subject, b"body", given.pop("headers", None), given.pop("stream", "MAIL"), "mailer", sequence, **given
    )


class Scripted(DeliverySource):
    """Gives what it is told to, and notes what happens to it."""

    stream, consumer, resume_sequence = "MAIL", "mailer", 5

    def __init__(self):
        self.asked = []
        self.told = []
        self.closed = False
        self._next = asyncio.Queue()

    def gives(self, *what):
        self._next.put_nowait(what)

    async def fetch(self, limit, *, timeout, max_bytes=None):
        self.asked.append((limit, max_bytes))
        what = ()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                what = await self._next.get()
        if what and isinstance(what[0], Exception):
            raise what[0]
        return what

    def _note(self, verb, deliveries):
        self.told.append((verb, [each.token for each in deliveries]))

    async def ack(self, deliveries):
        self._note("ack", deliveries)

    async def confirm_ack(self, delivery, **_):
        self._note("confirm", [delivery])

    async def nak(self, delivery, **_):
        self._note("nak", [delivery])

    async def term(self, delivery, **_):
        self._note("term", [delivery])

    async def extend(self, deliveries):
        self._note("extend", deliveries)

    async def close(self):
        self.closed = True


def a_copy(sequence, attempts=1):
    record = waiting_record(a_delivery(sequence, attempt=attempts), 1.0, "id")
    return a_delivery(sequence + 100, subject=record.schedule.target, headers=record.headers, stream="GAMEBROKER_LATER")


@pytest.fixture
async def both():
    first, later = Scripted(), Scripted()
    source = ReturningSource(first, later, ack_wait=0.3)
    yield source, first, later
    await source.close()


async def test_what_comes_back_cuts_a_wait_short_and_goes_first(both):
    source, first, later = both
    fetching = asyncio.create_task(source.fetch(8, timeout=30, max_bytes=99))
    await eventually(lambda: later.asked)
    assert (first.asked, later.asked) == ([(8, 99)], [(8, 99)])
    later.gives(a_copy(1), a_copy(2, attempts=3))
    back = await asyncio.wait_for(fetching, 5)
    assert [(each.sequence, each.attempt, each.subject, each.again) for each in back] == [
        (1, 2, "mail.ann", True),
        (2, 4, "mail.ann", True),
    ]
    first.gives(a_delivery(3))  # was not lost by the wait that was cut short
    assert [each.sequence for each in await source.fetch(8, timeout=5)] == [3]


async def test_what_there_is_no_room_for_is_kept_and_extended(both):
    source, first, later = both
    first.gives(a_delivery(1))
    later.gives(a_copy(2), a_copy(3), a_copy(4))
    assert len(await source.fetch(8, timeout=5)) == 1
    await eventually(lambda: ("extend", [102, 103, 104]) in later.told)
    assert [each.sequence for each in await source.fetch(2, timeout=5)] == [2, 3]
    await eventually(lambda: ("extend", [104]) in later.told)
    asked = len(later.asked)
    assert [each.sequence for each in await source.fetch(2, timeout=5)] == [4]
    await never(lambda: len(later.asked) > asked, during=0.1)  # nobody waits for anything
    assert not await source.fetch(2, timeout=0.05)
    assert len(later.asked) > asked


async def test_no_more_is_asked_for_than_there_is_room_and_only_a_few(both):
    source, _first, later = both
    for room in (3, 500):
        fetching = asyncio.create_task(source.fetch(room, timeout=30))
        await eventually(lambda: later.asked)
        assert later.asked == [(min(room, 8), None)]
        later.gives(a_copy(room))
        assert len(await asyncio.wait_for(fetching, 5)) == 1
        later.asked.clear()


async def test_each_is_settled_where_it_came_from(both):
    source, first, later = both
    own, back = a_delivery(1), as_first_stored(a_copy(2), "MAIL", "mailer")
    await source.ack([own, back])
    await source.extend([back, own])
    await source.ack([own])
    for each in (own, back):
        await source.nak(each, delay=0.0)
        await source.term(each, reason="")
        await source.confirm_ack(each, timeout=1.0)
    verbs = ["ack", "extend", "nak", "term", "confirm"]
    assert [verb for verb, _ in later.told] == verbs
    assert [verb for verb, _ in first.told] == ["ack", "extend", "ack", "nak", "term", "confirm"]
    assert {tuple(tokens) for _, tokens in first.told} == {(1,)}
    assert {tuple(tokens) for _, tokens in later.told} == {(102,)}
    assert source.resume_sequence == 5


@pytest.mark.parametrize(
    ("raised", "error"),
    [(ConsumerNotFound("gone"), ConsumerNotFound), (StreamNotFound("gone"), ConsumerNotFound), (OSError(), OSError)],
)
async def test_what_goes_wrong_with_what_comes_back_is_told(both, raised, error):
    source, _first, later = both
    later.gives(raised)
    for _ in range(2):
        with pytest.raises(error):
            await source.fetch(8, timeout=5)


async def test_a_lost_connection_is_waited_out(both):
    source, _first, later = both
    later.gives(ConnectionLost("away"))
    later.gives(a_copy(1))
    assert [each.sequence for each in await source.fetch(8, timeout=5)] == [1]


@pytest.mark.parametrize("error", [RequestTimeout("late"), ConsumerNotFound("gone"), BrokerClosed("closed")])
async def test_errors_of_its_own_consumer_come_through(both, error):
    source, first, _later = both
    first.gives(error)
    with pytest.raises(type(error)):
        await source.fetch(8, timeout=5)


async def test_a_cancelled_fetch_is_cancelled(both):
    source, _first, later = both
    fetching = asyncio.create_task(source.fetch(8, timeout=30))
    await eventually(lambda: later.asked)
    later.gives(a_copy(1))
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert [each.sequence for each in await source.fetch(8, timeout=5)] == [1]


async def test_closing_gives_back_what_nobody_took():
    first, later = Scripted(), Scripted()
    source = ReturningSource(first, later, ack_wait=30.0)
    first.gives(a_delivery(1))
    later.gives(a_copy(2), a_copy(3))
    await asyncio.sleep(0)  # it begins to listen
    await source.fetch(8, timeout=5)
    await eventually(lambda: len(source._back) == 2)
    await asyncio.gather(source.close(), source.close())
    assert first.closed
    assert later.closed
    assert later.told == [("nak", [102]), ("nak", [103])]


def test_what_somebody_else_wrote_there_comes_as_it_is():
    stranger = a_delivery(9, subject="gamebroker.later.due.MAIL.mailer.x", headers=Headers([("X", "y")]))
    seen = as_first_stored(stranger, "MAIL", "mailer")
    assert (seen.subject, seen.sequence, seen.attempt, seen.again) == (stranger.subject, 9, 1, True)


def test_a_copy_of_a_copy_says_everything_once():
    first = a_delivery(1, headers=Headers([("X", "y"), ("Nats-Msg-Id", "old"), ("Gamebroker-Key", "k")]))
    again = as_first_stored(
        a_delivery(7, headers=waiting_record(first, 1.0, "id").headers, attempt=2), "MAIL", "mailer"
    )
    record = waiting_record(again, 1.0, "id")
    names = [name for name, _ in record.headers.pairs]
    assert len(names) == len(set(names))
    assert names[:2] == ["X", "Gamebroker-Key"]
    assert again.attempt == 3
    assert record.subject == "gamebroker.later.waiting.MAIL.mailer.1.7"
    assert record.schedule.target == "gamebroker.later.due.MAIL.mailer.1.7"


def test_names_too_long_are_shortened_alike():
    stream, consumer = "s" * 200, "c" * 200
    assert len(consumer_name(stream, consumer)) == 32
    assert consumer_name("MAIL", "mailer") == "MAIL--mailer"
    alike = [("a--b", "c"), ("a", "b--c"), ("a-", "b"), ("a", "-b")]
    assert len({consumer_name(*each) for each in alike}) == len(alike)
    assert len(due_pattern(stream, consumer)) < 100
