"""``StatePublisher`` and ``StateReader`` when something goes wrong: no connection, no permission, the end."""

import asyncio
import logging
from contextlib import suppress
from types import SimpleNamespace
from uuid import uuid4

import pytest
import pytest_asyncio

from broker import (
    Broker,
    BrokerClosed,
    JsonCodec,
    PayloadTooLarge,
    PermissionDenied,
    RequestTimeout,
    StatePublisher,
    Unauthorized,
    Unsupported,
)
from broker.contracts.errors import ApiError, ConnectionLost, NoResponders
from broker.contracts.status import Stats
from broker.state import asking, publisher
from broker.state.asking import Asking
from broker.testing.waiting import eventually, never

ROOM = "battle.42.state"


@pytest_asyncio.fixture
async def sb():
    async with Broker.connect(f"memory://{uuid4().hex}") as connected:
        yield connected


class Door:
    """Subscribes when the time has come."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.knocks = 0
        self.left = 0

    async def __call__(self, subject, handler):
        assert subject == f"{ROOM}.snapshot"
        self.knocks += 1
        self.handler = handler
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, asyncio.Event):
            await outcome.wait()
        elif outcome is not None:
            raise outcome
        return self

    async def unsubscribe(self):
        self.left += 1


class Wire:
    """A backend that keeps what is sent, and refuses what is too long."""

    def __init__(self, limit=1 << 20):
        self.stats = Stats()
        self.sent = []
        self.limit = limit

    def publish(self, subject, data, headers, reply_to=None):
        assert (headers, reply_to) == (None, None)
        if len(data) > self.limit:
            raise PayloadTooLarge(size=len(data), limit=self.limit, subject=subject)
        self.sent.append((subject, data))


def a_room(door, wire=None, forgotten=None):
    return StatePublisher(
        ROOM, keyframe_every=30, epoch=5, keep_events=30, backend=wire or Wire(), codec=JsonCodec(), listen=door,
        forget=(forgotten if forgotten is not None else []).append,
    )  # fmt: skip


def question(data=b"", reply_to="inbox"):
    return SimpleNamespace(data=data, reply_to=reply_to)


class TestPublisher:
    async def test_it_listens_as_soon_as_there_is_a_connection(self, monkeypatch):
        monkeypatch.setattr(publisher, "_PAUSE", 0.001)
        door, wire = Door(ConnectionLost(), ConnectionLost()), Wire()
        async with a_room(door, wire) as room:
            room.tick({})
            await eventually(lambda: door.knocks == 3)
            assert len(wire.sent) == wire.stats.published == 1
        assert door.left == 1

    @pytest.mark.parametrize("error", [RequestTimeout(), ConnectionLost(), ApiError("busy", code=503, err_code=0)])
    async def test_it_does_not_give_up_listening_because_a_server_is_slow(self, monkeypatch, error):
        monkeypatch.setattr(publisher, "_PAUSE", 0.001)
        door, wire = Door(*[error] * 20), Wire()
        async with a_room(door, wire):
            await eventually(lambda: door.knocks == 21)
            door.handler(question())
            assert wire.sent == [("inbox", b"[]")]
        assert door.left == 1

    @pytest.mark.parametrize("error", [BrokerClosed(), Unauthorized()])
    async def test_it_stops_knocking_where_nobody_will_ever_let_it_in(self, monkeypatch, error):
        monkeypatch.setattr(publisher, "_PAUSE", 0.001)
        door = Door(*[error] * 2)
        async with a_room(door) as room:
            await eventually(room._opening.done)
            assert door.knocks == 1

    async def test_without_permission_it_says_so_once_and_ticks_on(self, caplog):
        door, wire = Door(PermissionDenied(subject="x", verb="subscribe")), Wire()
        with caplog.at_level(logging.WARNING, "broker.state"):
            async with a_room(door, wire) as room:
                await eventually(lambda: caplog.records)
                room.tick({})
        assert (len(caplog.records), door.knocks, len(wire.sent)) == (1, 1, 1)

    async def test_closed_while_it_waits_for_a_connection(self):
        door, forgotten = Door(asyncio.Event()), []
        room = a_room(door, forgotten=forgotten)
        await eventually(lambda: door.knocks)
        async with asyncio.timeout(5):
            await room.aclose()
            await room.drain(1.0)
        assert forgotten[0] is room
        assert door.left == 0

    async def test_a_cancelled_close_still_ends_it(self):
        gate = asyncio.Event()
        door = Door(gate)
        room = a_room(door)
        await eventually(lambda: door.knocks)
        closing = asyncio.create_task(room.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with suppress(asyncio.CancelledError):
            await closing
        await eventually(room._opening.done)

    async def test_a_snapshot_that_does_not_fit_says_wait(self):
        door, wire = Door(), Wire(limit=500)
        async with a_room(door, wire) as room:
            await eventually(lambda: door.knocks)
            room.tick({"ann": {"text": "a" * 300}})
            room.tick({"ann": {"text": "b" * 300}})
            door.handler(question())
            assert wire.sent[-1] == ("inbox", b"[]")
            room._composer._key_time -= 60
            room.tick({"ann": {"text": "c" * 300}})
            door.handler(question())
            assert wire.sent[-1][1] == b"[" + wire.sent[-2][1] + b"]"

    async def test_a_delta_that_does_not_fit_goes_out_as_a_key_frame(self):
        door, wire = Door(), Wire(limit=500)
        async with a_room(door, wire) as room:
            room.tick({f"old{number:02}": {"x": 1} for number in range(20)}, ["early"])
            state = {f"new{number:02}": {"x": 1} for number in range(20)}
            room.tick(state, (event for event in ["late"]))
            room.tick(state)
            frames = [JsonCodec().loads(data) for _, data in wire.sent]
            assert [(frame[1], frame[4], frame[6]) for frame in frames] == [("K", 1, 1), ("K", 2, 2), ("D", 3, 2)]
            assert (frames[1][-1], frames[1][-2]) == (state, [[1, "early"], [2, "late"]])
            assert frames[2][-1] == [{}, {}, [], {}]
            assert (room.seq, wire.stats.published) == (3, 3)

    async def test_a_key_frame_that_does_not_fit_is_refused_until_it_does(self):
        door, wire = Door(), Wire(limit=300)
        async with a_room(door, wire) as room:
            room.tick({"ann": {"x": 1}})
            for _ in range(3):
                with pytest.raises(PayloadTooLarge):
                    room.tick({"ann": {"x": "x" * 400}}, ["kill"])
            assert (room.seq, wire.stats.published) == (1, 1)
            room.tick({"ann": {"x": 2}})
            frame = JsonCodec().loads(wire.sent[-1][1])
            assert (frame[1], frame[4], frame[-2:]) == ("D", 2, [[], [{}, {"ann": {"x": 2}}, [], {}]])

    async def test_events_that_rode_before_make_room_for_a_key_frame(self):
        door, wire = Door(), Wire(limit=500)
        state = {"ann": {"x": "x" * 250}}
        async with StatePublisher(
            ROOM, keyframe_every=3, epoch=5, keep_events=30, backend=wire, codec=JsonCodec(), listen=door,
            forget=[].append,
        ) as room:  # fmt: skip
            room.tick(state)
            room.tick(state, ["e" * 250])
            room.tick(state)
            room.tick(state, ["fresh"])
            frame = JsonCodec().loads(wire.sent[-1][1])
            assert (frame[1], frame[4], frame[8:]) == ("K", 4, [2, [[4, "fresh"]], state])

    @pytest.mark.parametrize(
        ("asked", "answered"),
        [(b"", 1), (b"[1,5]", 1), (b"[1,6]", 0), (b"[1]", 1), (b"[1,null]", 1), (b"\xff", 1), (b'{"epoch":6}', 1)],
    )
    async def test_it_answers_all_but_who_knows_of_a_later_owner(self, asked, answered):
        door, wire = Door(), Wire()
        async with a_room(door, wire):
            await eventually(lambda: door.knocks)
            door.handler(question(asked))
            door.handler(question(asked, reply_to=None))
        assert len(wire.sent) == answered

    async def test_a_later_publisher_has_a_higher_number_also_within_one_microsecond(self, monkeypatch):
        monkeypatch.setattr(publisher.time, "time_ns", lambda: 5_000)
        numbers = [publisher.Boots.next() for _ in range(3)]
        assert numbers == sorted(set(numbers))


class Rooms:
    """A backend that answers questions as told."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.questions = []
        self.most = self.now = 0
        self.gate = None

    async def request(self, subject, data, headers, *, timeout):
        assert headers is None
        assert timeout > 0
        self.questions.append((subject, data))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if self.gate is not None:
                await self.gate.wait()
            answer = self.answers.pop(0) if self.answers else NoResponders()
        finally:
            self.now -= 1
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(data=answer, headers=None)


