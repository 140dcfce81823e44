"""Cron patterns, and schedules on a clock that is driven by hand."""

import asyncio
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from broker import EnqueueUnknown, InvalidOption, RequestTimeout, StreamBroker, StreamOptions
from broker.backends.memory import ManualClock, MemoryBackend, MemoryHub
from broker.contracts.schedules import check_cron, kept_under, next_cron, pattern_of
from broker.contracts.subjects import matches

S = StreamOptions("S", ["s.>"], schedules=True, discard="old")
HOUR = 3600


def following(pattern, after, zone=None, count=1):
    moments = []
    for _ in range(count):
        found = next_cron(pattern, zone, int(after.timestamp()) * 10**9)
        if found is None:
            return moments
        after = datetime.fromtimestamp(found // 10**9, UTC)
        moments.append(after)
    return moments


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("* * * * * *", ["2026-03-01T00:00:01", "2026-03-01T00:00:02"]),
        ("0 */20 * * * *", ["2026-03-01T00:20:00", "2026-03-01T00:40:00", "2026-03-01T01:00:00"]),
        (
            "30 5/25 4-5 * * *",
            ["2026-03-01T04:05:30", "2026-03-01T04:30:30", "2026-03-01T04:55:30", "2026-03-01T05:05:30"],
        ),
        ("0 0 0 1 jan ?", ["2027-01-01T00:00:00", "2028-01-01T00:00:00"]),
        ("0 0 12 * * MON,fri", ["2026-03-02T12:00:00", "2026-03-06T12:00:00", "2026-03-09T12:00:00"]),
        ("0 0 0 29 2 *", ["2028-02-29T00:00:00"]),
        ("0 0 0 13 * 5", ["2026-03-06T00:00:00", "2026-03-13T00:00:00", "2026-03-20T00:00:00"]),
        ("0 0 0 31 4 *", []),
    ],
)
def test_cron(pattern, expected):
    after = datetime(2026, 3, 1, tzinfo=UTC)
    found = following(pattern, after, count=len(expected) or 1)
    assert [moment.replace(tzinfo=None).isoformat() for moment in found] == expected


def test_cron_in_a_time_zone_follows_its_clock():
    found = following("0 0 5 * * *", datetime(2026, 3, 28, tzinfo=UTC), "Europe/Berlin", count=2)
    assert [moment.astimezone(ZoneInfo("Europe/Berlin")).hour for moment in found] == [5, 5]
    assert found[1] - found[0] == timedelta(hours=23), "the night the clocks went forward"


@pytest.mark.parametrize(
    "pattern",
    ["", "* * * * *", "60 * * * * *", "* * 24 * * *", "* * * 0 * *", "* * * * 13 *", "* * * * * 7", "5-1 * * * * *",
     "*/0 * * * * *", "a * * * * *", "1--2 * * * * *", "-1 * * * * *", ", * * * * *", "1/ * * * * *"],
)  # fmt: skip
def test_what_is_no_cron_pattern_is_refused(pattern):
    with pytest.raises(InvalidOption):
        check_cron(pattern)


def test_a_key_waits_under_a_subject_of_its_stream():
    assert matches(pattern_of("S"), kept_under("S", "a key with blanks and . and *"))
    assert kept_under("S", "a") != kept_under("S", "b")


async def opened(clock):
    sb = StreamBroker(MemoryBackend(MemoryHub(clock=clock)))
    await sb.declare(S)
    return sb


async def stored(sb, subject="s.a"):
    await asyncio.sleep(0)
    last = await sb.streams.get_last("S", subject)
    return None if last is None else last.json()


async def test_it_waits_on_the_clock_of_the_hub():
    clock = ManualClock()
    sb = await opened(clock)
    await sb.schedule("s.a", "late", delay=10 * HOUR, key="k")
    clock.advance(10 * HOUR - 1)
    assert await stored(sb) is None
    clock.advance(1)
    assert await stored(sb) == "late"
    assert (await sb.streams.info("S")).messages == 1, "what waited is gone"


async def test_at_is_a_time_of_the_hubs_wall_clock():
    clock = ManualClock(wall_ns=int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 10**9)
    sb = await opened(clock)
    await sb.schedule("s.a", "newer year", at=datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC), key="k")
    clock.advance(4.9)
    assert await stored(sb) is None
    clock.advance(0.2)
    assert await stored(sb) == "newer year"


async def test_cron_goes_on_until_it_is_cancelled():
    clock = ManualClock(wall_ns=int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 10**9)
    sb = await opened(clock)
    await sb.schedule("s.a", "night", cron="0 30 4 * * *", key="k")
    clock.advance(3 * 24 * HOUR)
    assert (await sb.streams.info("S")).messages == 4, "three nights and what waits"
    assert await sb.cancel("k")
    clock.advance(3 * 24 * HOUR)
    assert (await sb.streams.info("S")).messages == 3


async def test_unknown_says_how_to_ask_again(monkeypatch):
    sb = await opened(ManualClock())

    def silent(_self, _record, *, timeout):
        answer = asyncio.get_running_loop().create_future()
        answer.set_exception(RequestTimeout(f"nothing in {timeout}"))
        return answer

    monkeypatch.setattr(MemoryBackend, "append", silent)
    with pytest.raises(EnqueueUnknown, match="key='k'"):
        await sb.schedule("s.a", 1, delay=1, key="k", timeout=0.2)
