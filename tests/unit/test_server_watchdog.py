"""The watchdog's own rules, with a server that does as it is told."""

import asyncio

import pytest

from broker.server import CrashLoop, ServerError, Watchdog
from broker.server.config import Settings
from broker.server.watchdog import Guard
from broker.testing.waiting import eventually


class Puppet:
    """A server of which a test says how it is."""

    def __init__(self, store):
        self.settings = Settings(port=4222)
        self.store_dir = store
        self.obituary = "It ended by SIGKILL.\nThe end of its log:\nno room"
        self.running = True
        self.trouble = None
        self.slow = 0.0
        self.asked = 0
        self.revived = []
        self.fails = []

    async def answers(self):
        self.asked += 1
        if isinstance(self.trouble, Exception):
            raise self.trouble
        trouble = self.trouble
        await asyncio.sleep(self.slow if trouble else 0)
        return trouble or ""

    async def revive(self, timeout):
        self.revived.append(timeout)
        if self.fails:
            raise self.fails.pop(0)
        self.running = True


@pytest.fixture
def server(tmp_path):
    return Puppet(tmp_path)


@pytest.fixture
def told():
    return []


@pytest.fixture
async def watch(server, told):
    guards = []

    def begin(**options):
        guards.append(Guard(server, Watchdog(min_free=0, tell=told.append, **options)))
        return guards[-1]

    yield begin
    for guard in guards:
        await guard.end()


def kinds(told):
    return [event.kind.value for event in told]


@pytest.mark.parametrize("trouble", [ServerError("-ERR"), ValueError("'maximum connections exceeded'")])
async def test_one_that_says_no_is_not_silent(server, told, watch, trouble):
    server.trouble = trouble
    guard = watch(patience=0.5)
    await eventually(lambda: server.asked > 6)
    assert told == []
    assert guard.on_duty


async def test_one_question_that_is_not_answered_is_nobodys_fault(server, told, watch):
    server.slow, server.trouble = 0.6, "no answer"
    watch(patience=0.5)
    await eventually(lambda: server.asked == 1)
    await asyncio.sleep(0)
    server.trouble = None
    await eventually(lambda: server.asked > 3)
    assert told == []


@pytest.mark.parametrize("trouble", [ServerError("not ready"), OSError("too many open files")])
async def test_a_start_that_fails_is_tried_again(server, told, watch, trouble):
    server.fails = [trouble]
    guard = watch()
    server.running = False
    await eventually(lambda: server.running)
    await eventually(lambda: kinds(told) == ["died", "restarted"])
    assert (len(server.revived), guard.restarts) == (2, 1)


async def test_a_bound_of_zero_only_tells(server, told, watch):
    guard = watch(restarts=0)
    server.running = False
    await eventually(lambda: not guard.on_duty)
    assert kinds(told) == ["died", "gave_up"]
    assert server.revived == []
    assert isinstance(guard.failure, CrashLoop)
    assert "ended once and is not started again" in str(guard.failure)
    assert str(guard.failure).endswith("no room")


async def test_ending_it_while_it_waits_before_a_restart(server, watch):
    server.fails = [ServerError("not ready")] * 100
    guard = watch(restarts=100)
    server.running = False
    await eventually(lambda: len(server.revived) >= 2)
    assert guard.reviving
    await guard.end()
    await guard.end()
    assert not guard.on_duty
    assert not guard.reviving
    assert guard.failure is None


def test_ending_it_from_another_event_loop(server):
    async def begin():
        return Guard(server, Watchdog(min_free=0))

    with asyncio.Runner() as first:
        guard = first.run(begin())
        assert guard.on_duty
        asyncio.run(guard.end())
        first.run(eventually(lambda: not guard.on_duty))


def test_a_loop_that_has_ended_takes_it_along(server):
    async def begin():
        return Guard(server, Watchdog(min_free=0))

    guard = asyncio.run(begin())
    assert not guard.on_duty
    asyncio.run(guard.end())
