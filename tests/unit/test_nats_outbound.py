"""The outbound buffer: order, bounds, drops; and the count of what pulls still owe."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.backends.nats.outbound import Outbound
from broker.backends.nats.pulls import Pulls
from broker.contracts.errors import ConnectionLost
from broker.contracts.status import Stats


class FakePipe:
    def __init__(self):
        self.data = b""
        self.writes = 0
        self.stuck = 0

    def write(self, data):
        self.data += data
        self.writes += 1

    def buffered(self):
        return self.stuck


@pytest.fixture
def pipe():
    return FakePipe()


def outbound(limit=1000):
    stats = Stats()
    return Outbound(limit, stats), stats


async def turn():
    await asyncio.sleep(0)
    await asyncio.sleep(0)


class TestOutbound:
    async def test_the_first_goes_at_once_the_rest_of_the_turn_together_in_order(self, pipe):
        out, _ = outbound()
        out.attach(pipe)
        out.put(b"1")
        assert pipe.data == b"1"
        out.put_stream(b"2")
        out.put(b"3")
        out.put(b"4")
        assert pipe.data == b"1"
        await turn()
        assert (pipe.data, pipe.writes) == (b"1234", 2)

    async def test_much_is_written_before_the_turn_ends(self, pipe):
        out, _ = outbound(10 << 20)
        out.attach(pipe)
        for _ in range(3):
            out.put(b"x" * 40_000)
        assert pipe.writes == 2

    async def test_a_turn_does_not_flood_the_transport(self, pipe):
        out, stats = outbound(4 << 20)
        out.attach(pipe)
        for _ in range(2000):
            out.put(b"x" * 1000)
        assert len(pipe.data) < 700_000
        assert stats.dropped_outbound == 0
        async with asyncio.timeout(2):
            await out.passed()
        assert len(pipe.data) == 2_000_000

    async def test_without_a_pipe_core_waits_and_stream_is_refused(self, pipe):
        out, _ = outbound()
        out.put(b"core")
        assert out.put_stream(b"stream") is False
        await turn()
        out.attach(pipe)
        assert pipe.data == b"core"

    async def test_stream_frames_are_forgotten_with_their_connection(self, pipe):
        out, stats = outbound()
        out.attach(pipe)
        out.put(b"a")
        out.put_stream(b"S")
        out.put(b"b")
        out.detach()
        out.attach(pipe)
        assert pipe.data == b"ab"
        assert stats.dropped_outbound == 0

    async def test_the_oldest_core_frames_go_first(self, pipe):
        out, stats = outbound(limit=100)
        for number in range(50):
            out.put(b"%010d" % number)
            assert out.held <= 100
        await turn()
        out.attach(pipe)
        kept = [int(pipe.data[at : at + 10]) for at in range(0, len(pipe.data), 10)]
        assert kept == list(range(50 - len(kept), 50))
        assert len(kept) + stats.dropped_outbound == 50
        assert len(kept) == 10

    async def test_a_stuck_socket_drops_core_and_keeps_stream(self, pipe):
        out, stats = outbound(limit=100)
        out.attach(pipe)
        pipe.stuck = 10 << 20
        for number in range(50):
            out.put(b"%010d" % number)
            assert out.put_stream(b"S" * 10)
            await turn()
        assert out.held <= 100
        pipe.stuck = 0
        async with asyncio.timeout(2):
            await out.passed()
        assert pipe.data.count(b"S") == 500
        assert stats.dropped_outbound == 50 - (len(pipe.data) - 500) // 10

    async def test_congestion_begins_at_half_and_ends_at_a_quarter(self, pipe):
        out, _ = outbound(limit=1000)
        out.attach(pipe)
        pipe.stuck = 10 << 20
        for _ in range(6):
            out.put(b"x" * 100)
            await turn()
        assert out.congested
        waiting = asyncio.ensure_future(out.writable())
        await turn()
        assert not waiting.done()
        pipe.stuck = 0
        async with asyncio.timeout(2):
            await waiting
        assert not out.congested

    async def test_a_burst_within_one_turn_is_no_lasting_congestion(self, pipe):
        out, stats = outbound(limit=1000)
        out.attach(pipe)
        async with asyncio.timeout(2):
            for number in range(500):
                out.put(b"%0400d" % number)
                if out.congested:
                    await out.writable()
            await out.passed()
        assert len(pipe.data) == 200_000
        assert stats.dropped_outbound == 0

    async def test_waiting_can_be_cancelled(self, pipe):
        out, _ = outbound(limit=100)
        out.put(b"x" * 90)
        for waiting in (asyncio.ensure_future(out.writable()), asyncio.ensure_future(out.passed())):
            await turn()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        out.attach(pipe)
        assert len(pipe.data) == 90

    async def test_who_waits_for_passing_is_told_of_the_break(self, pipe):
        out, _ = outbound()
        out.attach(pipe)
        pipe.stuck = 10 << 20
        out.put(b"x")
        waiting = asyncio.ensure_future(out.passed())
        await turn()
        out.detach()
        with pytest.raises(ConnectionLost):
            await waiting

    async def test_close_counts_what_is_thrown_away(self):
        out, stats = outbound(limit=100)
        out.put(b"x" * 90)
        waiting = asyncio.ensure_future(out.writable())
        await turn()
        out.close()
        await waiting
        assert stats.dropped_outbound == 1
        assert out.held == 0

    async def test_nothing_larger_than_the_limit_is_kept(self, pipe):
        out, stats = outbound(limit=10)
        out.put(b"x" * 100)
        await turn()
        out.attach(pipe)
        assert (pipe.data, stats.dropped_outbound) == (b"", 1)


class TestPulls:
    def test_messages_and_statuses_balance(self):
        pulls = Pulls()
        first, second = pulls.open(10, 100.0), pulls.open(5, 100.0)
        assert pulls.owed == 15
        for _ in range(8):
            pulls.delivered()
        pulls.over(first, 4)
        assert pulls.owed == 3
        pulls.over(second, 3)
        assert pulls.owed == 0

    def test_a_pull_nobody_took_gives_all_of_it_back(self):
        pulls = Pulls()
        pulls.over(pulls.open(10, 100.0), None)
        assert pulls.owed == 0

    def test_a_status_counts_once(self):
        pulls = Pulls()
        token = pulls.open(10, 100.0)
        pulls.open(10, 100.0)
        pulls.over(token, 10)
        pulls.over(token, 10)
        assert pulls.owed == 10

    def test_an_old_pull_cannot_owe_any_more(self):
        pulls = Pulls()
        pulls.open(10, 100.0)
        pulls.open(4, 200.0)
        assert pulls.overdue(150.0)
        assert pulls.owed == 4

    def test_a_pull_that_was_filled_is_over_and_nothing_is_missing(self):
        pulls = Pulls()
        pulls.open(1, 100.0)
        pulls.open(4, 200.0)
        pulls.delivered()
        assert not pulls.overdue(150.0)
        assert pulls.owed == 4

    @given(st.lists(st.integers(1, 50), min_size=1, max_size=10), st.data())
    def test_it_never_goes_wrong_by_order(self, counts, data):
        """However the server mixes messages and ends: nothing owed when all ended, never less than is still to come."""
        pulls = Pulls()
        left = {pulls.open(count, 100.0): count for count in counts}
        while left:
            token = data.draw(st.sampled_from(sorted(left)))
            if data.draw(st.booleans()):
                pulls.delivered()
                left[token] -= 1
                if not left[token]:
                    del left[token]
            else:
                pulls.over(token, left.pop(token))
            assert pulls.owed == sum(left.values())
