"""Asking rooms for snapshots: how often, how many at once, and when to stop."""

import asyncio
import logging
from types import SimpleNamespace

import pytest

from broker import (
    JsonCodec,
    PermissionDenied,
    RequestTimeout,
)
from broker.contracts.errors import ConnectionLost, NoResponders
from broker.state import asking
from broker.state.asking import Asking
from broker.testing.waiting import eventually, never

ROOM = "battle.42.state"


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