class TestAsking:
    @pytest.fixture
    def taken(self):
        return []

    @pytest.fixture(autouse=True)
    def brisk(self, monkeypatch):
        monkeypatch.setattr(asking, "PAUSE", 0.001)

    def asker(self, rooms, taken, *, needed=False):
        return Asking(
            rooms, JsonCodec(), needed=lambda _: needed, take=lambda subject, frames: taken.append((subject, frames))
        )

    async def test_no_answer_is_no_reason_to_give_up(self, taken):
        rooms = Rooms(RequestTimeout(), ConnectionLost(), b"[]")
        asks = self.asker(rooms, taken)
        asks.want("a", 7)
        await eventually(lambda: taken == [("a", [])])
        assert rooms.questions == [("a.snapshot", b"[1,7]")] * 3
        assert (asks.asked, asks.unanswered) == (3, 2)

    async def test_nobody_there_is_asked_once_unless_frames_say_otherwise(self, taken):
        rooms = Rooms()
        asks = self.asker(rooms, taken)
        asks.want("a", 0)
        await eventually(lambda: asks.unanswered == 1 and not asks._running)
        assert asks.asked == 1

    async def test_it_gives_up_after_some_questions_and_can_be_told_to_ask_again(self, taken):
        rooms = Rooms()
        asks = self.asker(rooms, taken, needed=True)
        for round_ in (1, 2):
            asks.want("a", 0)
            await eventually(lambda: not asks._running)
            assert asks.asked == 5 * round_

    async def test_one_question_per_room_and_so_many_at_once(self, taken):
        rooms = Rooms()
        rooms.gate = asyncio.Event()
        asks = self.asker(rooms, taken)
        for _ in range(2):
            for number in range(100):
                asks.want(f"battle.{number}", 0)
            await asyncio.sleep(0)
        await eventually(lambda: rooms.now == 64)
        await never(lambda: rooms.most > 64, during=0.05)
        rooms.gate.set()
        await eventually(lambda: not asks._running)
        assert len(set(rooms.questions)) == len(rooms.questions) == 64

    async def test_a_room_that_is_being_asked_is_not_asked_again(self, taken):
        rooms = Rooms(b"[]")
        rooms.gate = asyncio.Event()
        asks = self.asker(rooms, taken)
        for _ in range(3):
            asks.want("a", 0)
        await eventually(lambda: rooms.now)
        asks.want("a", 0)
        rooms.gate.set()
        await eventually(lambda: not asks._running)
        assert (asks.asked, len(rooms.questions), len(taken)) == (1, 1, 1)

    async def test_a_need_that_arises_as_the_last_question_ends_is_not_missed(self, taken):
        loop, rooms = asyncio.get_running_loop(), Rooms(b"[]", b"[]")

        def needed(subject):
            if len(rooms.questions) == 1:
                loop.call_soon(asks.want, subject, 0)
            return False

        asks = Asking(rooms, JsonCodec(), needed=needed, take=lambda subject, _: taken.append(subject))
        asks.want("a", 0)
        await eventually(lambda: taken == ["a", "a"])
        await asks.stop()

    async def test_forbidden_is_said_once_and_not_tried_again(self, taken, caplog):
        asks = self.asker(Rooms(PermissionDenied(subject="a", verb="publish")), taken, needed=True)
        with caplog.at_level(logging.WARNING, "broker.state"):
            for _ in range(2):
                asks.want("a", 0)
                await eventually(lambda: not asks._running)
        assert (asks.asked, len(caplog.records)) == (1, 1)
        asks.want("b", 0)
        await eventually(lambda: asks.asked > 1)
        await asks.stop()

    @pytest.mark.parametrize("answer", [b"\xff", b"{}", b"[1]"])
    async def test_an_answer_that_is_none_is_counted(self, taken, answer):
        asks = self.asker(Rooms(answer), taken)
        asks.want("a", 0)
        await eventually(lambda: asks.unanswered == 1 and not asks._running)
        assert not taken

    async def test_stopping_ends_every_question(self, taken):
        rooms = Rooms()
        rooms.gate = asyncio.Event()
        asks = self.asker(rooms, taken)
        asks.want("a", 0)
        asks.want("b", 0)
        await eventually(lambda: rooms.now == 2)
        asks.forget("a")
        await eventually(lambda: rooms.now == 1)
        async with asyncio.timeout(5):
            await asks.stop()
        asks.want("c", 0)
        assert (rooms.now, asks._running) == (0, {})


