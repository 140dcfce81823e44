"""``StatePublisher`` when something goes wrong: no connection, no permission, too long a state, the end."""

import asyncio
import logging
from contextlib import suppress
from types import SimpleNamespace

import pytest

from broker import (
    BrokerClosed,
    JsonCodec,
    PayloadTooLarge,
    PermissionDenied,
    RequestTimeout,
    StatePublisher,
    Unauthorized,
)
from broker.contracts.errors import ApiError, ConnectionLost
from broker.contracts.status import Stats
from broker.state import publisher
from broker.testing.waiting import eventually

ROOM = "battle.42.state"


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
            assert len(wire.sent) == 1
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
            assert (room.seq, len(wire.sent)) == (3, 3)

    async def test_a_key_frame_that_does_not_fit_is_refused_until_it_does(self):
        door, wire = Door(), Wire(limit=300)
        async with a_room(door, wire) as room:
            room.tick({"ann": {"x": 1}})
            for _ in range(3):
                with pytest.raises(PayloadTooLarge):
                    room.tick({"ann": {"x": "x" * 400}}, ["kill"])
            assert (room.seq, len(wire.sent)) == (1, 1)
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
