"""One subscriber sleeps. It wakes to the newest frame, and the others have not noticed."""

import asyncio
import math
from time import perf_counter

import pytest

pytestmark = [pytest.mark.nats, pytest.mark.fault]

HZ = 30
ASLEEP = 5.0


class Match:
    """A frame per tick; each says which tick it is of and when it was published."""

    def __init__(self, broker):
        self._broker = broker
        self.tick = 0

    async def run(self):
        due = perf_counter()
        while True:
            due += 1 / HZ
            await asyncio.sleep(max(0.0, due - perf_counter()))
            self.tick += 1
            self._broker.publish_nowait("battle.1.state", b"%d %f" % (self.tick, perf_counter()))


class Sleeper:
    """Takes one nap of ``ASLEEP`` seconds in the middle of a frame."""

    def __init__(self, match):
        self._match = match
        self.nap = asyncio.Event()
        self.awake = asyncio.Event()
        self.ages = []

    async def hear(self, msg):
        tick = int(msg.data.split()[0])
        if self.awake.is_set():
            self.ages.append(self._match.tick - tick)
        elif self.nap.is_set():
            await asyncio.sleep(ASLEEP)
            self.awake.set()


class Watcher:
    """Notes how long each frame took."""

    def __init__(self):
        self.delays = []

    def hear(self, msg):
        self.delays.append(perf_counter() - float(msg.data.split()[1]))

    def p99(self):
        delays, self.delays = sorted(self.delays), []
        return delays[math.ceil(0.99 * len(delays)) - 1]


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_it_sees_the_newest_frame_next_and_the_others_feel_nothing(connect):
    async with connect() as room, connect() as drowsy, connect() as wakeful:
        match, watchers = Match(room), [Watcher() for _ in range(3)]
        sleeper = Sleeper(match)
        await drowsy.subscribe("battle.*.state", sleeper.hear, overflow="latest")
        # One shares the sleeper's connection, the others have their own.
        for broker, watcher in zip((drowsy, wakeful, wakeful), watchers, strict=True):
            await broker.subscribe("battle.*.state", watcher.hear)
        running = asyncio.create_task(match.run())
        await asyncio.sleep(2)
        before = [each.p99() for each in watchers]
        sleeper.nap.set()
        await asyncio.wait_for(sleeper.awake.wait(), 30)
        heard = [len(each.delays) for each in watchers]
        during = [each.p99() for each in watchers]
        await asyncio.sleep(0.5)
        running.cancel()
        await asyncio.wait({running})
        assert sleeper.ages[0] <= 2
        assert drowsy.stats.superseded > ASLEEP * HZ / 2
        assert drowsy.stats.dropped_inbound == 0
        assert min(heard) > ASLEEP * HZ / 2
        for was, became in zip(before, during, strict=True):
            assert became < max(10 * was, 0.1)