class TestReader:
    async def test_it_is_entered_once(self, sb):
        async with sb.watch_state(ROOM) as reader:
            with pytest.raises(Unsupported):
                await reader.__aenter__()
        with pytest.raises(Unsupported):
            await reader.__aenter__()
        assert not sb._roster.drainables

    async def test_what_cannot_be_entered_leaves_nothing_behind(self, sb):
        reader = sb.watch_state(ROOM)
        await sb._backend.close()
        with pytest.raises(Exception, match="closed"):
            await reader.__aenter__()
        assert not sb._roster.drainables
        assert not sb._backend.board._callbacks

    async def test_garbage_is_logged_once_per_room(self, sb, caplog):
        with caplog.at_level(logging.WARNING, "broker.state"):
            async with sb.watch_state("battle.*.state") as reader:
                for _ in range(3):
                    for number in range(2):
                        await sb.publish(f"battle.{number}.state", b"garbage")
                await eventually(lambda: reader.stats.malformed == 6)
                assert not reader.rooms
        assert [record.args[0] for record in caplog.records] == ["battle.0.state", "battle.1.state"]

    async def test_one_room_does_not_starve_another(self, sb):
        async with sb.watch_state("battle.*.state") as reader:
            busy, calm = sb.state("battle.1.state"), sb.state("battle.2.state")
            busy.tick({})
            calm.tick({})
            for _ in range(5):
                busy.tick({})
            await eventually(lambda: reader.stats.received == 7)
            assert [(await anext(reader)).subject for _ in range(2)] == [busy.subject, calm.subject]
            busy.tick({})
            assert (await anext(reader)).seq == 7

    async def test_publishers_and_readers_leave_the_roster(self, sb):
        async with sb.state(ROOM) as room, sb.watch_state(ROOM) as reader:
            assert sb._roster.drainables == {room, reader}
            await eventually(lambda: len(sb._roster.subscriptions) == 2)
        assert not sb._roster.drainables
        assert not sb._roster.subscriptions

    async def test_a_broker_that_closes_takes_them_along(self, sb):
        room, reader = sb.state(ROOM), await sb.watch_state(ROOM).__aenter__()
        room.tick({})
        await sb.aclose()
        assert not sb._roster.drainables
        assert [update.seq async for update in reader] in ([1], [])


async def test_a_reader_that_was_never_entered_says_so():
    async with Broker.connect("memory://") as broker:
        with pytest.raises(Unsupported, match="was not entered"):
            await anext(broker.watch_state("battle.1.state"))
