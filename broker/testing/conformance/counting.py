"""Counters: every addition counts once, and the value is the sum."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker import FeatureDisabled, InvalidHeader, InvalidKey, InvalidOption, InvalidSubject, NoStream
from broker.testing.conformance.scene import Conformance, a_stream, fresh

if TYPE_CHECKING:
    from broker import StreamBroker
    from broker.testing.conformance.scene import Connect


async def _counters(sb: StreamBroker, **options: Any) -> str:
    return await a_stream(sb, counters=True, discard="old", **options)


class CountConformance(Conformance):
    """Promises of ``increment`` and ``counter``."""

    async def test_the_value_is_the_sum(self, connect: Connect) -> None:
        sb = await connect()
        name = await _counters(sb)
        values = [await sb.increment(f"{name}.kills", by) for by in (1, 4, 0, -7)]
        assert values == [1, 5, 5, -2]
        assert await sb.counter(f"{name}.kills") == -2
        assert await (await connect()).counter(f"{name}.kills", stream=name) == -2

    async def test_counters_are_apart_and_start_at_nothing(self, connect: Connect) -> None:
        sb = await connect()
        name = await _counters(sb)
        assert await sb.counter(f"{name}.ann") == 0
        assert await sb.increment(f"{name}.ann") == 1
        assert await sb.increment(f"{name}.bob", 10) == 10
        assert await sb.counter(f"{name}.ann") == 1

    async def test_a_repeat_counts_once_and_tells_the_same_value(self, connect: Connect) -> None:
        sb = await connect()
        name = await _counters(sb)
        assert await sb.increment(f"{name}.a", 5, idempotency_key="battle-1") == 5
        assert await sb.increment(f"{name}.a", 1) == 6
        assert await (await connect()).increment(f"{name}.a", 5, idempotency_key="battle-1") == 5
        assert await sb.counter(f"{name}.a") == 6

    async def test_a_repeat_of_what_is_not_kept_counts_once(self, connect: Connect) -> None:
        sb = await connect()
        name = await _counters(sb, max_msgs_per_subject=1)
        await sb.increment(f"{name}.a", 5, idempotency_key="battle-1")
        await sb.increment(f"{name}.a", 1)
        assert await sb.increment(f"{name}.a", 5, idempotency_key="battle-1") is None
        assert await sb.counter(f"{name}.a") == 6

    async def test_the_same_key_on_another_counter_counts(self, connect: Connect) -> None:
        sb = await connect()
        name = await _counters(sb)
        assert [await sb.increment(f"{name}.{who}", 1, idempotency_key="k") for who in ("ann", "bob")] == [1, 1]

    async def test_many_at_once_all_count(self, connect: Connect) -> None:
        sb = await connect()
        name = await _counters(sb)
        values = await asyncio.gather(*(sb.increment(f"{name}.a", 2) for _ in range(100)))
        assert sorted(value or 0 for value in values) == list(range(2, 202, 2))
        assert await sb.counter(f"{name}.a") == 200

    async def test_large_numbers_stay_exact(self, connect: Connect) -> None:
        sb = await connect()
        name = await _counters(sb)
        for _ in range(3):
            await sb.increment(f"{name}.a", 2**62)
        assert await sb.counter(f"{name}.a") == 3 * 2**62

    async def test_another_stream_refuses(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        with pytest.raises(FeatureDisabled) as caught:
            await sb.increment(f"{name}.a")
        assert caught.value.option == "counters"
        await sb.enqueue(f"{name}.a", "no number")
        for subject in (f"{name}.a", f"{name}.b"):
            with pytest.raises(FeatureDisabled):
                await sb.counter(subject)
        assert (await sb.streams.info(name)).messages == 1

    async def test_a_stream_of_counters_stores_nothing_else(self, connect: Connect) -> None:
        sb = await connect()
        name = await _counters(sb)
        with pytest.raises(FeatureDisabled) as caught:
            await sb.enqueue(f"{name}.a", 1)
        assert caught.value.option == "counters"
        assert (await sb.streams.info(name)).messages == 0

    async def test_a_subject_no_stream_captures_is_told(self, connect: Connect) -> None:
        sb = await connect()
        with pytest.raises(NoStream):
            await sb.increment(fresh("nowhere"))
        with pytest.raises(NoStream):
            await sb.counter(fresh("nowhere"))

    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ({"by": 1.5}, InvalidOption),
            ({"by": "1"}, InvalidOption),
            ({"by": True}, InvalidOption),
            ({"by": 2**63}, InvalidOption),
            ({"timeout": -1}, InvalidOption),
            ({"idempotency_key": ""}, InvalidKey),
            ({"subject": "a.*"}, InvalidSubject),
            ({"headers": {"Nats-Incr": "7"}}, InvalidHeader),
        ],
    )
    async def test_bad_input_is_told_before_anything_is_sent(
        self, connect: Connect, given: dict[str, Any], error: type[Exception]
    ) -> None:
        sb = await connect()
        with pytest.raises(error):
            await sb.increment(**{"subject": "kills.a", **given})

    @pytest.mark.parametrize(
        "options", [{"discard": "new"}, {"allow_msg_ttl": True}, {"schedules": True}, {"retention": "workqueue"}]
    )
    async def test_what_counters_exclude_is_refused(self, connect: Connect, options: dict[str, Any]) -> None:
        sb = await connect()
        with pytest.raises(InvalidOption):
            await a_stream(sb, **{"counters": True, "discard": "old", **options})
