"""Schedules: stored when due, replaced by their key, taken back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from broker import (
    ApiError,
    FeatureDisabled,
    InvalidKey,
    InvalidOption,
    InvalidSubject,
    NoStream,
    Republish,
    StreamOptions,
)
from broker.testing.conformance.scene import WORKER, Conformance, a_stream, arrived, bodies, fresh
from broker.testing.waiting import never

if TYPE_CHECKING:
    from broker import StreamBroker
    from broker.testing.conformance.scene import Connect


async def _scheduling(sb: StreamBroker) -> str:
    return await a_stream(sb, schedules=True, discard="old")


class ScheduleConformance(Conformance):
    """Promises of ``schedule`` and ``cancel``."""

    async def test_it_is_stored_when_it_is_due_and_no_sooner(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await _scheduling(sb)
        await sb.consume(f"{name}.remind", seen.append, durable=WORKER)
        began = monotonic()
        scheduled = await sb.schedule(
            f"{name}.remind", {"n": 1}, delay=0.6, key="k", idempotency_key="once", headers={"X": "y"}
        )
        assert (scheduled.key, scheduled.subject, scheduled.stream) == ("k", f"{name}.remind", name)
        await arrived(seen, 1)
        assert monotonic() - began >= 0.55
        (message,) = seen
        assert (message.json(), message.idempotency_key, dict(message.headers)) == ({"n": 1}, "once", {"X": "y"})
        assert message.subject == f"{name}.remind"
        await never(lambda: len(seen) > 1, during=0.3)
        assert not await sb.cancel("k")

    async def test_it_is_republished_when_it_is_due(self, connect: Connect) -> None:
        sb, heard, name = await connect(), list[Any](), fresh("stream")
        rule = Republish(f"live.{name}.>", f"{name}.>")
        await sb.declare(StreamOptions(name, [f"{name}.>"], schedules=True, discard="old", republish=rule))
        await sb.subscribe(f"live.{name}.>", heard.append)
        await sb.schedule(f"{name}.remind", 1, delay=0.5, key="k")
        await arrived(heard, 1)
        assert (heard[0].subject, heard[0].json()) == (f"live.{name}.remind", 1)

    async def test_what_is_due_is_stored_in_the_stream_where_it_waits_or_refused(self, connect: Connect) -> None:
        sb, other = await connect(), fresh("other")
        name = await _scheduling(sb)
        await sb.declare(StreamOptions(other, [f"{other}.>"]))
        for subject in (f"{other}.a", fresh("nobody")):
            with pytest.raises(ApiError) as caught:
                await sb.schedule(subject, 1, delay=60, key="k", stream=name)
            assert caught.value.err_code == 10190
        assert not await sb.cancel("k", stream=name)

    async def test_a_time_that_is_past_is_now(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await _scheduling(sb)
        await sb.consume(f"{name}.a", seen.append, durable=WORKER)
        await sb.schedule(f"{name}.a", 1, at=datetime.now(UTC) - timedelta(days=1), key="k")
        await arrived(seen, 1)
        assert seen[0].idempotency_key is None

    async def test_the_same_key_replaces(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await _scheduling(sb)
        await sb.consume(f"{name}.a", seen.append, durable=WORKER)
        await sb.schedule(f"{name}.a", "old", delay=0.5, key="k", idempotency_key="same")
        await sb.schedule(f"{name}.a", "new", delay=0.7, key="k", idempotency_key="same")
        await sb.schedule(f"{name}.a", "other", delay=0.7, key="another k")
        await arrived(seen, 2)
        assert sorted(bodies(seen)) == ["new", "other"]
        await never(lambda: len(seen) > 2, during=0.3)

    async def test_cancelled_it_is_never_stored(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name, key = await _scheduling(sb), fresh("key")
        await sb.consume(f"{name}.a", seen.append, durable=WORKER)
        await sb.schedule(f"{name}.a", 1, delay=0.8, key=key)
        assert await (await connect()).cancel(key)
        assert not await sb.cancel(key)
        await never(lambda: seen, during=1.4)

    async def test_cancel_finds_the_stream_or_is_told_it(self, connect: Connect) -> None:
        sb = await connect()
        names, key = [await _scheduling(sb), await _scheduling(sb)], fresh("key")
        for name in names:
            await sb.schedule(f"{name}.a", 1, delay=600, key=key)
        assert await sb.cancel(key, stream=names[0])
        assert not await sb.cancel(key, stream=names[0])
        assert await sb.cancel(key)
        assert not await sb.cancel(key)

    async def test_nothing_to_cancel(self, connect: Connect) -> None:
        assert not await (await connect()).cancel("never scheduled")

    async def test_every_repeats_until_cancelled(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name, key = await _scheduling(sb), fresh("key")
        await sb.consume(f"{name}.a", seen.append, durable=WORKER)
        await sb.schedule(f"{name}.a", "tick", every=1, key=key)
        await arrived(seen, 2)
        assert await sb.cancel(key)
        at_most = len(seen) + 1
        await never(lambda: len(seen) > at_most, during=1.5)

    async def test_cron_repeats(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await _scheduling(sb)
        await sb.consume(f"{name}.a", seen.append, durable=WORKER)
        await sb.schedule(f"{name}.a", "tick", cron="* * * * * *", zone="Europe/Berlin", key="k")
        await arrived(seen, 2)

    async def test_what_was_declared_is_what_is_there(self, connect: Connect) -> None:
        sb = await connect()
        name = await _scheduling(sb)
        config = (await sb.streams.info(name)).config
        assert (tuple(config.subjects), config.schedules) == ((f"{name}.>",), True)
        await sb.declare(config)

    async def test_a_stream_without_schedules_refuses(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        with pytest.raises(FeatureDisabled) as caught:
            await sb.schedule(f"{name}.a", 1, delay=1, key="k")
        assert (caught.value.option, caught.value.stream) == ("schedules", name)
        assert (await sb.streams.info(name)).messages == 0

    async def test_a_subject_no_stream_captures_is_told(self, connect: Connect) -> None:
        sb = await connect()
        with pytest.raises(NoStream):
            await sb.schedule(fresh("nowhere"), 1, delay=1, key="k")

    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ({}, InvalidOption),
            ({"delay": 1, "every": 1}, InvalidOption),
            ({"delay": -1}, InvalidOption),
            ({"delay": float("nan")}, InvalidOption),
            ({"every": 0.5}, InvalidOption),
            ({"every": 1.0005}, InvalidOption),
            ({"at": datetime(2030, 1, 1)}, InvalidOption),  # noqa: DTZ001 - a time without a zone is what is refused
            ({"at": "2030-01-01"}, InvalidOption),
            ({"cron": "*/5 * * * *"}, InvalidOption),
            ({"cron": "61 * * * * *"}, InvalidOption),
            ({"cron": 5}, InvalidOption),
            ({"cron": "0 0 0 * * *", "zone": "Mars/Olympus"}, InvalidOption),
            ({"delay": 1, "zone": "Europe/Berlin"}, InvalidOption),
            ({"every": 1, "idempotency_key": "k"}, InvalidOption),
            ({"delay": 1, "key": ""}, InvalidKey),
            ({"delay": 1, "idempotency_key": ""}, InvalidKey),
            ({"delay": 1, "subject": "a.*"}, InvalidSubject),
            ({"delay": 1, "timeout": -1}, InvalidOption),
        ],
    )
    async def test_bad_input_is_told_before_anything_is_sent(
        self, connect: Connect, given: dict[str, Any], error: type[Exception]
    ) -> None:
        sb = await connect()
        with pytest.raises(error):
            await sb.schedule(**{"subject": "a.b", "body": 1, "key": "k", **given})

    async def test_a_stream_that_refuses_when_full_keeps_no_schedules(self, connect: Connect) -> None:
        sb = await connect()
        with pytest.raises(InvalidOption):
            await a_stream(sb, schedules=True, discard="new")


class TimeToLiveConformance(Conformance):
    """What ``ttl=`` needs of the stream."""

    async def test_a_stream_without_it_refuses(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, allow_msg_ttl=False)
        with pytest.raises(FeatureDisabled) as caught:
            await sb.enqueue(f"{name}.a", 1, ttl=5)
        assert caught.value.option == "allow_msg_ttl"
        assert (await sb.streams.info(name)).messages == 0
